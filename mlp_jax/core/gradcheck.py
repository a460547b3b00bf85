"""The gradient check: backprop against `jax.grad` and against differences of the loss.

With θ as one vector, the gradient of `jax.grad` is compared element by element. Central
differences along some coordinates of every W and b need no derivative at all. Everything is
computed in float64 on the CPU, whatever the dtype and the device of the training.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from mlp_jax.core.backprop import Objective, backprop, batch_loss
from mlp_jax.core.network import Network, Params, embedding_of
from mlp_jax.errors import RunError

AUTODIFF_TOLERANCE = 1e-10
DIFFERENCE_TOLERANCE = 1e-6

_H = 2.0**-16  # leaves differences about 1e-11 |L| of rounding and 1e-11 |L'''| of truncation


class LayerCheck(NamedTuple):
    """How far a layer's gradient is from `jax.grad` and from central differences.

    The largest deviation, relative to the layer's largest gradient. Where that has vanished, so
    that little but rounding is left of it, relative to a thousandth of the network's largest
    gradient, of its loss, or of 1, whichever is largest.
    """

    autodiff_error: float
    difference_error: float
    num_compared: int
    num_skipped: int

    @property
    def error(self) -> float:
        """The larger error as a multiple of its tolerance; NaN if either is NaN."""
        by_autodiff = self.autodiff_error / AUTODIFF_TOLERANCE
        return float(np.maximum(by_autodiff, self.difference_error / DIFFERENCE_TOLERANCE))


class GradientCheck(NamedTuple):
    """The layers' checks, and the relative error of the loss that `backprop` returns.

    Where the inputs are embedded the first check is that of the embedding.
    """

    layers: tuple[LayerCheck, ...]
    value_error: float
    is_embedded: bool = False

    @property
    def autodiff_error(self) -> float:
        return float(np.max([layer.autodiff_error for layer in self.layers]))

    @property
    def difference_error(self) -> float:
        return float(np.max([layer.difference_error for layer in self.layers]))

    @property
    def worst_layer(self) -> int:
        """The layer l = 1 … L with the largest error, 0 for the embedding."""
        return int(np.argmax([layer.error for layer in self.layers])) + 1 - self.is_embedded

    @property
    def passed(self) -> bool:
        # Written with <=, so that NaN does not pass.
        return self.value_error <= AUTODIFF_TOLERANCE and all(
            layer.error <= 1 for layer in self.layers
        )


def check_gradient(
    net: Network | Objective,
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_coordinates: int | None = None,
) -> GradientCheck:
    """Checks `backprop` of a network on a batch, x (batch, n_0) and y (batch, n_L).

    Differences are taken along `num_coordinates` of every W and every b: 4, or 1 from 100,000
    parameters on, since each is four forward passes. Coordinates around which the loss is not
    smooth have no slope to compare with and are skipped: a kink as of relu at 0, a jump as of step.

    >>> net = mlp.Network((2, 3, 1), activation="tanh", output="sigmoid")
    >>> params = net.init(jax.random.key(0))
    >>> check = check_gradient(net, params, x=[[0, 1], [1, 1]], y=[[1], [0]])
    >>> check.passed, check.autodiff_error < 1e-14, check.difference_error < 1e-9
    (True, True, True)
    """
    if isinstance(net, Network):
        net = Objective(net.activation_functions, net.loss_function)
    params, penalty = jax.tree.map(lambda leaf: np.asarray(leaf)[None], (params, net.penalty))
    of_penalty = lambda penalty: net._replace(penalty=penalty)  # noqa: E731
    (check,) = check_gradients(params, x, y, of_penalty, penalty, num_coordinates=num_coordinates)
    return check


def check_gradients(
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    make_objective: Callable[[Any], Objective],
    numbers: Any,
    *,
    num_coordinates: int | None = None,
) -> list[GradientCheck]:
    """`check_gradient` of many networks, whose parameters and `numbers` have a leading axis.

    `make_objective` gives what is minimised, from the numbers in which the networks differ. `x` and
    `y` have the axis too where each network has data of its own.
    """
    sizes = np.array([leaf[0].size for leaf in jax.tree.leaves(params)])  # of W^1, b^1, W^2, …
    counts = np.minimum(sizes, num_coordinates or (4 if sizes.sum() < 100_000 else 1))
    axes = (0, 0, *[0 if np.ndim(x) == 3 else None] * 2)
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(cpu), np.errstate(invalid="ignore"):
        arguments = (params, numbers, np.asarray(x), np.asarray(y))
        arguments = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), arguments)
        gradients = jax.jit(jax.vmap(partial(_gradients, make_objective), axes))
        found, true = jax.device_get(gradients(*arguments))
        chosen = _choose_coordinates(true[1], sizes, counts)
        losses_around = jax.jit(jax.vmap(partial(_losses_around, make_objective), (0, *axes)))
        losses = np.asarray(losses_around(chosen, *arguments))
        embedding = embedding_of(params)
        num_leaves = 0 if embedding is None else len(jax.tree.leaves(embedding))
        return _compare(found, true, chosen, losses, sizes, counts, num_leaves)


def _gradients(
    make_objective: Callable[[Any], Objective], params: Params, numbers: Any, x: Array, y: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """The value and the gradient with respect to θ as one vector, of `backprop` and of `jax`."""
    arguments = (params, x, y, *make_objective(numbers))
    found, true = backprop(*arguments), jax.value_and_grad(batch_loss)(*arguments)
    return (found[0], ravel_pytree(found[1])[0]), (true[0], ravel_pytree(true[1])[0])


def _losses_around(
    make_objective: Callable[[Any], Objective],
    chosen: Int[Array, " chosen"],
    params: Params,
    numbers: Any,
    x: Array,
    y: Array,
) -> Float[Array, "chosen 4"]:
    """L(θ−h), L(θ−h/2), L(θ+h/2), L(θ+h) with h along each chosen coordinate of θ."""
    theta, as_params = ravel_pytree(params)

    def loss_at(move: tuple[Array, Array]) -> Array:
        index, h = move
        return batch_loss(as_params(theta.at[index].add(h)), x, y, *make_objective(numbers))

    steps = _H * np.array([-1, -0.5, 0.5, 1])
    moves = (jnp.repeat(chosen, 4), jnp.tile(steps, len(chosen)))
    return jax.lax.map(loss_at, moves).reshape(-1, 4)


def _choose_coordinates(grads: np.ndarray, sizes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Indices into θ, for each network as many as `counts` of each W and b.

    Drawn at random, the likelier the larger the gradient there: 0 = 0 would prove little.
    """
    weights = np.random.default_rng(0).random(grads.shape[1]) * np.abs(grads)
    starts = np.cumsum(sizes) - sizes
    return np.concatenate(
        [
            start + np.argpartition(-weights[:, start : start + size], count - 1)[:, :count]
            for start, size, count in zip(starts, sizes, counts, strict=True)
            if size  # an embedding may have no numbers
        ],
        axis=1,
    )


def _differences(value: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Central differences, and how far from smooth the loss is around them, as a slope.

    `value` is L(θ); the last axis of `losses` is L(θ−h), L(θ−h/2), L(θ+h/2), L(θ+h).
    At a kink the left and the right slope differ, and go on to do so when their gap is
    extrapolated to h = 0. At a jump, or with a kink nearby, the difference changes with h.
    """
    far_left, left, right, far_right = np.moveaxis(losses, -1, 0)
    difference = (right - left) / _H
    change = (far_right - far_left) / (2 * _H) - difference
    gap = (far_right - 2 * value + far_left) / _H
    half_gap = (right - 2 * value + left) / (_H / 2)
    return difference, np.maximum(np.abs(change), np.abs(2 * half_gap - gap))


def _compare(
    found: tuple[np.ndarray, np.ndarray],
    true: tuple[np.ndarray, np.ndarray],
    chosen: np.ndarray,
    losses: np.ndarray,
    sizes: np.ndarray,
    counts: np.ndarray,
    num_embedded: int,
) -> list[GradientCheck]:
    """`found` and `true` are the values and the gradients; each array has a row for a network."""
    (values, grads), (true_values, true_grads) = found, true
    scale_of_value = np.maximum(1, np.abs(true_values))
    vanished = 1e-3 * np.maximum(scale_of_value, np.abs(true_grads).max(axis=1))
    differences, roughness = _differences(true_values[:, None], losses)
    slopes = np.take_along_axis(grads, chosen, axis=1)
    layers = []
    by_layer = zip(_by_layer(sizes, num_embedded), _by_layer(counts, num_embedded), strict=True)
    for theta, at in by_layer:
        scale = np.maximum(np.abs(true_grads[:, theta]).max(axis=1), vanished)
        autodiff = np.abs(grads[:, theta] - true_grads[:, theta]).max(axis=1)
        # Only the loss decides what is skipped: no wrong gradient can hide there.
        smooth = roughness[:, at] <= DIFFERENCE_TOLERANCE * scale[:, None]
        deviations = np.where(smooth, np.abs(slopes[:, at] - differences[:, at]), 0).max(axis=1)
        checks = autodiff / scale, deviations / scale, smooth.sum(axis=1), (~smooth).sum(axis=1)
        layers.append(
            [LayerCheck(*check) for check in zip(*map(np.ndarray.tolist, checks), strict=True)]
        )
    value_errors = np.abs(values - true_values) / scale_of_value
    return [
        GradientCheck(of_layers, error, num_embedded > 0)
        for of_layers, error in zip(zip(*layers, strict=True), value_errors.tolist(), strict=True)
    ]


def _by_layer(lengths: np.ndarray, num_embedded: int) -> Iterator[slice]:
    """Where each layer stands in a vector that has W^1, b^1, W^2, … of these lengths.

    Before them stand the `num_embedded` arrays of an embedding, which are together.
    """
    ends = np.cumsum(lengths)
    ends = np.concatenate([ends[:num_embedded][-1:], ends[num_embedded:][1::2]])
    return map(slice, [0, *ends[:-1]], ends)


def insist_on(gradient: GradientCheck) -> None:
    """Raises `RunError` where it is wrong."""
    if not gradient.passed:
        layer = gradient.worst_layer
        where = f"layer {layer}" if layer else "the embedding"
        raise RunError(
            f"the gradient is wrong in {where}: backprop disagrees with jax.grad or with the "
            "differences. python -m mlp_jax.gradcheck shows every layer."
        )
