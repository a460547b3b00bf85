"""A classifier's probabilities: averaged over networks, and as sure as they are right."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from mlp_jax.core.losses import LOSSES, MATCHED_LOSS
from mlp_jax.core.network import Params, apply, layers_of
from mlp_jax.core.training import Part
from mlp_jax.experiment.setup import Problem

LARGEST_TEMPERATURE = 20.0
"""And its inverse is the smallest: beyond them the validation part says little."""


def mean_logits(logits: Float[Array, "members n_L"], output: str) -> Float[Array, " n_L"]:
    """The logits whose output is the mean of the members' outputs.

    With K members: log mean_k p_k = logsumexp_k log p_k − log K, which loses no small probability.
    """

    def log_mean(log_p: Array) -> Array:
        return jax.nn.logsumexp(log_p, axis=0) - jnp.log(jnp.asarray(len(logits), logits.dtype))

    def logit(z: Array) -> Array:
        return log_mean(jax.nn.log_sigmoid(z)) - log_mean(jax.nn.log_sigmoid(-z))

    if output == "softmax":
        return log_mean(jax.nn.log_softmax(logits, axis=-1))
    if output == "sigmoid":
        return logit(logits)
    if output == "tanh":  # 2σ(2z) − 1
        return logit(2 * logits) / 2
    return logits.mean(axis=0)


def temperature_of(
    problem: Problem, held_out: Sequence[tuple[Params, Part | None]]
) -> float | None:
    """How sure a classifier is, over how often it is right: T, or `None` where none is asked for.

        ŷ = O(z^L / T),  T the minimum of the log loss of what is held out

    To its n examples one more is added in thought, a share of each of the k classes: the target of
    an example is (n y + 1/k) / (n + 1), much as in Platt 1999, "Probabilistic outputs …". Else a
    network that is always right there, which is easy for few examples, would be infinitely sure.
    `held_out` has examples, each time with the network or the members of an ensemble, of a leading
    axis, that predict them; the log loss of members is that of the mean of their probabilities.
    Guo, Pleiss, Sun & Weinberger 2017, "On calibration of modern neural networks".
    """
    config, num_classes = problem.config, len(problem.dataset.class_names)
    parts = [(params, part) for params, part in held_out if part is not None]
    if config.calibration == "none" or not parts or not num_classes:
        return None
    logits = jnp.concatenate([_logits(problem, params, part) for params, part in parts])
    y = jnp.concatenate([part.y for _, part in parts])[:, : logits.shape[-1]]  # without weights
    targets = (len(y) * y + 1 / num_classes) / (len(y) + 1)
    return _best_temperature(logits, targets, str(config.model.output))


def cooled(params: Params, temperature: float | None) -> Params:
    """The network with logits z^L / T: its output layer has W/T and b/T."""
    if temperature is None:
        return params
    *others, last = params
    return (*others, jax.tree.map(lambda leaf: leaf / temperature, last))


def _logits(problem: Problem, params: Params, part: Part) -> Float[Array, "n members n_L"]:
    is_alone = layers_of(params)[-1].b.ndim == 1
    members = jax.tree.map(lambda leaf: leaf[None], params) if is_alone else params

    def logits_of(x: Array) -> Array:
        return jax.vmap(lambda one: apply(one, x, problem.training.objective.activation))(members)

    return jax.lax.map(logits_of, part.x, batch_size=min(2048, len(part.x)))


def _best_temperature(
    logits: Float[Array, "n members n_L"], targets: Float[Array, "n n_L"], output: str
) -> float:
    from scipy.optimize import minimize_scalar  # takes a tenth of a second

    loss = LOSSES[output, MATCHED_LOSS[output]]

    @jax.jit
    def log_loss(log_temperature: Array, logits: Float[Array, "n members n_L"]) -> Array:
        cooled = logits / jnp.exp(log_temperature).astype(logits.dtype)
        of_mean = jax.vmap(lambda each: mean_logits(each, output))(cooled)
        return jnp.mean(jax.vmap(loss.value)(of_mean, targets))

    end = float(np.log(LARGEST_TEMPERATURE))
    found = minimize_scalar(
        lambda log_temperature: float(log_loss(jnp.asarray(log_temperature), logits)),
        bounds=(-end, end),
        method="bounded",
    )
    return float(np.exp(found.x))
