"""The forward pass against a loop in NumPy, and the initial parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.initializers import INITIALIZERS
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.network import apply, forward, init_params, num_params, predict
from mlp_jax.core.types import Layer

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
