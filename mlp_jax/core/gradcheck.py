"""The gradient check: backprop against `jax.grad` and against differences of the loss.

`jax.grad` of the loss is compared element by element. Central differences, on some coordinates of
every W and b, need no derivative at all. Everything is computed in float64 on the CPU, whatever
the dtype and the device of the training.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from mlp_jax.core.backprop import Objective, Penalty, backprop, batch_loss
from mlp_jax.core.losses import Loss
from mlp_jax.core.network import Activations, Layer, Params
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
        return float(
            np.maximum(
                self.autodiff_error / AUTODIFF_TOLERANCE,
                self.difference_error / DIFFERENCE_TOLERANCE,
            )
        )


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


def _largest(tree: Params | Layer) -> float:
    return float(np.max([np.max(np.abs(leaf)) for leaf in jax.tree.leaves(tree)]))


def _programs(
    make_objective: Callable[[Any], Objective], data_axis: int | None
) -> tuple[Callable[..., Any], ...]:
    """What is compiled, for many networks at once: functions of params, numbers, x and y.

    The two values and gradients that are to be compared; and L(θ−h), L(θ−h/2), L(θ+h/2), L(θ+h)
    with h along a direction in parameter space.
    """

    def loss_of(params: Params, numbers: Any, x: Array, y: Array) -> Array:
        return batch_loss(params, x, y, *make_objective(numbers))

    def gradients(params: Params, numbers: Any, x: Array, y: Array) -> Any:
        return (
            backprop(params, x, y, *make_objective(numbers)),
            jax.value_and_grad(loss_of)(params, numbers, x, y),
        )

    def losses_along(direction: Params, params: Params, *rest: Any) -> Array:
        return jax.lax.map(
            lambda h: loss_of(jax.tree.map(lambda p, d: p + h * d, params, direction), *rest),
            _H * np.array([-1, -0.5, 0.5, 1]),
        )

    axes = (0, 0, data_axis, data_axis)
    return (
        jax.jit(jax.vmap(gradients, in_axes=axes)),
        jax.jit(jax.vmap(losses_along, in_axes=(0, *axes))),
    )


def _sample(
    grad: Layer, num_coordinates: int, random: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Coordinates of W, then of b: the array's place in the layer, and the index into it.

    Drawn at random, the likelier the larger the gradient there: 0 = 0 would prove little.
    """
    for array, g in enumerate(grad):
        weights = random.random(g.size) * np.abs(np.ravel(g))
        chosen = np.argpartition(-weights, min(num_coordinates, g.size) - 1)[:num_coordinates]
        yield from ((array, int(index)) for index in chosen)


def _differences(value: float, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Central differences, and how far from smooth the loss is around them, as a slope.

    `value` is L(θ); the rows of `losses` are L(θ−h), L(θ−h/2), L(θ+h/2), L(θ+h).
    At a kink the left and the right slope differ, and go on to do so when their gap is
    extrapolated to h = 0. At a jump, or with a kink nearby, the difference changes with h.
    """
    far_left, left, right, far_right = losses.T
    difference = (right - left) / _H
    change = (far_right - far_left) / (2 * _H) - difference
    gap = (far_right - 2 * value + far_left) / _H
    half_gap = (right - 2 * value + left) / (_H / 2)
    return difference, np.maximum(np.abs(change), np.abs(2 * half_gap - gap))


def _check_layer(
    grad: Layer,
    true_grad: Layer,
    slopes: list[float],
    losses: np.ndarray,
    value: float,
    smallest_scale: float,
) -> LayerCheck:
    """`slopes` are the components of `grad` along which `losses` were taken."""
    scale = np.maximum(_largest(true_grad), smallest_scale)
    differences, roughness = _differences(value, losses)
    # Only the loss decides what is skipped: no wrong gradient can hide there.
    smooth = roughness <= DIFFERENCE_TOLERANCE * scale
    deviations = np.abs(slopes - differences)[smooth]
    return LayerCheck(
        autodiff_error=float(_largest(jax.tree.map(np.subtract, grad, true_grad)) / scale),
        difference_error=float(np.max(deviations, initial=0) / scale),
        num_compared=int(np.sum(smooth)),
        num_skipped=int(np.sum(~smooth)),
    )


def check_gradient(
    params: Params,
    x: Float[Array, "batch n_0"],
    y: Float[Array, "batch n_L"],
    activation: Activations,
    loss: Loss,
    penalty: Penalty | None = None,
    *,
    num_coordinates: int = 4,
) -> GradientCheck:
    """Checks `backprop` on a batch, by differences on `num_coordinates` of every W and every b.

    Coordinates around which the loss is not smooth have no slope to compare with and are skipped:
    a kink as of relu at 0, a jump as of step.
    """
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[None], (params, penalty))
    (check,) = check_gradients(
        one[0],
        x,
        y,
        lambda penalty: Objective(activation, loss, penalty),
        one[1],
        num_coordinates=num_coordinates,
    )
    return check


def check_gradients(
    params: Params,
    x: np.ndarray | Array,
    y: np.ndarray | Array,
    make_objective: Callable[[Any], Objective],
    numbers: Any,
    *,
    num_coordinates: int = 4,
) -> list[GradientCheck]:
    """`check_gradient` of many networks, whose parameters and `numbers` have a leading axis.

    `make_objective` gives what is minimised, from the numbers in which the networks differ.

    `x` and `y` have it too where each network has data of its own.
    """
    gradients, losses_along = _programs(make_objective, 0 if np.ndim(x) == 3 else None)
    random = np.random.default_rng(0)
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(cpu), np.errstate(invalid="ignore"):
        at = jax.device_put(
            jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, numbers, x, y))
        )
        (values, grads), (true_values, true_grads) = jax.device_get(gradients(*at))
        samples = [
            [list(_sample(layer, num_coordinates, random)) for layer in _member(true_grads, i)]
            for i in range(len(values))
        ]
        losses = [
            np.stack(
                [
                    losses_along(_directions(grads, samples, number, position), *at)
                    for position in range(len(samples[0][number]))
                ],
                axis=1,
            )
            for number in range(len(grads))
        ]
    return [
        _check_network(
            (float(values[i]), _member(grads, i)),
            (float(true_values[i]), _member(true_grads, i)),
            samples[i],
            [layer_losses[i] for layer_losses in losses],
        )
        for i in range(len(values))
    ]


def _member(tree: Params, index: int) -> Params:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _directions(
    grads: Params, samples: list[list[list[tuple[int, int]]]], number: int, position: int
) -> Params:
    """For every network the unit vector along one of the coordinates drawn of a layer."""
    directions: Any = jax.tree.map(np.zeros_like, grads)
    for member, layers in enumerate(samples):
        array, index = layers[number][position]
        directions[number][array][member].flat[index] = 1
    return directions


def _check_network(
    found: tuple[float, Params],
    true: tuple[float, Params],
    samples: list[list[tuple[int, int]]],
    losses: list[np.ndarray],
) -> GradientCheck:
    """`losses` are those along the sampled coordinates of each layer."""
    (value, grads), (true_value, true_grads) = found, true
    smallest_scale = 1e-3 * np.max([1, np.abs(true_value), _largest(true_grads)])
    layers = [
        _check_layer(
            grad,
            true_grad,
            [np.ravel(grad[array])[index] for array, index in sampled],
            layer_losses,
            true_value,
            smallest_scale,
        )
        for grad, true_grad, sampled, layer_losses in zip(
            grads, true_grads, samples, losses, strict=True
        )
    ]
    return GradientCheck(
        layers=tuple(layers),
        value_error=abs(value - true_value) / max(1, abs(true_value)),
    )


def insist_on(gradient: GradientCheck) -> None:
    """Raises `RunError` where it is wrong."""
    if not gradient.passed:
        raise RunError(
            f"the gradient is wrong in layer {gradient.worst_layer}: backprop disagrees with "
            "jax.grad or with the differences. python -m mlp_jax.gradcheck shows every layer."
        )
