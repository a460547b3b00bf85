"""The gradient check: backprop against `jax.grad` and against differences of the loss.

With θ as one vector, the gradient of `jax.grad` is compared element by element. Central
differences along some coordinates of every W and b need no derivative at all. Everything is
computed in float64 on the CPU, whatever the dtype and the device of the training.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from mlp_jax.core.backprop import Objective, backprop, batch_loss
from mlp_jax.core.network import Network, Params
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
    """The layers' checks, and the relative error of the loss that `backprop` returns."""

    layers: tuple[LayerCheck, ...]
    value_error: float

    @property
    def autodiff_error(self) -> float:
        return float(np.max([layer.autodiff_error for layer in self.layers]))

    @property
    def difference_error(self) -> float:
        return float(np.max([layer.difference_error for layer in self.layers]))

    @property
    def worst_layer(self) -> int:
        """The layer l = 1 … L with the largest error."""
        return int(np.argmax([layer.error for layer in self.layers])) + 1

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
    of_penalty = partial(Objective, net.activation, net.loss)
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
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(cpu), np.errstate(invalid="ignore"):
        arguments = (params, numbers, np.asarray(x), np.asarray(y))
        at = jax.device_put(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), arguments))
        gradients, losses_along = _programs(
            make_objective, data_axis=0 if at[2].ndim == 3 else None
        )
        (values, grads), (true_values, true_grads) = jax.device_get(gradients(*at))

        sizes = np.array([leaf[0].size for leaf in jax.tree.leaves(params)])  # of W^1, b^1, W^2, …
        counts = np.minimum(sizes, num_coordinates or (4 if sizes.sum() < 100_000 else 1))
        found, true = (values, _ravel(grads)), (true_values, _ravel(true_grads))
        chosen = _choose_coordinates(true[1], sizes, counts)
        losses = np.stack(
            [losses_along(_directions(indices, grads), *at) for indices in chosen.T], axis=1
        )
        return _compare(found, true, chosen, losses, sizes, counts)


def _ravel(params: Params) -> np.ndarray:
    """θ of each network as one row: W^1, b^1, W^2, …"""
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(params)], axis=1)


def _directions(indices: np.ndarray, like: Params) -> Params:
    """For every network the unit vector along the coordinate of θ that `indices` has for it."""
    leaves, structure = jax.tree.flatten(jax.tree.map(np.zeros_like, like))
    ends = np.cumsum([leaf[0].size for leaf in leaves])
    for network, index in enumerate(indices):
        i = np.searchsorted(ends, index, side="right")
        leaves[i][network].flat[index - ends[i]] = 1  # counted from the leaf's end
    return jax.tree.unflatten(structure, leaves)


def _programs(
    make_objective: Callable[[Any], Objective], data_axis: int | None
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What is compiled, for many networks at once.

    The two values and gradients that are to be compared; and L(θ−h), L(θ−h/2), L(θ+h/2), L(θ+h)
    with h along a direction.
    """

    def gradients(params: Params, numbers: Any, x: Array, y: Array) -> Any:
        arguments = (params, x, y, *make_objective(numbers))
        return backprop(*arguments), jax.value_and_grad(batch_loss)(*arguments)

    def losses_along(direction: Params, params: Params, numbers: Any, x: Array, y: Array) -> Array:
        def loss_at(h: Array) -> Array:
            moved = jax.tree.map(lambda p, d: p + h * d, params, direction)
            return batch_loss(moved, x, y, *make_objective(numbers))

        return jax.lax.map(loss_at, _H * np.array([-1, -0.5, 0.5, 1]))

    axes = (0, 0, data_axis, data_axis)
    return (
        jax.jit(jax.vmap(gradients, in_axes=axes)),
        jax.jit(jax.vmap(losses_along, in_axes=(0, *axes))),
    )


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


def _by_layer(reduce: np.ufunc, array: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The last axis reduced layer by layer; `lengths` are those of W^1, b^1, W^2, … in it."""
    return reduce.reduceat(array, np.cumsum([0, *lengths])[:-1:2], axis=-1)


def _compare(
    found: tuple[np.ndarray, np.ndarray],
    true: tuple[np.ndarray, np.ndarray],
    chosen: np.ndarray,
    losses: np.ndarray,
    sizes: np.ndarray,
    counts: np.ndarray,
) -> list[GradientCheck]:
    """`found` and `true` are the values and the gradients; each array has a row for a network."""
    (values, grads), (true_values, true_grads) = found, true
    largest = _by_layer(np.maximum, np.abs(true_grads), sizes)
    scale_of_value = np.maximum(1, np.abs(true_values))
    vanished = 1e-3 * np.maximum(scale_of_value, largest.max(axis=1))
    scale = np.maximum(largest, vanished[:, None])
    autodiff = _by_layer(np.maximum, np.abs(grads - true_grads), sizes) / scale

    differences, roughness = _differences(true_values[:, None], losses)
    num_chosen = counts.reshape(-1, 2).sum(axis=1)  # of each layer's W and b
    # Only the loss decides what is skipped: no wrong gradient can hide there.
    smooth = roughness <= DIFFERENCE_TOLERANCE * np.repeat(scale, num_chosen, axis=1)
    slopes = np.take_along_axis(grads, chosen, axis=1)
    deviations = np.where(smooth, np.abs(slopes - differences), 0)
    difference = _by_layer(np.maximum, deviations, counts) / scale
    num_compared = _by_layer(np.add, smooth.astype(int), counts)

    value_errors = np.abs(values - true_values) / scale_of_value
    columns = (autodiff, difference, num_compared, num_chosen - num_compared, value_errors)
    return [
        GradientCheck(tuple(map(LayerCheck, *layers)), value_error)
        for *layers, value_error in zip(*(column.tolist() for column in columns), strict=True)
    ]


def insist_on(gradient: GradientCheck) -> None:
    """Raises `RunError` where it is wrong."""
    if not gradient.passed:
        raise RunError(
            f"the gradient is wrong in layer {gradient.worst_layer}: backprop disagrees with "
            "jax.grad or with the differences. python -m mlp_jax.gradcheck shows every layer."
        )
