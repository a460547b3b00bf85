"""From an optimizer's and a schedule's config to an optax gradient transformation.

A schedule is a factor over the training times the learning rate, so the learning rate itself may
be a traced value.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from mlp_jax.config import schema as config

LearningRate = Callable[[Array], Array]
"""η as a function of the step, the number of updates made before."""


def _factor(schedule: config.Schedule, num_steps: int) -> optax.Schedule:
    """The factor of each step."""
    last_step = max(num_steps - 1, 1)
    match schedule:
        case config.Constant():
            return optax.constant_schedule(1.0)
        case config.Exponential():  # final_factor^(step / last_step)
            return lambda step: schedule.final_factor ** (step / last_step)
        case config.WarmupCosine():
            warmup_steps = min(round(schedule.warmup * num_steps), last_step - 1)
            return optax.warmup_cosine_decay_schedule(
                0.0, 1.0, warmup_steps, last_step, schedule.final_factor
            )
        case config.Cosine():  # Loshchilov & Hutter 2017, one period
            return optax.cosine_decay_schedule(1.0, last_step, schedule.final_factor)
        case config.Piecewise():
            drops = np.array([round(at * num_steps) for at in schedule.boundaries], np.int32)
            return lambda step: schedule.factor ** jnp.sum(step >= drops)
    raise TypeError(f"no schedule for {schedule!r}")


def make_learning_rate(
    schedule: config.Schedule, learning_rate: float | Array, num_steps: int
) -> LearningRate:
    """η of each step: the schedule's factor times the learning rate."""
    factor = _factor(schedule, num_steps)
    return lambda step: jnp.asarray(learning_rate * factor(step))


def gradient_descent(learning_rate: LearningRate) -> optax.GradientTransformation:
    """The lecture's own: θ_{t+1} = θ_t − η ∇θ_t. The state is t."""

    def init(params: optax.Params) -> Array:
        return jnp.zeros((), jnp.int32)

    def update(
        grads: optax.Updates, step: Array, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Array]:
        eta = learning_rate(step)
        return jax.tree.map(lambda g: -eta.astype(g.dtype) * g, grads), step + 1

    return optax.GradientTransformation(init, update)


def _unclipped(optimizer: config.Optimizer, eta: LearningRate) -> optax.GradientTransformation:
    match optimizer:
        case config.GradientDescent():
            return gradient_descent(eta)
        case config.Momentum():
            return optax.sgd(eta, optimizer.momentum, nesterov=optimizer.name == "nesterov")
        case config.Adagrad():
            return optax.adagrad(eta, optimizer.initial_accumulator_value, optimizer.eps)
        case config.RMSProp():
            return optax.rmsprop(eta, optimizer.decay, optimizer.eps)
        case config.AdamW():
            return optax.adamw(
                eta,
                optimizer.b1,
                optimizer.b2,
                optimizer.eps,
                weight_decay=optimizer.weight_decay,
                mask=_weights_only,
            )
        case config.Adam():
            return optax.adam(eta, optimizer.b1, optimizer.b2, optimizer.eps)
        case config.Lion():
            return optax.lion(
                eta,
                optimizer.b1,
                optimizer.b2,
                weight_decay=optimizer.weight_decay,
                mask=_weights_only,
            )
        case config.LBFGS():
            line_search = optax.scale_by_zoom_linesearch(
                optimizer.max_linesearch_steps, initial_guess_strategy="one"
            )
            return optax.lbfgs(eta, optimizer.memory_size, linesearch=line_search)
    raise TypeError(f"no optimizer for {optimizer!r}")


def _weights_only(params: optax.Params) -> optax.Params:
    """Decay shrinks the weight matrices and leaves the biases, as the penalties do."""
    return jax.tree.map(lambda leaf: leaf.ndim == 2, params)


def make_optimizer(
    optimizer: config.Optimizer, learning_rate: LearningRate
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, its gradients clipped by their global norm first where `clip_norm` is set."""
    transformation = _unclipped(optimizer, learning_rate)
    if isinstance(optimizer, config.FirstOrder) and optimizer.clip_norm is not None:
        transformation = optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), transformation)
    return optax.with_extra_args_support(transformation)
