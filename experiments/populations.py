"""Networks of many seeds that train side by side, for the studies.

`mlp_jax.core.population` trains what configs describe; a study looks at the parameters on the way.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import Objective
from mlp_jax.core.initializers import INITIALIZERS
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.network import Params, init_params
from mlp_jax.core.optimizers import gradient_descent
from mlp_jax.core.training import Part, Training, TrainState, init_state, train_steps
from mlp_jax.experiment.setup import keys_of


class Trained(NamedTuple):
    """A population after training, and its course."""

    params: Params
    losses: Array
    """Of each network's batch at each step: (network, step)."""
    observed: Any
    """With two axes in front: (log point, network)."""


@cache
def descent(
    activation: str, pair: tuple[str, str], learning_rate: float, batch_size: int
) -> Training:
    """Plain gradient descent with a constant learning rate."""

    def eta(step: Array) -> Array:
        return jnp.asarray(learning_rate)

    optimizer = optax.with_extra_args_support(gradient_descent(eta))
    g, loss = ACTIVATIONS[activation], LOSSES[pair]
    return Training(Objective(g, loss), optimizer, eta, batch_size, threshold=0.5)


def networks(sizes: tuple[int, ...], initializer: str, num_seeds: int) -> Params:
    """The initial networks of the seeds 0 … `num_seeds` − 1, stacked."""

    def draw(seed: Array) -> Params:
        init_key, _ = keys_of(seed)
        return init_params(init_key, sizes, INITIALIZERS[initializer])

    return jax.vmap(draw)(jnp.arange(num_seeds))


@partial(jax.jit, static_argnames=("training", "num_points", "log_every", "observe"))
def train(
    training: Training,
    params: Params,
    part: Part,
    num_points: int,
    log_every: int,
    observe: Callable[[Params], Any],
) -> Trained:
    """`num_points` × `log_every` steps of each network; at a log point `observe` sees it."""
    num_networks = len(params[0].b)
    _, shuffle_keys = jax.vmap(keys_of)(jnp.arange(num_networks))

    def steps(state: TrainState, shuffle_key: Array) -> tuple[TrainState, Array]:
        return train_steps(training, state, shuffle_key, part, log_every)

    def interval(states: TrainState, _: None) -> tuple[TrainState, tuple[Array, Any]]:
        states, losses = jax.vmap(steps)(states, shuffle_keys)
        return states, (losses, jax.vmap(observe)(states.params))

    start = jax.vmap(partial(init_state, training))(params)
    end, (losses, observed) = jax.lax.scan(interval, start, length=num_points)
    by_network = jnp.moveaxis(losses, 1, 0).reshape(num_networks, -1)
    return Trained(end.params, by_network, observed)
