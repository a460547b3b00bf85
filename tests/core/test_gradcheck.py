"""The gradient check passes what is right, however saturated, kinked or flat, and nothing else."""

from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from mlp_jax.core import gradcheck as proof
from mlp_jax.core.activations import ACTIVATIONS, Activation
from mlp_jax.core.backprop import Objective, Penalty, backprop
from mlp_jax.core.gradcheck import GradientCheck, LayerCheck, check_gradient, check_gradients
from mlp_jax.core.initializers import INITIALIZERS
from mlp_jax.core.losses import LOSSES, Loss, class_weighted, smoothed
from mlp_jax.core.network import Layer, Network, Params, init_params

CROSS_ENTROPY = LOSSES["softmax", "cross_entropy"]
TANH = ACTIVATIONS["tanh"]


def network(*sizes: int, scale: float = 1.0) -> Params:
    normal = INITIALIZERS["standard_normal"]
    return init_params(
        jax.random.key(0),
        sizes,
        INITIALIZERS["lecun_normal"],
        scale=scale,
        bias_initializer=normal,
    )


def batch(num_inputs: int, num_classes: int) -> tuple[Array, Array]:
    x = jax.random.normal(jax.random.key(1), (6, num_inputs), jnp.float32)
    return x, jnp.eye(num_classes, dtype=jnp.float32)[jnp.arange(6) % num_classes]


# Every activation and every loss, each with one of the depths 0 … 3.
MEMBERS = list(zip(ACTIVATIONS, cycle(LOSSES), cycle(range(4)), strict=False))


@pytest.mark.parametrize(("name", "pair", "depth"), MEMBERS)
def test_passes_every_activation_and_loss(name: str, pair: tuple[str, str], depth: int) -> None:
    params = network(3, *(6, 5, 7)[:depth], 4)
    check = check_gradient(Objective(ACTIVATIONS[name], LOSSES[pair]), params, *batch(3, 4))
    assert check.passed
    assert len(check.layers) == depth + 1
    assert all(layer.num_compared == 8 and layer.num_skipped == 0 for layer in check.layers)
    assert check.autodiff_error < 1e-13
    assert check.difference_error < 1e-7


def test_members_hold_every_loss() -> None:
    assert {pair for _, pair, _ in MEMBERS} == set(LOSSES)


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu"])
def test_passes_a_saturated_network(name: str) -> None:
    check = check_gradient(
        Objective(ACTIVATIONS[name], CROSS_ENTROPY), network(3, 6, 5, 4, scale=50.0), *batch(3, 4)
    )
    assert check.passed


def test_passes_everything_at_once() -> None:
    """Label smoothing, class weights, both penalties, one activation a layer."""
    loss = class_weighted(smoothed(CROSS_ENTROPY, 0.1), jnp.array([0.2, 1.0, 2.0, 3.0]))
    activation = (ACTIVATIONS["softsign"], ACTIVATIONS["elu"])
    params, penalty = network(3, 6, 5, 4), Penalty(l2=0.01, l1=0.02)
    assert check_gradient(Objective(activation, loss, penalty), params, *batch(3, 4)).passed


def test_zero_weights_under_an_l1_penalty_are_kinks() -> None:
    params = jax.tree.map(jnp.zeros_like, network(3, 5, 4))
    check = check_gradient(Objective(TANH, CROSS_ENTROPY, Penalty(l1=0.1)), params, *batch(3, 4))
    assert check.passed
    assert [layer.num_skipped for layer in check.layers] == [4, 4]  # of W, and none of b


@pytest.mark.parametrize("name", ["relu", "step"])
def test_pre_activations_of_zero_are_kinks(name: str) -> None:
    """Relu bends and step jumps at the hidden layer's every z, as for XOR's input (0, 0)."""
    params = network(2, 4, 3)
    params = (Layer(params[0].W, jnp.zeros(4)), params[1])
    x, y = jnp.zeros((1, 2)), jnp.array([[1.0, 0.0, 0.0]])
    first, second = check_gradient(Objective(ACTIVATIONS[name], CROSS_ENTROPY), params, x, y).layers
    assert (first.num_compared, first.num_skipped) == (4, 4)  # x = 0: no W matters, every b does
    assert second.num_skipped == 0
    assert first.error <= 1 and second.error <= 1


def test_a_kink_between_the_points_is_skipped() -> None:
    """Whatever its distance, which decides at which of the four points the loss bends."""
    for distance in np.linspace(-1.3, 1.3, 13) * proof._H:
        params = (Layer(jnp.ones((1, 1)), jnp.array([distance])), network(1, 3)[0])
        x, y = jnp.zeros((1, 1)), jnp.array([[1.0, 0.0, 0.0]])
        first, _ = check_gradient(
            Objective(ACTIVATIONS["relu"], CROSS_ENTROPY), params, x, y
        ).layers
        assert first.difference_error <= proof.DIFFERENCE_TOLERANCE
        assert first.num_skipped == (abs(distance) < proof._H)


def test_float64_whatever_the_callers_precision() -> None:
    params, (x, y) = network(3, 5, 4), batch(3, 4)
    errors = []
    for enabled in (False, True):
        with jax.enable_x64(enabled):
            check = check_gradient(Objective(TANH, CROSS_ENTROPY), params, x, y)
            assert jnp.ones(1).dtype == (jnp.float64 if enabled else jnp.float32)
        errors.append((check.autodiff_error, check.difference_error))
    assert errors[0] == errors[1]
    assert errors[0][0] < 1e-14


def test_on_the_cpu_whatever_the_default_device() -> None:
    seen = []
    loss = Loss(
        CROSS_ENTROPY.output,
        lambda z, y: seen.append(jax.config.jax_default_device) or CROSS_ENTROPY.value(z, y),
        CROSS_ENTROPY.delta,
    )
    with jax.default_device(jax.devices()[3]):
        assert check_gradient(Objective(TANH, loss), network(2, 3), *batch(2, 3)).passed
    assert set(seen) == {jax.devices("cpu")[0]}


def test_a_network_is_checked_like_its_objective() -> None:
    net = Network((3, 5, 4), activation="tanh", output="softmax")
    params = network(3, 5, 4)
    by_name = check_gradient(net, params, *batch(3, 4))
    assert by_name == check_gradient(Objective(TANH, CROSS_ENTROPY), params, *batch(3, 4))


def test_many_networks_are_checked_as_each_one_is() -> None:
    """Whether they share their data or not, with a number of its own each."""
    x, y = batch(3, 4)
    several = [network(3, 5, 4, scale=scale) for scale in (0.5, 1.0, 2.0)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    l2, data = jnp.array([0.0, 0.1, 0.2]), (jnp.stack([x, 2 * x, 3 * x]), jnp.stack([y, y, y]))

    def objective(l2: Array) -> Objective:
        return Objective(TANH, CROSS_ENTROPY, Penalty(l2=l2))

    shared = check_gradients(stacked, x, y, objective, l2)
    own = check_gradients(stacked, *data, objective, l2)
    for i, params in enumerate(several):
        for check, inputs in ((shared[i], x), (own[i], data[0][i])):
            alone = check_gradient(objective(l2[i]), params, inputs, y)
            assert check.passed and alone.passed
            assert check.difference_error == pytest.approx(alone.difference_error, rel=0.2)
            assert [layer.num_compared for layer in check.layers] == [8, 8]


def test_a_wrong_gradient_of_one_network_is_not_that_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong_where_negative(params: Params, *arguments: Any) -> tuple[Array, Params]:
        value, (first, second) = backprop(params, *arguments)
        off = jnp.where(params[1].b[0] < 0, 1e-8, 0.0)
        return value, (first, second._replace(b=second.b + off))

    monkeypatch.setattr(proof, "backprop", wrong_where_negative)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), network(3, 5, 4))
    biases = jnp.stack([jnp.full(4, b) for b in (1.0, -1.0, 1.0)])
    params = (params[0], params[1]._replace(b=biases))
    checks = check_gradients(
        params, *batch(3, 4), lambda _: Objective(TANH, CROSS_ENTROPY), jnp.zeros(3)
    )
    assert [check.passed for check in checks] == [True, False, True]
    assert checks[1].worst_layer == 2


# --- what it must not pass ---------------------------------------------------------------------


def check_with(monkeypatch: pytest.MonkeyPatch, change: Any, name: str = "tanh") -> GradientCheck:
    """The check of a `backprop` whose result is changed."""
    monkeypatch.setattr(proof, "backprop", lambda *arguments: change(*backprop(*arguments)))
    return check_gradient(
        Objective(ACTIVATIONS[name], CROSS_ENTROPY), network(3, 5, 6, 4), *batch(3, 4)
    )


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_names_the_layer_with_one_wrong_element(
    monkeypatch: pytest.MonkeyPatch, layer: int
) -> None:
    def change(value: Array, grads: Params) -> tuple[Array, Params]:
        W, b = grads[layer - 1]
        wrong = Layer(W.at[0, 0].add(1e-8 * jnp.max(jnp.abs(W))), b)
        return value, (*grads[: layer - 1], wrong, *grads[layer:])

    check = check_with(monkeypatch, change)
    assert not check.passed
    assert check.worst_layer == layer


@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_fails(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    def change(value: Array, grads: Params) -> tuple[Array, Params]:
        return value, (grads[0], Layer(grads[1].W.at[2, 1].set(wrong), grads[1].b), grads[2])

    check = check_with(monkeypatch, change)
    assert not check.passed
    assert check.worst_layer == 2


def test_a_wrong_value_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    check = check_with(monkeypatch, lambda value, grads: (value * (1 + 1e-6), grads))
    assert not check.passed
    assert all(layer.error <= 1 for layer in check.layers)


def test_a_loss_that_is_not_finite_fails() -> None:
    params = network(3, 4)
    params = (Layer(params[0].W.at[0, 0].set(jnp.nan), params[0].b),)
    assert not check_gradient(Objective(TANH, CROSS_ENTROPY), params, *batch(3, 4)).passed


def test_a_jax_grad_that_agrees_does_not_excuse_a_wrong_slope() -> None:
    """Only the differences see a derivative that is wrong in g itself."""

    @jax.custom_jvp
    def g(z: Array) -> Array:
        return jnp.tanh(z)

    g.defjvp(lambda z, dz: (g(*z), 1.00001 * (1 - jnp.tanh(*z) ** 2) * dz[0]))
    activation = Activation(g, lambda z: 1.00001 * (1 - jnp.tanh(z) ** 2))
    check = check_gradient(Objective(activation, CROSS_ENTROPY), network(3, 5, 4), *batch(3, 4))
    assert check.autodiff_error < 1e-13
    assert not check.passed
    assert check.worst_layer == 1


def test_worst_layer_weighs_errors_by_their_tolerance() -> None:
    by_differences = LayerCheck(0.0, 2e-6, 8, 0)
    by_autodiff = LayerCheck(3e-10, 0.0, 8, 0)
    check = GradientCheck((by_differences, by_autodiff), 0.0)
    assert check.worst_layer == 2
    assert (check.autodiff_error, check.difference_error) == (3e-10, 2e-6)
