"""Random initial weights: `(key, n_out, n_in) -> W`, drawn in float32.

float32 draws are the same whether or not float64 is enabled; the caller casts them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import variance_scaling
from jaxtyping import Float, PRNGKeyArray

Initializer = Callable[[PRNGKeyArray, int, int], Float[Array, "n_out n_in"]]


def _with_variance(scale: float, mode: str, distribution: str) -> Initializer:
    """W with variance scale/n, where n is `fan_in` = n_in or `fan_avg` = (n_in + n_out)/2."""
    draw = variance_scaling(scale, mode, distribution, in_axis=-1, out_axis=-2)  # type: ignore[arg-type]
    return lambda key, n_out, n_in: draw(key, (n_out, n_in), jnp.float32)


def _standard_normal(key: PRNGKeyArray, n_out: int, n_in: int) -> Float[Array, "n_out n_in"]:
    return jax.random.normal(key, (n_out, n_in), jnp.float32)


def _zeros(key: PRNGKeyArray, n_out: int, n_in: int) -> Float[Array, "n_out n_in"]:
    return jnp.zeros((n_out, n_in), jnp.float32)


INITIALIZERS: dict[str, Initializer] = {
    # LeCun et al. 1998, "Efficient BackProp", eq. 16: variance 1/n_in.
    "lecun_normal": _with_variance(1.0, "fan_in", "normal"),
    "lecun_uniform": _with_variance(1.0, "fan_in", "uniform"),
    # Glorot & Bengio 2010, eq. 16: variance 2/(n_in + n_out).
    "glorot_normal": _with_variance(1.0, "fan_avg", "normal"),
    "glorot_uniform": _with_variance(1.0, "fan_avg", "uniform"),
    # He et al. 2015, eq. 10: variance 2/n_in.
    "he_normal": _with_variance(2.0, "fan_in", "normal"),
    "he_uniform": _with_variance(2.0, "fan_in", "uniform"),
    # N(0, 1), and N(0, s²) with s the scale that `init_params` multiplies by.
    "standard_normal": _standard_normal,
    "scaled_normal": _standard_normal,
    "zeros": _zeros,
}
"""By name; each draws W of n_out × n_in.

>>> INITIALIZERS["glorot_normal"](jax.random.key(0), 3, 2).shape
(3, 2)
"""
