"""Epochs with scikit-learn's objective, updates and rules of stopping, as one compiled program.

It is compiled once for each rule and shape: what differs in numbers only is trained by the same.

A batch's objective is the weighted mean of the examples' losses, and the penalty over the same
sum of weights:

    J = (Σ_i w_i L_i + α/2 Σ_l ‖W^l‖²) / Σ_i w_i

An epoch's last batch is filled up with examples of weight 0, so that all have one shape.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import Penalty, backprop, penalty_value
from mlp_jax.core.losses import LOSSES, Loss, example_weighted
from mlp_jax.core.metrics import r2
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
    learning_rate: str
    """`constant`, `invscaling` or `adaptive`."""


NUMBERS = (
    "learning_rate_init",
    "alpha",
    "momentum",
    "beta_1",
    "beta_2",
    "epsilon",
    "power_t",
    "tol",
    "n_iter_no_change",
)
"""scikit-learn's parameters that are arguments of the program."""

Numbers = dict[str, Any]


class Examples(NamedTuple):
    """All rows; the last one is no example, has weight 0, and fills up batches."""

    x: Float[Any, "rows n_0"]
    y: Float[Any, "rows n_L"]
    weight: Float[Any, " rows"]


class Progress(NamedTuple):
    """All that changes from epoch to epoch, on the device or, between two calls, on the host."""

    params: Params
    opt_state: Any
    learning_rate: Float[Any, ""]
    num_updates: Int[Any, ""]
    """Of this optimizer."""
    num_seen: Float[Any, ""]
    """Examples since the parameters were drawn: scikit-learn's t_."""
    best_score: Float[Any, ""]
    """The highest validation score; without a validation part minus the lowest loss."""
    best_params: Params | None
    """Those of the best validation score."""
    num_worse: Float[Any, ""]
    """Epochs since the score improved by `tol`."""
    num_epochs: Int[Any, ""]
    is_done: Bool[Any, ""]


def optimizer_of(rule: Rule, numbers: Any, learning_rate: Any, num_updates: Any) -> Any:
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
def init_opt_state(rule: Rule, numbers: Numbers, params: Params) -> Any:
    """The optimizer's state before its first update."""
    return optimizer_of(rule, numbers, numbers["learning_rate_init"], 0).init(params)


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
    rule: Rule, numbers: Numbers, examples: Examples, progress: Progress, rows: Array
) -> tuple[Progress, Float[Array, ""]]:
    """One update of the parameters, and the batch's J before it."""
    params, eta = progress.params, progress.learning_rate
    x, y, weight = (array[rows] for array in examples)
    value, grads = objective(rule, numbers["alpha"], params, x, y, weight)
    if rule.output == "identity":  # scikit-learn reports the mean over the targets, not their sum
        penalty = penalty_value(params, Penalty(l2=numbers["alpha"] / jnp.sum(weight)))
        value = (value - penalty) / y.shape[1] + penalty
    if rule.optimizer == "sgd":  # v ← μv − η∇J: a velocity keeps the rate that it was made with
        grads = jax.tree.map(lambda g: eta * g, grads)
    optimizer = optimizer_of(rule, numbers, eta, progress.num_updates)
    updates, opt_state = optimizer.update(grads, progress.opt_state, params)
    params = jax.tree.map(jnp.add, params, updates)
    num_updates = progress.num_updates + 1
    return progress._replace(params=params, opt_state=opt_state, num_updates=num_updates), value


def _validation_score(rule: Rule, params: Params, examples: Examples, rows: Array) -> Array:
    """Accuracy (of all labels of an example together), or the mean of the targets' R²."""
    x, y, weight = (array[rows] for array in examples)
    y_hat = outputs(rule.activation, rule.output, params, x)
    if rule.output in ("softmax", "logistic"):
        by_class = rule.output == "softmax"
        found, wanted = (jnp.argmax(a, 1)[:, None] if by_class else a > 0.5 for a in (y_hat, y))
        is_correct = jnp.all(found == wanted, axis=1)
        return jnp.sum(jnp.where(is_correct, weight, 0)) / jnp.sum(weight)
    weight = weight / jnp.sum(weight)
    mean = jnp.dot(weight, y)
    score = jnp.mean(r2(jnp.dot(weight, (y_hat - y) ** 2), jnp.dot(weight, (y - mean[None]) ** 2)))
    return jnp.where(jnp.all(jnp.isfinite(y_hat)), score, jnp.nan)


def _epoch(
    rule: Rule,
    numbers: Numbers,
    examples: Examples,
    progress: Progress,
    order: Int[Array, "batches batch"],
    num_examples: Array,
    validation: Array | None,
) -> tuple[Progress, Array, Array]:
    """One epoch: all updates, the score, and whether it is time to stop. Returns loss and score."""
    step = partial(_update, rule, numbers, examples)
    progress, values = jax.lax.scan(step, progress, order)
    num_batches, batch_size = order.shape
    count = jnp.clip(num_examples - batch_size * jnp.arange(num_batches), 0, batch_size)
    loss = jnp.sum(values * count) / num_examples
    num_seen = progress.num_seen + num_examples

    score, best, best_params = -loss, progress.best_score, progress.best_params
    if validation is not None:
        score = _validation_score(rule, progress.params, examples, validation)
        best_params = jax.tree.map(
            lambda new, old: jnp.where(score > best, new, old), progress.params, best_params
        )
    num_worse = jnp.where(score < best + numbers["tol"], progress.num_worse + 1, 0)
    has_stalled: Array = num_worse > numbers["n_iter_no_change"]
    is_done = has_stalled

    eta = progress.learning_rate
    if rule.learning_rate == "invscaling":
        eta = numbers["learning_rate_init"] / (num_seen + 1) ** numbers["power_t"]
    if rule.learning_rate == "adaptive":
        is_done = has_stalled & (eta <= 1e-6)
        eta = jnp.where(has_stalled & ~is_done, eta / 5, eta)
        num_worse = jnp.where(has_stalled & ~is_done, 0, num_worse)
    progress = progress._replace(
        learning_rate=eta,
        num_seen=num_seen,
        best_score=jnp.where(score > best, score, best),
        best_params=best_params,
        num_worse=num_worse,
        num_epochs=progress.num_epochs + 1,
        is_done=is_done,
    )
    return progress, loss, score


@partial(jax.jit, static_argnums=0)
def train_epochs(
    rule: Rule,
    numbers: Numbers,
    examples: Examples,
    first: Progress,
    orders: Int[Array, "epochs batches batch"],
    num_examples: Array,
    validation: Int[Array, " held_out"] | None,
    max_epochs: Array,
) -> tuple[Progress, Float[Array, " epochs"], Float[Array, " epochs"]]:
    """The epochs of `orders`, up to `max_epochs` or until it is done, with their losses and scores.

    The rows of an epoch are those of `orders`; where `num_examples` do not fill its last batch
    there are rows of weight 0. `validation` are the rows that are held out.
    """

    def is_going(carry: tuple[Progress, Array, Array]) -> Array:
        num_epochs = carry[0].num_epochs
        has_order = num_epochs - first.num_epochs < len(orders)
        return ~carry[0].is_done & has_order & (num_epochs < max_epochs)

    def epoch(carry: tuple[Progress, Array, Array]) -> tuple[Progress, Array, Array]:
        progress, losses, scores = carry
        k = progress.num_epochs - first.num_epochs
        progress, loss, score = _epoch(
            rule, numbers, examples, progress, orders[k], num_examples, validation
        )
        return progress, losses.at[k].set(loss), scores.at[k].set(score)

    empty = jnp.zeros(len(orders), examples.x.dtype)
    return jax.lax.while_loop(is_going, epoch, (first, empty, empty))


@partial(jax.jit, static_argnums=(0, 1))
def outputs(
    activation: str, output: str, params: Params, x: Float[Array, "batch n_0"]
) -> Float[Array, "batch n_L"]:
    """ŷ of a batch."""
    return jax.vmap(lambda x: OUTPUTS[output].output(apply(params, x, ACTIVATIONS[activation])))(x)


@partial(jax.jit, static_argnums=0)
def objective_of_all(
    rule: Rule, alpha: Array, params: Params, examples: Examples
) -> tuple[Float[Array, ""], Params]:
    """J of all examples and its gradient, for L-BFGS."""
    return objective(rule, alpha, params, *examples)
