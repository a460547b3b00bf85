"""A classifier's probabilities: averaged over networks, and as sure as they are right."""

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


def calibrated(problem: Problem, params: Params) -> tuple[Params, float | None]:
    """The network as sure as it is right, and its temperature T: `None` where none is asked for.

        ŷ = O(z^L / T),  T the minimum of the log loss of the validation part

    To its n examples one more is added in thought, a share of each of the k classes: the target of
    an example is (n y + 1/k) / (n + 1), much as in Platt 1999, "Probabilistic outputs …". Else a
    network that is always right there, which is easy for few examples, would be infinitely sure.
    An output layer with W/T and b/T has these logits. Members of an ensemble, whose arrays have a
    leading axis, share one T; their log loss is that of the mean of their probabilities. Guo,
    Pleiss, Sun & Weinberger 2017, "On calibration of modern neural networks".
    """
    part, output = problem.validation, str(problem.config.model.output)
    is_classifier = bool(problem.dataset.class_names)
    if problem.config.calibration == "none" or part is None or not is_classifier:
        return params, None
    temperature = _temperature(problem, params, part, output)
    *others, last = params
    scaled = jax.tree.map(lambda leaf: leaf / temperature, last)
    return (*others, scaled), temperature


def _temperature(problem: Problem, params: Params, part: Part, output: str) -> float:
    from scipy.optimize import minimize_scalar  # takes a tenth of a second

    loss = LOSSES[output, MATCHED_LOSS[output]]
    members = (
        jax.tree.map(lambda leaf: leaf[None], params)
        if layers_of(params)[-1].b.ndim == 1
        else params
    )

    def logits_of(x: Array) -> Array:
        return jax.vmap(lambda one: apply(one, x, problem.training.objective.activation))(members)

    @jax.jit
    def log_loss(log_temperature: Array, logits: Float[Array, "n members n_L"]) -> Array:
        cooled = logits / jnp.exp(log_temperature).astype(logits.dtype)
        of_mean = jax.vmap(lambda each: mean_logits(each, output))(cooled)
        return jnp.mean(jax.vmap(loss.value)(of_mean, targets))

    num_examples, num_classes = len(part.x), len(problem.dataset.class_names)
    num_outputs = 1 if output == "sigmoid" and num_classes == 2 else num_classes
    targets = (num_examples * part.y[:, :num_outputs] + 1 / num_classes) / (num_examples + 1)
    logits = jax.lax.map(logits_of, part.x, batch_size=min(2048, len(part.x)))
    end = float(np.log(LARGEST_TEMPERATURE))
    found = minimize_scalar(
        lambda log_temperature: float(log_loss(jnp.asarray(log_temperature), logits)),
        bounds=(-end, end),
        method="bounded",
    )
    return float(np.exp(found.x))
