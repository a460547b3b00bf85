"""Hidden-layer activations a = g(z), each beside its derivative g'(z).

Both are functions of the pre-activation z and act on one number or elementwise on an array, in
its own dtype. NaN stays NaN under g.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import erf


class Activation(NamedTuple):
    """An activation and its derivative, kept together so that they cannot drift apart.

    Where g has a kink, g' is the slope that `jax.grad` of g reports there.
    """

    g: Callable[[Array], Array]
    dg: Callable[[Array], Array]


def _dsigmoid(z: Array) -> Array:
    return jax.nn.sigmoid(z) * (1 - jax.nn.sigmoid(z))


_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946

_LEAKY_SLOPE = 0.01


def _normal_cdf(z: Array) -> Array:
    return 0.5 * (1 + erf(z / jnp.sqrt(2).astype(z.dtype)))


def _normal_pdf(z: Array) -> Array:
    return jnp.exp(-0.5 * z * z) / jnp.sqrt(2 * jnp.pi).astype(z.dtype)


def _negative_part(z: Array) -> Array:
    """min(z, 0), so that exp cannot overflow in the branch that `where` does not take.

    `jnp.minimum` would give the smooth elu the slope ½ at 0 under `jax.grad`.
    """
    return jnp.where(z > 0, 0, z)


ACTIVATIONS: dict[str, Activation] = {
    # Perceptron: H(z) = 1 if z ≥ 0, else 0; its derivative is 0 wherever it exists.
    # JAX's own heaviside loses NaN before 0.10.2.
    "step": Activation(lambda z: jnp.where(jnp.isnan(z), z, jnp.heaviside(z, 1.0)), jnp.zeros_like),
    "sigmoid": Activation(jax.nn.sigmoid, _dsigmoid),
    "tanh": Activation(jnp.tanh, lambda z: 1 - jnp.tanh(z) ** 2),
    "identity": Activation(lambda z: z, jnp.ones_like),
    "relu": Activation(jax.nn.relu, lambda z: (z > 0).astype(z.dtype)),
    "leaky_relu": Activation(
        lambda z: jnp.where(z >= 0, z, _LEAKY_SLOPE * z),
        lambda z: jnp.where(z >= 0, 1, _LEAKY_SLOPE).astype(z.dtype),
    ),
    # Clevert et al. 2016, with α = 1.
    "elu": Activation(
        lambda z: jnp.where(z > 0, z, jnp.expm1(_negative_part(z))),
        lambda z: jnp.exp(_negative_part(z)),
    ),
    # Klambauer et al. 2017.
    "selu": Activation(
        lambda z: _SELU_SCALE * jnp.where(z > 0, z, _SELU_ALPHA * jnp.expm1(_negative_part(z))),
        lambda z: _SELU_SCALE * jnp.where(z > 0, 1, _SELU_ALPHA * jnp.exp(_negative_part(z))),
    ),
    "softplus": Activation(jax.nn.softplus, jax.nn.sigmoid),
    # Swish, Ramachandran et al. 2017: (zσ)' = σ + zσ'.
    "silu": Activation(jax.nn.silu, lambda z: jax.nn.sigmoid(z) + z * _dsigmoid(z)),
    # Hendrycks & Gimpel 2016, the exact form zΦ(z): (zΦ)' = Φ + zφ.
    "gelu": Activation(
        lambda z: z * _normal_cdf(z),
        lambda z: _normal_cdf(z) + z * _normal_pdf(z),
    ),
    "softsign": Activation(jax.nn.soft_sign, lambda z: (1 / (1 + jnp.abs(z))) ** 2),
}
"""By name.

>>> sigmoid = ACTIVATIONS["sigmoid"]
>>> float(sigmoid.g(jnp.array(0.0))), float(sigmoid.dg(jnp.array(0.0)))
(0.5, 0.25)
"""
