"""The forward pass against a loop in NumPy, and the initial parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.initializers import INITIALIZERS
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.network import Layer, Network, apply, forward, init_params, num_params, predict

TANH = ACTIVATIONS["tanh"]


def random_params(*sizes: int) -> tuple[Layer, ...]:
    normal = INITIALIZERS["standard_normal"]
    return init_params(jax.random.key(0), sizes, normal, bias_initializer=normal, dtype=jnp.float64)


@pytest.mark.parametrize("sizes", [(3, 2), (2, 8, 1), (3, 5, 2, 4), (1, 1, 1, 1, 1, 1)])
def test_forward_is_the_written_out_loop(sizes: tuple[int, ...]) -> None:
    params = random_params(*sizes)
    x = np.linspace(-1, 1, sizes[0])
    a = x
    expected_zs, expected_activations = [], []
    for W, b in params:
        expected_activations.append(a)
        z = np.array([sum(W[i, j] * a[j] for j in range(len(a))) + b[i] for i in range(len(b))])
        expected_zs.append(z)
        a = np.tanh(z)

    zs, activations = forward(params, jnp.array(x), TANH)
    for computed, expected in ((zs, expected_zs), (activations, expected_activations)):
        assert len(computed) == len(sizes) - 1
        for one, other in zip(computed, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-15)
    assert jnp.array_equal(apply(params, jnp.array(x), TANH), zs[-1])


def test_each_hidden_layer_has_its_own_activation() -> None:
    params, x = random_params(2, 3, 4, 1), jnp.array([0.5, -2.0])
    relu, sigmoid = ACTIVATIONS["relu"], ACTIVATIONS["sigmoid"]
    zs, activations = forward(params, x, (relu, sigmoid))
    assert jnp.array_equal(activations[1], relu.g(zs[0]))
    assert jnp.array_equal(activations[2], sigmoid.g(zs[1]))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_wrong_number_of_activations(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} activations for 2 hidden layers"):
        forward(random_params(2, 3, 4, 1), jnp.zeros(2), (TANH,) * count)


def test_predict_puts_the_output_activation_on_the_logits() -> None:
    params, x = random_params(3, 4, 3), jnp.array([0.1, 0.2, 0.3])
    y_hat = predict(params, x, TANH, LOSSES["softmax", "cross_entropy"])
    assert jnp.array_equal(y_hat, jax.nn.softmax(apply(params, x, TANH)))


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ((2, 2, 1), 9),
        ((3, 3, 3, 2), 32),
        ((3, 3, 4, 3), 43),
        ((784, 30, 10), 23_860),
        ((784, 100, 10), 79_510),
        ((784, 800, 10), 636_010),
    ],
)
def test_number_of_parameters(sizes: tuple[int, ...], count: int) -> None:
    assert num_params(init_params(jax.random.key(0), sizes, INITIALIZERS["zeros"])) == count


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_init_params_shapes_dtype_and_zero_biases(dtype: jnp.dtype) -> None:
    params = init_params(jax.random.key(0), (4, 3, 2), INITIALIZERS["lecun_normal"], dtype=dtype)
    assert [layer.W.shape for layer in params] == [(3, 4), (2, 3)]
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
    assert not any(jnp.any(layer.b) for layer in params)


def test_init_params_scales_the_weights_only() -> None:
    normal, key = INITIALIZERS["scaled_normal"], jax.random.key(0)
    plain = init_params(key, (4, 3), normal, bias_initializer=normal)
    scaled = init_params(key, (4, 3), normal, bias_initializer=normal, scale=0.5)
    assert jnp.array_equal(scaled[0].W, 0.5 * plain[0].W)
    assert jnp.array_equal(scaled[0].b, plain[0].b)


def test_init_params_draws_every_array_from_its_own_key() -> None:
    normal = INITIALIZERS["standard_normal"]
    params = init_params(jax.random.key(0), (1, 5, 5, 5), normal, bias_initializer=normal)
    drawn = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])
    assert len(np.unique(drawn)) == len(drawn)
    again = init_params(jax.random.key(0), (1, 5, 5, 5), normal, bias_initializer=normal)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, params, again))


# --- Network: the same as plain data -------------------------------------------------------------


def test_a_network_is_its_functions() -> None:
    net = Network([3, 4, 5, 2], ["tanh", "relu"], "softmax", "cross_entropy")
    params = net.init(
        jax.random.key(3),
        "he_normal",
        scale=0.5,
        bias_initializer="standard_normal",
        dtype="float64",
    )
    same = init_params(
        jax.random.key(3),
        (3, 4, 5, 2),
        INITIALIZERS["he_normal"],
        bias_initializer=INITIALIZERS["standard_normal"],
        scale=0.5,
        dtype=jnp.float64,
    )
    for leaf, expected in zip(jax.tree.leaves(params), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-6)  # the draws are compiled together
    x = np.linspace(-1, 1, 6).reshape(2, 3)
    functions = (TANH, ACTIVATIONS["relu"])
    for one, logits, y_hat in zip(x, net.logits(params, x), net.predict(params, x), strict=True):
        assert_same = np.testing.assert_allclose
        assert_same(logits, apply(params, jnp.array(one), functions), rtol=1e-14)
        assert_same(net.logits(params, one), logits, rtol=1e-14)
        assert_same(y_hat, jax.nn.softmax(logits), rtol=1e-14)
        assert_same(net.predict(params, one), y_hat, rtol=1e-14)


def test_equal_networks_are_equal_and_have_one_hash() -> None:
    net = Network((2, 3, 1), ("tanh",), "sigmoid", "binary_cross_entropy")
    same = Network([np.int64(2), 3, 1], ["tanh"], loss="binary_cross_entropy")
    assert net == same and hash(net) == hash(same)
    assert net != Network((2, 3, 1), ("relu",), "sigmoid")
    own = Network((2, 3, 1), TANH, loss=LOSSES["tanh", "squared_error"])
    assert hash(own) and own.activation_functions == (TANH,)


@pytest.mark.parametrize(
    ("given", "pair"),
    [
        ({}, ("identity", "squared_error")),
        ({"output": "softmax"}, ("softmax", "cross_entropy")),
        ({"output": "sigmoid"}, ("sigmoid", "binary_cross_entropy")),
        ({"output": "tanh"}, ("tanh", "squared_error")),
        ({"loss": "cross_entropy"}, ("softmax", "cross_entropy")),
        ({"loss": "half_squared_error"}, ("identity", "half_squared_error")),
    ],
)
def test_what_is_left_out_of_output_and_loss_matches_the_other(given, pair) -> None:
    net = Network((2, 1), **given)
    assert (net.output, net.loss) == pair
    assert net.loss_function is LOSSES[pair]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": (3,)}, r"sizes=\(3,\): must be \(n_0, …, n_L\)"),
        ({"sizes": (3, 0, 1)}, r"sizes=\(3, 0, 1\): .* each 1 or more"),
        ({"activation": "than"}, "activation='than': must be one of step, sigmoid, tanh"),
        ({"activation": ("tanh", "than")}, "2 activations for 1 hidden layers"),
        ({"output": "softmx"}, "output='softmx' with loss=.*: must be one of identity with sq"),
        ({"output": "softmax", "loss": "binary_cross_entropy"}, "must be one of .*softmax with cr"),
        ({"loss": "hinge"}, "loss='hinge': must be one of .*softmax with cross_entropy"),
        ({"output": "tanh", "loss": LOSSES["tanh", "squared_error"]}, "leave output out"),
    ],
)
def test_what_is_no_network_is_refused(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        Network(**{"sizes": (3, 4, 1)} | fields)


def test_a_wrong_initializer_and_a_wrong_shape_are_refused() -> None:
    net = Network((3, 4, 1))
    with pytest.raises(ValueError, match="initializer='xavier': must be one of lecun_normal"):
        net.init(jax.random.key(0), "xavier")
    with pytest.raises(ValueError, match="bias_initializer='ones': must be one of lecun_normal"):
        net.init(jax.random.key(0), bias_initializer="ones")
    params = net.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"x has shape \(2, 4\): the network takes one example"):
        net.predict(params, np.zeros((2, 4)))


@pytest.mark.parametrize("method", ["predict", "logits"])
@pytest.mark.parametrize(
    ("W", "b", "dtype"),
    [
        ([[1, 2]], [0], jnp.float64),
        (np.array([[1, 2]]), np.array([False]), jnp.float64),
        (np.array([[1, 2]]), np.float32([0]), jnp.float32),
        (np.float32([[1, 2]]), np.array([0]), jnp.float32),
        (np.float32([[1, 2]]), np.float64([0]), jnp.float64),
    ],
)
def test_pairs_are_params_and_whole_numbers_are_floats(method, W, b, dtype) -> None:
    z = getattr(Network((2, 1)), method)([(W, b)], [3.7, 4.6])
    assert z.dtype == dtype
    np.testing.assert_allclose(z, [3.7 + 2 * 4.6], rtol=1e-6)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (None, r"params: must be a pair of arrays \(W, b\) for each layer of Network"),
        ([np.ones((1, 2))], "params: must be a pair of arrays"),
        ([(np.ones((1, 3)), np.ones(1))], r"\(\(1, 3\), \(1,\)\)\]; Network.* needs \[\(\(1, 2\)"),
        ([(np.ones((1, 2)), np.ones((1, 1)))], r"W and b are \[\(\(1, 2\), \(1, 1\)\)\]"),
        ([], r"W and b are \[\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_are_no_params_is_refused(params, message) -> None:
    with pytest.raises(ValueError, match=message):
        Network((2, 1)).predict(params, np.zeros(2))
