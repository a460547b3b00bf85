"""What is measured besides the loss: counts of right answers, R², and information in bits."""

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import entr, rel_entr, xlogy
from jaxtyping import Bool, Float, Int

LN2 = 0.6931471805599453
"""Nats in a bit: a loss in nats divided by it is in bits."""


def predicted_class(y_hat: Float[Array, " n_L"], threshold: float | Array) -> Int[Array, ""]:
    """The index of the largest output; of a single output, whether it reaches the threshold."""
    if y_hat.shape[-1] == 1:
        return (y_hat[0] >= threshold).astype(jnp.int32)
    return jnp.argmax(y_hat).astype(jnp.int32)


def is_correct(
    y_hat: Float[Array, " n_L"], y: Float[Array, " n_L"], threshold: float | Array
) -> Bool[Array, ""]:
    """Whether output and target name the same class."""
    return predicted_class(y_hat, threshold) == predicted_class(y, threshold)


def information(p: Float[Array, " k"]) -> Float[Array, " k"]:
    """The information content −log₂ p of each event, in bits. Shannon 1948."""
    return -jnp.log2(p)


def entropy(p: Float[Array, " k"]) -> Float[Array, ""]:
    """H(p) = −Σ p log₂ p, in bits."""
    return jnp.sum(entr(p)) / LN2


def cross_entropy(p: Float[Array, " k"], q: Float[Array, " k"]) -> Float[Array, ""]:
    """H(p, q) = −Σ p log₂ q, in bits; never below H(p)."""
    return -jnp.sum(xlogy(p, q)) / LN2


def kl_divergence(p: Float[Array, " k"], q: Float[Array, " k"]) -> Float[Array, ""]:
    """D(p‖q) = Σ p log₂ (p/q) = H(p, q) − H(p) ≥ 0, in bits."""
    return jnp.sum(rel_entr(p, q)) / LN2


def r2(squared_error: Array, total: float | Array) -> Array:
    """R² = 1 − Σ(ŷ − y)² / Σ(y − ȳ)²; of constant targets 1 where all ŷ are exact, else 0."""
    is_constant = jnp.asarray(total) == 0
    score = 1 - squared_error / jnp.where(is_constant, 1, total)
    return jnp.where(is_constant, jnp.where(squared_error > 0, 0.0, 1.0), score)
