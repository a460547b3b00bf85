"""The network: initial parameters and the forward pass.

    a^0 = x
    z^l = W^l a^{l-1} + b^l        for l = 1 … L
    a^l = g_l(z^l)                 for l = 1 … L−1
    ŷ   = O(z^L)

Everything here is about one example; `jax.vmap` over x adds the batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, PRNGKeyArray

from mlp_jax.core.activations import Activation
from mlp_jax.core.initializers import INITIALIZERS, Initializer
from mlp_jax.core.losses import Loss
from mlp_jax.core.types import Layer, Params

Activations = Activation | tuple[Activation, ...]
"""One activation for all hidden layers, or one for each."""


def init_params(
    key: PRNGKeyArray,
    sizes: Sequence[int],
    initializer: Initializer,
    *,
    bias_initializer: Initializer = INITIALIZERS["zeros"],
    scale: float | Array = 1.0,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Parameters of a network with `sizes` = (n_0, …, n_L) neurons.

    Every weight is multiplied by `scale`. A bias is drawn like a weight from one neuron, n_in = 1.
    """
    layers = []
    W_keys, b_keys = jax.random.split(key, (2, len(sizes) - 1))
    for W_key, b_key, n_in, n_out in zip(W_keys, b_keys, sizes[:-1], sizes[1:], strict=True):
        W = scale * initializer(W_key, n_out, n_in)
        b = bias_initializer(b_key, n_out, 1)[:, 0]
        layers.append(Layer(W.astype(dtype), b.astype(dtype)))
    return tuple(layers)


def hidden_activations(params: Params, activation: Activations) -> tuple[Activation, ...]:
    """One activation for each hidden layer of `params`."""
    num_hidden = len(params) - 1
    if isinstance(activation, Activation):
        return (activation,) * num_hidden
    if len(activation) != num_hidden:
        raise ValueError(
            f"{len(activation)} activations for {num_hidden} hidden layers; "
            "give one for all of them or one for each"
        )
    return activation


def forward(
    params: Params, x: Float[Array, " n_0"], activation: Activations
) -> tuple[list[Array], list[Array]]:
    """The forward pass, keeping what the backward pass needs.

    Returns `zs` = [z^1, …, z^L] and `activations` = [a^0, …, a^{L−1}]; the logits are `zs[-1]`.
    """
    zs: list[Array] = []
    activations = [x]
    for (W, b), act in zip(params[:-1], hidden_activations(params, activation), strict=True):
        z = W @ activations[-1] + b
        zs.append(z)
        activations.append(act.g(z))
    W, b = params[-1]
    zs.append(W @ activations[-1] + b)
    return zs, activations


def apply(params: Params, x: Float[Array, " n_0"], activation: Activations) -> Float[Array, " n_L"]:
    """The logits z^L."""
    zs, _ = forward(params, x, activation)
    return zs[-1]


def predict(
    params: Params, x: Float[Array, " n_0"], activation: Activations, loss: Loss
) -> Float[Array, " n_L"]:
    """The network's output ŷ = O(z^L)."""
    return loss.output(apply(params, x, activation))


def num_params(params: Params) -> int:
    """Σ_l n_{l−1} n_l weights and Σ_l n_l biases."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
