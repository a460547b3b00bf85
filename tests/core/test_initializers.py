"""Every initializer's moments against the paper's, and what its draws depend on."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlp_jax.config.schema import INITIALIZER_NAMES
from mlp_jax.core.initializers import INITIALIZERS

N_OUT, N_IN = 200, 300  # unequal, so that fan-in and fan-out cannot be confused
VARIANCES = {
    "lecun_normal": 1 / N_IN,
    "lecun_uniform": 1 / N_IN,
    "glorot_normal": 2 / (N_IN + N_OUT),
    "glorot_uniform": 2 / (N_IN + N_OUT),
    "he_normal": 2 / N_IN,
    "he_uniform": 2 / N_IN,
    "standard_normal": 1.0,
    "scaled_normal": 1.0,
    "zeros": 0.0,
}

every_initializer = pytest.mark.parametrize("name", INITIALIZERS)


def test_config_offers_exactly_the_table() -> None:
    assert tuple(INITIALIZERS) == INITIALIZER_NAMES
    assert set(VARIANCES) == set(INITIALIZERS)


@every_initializer
def test_mean_and_variance(name: str) -> None:
    W = np.asarray(INITIALIZERS[name](jax.random.key(0), N_OUT, N_IN), np.float64)
    variance, count = VARIANCES[name], N_OUT * N_IN
    # Five standard errors; a normal sample's variance has the relative one √(2/n).
    assert abs(W.mean()) <= 5 * math.sqrt(variance / count)
    assert abs(W.var() - variance) <= 5 * variance * math.sqrt(2 / count)


@every_initializer
def test_distribution(name: str) -> None:
    W = np.asarray(INITIALIZERS[name](jax.random.key(0), N_OUT, N_IN))
    if name.endswith("_uniform"):
        limit = math.sqrt(3 * VARIANCES[name])
        assert 0.999 * limit < W.max() <= limit
        assert -limit <= W.min() < -0.999 * limit
    elif name.endswith("_normal"):
        within_one_sigma = np.mean(np.abs(W) < math.sqrt(VARIANCES[name]))
        assert abs(within_one_sigma - 0.6827) < 0.01


@pytest.mark.usefixtures("compiled_fully")
@every_initializer
def test_same_draws_with_and_without_float64(name: str) -> None:
    draws = []
    for enabled in (False, True):
        with jax.enable_x64(enabled):
            draws.append(np.asarray(INITIALIZERS[name](jax.random.key(3), 5, 4)))
    assert draws[0].dtype == draws[1].dtype == jnp.float32
    assert np.array_equal(*draws)


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name != "zeros"])
def test_the_key_decides(name: str) -> None:
    first, again, other = (INITIALIZERS[name](jax.random.key(seed), 5, 4) for seed in (0, 0, 1))
    assert first.shape == (5, 4)
    assert jnp.array_equal(first, again)
    assert not jnp.any(first == other)
