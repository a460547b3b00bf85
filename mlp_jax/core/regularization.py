"""What keeps a network from learning its training examples by heart, beside the penalties.

Dropout and noise are drawn anew for each step, from the seed and the step alone. So a training that
is resumed, or that is one lane of a population, has the masks that it has alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from mlp_jax.core.network import Layer, Masks, Params, behind, dtype_of, embedding_of, layers_of


class Noise(NamedTuple):
    """The random part of a step."""

    dropout: float | Array = 0.0
    """The share of each hidden layer's neurons that a step leaves out."""
    input_dropout: float | Array = 0.0
    """The share of the inputs that a step leaves out."""
    input_noise: float | Array = 0.0
    """The standard deviation of the normal noise that is added to each input."""
    factor: Callable[[Array], float | Array] = lambda step: 1.0
    """Of both dropouts, as a function of the step."""


def draw_masks(
    noise: Noise, key: PRNGKeyArray, step: Int[Array, ""], params: Params, batch_size: int
) -> Masks:
    """The masks m^0 … m^{L−1} of a batch, m^l_i = keep⁻¹ with probability keep = 1 − p, else 0.

    E[m] = 1, so that the network needs no other weights where nothing is left out. Srivastava,
    Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, "Dropout", section 10. The probability is
    rounded to a multiple of 2⁻¹⁶, which halves the random bits, and the factor is its inverse.
    """
    factor = noise.factor(step)
    layers = layers_of(params)
    rates = (noise.input_dropout, *[noise.dropout] * (len(layers) - 1))
    keys = jax.random.split(key, len(layers))

    def mask(key: PRNGKeyArray, rate: float | Array, layer: Layer) -> Array | None:
        if isinstance(rate, float | int) and rate == 0:
            return None
        threshold = jnp.round((1 - rate * factor) * 2**16)
        bits = jax.random.bits(key, (batch_size, layer.W.shape[1]), jnp.uint16)
        return jnp.where(bits < threshold, 2**16 / threshold, 0).astype(layer.W.dtype)

    return tuple(map(mask, keys, rates, layers))


def add_noise(
    noise: Noise, key: PRNGKeyArray, x: Float[Array, "batch n_0"]
) -> Float[Array, "batch n_0"]:
    """The inputs x + σ ε with ε ~ N(0, 1). Bishop 1995, "Training with noise is equivalent …"."""
    if isinstance(noise.input_noise, float | int) and noise.input_noise == 0:
        return x
    return x + (noise.input_noise * jax.random.normal(key, x.shape)).astype(x.dtype)


def within_norm(params: Params, max_norm: float | Array) -> Params:
    """Every hidden neuron's weights W_i with ‖W_i‖ > c scaled back to c W_i/‖W_i‖.

    Srebro & Shraibman 2005, "Rank, trace-norm and max-norm"; with dropout Srivastava et al. 2014.
    """

    def scaled(layer: Layer) -> Layer:
        norm = jnp.linalg.norm(layer.W, axis=1, keepdims=True)
        return layer._replace(W=jnp.where(norm > max_norm, max_norm / norm, 1) * layer.W)

    *hidden, last = layers_of(params)
    return behind(embedding_of(params), [*map(scaled, hidden), last])


def averaged(
    decay: float | Array, average: Params, params: Params, num_updates: Int[Array, ""]
) -> Params:
    """The exponential moving average θ̄_t of the parameters θ_1 … θ_t.

        θ̄_t = Σ_s βᵗ⁻ˢ θ_s / Σ_s βᵗ⁻ˢ = θ̄_{t−1} + (1 − β) / (1 − βᵗ) (θ_t − θ̄_{t−1})

    Polyak & Juditsky 1992 average with equal weights; this forgets the start, and needs no
    correction of its bias.
    """
    beta = jnp.asarray(decay, dtype_of(params))
    share = (1 - beta) / (1 - beta**num_updates)
    return jax.tree.map(lambda mean, new: mean + share * (new - mean), average, params)
