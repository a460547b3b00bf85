"""Every activation against its own derivative, PyTorch's values, and float32's range."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlp_jax.config.schema import ACTIVATION_NAMES
from mlp_jax.core.activations import ACTIVATIONS

TORCH = json.loads((Path(__file__).parents[1] / "vectors/torch_activations.json").read_text())

every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


def test_config_offers_exactly_the_table() -> None:
    assert tuple(ACTIVATIONS) == ACTIVATION_NAMES


def test_pytorch_values_cover_all_but_the_perceptron() -> None:
    assert set(TORCH["activations"]) == set(ACTIVATIONS) - {"step"}


@every_activation
def test_dg_is_the_derivative_of_g(name: str) -> None:
    g, dg = ACTIVATIONS[name]
    z = jnp.concatenate([jnp.linspace(-30, 30, 301), jnp.array([-1e-9, 0.0, 1e-9])])
    np.testing.assert_allclose(dg(z), jax.vmap(jax.grad(g))(z), rtol=1e-13, atol=2e-16)


@every_activation
def test_dg_is_the_slope_of_g(name: str) -> None:
    g, dg = ACTIVATIONS[name]
    z, h = jnp.linspace(-8, 8, 80), 1e-5  # an even number: no point at the kink
    np.testing.assert_allclose(dg(z), (g(z + h) - g(z - h)) / (2 * h), atol=1e-9)


@pytest.mark.parametrize("name", TORCH["activations"])
def test_pytorch(name: str) -> None:
    g, dg = ACTIVATIONS[name]
    z = jnp.array(TORCH["z"])
    expected = TORCH["activations"][name]
    slopes = np.array(expected["dy"])
    if name == "leaky_relu":
        slopes[TORCH["z"].index(0.0)] = 1.0  # either slope is right at the kink
    # Subnormal numbers may be flushed to zero.
    np.testing.assert_allclose(g(z), expected["y"], rtol=1e-14, atol=1e-307)
    np.testing.assert_allclose(dg(z), slopes, rtol=1e-7, atol=1e-16)


def test_step_is_the_perceptron() -> None:
    g, dg = ACTIVATIONS["step"]
    z = jnp.array([-1e300, -1e-300, 0.0, 1e-300, 1e300])
    assert g(z).tolist() == [0, 0, 1, 1, 1]
    assert dg(z).tolist() == [0, 0, 0, 0, 0]


@every_activation
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_finite_far_out_and_dtype_kept(name: str, dtype: jnp.dtype) -> None:
    g, dg = ACTIVATIONS[name]
    z = jnp.array([-1e9, -1e4, -100, -0.0, 0, 100, 1e4, 1e9], dtype)
    for values in (g(z), dg(z), jax.vmap(jax.grad(g))(z)):
        assert values.dtype == dtype
        assert jnp.all(jnp.isfinite(values))


@every_activation
def test_nan_stays_nan(name: str) -> None:
    values = ACTIVATIONS[name].g(jnp.array([jnp.nan, 1.0]))
    assert jnp.isnan(values).tolist() == [True, False]


@every_activation
def test_no_gradient_of_the_branch_not_taken_leaks(name: str) -> None:
    _, dg = ACTIVATIONS[name]
    z = jnp.array([-800.0, 800.0])
    assert jnp.all(jnp.isfinite(jax.vmap(jax.grad(dg))(z)))


def test_derivatives_of_the_lecture() -> None:
    z = jnp.linspace(-5, 5, 21)
    sigmoid, tanh = ACTIVATIONS["sigmoid"], ACTIVATIONS["tanh"]
    np.testing.assert_allclose(sigmoid.dg(z), sigmoid.g(z) * (1 - sigmoid.g(z)), rtol=1e-13)
    np.testing.assert_allclose(tanh.dg(z), 1 - tanh.g(z) ** 2, rtol=1e-13)
    assert sigmoid.dg(jnp.array(0.0)) == 0.25
