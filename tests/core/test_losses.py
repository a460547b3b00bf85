"""Every loss against its own gradient, PyTorch, the lecture's numbers and float32's range."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array

from mlp_jax.config.schema import OUTPUT_LOSS_NAMES
from mlp_jax.core.losses import LOSSES, Loss, class_weighted, smoothed

TORCH = json.loads((Path(__file__).parents[1] / "vectors/torch_losses.json").read_text())["cases"]
CROSS_ENTROPIES = [pair for pair in LOSSES if "cross_entropy" in pair[1]]

Pair = tuple[str, str]
every_loss = pytest.mark.parametrize("pair", LOSSES, ids="+".join)


def random_targets(output: str, batch_size: int, num_outputs: int) -> Array:
    """Targets in the range of the output activation: distributions for softmax."""
    uniform = jax.random.uniform(jax.random.key(7), (batch_size, num_outputs))
    match output:
        case "softmax":
            return uniform / jnp.sum(uniform, axis=1, keepdims=True)
        case "sigmoid":
            return uniform
        case _:
            return 2 * uniform - 1


def gradients(loss: Loss, z: Array, y: Array) -> tuple[Array, Array]:
    """δ^L as the loss writes it, and as `jax.grad` finds it."""
    return jax.vmap(loss.delta)(z, y), jax.vmap(jax.grad(loss.value))(z, y)


def test_config_offers_exactly_the_table() -> None:
    assert tuple(LOSSES) == OUTPUT_LOSS_NAMES


@every_loss
def test_delta_is_the_gradient_of_value(pair: Pair) -> None:
    z = 3 * jax.random.normal(jax.random.key(0), (50, 4))
    np.testing.assert_allclose(
        *gradients(LOSSES[pair], z, random_targets(pair[0], 50, 4)), rtol=1e-10, atol=1e-14
    )


@every_loss
def test_value_is_written_on_the_output(pair: Pair) -> None:
    output, loss = LOSSES[pair], pair[1]
    z = jax.random.normal(jax.random.key(0), (4,))
    y = random_targets(pair[0], 1, 4)[0]
    y_hat = output.output(z)
    formula = {
        "squared_error": jnp.sum((y_hat - y) ** 2),
        "half_squared_error": 0.5 * jnp.sum((y_hat - y) ** 2),
        "huber": jnp.sum(optax.huber_loss(y_hat, y)),
        "absolute_error": jnp.sum(jnp.abs(y_hat - y)),
        "binary_cross_entropy": -jnp.sum(y * jnp.log(y_hat) + (1 - y) * jnp.log(1 - y_hat)),
        "cross_entropy": -jnp.sum(y * jnp.log(y_hat)),
    }
    np.testing.assert_allclose(output.value(z, y), formula[loss], rtol=1e-13)


@every_loss
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_finite_far_out(pair: Pair, dtype: jnp.dtype) -> None:
    large = 1e9 if pair in CROSS_ENTROPIES else 1e4
    signs = jnp.array(np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), -1).reshape(-1, 3), dtype)
    z = jnp.repeat(large * signs, 3, axis=0)
    y = jnp.tile(jnp.eye(3, dtype=dtype), (len(signs), 1))
    value = jax.vmap(LOSSES[pair].value)(z, y)
    for result in (value, *gradients(LOSSES[pair], z, y)):
        assert result.dtype == dtype
        assert jnp.all(jnp.isfinite(result))


@every_loss
def test_delta_is_the_gradient_for_targets_that_are_no_distribution(pair: Pair) -> None:
    """Σy is anything, as after a weight of the example or with several labels at once."""
    z = 3 * jax.random.normal(jax.random.key(0), (50, 4))
    y = jax.random.uniform(jax.random.key(8), (50, 4), minval=-1, maxval=3)
    np.testing.assert_allclose(*gradients(LOSSES[pair], z, y), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    ("pair", "z", "y", "value", "delta"),
    [
        ("softmax", [-np.inf, 0.0, 0.0], [0.0, 1.0, 0.0], np.log(2), [0, -0.5, 0.5]),
        ("softmax", [-np.inf, 0.0], [0.0, 1.0], 0.0, [0, 0]),
        ("softmax", [-np.inf, 0.0], [1.0, 0.0], np.inf, [-1, 1]),
        ("softmax", [-np.inf, 1.0, -np.inf], [0.0, 1.0, 0.0], 0.0, [0, 0, 0]),
        ("sigmoid", [np.inf, 0.0], [1.0, 1.0], np.log(2), [0, -0.5]),
        ("sigmoid", [-np.inf, np.inf], [0.0, 1.0], 0.0, [0, 0]),
        ("sigmoid", [np.inf], [0.0], np.inf, [1]),
        ("sigmoid", [-np.inf], [1.0], np.inf, [-1]),
        ("sigmoid", [-np.inf], [0.25], np.inf, [-0.25]),
    ],
)
def test_cross_entropies_at_infinite_logits_are_their_limits(
    pair: str, z: list[float], y: list[float], value: float, delta: list[float], dtype: jnp.dtype
) -> None:
    loss = LOSSES[pair, "cross_entropy" if pair == "softmax" else "binary_cross_entropy"]
    at, target = jnp.array(z, dtype), jnp.array(y, dtype)
    np.testing.assert_allclose(loss.value(at, target), value, rtol=1e-6, atol=0)
    np.testing.assert_allclose(loss.delta(at, target), delta, atol=0)
    if np.isfinite(value):
        np.testing.assert_allclose(jax.grad(loss.value)(at, target), delta, atol=0)


@pytest.mark.parametrize("pair", CROSS_ENTROPIES)
def test_a_logit_that_is_no_number_is_not_hidden_by_its_target(pair: Pair) -> None:
    for y in ([1.0, 0.0], [0.0, 1.0], [0.5, 0.5]):
        assert jnp.isnan(LOSSES[pair].value(jnp.array([jnp.nan, 0.0]), jnp.array(y)))


@pytest.mark.parametrize("output", ["identity", "sigmoid", "tanh", "softmax"])
def test_squared_error_is_twice_its_half(output: str) -> None:
    whole, half = LOSSES[output, "squared_error"], LOSSES[output, "half_squared_error"]
    z, y = jnp.array([0.3, -1.2]), jnp.array([1.0, 0.0])
    assert whole.value(z, y) == 2 * half.value(z, y)
    assert whole.delta(z, y).tolist() == (2 * half.delta(z, y)).tolist()


# --- PyTorch -----------------------------------------------------------------------------------


def test_pytorch_cross_entropy() -> None:
    case, loss = TORCH["cross_entropy_none"], LOSSES["softmax", "cross_entropy"]
    z, y = jnp.array(case["input"]), jnp.eye(3)[jnp.array(case["target"])]
    np.testing.assert_allclose(jax.vmap(loss.value)(z, y), case["value"], rtol=1e-11)
    np.testing.assert_allclose(jax.vmap(loss.delta)(z, y), case["grad"], rtol=1e-10, atol=1e-16)


def test_pytorch_binary_cross_entropy() -> None:
    case, loss = TORCH["bce_with_logits_none"], LOSSES["sigmoid", "binary_cross_entropy"]
    z, y = jnp.array(case["input"])[:, None], jnp.array(case["target"])[:, None]
    np.testing.assert_allclose(jax.vmap(loss.value)(z, y), case["value"], rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(
        jax.vmap(loss.delta)(z, y)[:, 0], case["grad"], rtol=1e-10, atol=2e-16
    )


def test_pytorch_squared_error() -> None:
    case, loss = TORCH["mse_sum"], LOSSES["identity", "squared_error"]
    z, y = jnp.array(case["input"]), jnp.array(case["target"])
    np.testing.assert_allclose(jnp.sum(jax.vmap(loss.value)(z, y)), case["value"], rtol=1e-14)
    np.testing.assert_allclose(jax.vmap(loss.delta)(z, y), case["grad"], rtol=1e-14)


@pytest.mark.parametrize("name", ["cross_entropy_smooth0.1", "cross_entropy_soft"])
def test_pytorch_soft_targets(name: str) -> None:
    case, loss = TORCH[name], LOSSES["softmax", "cross_entropy"]
    rows = jnp.array(case["rows"])
    z, target = jnp.array(case["input"])[rows], jnp.array(case["target"])[rows]
    if name == "cross_entropy_smooth0.1":
        loss, target = smoothed(loss, 0.1), jnp.eye(3)[target]
    delta = jax.vmap(loss.delta)(z, target) / len(rows)
    np.testing.assert_allclose(jnp.mean(jax.vmap(loss.value)(z, target)), case["value"], rtol=1e-14)
    np.testing.assert_allclose(delta, jnp.array(case["grad"])[rows], rtol=1e-13, atol=1e-16)


def test_pytorch_class_weights() -> None:
    case = TORCH["cross_entropy_weighted_mean"]
    weights, labels = jnp.array(case["weight"]), jnp.array(case["target"])
    loss = class_weighted(LOSSES["softmax", "cross_entropy"], weights)
    z, y = jnp.array(case["input"]), jnp.eye(3)[labels]
    total = jnp.sum(weights[labels])  # what PyTorch divides by
    np.testing.assert_allclose(
        jnp.sum(jax.vmap(loss.value)(z, y)) / total, case["value"], rtol=1e-14
    )
    np.testing.assert_allclose(
        jax.vmap(loss.delta)(z, y) / total, case["grad"], rtol=1e-10, atol=1e-16
    )


# --- label smoothing and class weights ---------------------------------------------------------


@every_loss
def test_smoothed_and_weighted_delta_is_the_gradient(pair: Pair) -> None:
    weighted = class_weighted(LOSSES[pair], jnp.array([0.2, 3.0, 1.0]))
    z = jax.random.normal(jax.random.key(1), (3, 3))
    np.testing.assert_allclose(*gradients(weighted, z, jnp.eye(3)), rtol=1e-11, atol=1e-15)
    both = class_weighted(smoothed(LOSSES[pair], 0.2), jnp.array([0.2, 3.0, 1.0]))
    np.testing.assert_allclose(*gradients(both, z, jnp.eye(3)), rtol=1e-11, atol=1e-15)


def test_smoothing_leaves_a_distribution() -> None:
    seen = smoothed(Loss(jnp.exp, lambda z, y: y, lambda z, y: y), 0.3)
    y = seen.value(jnp.zeros(3), jnp.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(y, [0.1, 0.8, 0.1])
    single = seen.value(jnp.zeros(1), jnp.array([1.0]))
    np.testing.assert_allclose(single, [0.85])  # as one of two classes


def test_weights_of_a_single_output_are_those_of_0_and_1() -> None:
    plain = LOSSES["sigmoid", "binary_cross_entropy"]
    weighted = class_weighted(plain, jnp.array([5.0, 7.0]))
    z = jnp.array([0.3])
    for label, weight in ((0.0, 5), (1.0, 7)):
        y = jnp.array([label])
        assert weighted.value(z, y) == weight * plain.value(z, y)


# --- the lecture -------------------------------------------------------------------------------


def test_softmax_of_the_lecture() -> None:
    loss = LOSSES["softmax", "cross_entropy"]
    np.testing.assert_allclose(
        loss.output(jnp.array([10.0, 20.0, -30.0])),
        [4.5397868702434395e-05, 0.9999546021312976, 1.92866228683156e-22],
        rtol=1e-13,
    )
    assert loss.output(jnp.array([1000.0, 2000.0, -3000.0])).tolist() == [0, 1, 0]
    sigmoids = jax.nn.sigmoid(jnp.array([10.0, 20.0, -30.0]))
    np.testing.assert_allclose(jnp.sum(sigmoids), 1.9999546000702375, rtol=1e-15)


def test_saturated_output_of_the_lecture() -> None:
    z, y = jnp.log(jnp.array([0.01 / 0.99])), jnp.array([1.0])
    half = LOSSES["sigmoid", "half_squared_error"].delta(z, y)[0]
    cross_entropy = LOSSES["sigmoid", "binary_cross_entropy"].delta(z, y)[0]
    np.testing.assert_allclose(half, -0.009801, rtol=1e-13)
    np.testing.assert_allclose(cross_entropy, -0.99, rtol=1e-14)
    np.testing.assert_allclose(cross_entropy / half, 101.01010101010101, rtol=1e-13)


def test_squared_error_behind_a_sigmoid_learns_fastest_at_one_third() -> None:
    y_hat = jnp.linspace(0.001, 0.999, 2995)
    z = jnp.log(y_hat / (1 - y_hat))[:, None]
    slope = jax.vmap(LOSSES["sigmoid", "half_squared_error"].delta)(z, jnp.ones_like(z))[:, 0]
    assert abs(y_hat[jnp.argmax(jnp.abs(slope))] - 1 / 3) < 1e-3
    np.testing.assert_allclose(jnp.max(jnp.abs(slope)), 4 / 27, rtol=1e-5)


def test_cross_entropy_of_the_lecture() -> None:
    """Against e(2) the distribution [.2, .1, .4, .3] costs 3.3219 bits, against itself 1.8464."""
    loss, p = LOSSES["softmax", "cross_entropy"], jnp.array([0.2, 0.1, 0.4, 0.3])
    in_bits = loss.value(jnp.log(p), jnp.eye(4)[1]) / jnp.log(2)
    np.testing.assert_allclose(in_bits, 3.321928094887362, rtol=1e-14)
    np.testing.assert_allclose(loss.value(jnp.log(p), p), 1.2798542258336676, rtol=1e-14)
    np.testing.assert_allclose(loss.delta(jnp.log(p), p), jnp.zeros(4), atol=1e-15)


@pytest.mark.parametrize("z", [-30.0, -15.0, -5.0, 5.0, 15.0, 30.0])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_binary_cross_entropy_keeps_its_digits_in_float32(z, y):
    loss = LOSSES["sigmoid", "binary_cross_entropy"]
    low = loss.value(jnp.array([z], jnp.float32), jnp.array([y], jnp.float32))
    high = loss.value(jnp.array([z], jnp.float64), jnp.array([y], jnp.float64))
    np.testing.assert_allclose(low, high, rtol=1e-6)
