"""Backprop against `jax.grad`, central differences, and examples worked by hand."""

import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array
from jax.flatten_util import ravel_pytree

from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import Penalty, backprop, batch_loss, deltas_of
from mlp_jax.core.initializers import INITIALIZERS
from mlp_jax.core.losses import LOSSES, class_weighted, smoothed
from mlp_jax.core.network import (
    Activations,
    Layer,
    Params,
    forward,
    hidden_activations,
    init_params,
)

VECTORS = Path(__file__).parents[1] / "vectors"
PENALTIES = {
    "none": None,
    "l2": Penalty(l2=0.1),
    "l1": Penalty(l1=0.03),
    "both": Penalty(l2=0.1, l1=0.03),
}
TOLERANCE = {jnp.float64: 1e-12, jnp.float32: 1e-6}

Pair = tuple[str, str]
every_activation = pytest.mark.parametrize("name", ACTIVATIONS)
every_loss = pytest.mark.parametrize("pair", LOSSES, ids="+".join)


def network(sizes: tuple[int, ...], seed: int = 0, dtype: Any = jnp.float64) -> Params:
    normal = INITIALIZERS["standard_normal"]
    return init_params(
        jax.random.key(seed),
        sizes,
        INITIALIZERS["lecun_normal"],
        bias_initializer=normal,
        dtype=dtype,
    )


def batch(
    sizes: tuple[int, ...], output: str, batch_size: int = 5, dtype: Any = jnp.float64
) -> tuple[Array, Array]:
    """Inputs, and targets in the range of the output activation."""
    random = np.random.default_rng(0)
    x = random.normal(size=(batch_size, sizes[0]))
    y = random.uniform(size=(batch_size, sizes[-1]))
    if output == "softmax":
        y /= y.sum(axis=1, keepdims=True)
    elif output != "sigmoid":
        y = 2 * y - 1
    return jnp.array(x, dtype), jnp.array(y, dtype)


def relative_error(computed: tuple[Array, Params], reference: tuple[Array, Params]) -> float:
    """The largest deviation of a gradient, in units of its largest element; and of the value."""
    (value, grads), (true_value, true_grads) = computed, reference
    # A gradient may be exactly 0, as that of a softmax with one output.
    largest = max(1e-3, *(jnp.max(jnp.abs(g), initial=0) for g in jax.tree.leaves(true_grads)))
    deviations = jax.tree.map(
        lambda g, true: jnp.max(jnp.abs(g - true), initial=0), grads, true_grads
    )
    return float(
        jnp.maximum(
            jnp.max(jnp.array(jax.tree.leaves(deviations))) / largest,
            jnp.abs(value - true_value) / jnp.maximum(1, jnp.abs(true_value)),
        )
    )


def error_against_autodiff(*arguments: Any) -> float:
    """The `relative_error` of `backprop` for its own arguments."""
    with jax.default_matmul_precision("float32"):
        return relative_error(backprop(*arguments), jax.value_and_grad(batch_loss)(*arguments))


# --- jax.grad ----------------------------------------------------------------------------------


@every_loss
@every_activation
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
def test_autodiff_for_every_activation_and_loss(name: str, pair: Pair, dtype: Any) -> None:
    sizes = (3, 5, 4, 2)
    arguments = network(sizes, dtype=dtype), *batch(sizes, pair[0], dtype=dtype)
    error = error_against_autodiff(*arguments, ACTIVATIONS[name], LOSSES[pair], PENALTIES["both"])
    assert error <= TOLERANCE[dtype]


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_autodiff_for_any_network(data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=8), "sizes"))
    activation = tuple(
        ACTIVATIONS[data.draw(st.sampled_from(list(ACTIVATIONS)), "activation")]
        for _ in sizes[1:-1]
    )
    pair = data.draw(st.sampled_from(list(LOSSES)), "loss")
    penalty = PENALTIES[data.draw(st.sampled_from(list(PENALTIES)), "penalty")]
    params = network(sizes, seed=data.draw(st.integers(0, 2**32 - 1), "seed"))
    error = error_against_autodiff(
        params, *batch(sizes, pair[0]), activation, LOSSES[pair], penalty
    )
    assert error <= TOLERANCE[jnp.float64]


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("depth", range(7))
def test_autodiff_for_every_depth_and_penalty(depth: int, penalty: str) -> None:
    sizes = (3, *(4, 2, 5, 3, 4, 2)[:depth], 2)
    activation = tuple(itertools.islice(itertools.cycle(ACTIVATIONS.values()), 1, depth + 1))
    arguments = network(sizes), *batch(sizes, "softmax"), activation
    error = error_against_autodiff(
        *arguments, LOSSES["softmax", "cross_entropy"], PENALTIES[penalty]
    )
    assert error <= TOLERANCE[jnp.float64]


@every_loss
def test_autodiff_for_label_smoothing_and_class_weights(pair: Pair) -> None:
    sizes = (3, 4, 2)
    x, _ = batch(sizes, pair[0])
    y = jnp.eye(2)[jnp.array([0, 1, 1, 0, 1])]
    loss = class_weighted(smoothed(LOSSES[pair], 0.1), jnp.array([0.3, 2.0]))
    error = error_against_autodiff(network(sizes), x, y, ACTIVATIONS["tanh"], loss)
    assert error <= TOLERANCE[jnp.float64]


@every_activation
def test_autodiff_where_every_pre_activation_is_zero(name: str) -> None:
    """As for the input (0, 0) of XOR, whose biases start at 0."""
    params = tuple(Layer(W, jnp.zeros_like(b)) for W, b in network((2, 4, 3, 1)))
    arguments = params, jnp.zeros((1, 2)), jnp.ones((1, 1)), ACTIVATIONS[name]
    loss = LOSSES["sigmoid", "binary_cross_entropy"]
    assert error_against_autodiff(*arguments, loss) <= TOLERANCE[jnp.float64]


# --- central differences and deltas ------------------------------------------------------------


@every_loss
def test_every_coordinate_against_central_differences(pair: Pair) -> None:
    sizes, h = (2, 3, 4, 2), 1e-5
    activation = ACTIVATIONS["tanh"], ACTIVATIONS["silu"]
    params, (x, y) = network(sizes), batch(sizes, pair[0])
    penalty = PENALTIES["both"]
    theta, unravel = ravel_pytree(params)

    @jax.jit
    def losses(thetas: Array) -> Array:
        return jax.lax.map(
            lambda theta: batch_loss(unravel(theta), x, y, activation, LOSSES[pair], penalty),
            thetas,
        )

    steps = h * jnp.eye(len(theta))
    slopes = (losses(theta[None] + steps) - losses(theta[None] - steps)) / (2 * h)
    _, grads = backprop(params, x, y, activation, LOSSES[pair], penalty)
    computed, _ = ravel_pytree(grads)
    np.testing.assert_allclose(computed, slopes, atol=1e-9)


@every_loss
@every_activation
def test_deltas_are_the_derivatives_by_z(name: str, pair: Pair) -> None:
    """δ^l = ∂L/∂z^l, by `jax.grad` for an additive perturbation of each z^l."""
    sizes = (3, 5, 4, 2)
    params, activation, loss = network(sizes), ACTIVATIONS[name], LOSSES[pair]
    x, y = (array[0] for array in batch(sizes, pair[0], batch_size=1))

    def perturbed_loss(perturbations: list[Array]) -> Array:
        a = x
        for (W, b), perturbation in zip(params, perturbations, strict=True):
            z = W @ a + b + perturbation
            a = activation.g(z)
        return loss.value(z, y)

    zs, _ = forward(params, x, activation)
    expected = jax.grad(perturbed_loss)([jnp.zeros_like(z) for z in zs])
    deltas = deltas_of(params, zs, y, activation, loss)
    assert len(deltas) == len(zs)
    for delta, derivative in zip(deltas, expected, strict=True):
        np.testing.assert_allclose(delta, derivative, rtol=1e-11, atol=1e-15)


def test_autodiff_under_an_l1_penalty_at_zero_weights() -> None:
    params = jax.tree.map(jnp.zeros_like, network((3, 4, 2)))
    arguments = params, *batch((3, 2), "identity"), ACTIVATIONS["tanh"]
    error = error_against_autodiff(*arguments, LOSSES["identity", "squared_error"], Penalty(l1=0.1))
    assert error <= TOLERANCE[jnp.float64]


def test_value_is_the_mean_over_the_batch_plus_the_penalty() -> None:
    params = (Layer(jnp.array([[3.0, -4.0]]), jnp.array([1.0])),)
    x, y = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[2.0], [-2.0]])
    arguments = x, y, ACTIVATIONS["tanh"], LOSSES["identity", "squared_error"]
    value, _ = backprop(params, *arguments)
    assert value == (2**2 + 1**2) / 2
    value, _ = backprop(params, *arguments, Penalty(l2=0.1, l1=0.01))
    np.testing.assert_allclose(value, 2.5 + 0.1 / 2 * 25 + 0.01 * 7, rtol=1e-15)


def test_the_wrong_number_of_activations_is_refused() -> None:
    params = network((2, 3, 1))
    assert hidden_activations(params, (ACTIVATIONS["tanh"],)) == (ACTIVATIONS["tanh"],)
    two: Activations = (ACTIVATIONS["tanh"], ACTIVATIONS["relu"])
    with pytest.raises(ValueError, match="2 activations for 1 hidden layers"):
        backprop(params, *batch((2, 1), "identity"), two, LOSSES["identity", "squared_error"])


# --- worked examples ---------------------------------------------------------------------------


def layer(W: Any, b: Any) -> Layer:
    return Layer(jnp.array(W, jnp.float64), jnp.array(b, jnp.float64))


def test_worked_example_of_the_lecture() -> None:
    params = (layer([[0.1]], [-6.532216813747308]), layer([[12.0]], [-5.538612288668109]))
    x, y, sigmoid = jnp.array([[60.0]]), jnp.array([[1.0]]), ACTIVATIONS["sigmoid"]
    loss = LOSSES["sigmoid", "binary_cross_entropy"]
    zs, activations = forward(params, x[0], sigmoid)
    np.testing.assert_allclose(activations[1], [0.37], rtol=1e-14)
    np.testing.assert_allclose(loss.output(zs[-1]), [0.25], rtol=1e-14)
    np.testing.assert_allclose(
        jnp.array(deltas_of(params, zs, y[0], sigmoid, loss)), [[-2.0979], [-0.75]], rtol=1e-14
    )
    value, (first, second) = backprop(params, x, y, sigmoid, loss)
    np.testing.assert_allclose(value, 1.3862943611198906, rtol=1e-14)
    np.testing.assert_allclose(second.W, [[-0.2775]], rtol=1e-14)
    np.testing.assert_allclose(first.W, [[-125.874]], rtol=1e-14)
    np.testing.assert_allclose(params[1].W - 0.01 * second.W, [[12.002775]], rtol=1e-15)
    np.testing.assert_allclose(params[0].W - 0.01 * first.W, [[1.35874]], rtol=1e-14)


def test_assignment_of_the_lecture() -> None:
    """∂L/∂w¹₁₃ = (ŷ−y) w²₁₁ a₁ (1−a₁) x₃."""
    params = network((3, 2, 1))
    x, y = batch((3, 1), "sigmoid", batch_size=1)
    sigmoid, loss = ACTIVATIONS["sigmoid"], LOSSES["sigmoid", "binary_cross_entropy"]
    zs, (_, a) = forward(params, x[0], sigmoid)
    y_hat = loss.output(zs[-1])
    _, grads = backprop(params, x, y, sigmoid, loss)
    by_hand = (y_hat[0] - y[0, 0]) * params[1].W[0, 0] * a[0] * (1 - a[0]) * x[0, 2]
    np.testing.assert_allclose(grads[0].W[0, 2], by_hand, rtol=1e-14)


def test_mazur() -> None:
    """Weights are trained and biases are not, for one step and for 10,000."""
    known = json.loads((VECTORS / "mazur.json").read_text())
    params = (layer(known["W1"], known["b1"]), layer(known["W2"], known["b2"]))
    x, y = jnp.array([known["x"]]), jnp.array([known["target"]])
    sigmoid, loss = ACTIVATIONS["sigmoid"], LOSSES["sigmoid", "half_squared_error"]

    def step(params: Params, _: None = None) -> tuple[Params, Array]:
        value, grads = backprop(params, x, y, sigmoid, loss)
        return tuple(
            Layer(W - known["eta"] * grad.W, b) for (W, b), grad in zip(params, grads, strict=True)
        ), value

    after, value = step(params)
    np.testing.assert_allclose(value, known["E0"], rtol=1e-14)
    np.testing.assert_allclose(after[0].W, known["W1_new"], rtol=1e-14)
    np.testing.assert_allclose(after[1].W, known["W2_new"], rtol=1e-14)
    np.testing.assert_allclose(step(after)[1], known["E1"], rtol=1e-14)
    trained, _ = jax.lax.scan(step, params, length=10_000)
    np.testing.assert_allclose(step(trained)[1], known["E_10000"], rtol=1e-9)


def test_scikit_learn() -> None:
    """One step of scikit-learn's MLPClassifier, with its L2 penalty."""
    known = json.loads((VECTORS / "sklearn.json").read_text())
    params = (
        layer(np.transpose(known["W1"]), known["b1"]),
        layer(np.transpose(known["W2"]), known["b2"]),
    )
    x, y = jnp.array(known["X"]), jnp.array([known["y"]], jnp.float64)
    value, grads = backprop(
        params,
        x,
        y,
        ACTIVATIONS["sigmoid"],
        LOSSES["sigmoid", "binary_cross_entropy"],
        Penalty(l2=known["alpha"]),
    )
    np.testing.assert_allclose(value, known["loss"][0], rtol=1e-14)
    for name, (old, grad) in enumerate(zip(params, grads, strict=True), 1):
        W, b = (p - known["eta"] * g for p, g in zip(old, grad, strict=True))
        np.testing.assert_allclose(W.T, known[f"W{name}_new"], atol=1e-15)
        np.testing.assert_allclose(b, known[f"b{name}_new"], atol=1e-15)
