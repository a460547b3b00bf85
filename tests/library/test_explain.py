"""Every factor of every path: they multiply and add up to the gradient."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from mlp_jax.core import network
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import backprop, batch_loss
from mlp_jax.core.losses import LOSSES, smoothed
from mlp_jax.core.network import Layer, Network
from mlp_jax.errors import UserError
from mlp_jax.library.explain import MAX_PATHS, explain

SIGMOID, BINARY = ACTIVATIONS["sigmoid"], LOSSES["sigmoid", "binary_cross_entropy"]
SOFTMAX = LOSSES["softmax", "cross_entropy"]


def explained(params, x, y, activation, loss):
    sizes = (params[0].W.shape[1], *(len(b) for _, b in params))
    return explain(Network(sizes, activation, loss=loss), params, x, y)


def draw_network(seed, sizes):
    draw = np.random.default_rng(seed).normal
    layers = itertools.pairwise(sizes)
    params = tuple(Layer(jnp.array(draw(size=(n, m))), jnp.array(draw(size=n))) for m, n in layers)
    return params, jnp.array(draw(size=sizes[0]))


def as_params(explanation, params):
    """The derivatives by path, in the shape of the parameters."""
    return tuple(
        Layer(
            W=np.array(
                [
                    [explanation.weights[l, j, k].value for k in range(1, W.shape[1] + 1)]
                    for j in range(1, W.shape[0] + 1)
                ]
            ),
            b=np.array([explanation.biases[l, j].value for j in range(1, len(b) + 1)]),
        )
        for l, (W, b) in enumerate(params, start=1)  # noqa: E741
    )


def assert_close(grads, expected, tolerance=1e-12):
    largest = max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(expected))
    for grad, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(grad, wanted, rtol=0, atol=tolerance * max(largest, 1e-3))


@pytest.fixture(scope="module")
def unequal():
    """2-3-2-3, tanh and softmax, so that a lost transpose or a lost path shows."""
    params, x = draw_network(0, (2, 3, 2, 3))
    y = jnp.array([0.0, 1.0, 0.0])
    return params, x, y, explained(params, x, y, ACTIVATIONS["tanh"], SOFTMAX)


@pytest.mark.parametrize("pair", LOSSES)
# No shrinking: every other size of a network compiles anew.
@settings(max_examples=3, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(1, 3), min_size=2, max_size=5),
    activation=st.sampled_from([ACTIVATIONS[name] for name in ACTIVATIONS if name != "step"]),
)
def test_paths_add_up_to_jax_grad_and_to_backprop(pair, seed, sizes, activation):
    # A softmax of one output is 1, its every derivative 0, and `jax.grad`'s nothing but rounding.
    assume(pair[0] != "softmax" or sizes[-1] > 1)
    params, x = draw_network(seed, sizes)
    y = jnp.array(np.random.default_rng(seed).dirichlet(np.ones(sizes[-1])))
    explanation = explained(params, x, y, activation, LOSSES[pair])

    @jax.jit
    def gradients(params, x, y):
        batch = x[None], y[None], activation, LOSSES[pair]
        return jax.grad(batch_loss)(params, *batch), backprop(params, *batch)[1]

    for expected in gradients(params, x, y):
        assert_close(as_params(explanation, params), expected)


def test_number_of_paths_is_the_product_of_the_widths_above(unequal):
    *_, explanation = unequal
    num_outputs = 3  # each ŷ of a softmax depends on each z^L
    assert len(explanation.weights[3, 1, 1].paths) == num_outputs
    assert len(explanation.weights[2, 1, 1].paths) == 3 * num_outputs
    assert len(explanation.biases[1, 1].paths) == 2 * 3 * num_outputs


def test_each_factor_is_the_derivative_it_is_named_after(unequal):
    params, x, _, explanation = unequal
    zs, activations = network.forward(params, x, ACTIVATIONS["tanh"])
    y_hat = jax.nn.softmax(zs[-1])
    path = next(
        p for p in explanation.weights[1, 3, 2].paths if "∂z³₁/∂a²₂" in p and "∂ŷ₂/∂z³₁" in p
    )
    expected = {
        "∂L/∂ŷ₂": -1 / y_hat[1],
        "∂ŷ₂/∂z³₁": -y_hat[1] * y_hat[0],
        "∂z³₁/∂a²₂": params[2].W[0, 1],
        "∂a²₂/∂z²₂": 1 - activations[2][1] ** 2,
        "∂z²₂/∂a¹₃": params[1].W[1, 2],
        "∂a¹₃/∂z¹₃": 1 - activations[1][2] ** 2,
        "∂z¹₃/∂w¹₃₂": x[1],
    }
    assert list(path) == list(expected)
    np.testing.assert_allclose(
        list(path.values()), [float(v) for v in expected.values()], rtol=1e-14
    )


def test_forward_pass_by_symbol(unequal):
    params, x, y, explanation = unequal
    zs, activations = network.forward(params, x, ACTIVATIONS["tanh"])
    assert explanation.forward["x₂"] == x[1]
    assert explanation.forward["z¹₃"] == pytest.approx(float(zs[0][2]), rel=1e-15)
    assert explanation.forward["a²₁"] == pytest.approx(float(activations[2][0]), rel=1e-15)
    assert explanation.forward["ŷ₃"] == pytest.approx(float(jax.nn.softmax(zs[2])[2]), rel=1e-15)
    assert explanation.forward["L"] == pytest.approx(float(SOFTMAX.value(zs[2], y)), rel=1e-15)


def test_one_path_reads_as_the_lecture_writes_it():
    params = (
        Layer(jnp.array([[0.1]]), jnp.array([-6.532216813747308])),
        Layer(jnp.array([[12.0]]), jnp.array([-5.5386122886681095])),
    )
    explanation = explained(params, [60], [1], SIGMOID, BINARY)
    assert str(explanation.weights[1, 1, 1]).splitlines() == [
        "∂L/∂w¹₁₁ = ∂L/∂ŷ₁ × ∂ŷ₁/∂z²₁ × ∂z²₁/∂a¹₁ × ∂a¹₁/∂z¹₁ × ∂z¹₁/∂w¹₁₁",
        "         =   -4   ×  0.1875  ×     12    ×   0.2331  ×     60",
        "         = -125.874    backprop: -125.874",
    ]
    text = str(explanation)
    assert text.startswith(
        "x₁ = 60\nz¹₁ = -0.5322168137\na¹₁ = 0.37\nz²₁ = -1.098612289\nŷ₁ = 0.25\n"
    )
    assert all(
        str(d) in text for d in (*explanation.weights.values(), *explanation.biases.values())
    )


def test_several_paths_are_written_as_a_sum_with_each_product(unequal):
    derivative = unequal[3].weights[3, 1, 1]
    lines = str(derivative).splitlines()
    assert [line[len(derivative.name) + 1] for line in lines] == list("=++=++=")
    products = [float(line.split("(")[1].rstrip(")")) for line in lines[3:6]]
    assert math.fsum(products) == pytest.approx(derivative.value, rel=1e-8)


def test_indices_of_two_digits_are_kept_apart():
    params, x = draw_network(0, (11, 1))
    assert explained(params, x, [0.0], SIGMOID, BINARY).weights[1, 1, 11].name == "∂L/∂w¹₁,₁₁"


def test_saturated_output_joins_its_two_factors(unequal):
    """ŷ rounds to 1 where y = 0: ∂L/∂ŷ is infinite, ∂L/∂z is 1."""
    params = (Layer(jnp.array([[1.0]]), jnp.array([0.0])),)
    explanation = explained(params, [800.0], [0.0], SIGMOID, BINARY)
    assert explanation.weights[1, 1, 1].paths == [{"∂L/∂z¹₁": 1.0, "∂z¹₁/∂w¹₁₁": 800.0}]


def test_loss_outside_the_table_joins_its_two_factors(unequal):
    params, x, y, _ = unequal
    loss = smoothed(SOFTMAX, 0.1)
    explanation = explained(params, x, y, ACTIVATIONS["tanh"], loss)
    assert list(explanation.biases[3, 2].paths[0]) == ["∂L/∂z³₂", "∂z³₂/∂b³₂"]
    grads = as_params(explanation, params)
    assert_close(grads, backprop(params, x[None], y[None], ACTIVATIONS["tanh"], loss)[1])


def test_float32_parameters_are_explained_in_float64(unequal):
    params, x, y, _ = unequal
    params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, x))
    explanation = explained(params, x, y, ACTIVATIONS["tanh"], SOFTMAX)
    for derivative in (*explanation.weights.values(), *explanation.biases.values()):
        assert derivative.value == pytest.approx(derivative.backprop, rel=1e-12, abs=1e-15)


def test_a_batch_is_refused_with_the_shapes(unequal):
    params, x, y, _ = unequal
    with pytest.raises(UserError, match=r"\(1, 2\) and \(3,\).*2-3-2-3.*\(2,\) and \(3,\).*x\[0\]"):
        explained(params, x[None], y, SIGMOID, SOFTMAX)


def test_a_named_network_is_explained_like_its_functions(unequal):
    params, x, y, explanation = unequal
    named = explain(Network((2, 3, 2, 3), activation="tanh", output="softmax"), params, x, y)
    assert str(named) == str(explanation)


def test_params_of_another_network_are_refused_with_both_sizes(unequal):
    params, x, y, _ = unequal
    shapes = r"W and b are \[\(\(3, 2\), \(3,\)\), .*Network\(sizes=\(2, 3, 3\).* needs \["
    with pytest.raises(ValueError, match=shapes):
        explain(Network((2, 3, 3)), params, x, y)


@pytest.mark.parametrize("of_layer", [tuple, list, lambda layer: tuple(map(np.asarray, layer))])
@pytest.mark.usefixtures("unchecked")
def test_pairs_are_params_like_layers(unequal, of_layer):
    params, x, y, explanation = unequal
    pairs = [of_layer(layer) for layer in params]
    net = Network((2, 3, 2, 3), activation="tanh", output="softmax")
    assert str(explain(net, pairs, x, y)) == str(explanation)


def test_too_many_paths_are_refused_with_their_number():
    params, x = draw_network(0, (784, 30, 10))
    num_paths = 785 * 30 * 10 + 31 * 10
    assert num_paths > MAX_PATHS
    with pytest.raises(
        UserError, match=f"784-30-10 network has {num_paths:,} paths.*{MAX_PATHS:,}"
    ):
        explained(params, x, jnp.zeros(10), SIGMOID, SOFTMAX)
