"""Losses of one example as functions of the logits, one for each pair of output and loss.

A loss is summed over the outputs of an example; a batch's loss is the mean over its examples.
Cross-entropies are in nats. Working on logits keeps them finite where ŷ itself rounds to 0 or 1,
and what y gives no weight costs nothing at a logit of ±∞: 0 · ∞ = 0. A softmax of +∞ is NaN.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


class Loss(NamedTuple):
    """An output activation, the loss that follows it, and their joint derivative.

    With z = z^L the logits of one example and y its target:

    - `output(z)` is ŷ = O(z),
    - `value(z, y)` is L(ŷ, y), one number,
    - `delta(z, y)` is δ^L = ∂L/∂z.
    """

    output: Callable[[Array], Array]
    value: Callable[[Array, Array], Array]
    delta: Callable[[Array, Array], Array]


def _squared_error_behind(
    output: Callable[[Array], Array], jacobian_transposed: Callable[[Array, Array], Array]
) -> tuple[Loss, Loss]:
    """Squared error Σ_j (ŷ_j − y_j)² and its half behind `output`.

    `jacobian_transposed(y_hat, v)` is Jᵀv with J = ∂ŷ/∂z, written in terms of ŷ.
    """

    def value(z: Array, y: Array) -> Array:
        return jnp.sum((output(z) - y) ** 2)

    def half_value(z: Array, y: Array) -> Array:
        return 0.5 * value(z, y)

    def half_delta(z: Array, y: Array) -> Array:
        y_hat = output(z)
        return jacobian_transposed(y_hat, y_hat - y)

    def delta(z: Array, y: Array) -> Array:
        return 2 * half_delta(z, y)

    return Loss(output, value, delta), Loss(output, half_value, half_delta)


def _of_errors(value: Callable[[Array], Array], derivative: Callable[[Array], Array]) -> Loss:
    """Σ_j h(ŷ_j − y_j) behind the identity, from h and h'."""
    return Loss(
        lambda z: z,
        lambda z, y: jnp.sum(value(z - y)),
        lambda z, y: derivative(z - y),
    )


def _weighted(y: Array, nats: Array) -> Array:
    return jnp.where(y == 0, 0, y * nats)


def _binary_cross_entropy(z: Array, y: Array) -> Array:
    # −y ln σ(z) − (1−y) ln(1−σ(z)), where ln σ(z) = −softplus(−z) and ln(1−σ(z)) = −softplus(z).
    return jnp.sum(_weighted(y, jax.nn.softplus(-z)) + _weighted(1 - y, jax.nn.softplus(z)))


def _cross_entropy(z: Array, y: Array) -> Array:
    return -jnp.sum(_weighted(y, jax.nn.log_softmax(z)))


def _cross_entropy_delta(z: Array, y: Array) -> Array:
    return jax.nn.softmax(z) * jnp.sum(y) - y  # ŷ − y for a distribution, whose Σy is 1


_identity = _squared_error_behind(lambda z: z, lambda y_hat, v: v)
# Huber 1964, "Robust estimation of a location parameter", with k = 1.
_huber = _of_errors(
    lambda e: jnp.where(abs(e) <= 1, 0.5 * e**2, abs(e) - 0.5), lambda e: jnp.clip(e, -1, 1)
)
# |e| as e sign(e), whose slope at 0 is 0 for `jax.grad` too.
_absolute_error = _of_errors(lambda e: e * jnp.sign(e), jnp.sign)
_sigmoid = _squared_error_behind(jax.nn.sigmoid, lambda y_hat, v: y_hat * (1 - y_hat) * v)
_tanh = _squared_error_behind(jnp.tanh, lambda y_hat, v: (1 - y_hat**2) * v)
_softmax = _squared_error_behind(jax.nn.softmax, lambda y_hat, v: y_hat * (v - jnp.dot(y_hat, v)))

LOSSES: dict[tuple[str, str], Loss] = {
    # The matched pairs: δ^L ∝ ŷ − y.
    ("identity", "squared_error"): _identity[0],
    ("identity", "half_squared_error"): _identity[1],
    # Of outliers only the sign counts: beyond 1, or everywhere.
    ("identity", "huber"): _huber,
    ("identity", "absolute_error"): _absolute_error,
    ("sigmoid", "binary_cross_entropy"): Loss(
        jax.nn.sigmoid, _binary_cross_entropy, lambda z, y: jax.nn.sigmoid(z) - y
    ),
    ("softmax", "cross_entropy"): Loss(jax.nn.softmax, _cross_entropy, _cross_entropy_delta),
    # The mismatched pairs: δ^L vanishes wherever the output saturates, right or wrong.
    ("sigmoid", "squared_error"): _sigmoid[0],
    ("sigmoid", "half_squared_error"): _sigmoid[1],
    ("tanh", "squared_error"): _tanh[0],
    ("tanh", "half_squared_error"): _tanh[1],
    ("softmax", "squared_error"): _softmax[0],
    ("softmax", "half_squared_error"): _softmax[1],
}
"""By the names of output and loss, for targets y of any value.

>>> loss = LOSSES["sigmoid", "binary_cross_entropy"]
>>> z, y = jnp.array([0.0]), jnp.array([1.0])
>>> loss.output(z).tolist(), round(float(loss.value(z, y)), 4), loss.delta(z, y).tolist()
([0.5], 0.6931, [-0.5])
"""


MATCHED_LOSS = {
    "identity": "squared_error",
    "sigmoid": "binary_cross_entropy",
    "softmax": "cross_entropy",
    "tanh": "squared_error",
}
"""The loss of an output where none is named."""


def smoothed(loss: Loss, label_smoothing: float | Array) -> Loss:
    """Label smoothing: the target y of k classes becomes (1 − ε) y + ε/k.

    A single output stands for two classes, so there k = 2. Szegedy et al. 2016, section 7.
    """

    def smooth(y: Array) -> Array:
        num_classes = max(y.shape[-1], 2)
        return (1 - label_smoothing) * y + label_smoothing / num_classes

    return Loss(
        loss.output,
        lambda z, y: loss.value(z, smooth(y)),
        lambda z, y: loss.delta(z, smooth(y)),
    )


def class_weighted(loss: Loss, class_weights: Float[Array, " num_classes"]) -> Loss:
    """An example's loss times the weight of its class.

    The batch's loss stays the sum over its examples divided by their number (PyTorch divides by
    the sum of the weights instead). A single output y ∈ {0, 1} stands for the classes 0 and 1.
    """

    def weight(y: Array) -> Array:
        one_hot = jnp.concatenate([1 - y, y]) if y.shape[-1] == 1 else y
        return jnp.dot(class_weights.astype(y.dtype), one_hot)

    return Loss(
        loss.output,
        lambda z, y: weight(y) * loss.value(z, y),
        lambda z, y: weight(y) * loss.delta(z, y),
    )


def example_weighted(loss: Loss) -> Loss:
    """An example's loss times its own weight, which stands behind its target: (y_1, …, y_k, w).

    The batch's loss stays the sum over its examples divided by their number: the weighted mean,
    where the weights' mean is 1.
    """
    return Loss(
        loss.output,
        lambda z, y: y[-1] * loss.value(z, y[:-1]),
        lambda z, y: y[-1] * loss.delta(z, y[:-1]),
    )
