"""An epoch with scikit-learn's objective and updates, as one compiled program.

It is compiled once for each rule and shape: what differs in numbers only is trained by the same.

A batch's objective is the weighted mean of the examples' losses, and the penalty over the same
sum of weights:

    J = (Σ_i w_i L_i + α/2 Σ_l ‖W^l‖²) / Σ_i w_i

The last batch is filled up with examples of weight 0, so that all have one shape.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Int

from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import Penalty, backprop, penalty_value
from mlp_jax.core.losses import LOSSES, Loss, example_weighted
from mlp_jax.core.network import Params, apply
from mlp_jax.core.optimizers import make_optimizer


def _poisson(z: Array, y: Array) -> Array:
    # Half the deviance behind ŷ = e^z: y ln(y/ŷ) − y + ŷ.
    return jnp.sum(jax.scipy.special.xlogy(y, y) - y * z - y + jnp.exp(z))


OUTPUTS: dict[str, Loss] = {
    "softmax": LOSSES["softmax", "cross_entropy"],
    "logistic": LOSSES["sigmoid", "binary_cross_entropy"],
    "identity": LOSSES["identity", "half_squared_error"],
    "exp": Loss(jnp.exp, _poisson, lambda z, y: jnp.exp(z) - y),
}
"""The loss that belongs to each of scikit-learn's output activations."""


class Rule(NamedTuple):
    """What a program is compiled for, besides shapes."""

    activation: str
    output: str
    optimizer: str
    """A name of `core.optimizers`, or `sgd`, which is momentum or nesterov."""
    nesterov: bool


NUMBERS = ("alpha", "momentum", "beta_1", "beta_2", "epsilon")
"""scikit-learn's parameters that are arguments of the program."""

Numbers = dict[str, Any]


class Examples(NamedTuple):
    """All rows; the last one is no example, has weight 0, and fills up batches."""

    x: Float[Any, "rows n_0"]
    y: Float[Any, "rows n_L"]
    weight: Float[Any, " rows"]


class Optimizer(NamedTuple):
    """What an optimizer carries from update to update."""

    state: Any
    num_updates: Int[Any, ""]
    learning_rate: Any


def _transformation(rule: Rule, numbers: Numbers, learning_rate: Any, num_updates: Any) -> Any:
    """The core's optimizer in scikit-learn's form, for the update after `num_updates`."""
    if rule.optimizer == "sgd":  # see `_update`
        name = "nesterov" if rule.nesterov else "momentum"
        return make_optimizer(name, jnp.ones_like, momentum=numbers["momentum"])
    own = {}
    if rule.optimizer == "adam":  # Its ε stands beside √v, not √v̂ (Kingma & Ba 2015, section 2).
        epsilon = numbers["epsilon"] / jnp.sqrt(1 - numbers["beta_2"] ** (num_updates + 1))
        own = {"b1": numbers["beta_1"], "b2": numbers["beta_2"], "eps": epsilon}
    return make_optimizer(rule.optimizer, lambda step: learning_rate, **own)


@partial(jax.jit, static_argnums=0)
def new_optimizer(rule: Rule, numbers: Numbers, params: Params, learning_rate: Any) -> Optimizer:
    """Before its first update."""
    state = _transformation(rule, numbers, learning_rate, 0).init(params)
    return Optimizer(state, jnp.int32(0), learning_rate)


def objective(
    rule: Rule, alpha: Any, params: Params, x: Array, y: Array, weight: Array
) -> tuple[Float[Array, ""], Params]:
    """J of a batch and its gradient."""
    total = jnp.sum(weight)
    share = weight * (len(weight) / total)  # backprop divides by the number of examples
    y = jnp.concatenate([y, share[:, None]], axis=1)
    loss = example_weighted(OUTPUTS[rule.output])
    return backprop(params, x, y, ACTIVATIONS[rule.activation], loss, Penalty(l2=alpha / total))


def _update(
    rule: Rule,
    numbers: Numbers,
    examples: Examples,
    trained: tuple[Params, Optimizer],
    rows: Int[Array, " batch"],
) -> tuple[tuple[Params, Optimizer], Float[Array, ""]]:
    """One update of the parameters, and the batch's J before it."""
    params, (state, num_updates, eta) = trained
    x, y, weight = (array[rows] for array in examples)
    value, grads = objective(rule, numbers["alpha"], params, x, y, weight)
    if rule.output == "identity":  # scikit-learn reports the mean over the targets, not their sum
        penalty = penalty_value(params, Penalty(l2=numbers["alpha"] / jnp.sum(weight)))
        value = (value - penalty) / y.shape[1] + penalty
    if rule.optimizer == "sgd":  # v ← μv − η∇J: a velocity keeps the rate that it was made with
        grads = jax.tree.map(lambda g: eta * g, grads)
    optimizer = _transformation(rule, numbers, eta, num_updates)
    updates, state = optimizer.update(grads, state, params)
    params = jax.tree.map(jnp.add, params, updates)
    return (params, Optimizer(state, num_updates + 1, eta)), value


@partial(jax.jit, static_argnums=0)
def train_epoch(
    rule: Rule,
    numbers: Numbers,
    examples: Examples,
    trained: tuple[Params, Optimizer],
    order: Int[Array, "batches batch"],
    num_examples: Array,
) -> tuple[tuple[Params, Optimizer], Float[Array, ""]]:
    """An update for each row of `order`, and the mean J of all examples, each before its update.

    Where `num_examples` do not fill the last batch there are examples of weight 0.
    """
    trained, values = jax.lax.scan(partial(_update, rule, numbers, examples), trained, order)
    num_batches, batch_size = order.shape
    count = jnp.clip(num_examples - batch_size * jnp.arange(num_batches), 0, batch_size)
    return trained, jnp.sum(values * count) / num_examples


@partial(jax.jit, static_argnums=(0, 1))
def outputs(
    activation: str, output: str, params: Params, x: Float[Array, "batch n_0"]
) -> Float[Array, "batch n_L"]:
    """ŷ of a batch."""
    return jax.vmap(lambda x: OUTPUTS[output].output(apply(params, x, ACTIVATIONS[activation])))(x)


@partial(jax.jit, static_argnums=0)
def objective_at(
    rule: Rule, theta: Float[Array, " theta"], like: Params, alpha: Array, examples: Examples
) -> tuple[Float[Array, ""], Float[Array, " theta"]]:
    """J of all examples and its gradient, for parameters like those of `like` as one vector."""
    _, as_params = ravel_pytree(like)
    value, grads = objective(rule, alpha, as_params(theta), *examples)
    return value, ravel_pytree(grads)[0]
