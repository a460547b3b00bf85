"""Where a training that diverges went wrong: the first number that is no longer finite."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import Array

from mlp_jax.core.backprop import backprop
from mlp_jax.core.network import forward
from mlp_jax.core.training import Order, Part, Training, TrainState, train_step, with_noise


def _in_order(
    training: Training, state: TrainState, batch: Part, order: Order | None
) -> Iterator[tuple[str, Array]]:
    """What a step computes, by name, in the order in which one layer needs the other."""
    params, num_layers = state.params, len(state.params)
    new_state, value = train_step(training, state, batch, order)
    batch, objective = with_noise(training, state, batch, order)
    zs, _ = jax.vmap(lambda x, masks: forward(params, x, objective.activation, masks))(
        batch.x, objective.masks
    )
    _, grads = backprop(params, batch.x, batch.y, *objective)
    for number, z in enumerate(zs, start=1):
        yield f"z of layer {number}", z
    yield "the loss", value
    for number in range(num_layers, 0, -1):
        for array in grads[number - 1]:
            yield f"the gradient of layer {number}", array
    for number, layer in enumerate(new_state.params, start=1):
        for array in layer:
            yield f"the parameters of layer {number}", array


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
