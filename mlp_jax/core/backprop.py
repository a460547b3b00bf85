"""Backpropagation as the lecture writes it.

For one example, from the output layer to the first:

    δ^L = ∂L/∂z^L
    δ^l = (W^{l+1})ᵀ δ^{l+1} ⊙ g'(z^l)        with dropout (W^{l+1})ᵀ δ^{l+1} ⊙ m^l ⊙ g'(z^l)

and for the mean loss of a batch

    ∂L/∂W^l = 1/m Σ_i δ^l_i (a^{l−1}_i)ᵀ        ∂L/∂b^l = 1/m Σ_i δ^l_i

Rumelhart, Hinton & Williams 1986, "Learning representations by back-propagating errors".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from mlp_jax.core.embedding import embedding_gradient
from mlp_jax.core.losses import Loss
from mlp_jax.core.network import (
    Activations,
    Layer,
    Masks,
    Params,
    apply,
    behind,
    embedding_of,
    forward,
    hidden_activations,
    layers_of,
    masked,
)


class Penalty(NamedTuple):
    """Penalties on the weights (not the biases): l2/2 Σ W² + l1 Σ |W|.

    Nielsen's λ over n training examples is l2 = λ/n.
    """

    l2: float | Array = 0.0
    l1: float | Array = 0.0


class Objective(NamedTuple):
    """What a training minimises: the mean of a loss behind a network, plus the penalty.

    Its fields are what `batch_loss` and `backprop` take after `params, x, y`:
    `backprop(params, x, y, *objective)`.
    """

    activation: Activations
    loss: Loss
    penalty: Penalty | None = None
    masks: Masks | None = None
    """Dropout's masks of the batch, behind a leading axis of examples."""


def penalty_value(params: Params, penalty: Penalty) -> Array:
    """l2/2 Σ W² + l1 Σ |W|."""
    l2_part = sum(jnp.sum(W * W) for W, _ in layers_of(params))
    # |W| as W sign(W), whose slope at 0 is 0 for `jax.grad` too; that of `jnp.abs` is 1.
    l1_part = sum(jnp.sum(W * jnp.sign(W)) for W, _ in layers_of(params))
    return jnp.asarray(0.5 * penalty.l2 * l2_part + penalty.l1 * l1_part)


def batch_loss(
    params: Params,
    x: Float[Array, "batch n_0"],
    y: Float[Array, "batch n_L"],
    activation: Activations,
    loss: Loss,
    penalty: Penalty | None = None,
    masks: Masks | None = None,
) -> Float[Array, ""]:
    """The mean loss of a batch plus the penalty: what `backprop` differentiates."""
    logits = jax.vmap(lambda x, masks: apply(params, x, activation, masks))(x, masks)
    value = jnp.mean(jax.vmap(loss.value)(logits, y))
    return value if penalty is None else value + penalty_value(params, penalty)


def deltas_of(
    params: Params,
    zs: list[Array],
    y: Float[Array, " n_L"],
    activation: Activations,
    loss: Loss,
    masks: Masks | None = None,
) -> list[Array]:
    """[δ^1, …, δ^L] of one example, where δ^l = ∂L/∂z^l and `zs` come from `forward`."""
    layers = layers_of(params)
    deltas = [loss.delta(zs[-1], y)]
    for layer, z, act, mask in zip(
        reversed(layers[1:]),
        reversed(zs[:-1]),
        reversed(hidden_activations(params, activation)),
        reversed((masks or (None,) * len(layers))[1:]),
        strict=True,
    ):
        deltas.append(masked(layer.W.T @ deltas[-1], mask) * act.dg(z))
    return deltas[::-1]


def backprop(
    params: Params,
    x: Float[Array, "batch n_0"],
    y: Float[Array, "batch n_L"],
    activation: Activations,
    loss: Loss,
    penalty: Penalty | None = None,
    masks: Masks | None = None,
) -> tuple[Float[Array, ""], Params]:
    """The mean loss of a batch (plus the penalty) and its gradient.

    The deltas are one example's, under `vmap`. The mean of their outer products is one matrix
    product a layer, its indices the equation: ∂L/∂W_ij = Σ_b (δ_bi / m) a_bj. With `masks` it is
    the gradient of the network without the neurons that dropout leaves out.

    >>> net = mlp.Network((2, 3, 1), activation="tanh", output="sigmoid")
    >>> params = net.init(jax.random.key(0))
    >>> x, y = jnp.array([[0.0, 1.0], [1.0, 1.0]]), jnp.array([[1.0], [0.0]])
    >>> value, grads = backprop(params, x, y, net.activation_functions, net.loss_function)
    >>> value.shape, [layer.W.shape for layer in grads]
    ((), [(3, 2), (1, 3)])
    """
    zs, activations = jax.vmap(lambda x, masks: forward(params, x, activation, masks))(x, masks)
    deltas = jax.vmap(lambda zs, y, masks: deltas_of(params, zs, y, activation, loss, masks))(
        zs, y, masks
    )
    value = jnp.mean(jax.vmap(loss.value)(zs[-1], y))
    batch_size = x.shape[0]
    grads = tuple(
        Layer(
            W=jnp.einsum("bi,bj->ij", delta / batch_size, a_prev),
            b=jnp.mean(delta, axis=0),
        )
        for delta, a_prev in zip(deltas, activations, strict=True)
    )
    embedding, layers = embedding_of(params), layers_of(params)
    if penalty is not None:
        value = value + penalty_value(params, penalty)
        grads = tuple(
            Layer(grad.W + penalty.l2 * W + penalty.l1 * jnp.sign(W), grad.b)
            for grad, (W, _) in zip(grads, layers, strict=True)
        )
    if embedding is None:
        return value, grads
    delta_0 = masked(deltas[0] @ layers[0].W, masks[0] if masks else None)
    return value, behind(embedding_gradient(embedding, x, delta_0), grads)
