"""Where a training that diverges went wrong: the first number that is no longer finite."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import Array

from mlp_jax.core.backprop import backprop
from mlp_jax.core.network import forward, part_names
from mlp_jax.core.training import Order, Part, Training, TrainState, train_step, with_noise


def _in_order(
    training: Training, state: TrainState, batch: Part, order: Order | None
) -> Iterator[tuple[str, Array]]:
    """What a step computes, by name, in the order in which one layer needs the other."""
    params, names = state.params, part_names(state.params)
    new_state, value = train_step(training, state, batch, order)
    batch, objective = with_noise(training, state, batch, order)
    zs, _ = jax.vmap(lambda x, masks: forward(params, x, objective.activation, masks))(
        batch.x, objective.masks
    )
    _, grads = backprop(params, batch.x, batch.y, *objective)
    for number, z in enumerate(zs, start=1):
        yield f"z of layer {number}", z
    yield "the loss", value
    for name, of_layer in [*zip(names, grads, strict=True)][::-1]:
        for array in jax.tree.leaves(of_layer):
            yield f"the gradient of {name}", array
    for name, of_layer in zip(names, new_state.params, strict=True):
        for array in jax.tree.leaves(of_layer):
            yield f"the parameters of {name}", array


def first_non_finite(
    training: Training, state: TrainState, batch: Part, order: Order | None = None
) -> str:
    """The first array of a step that is not finite, in words. `state` itself is finite."""
    names: list[str] = []

    @jax.jit
    def are_finite(state: TrainState, batch: Part) -> Array:
        named = list(_in_order(training, state, batch, order))
        names[:] = [name for name, _ in named]
        return jnp.array([jnp.all(jnp.isfinite(array)) for _, array in named])

    finite = are_finite(state, batch)
    return "the state of the optimizer" if finite.all() else names[int(jnp.argmin(finite))]
