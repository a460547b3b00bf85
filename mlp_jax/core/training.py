"""The compiled training: a pure step, and one program for all steps between two log points."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from mlp_jax.core import metrics
from mlp_jax.core.backprop import Objective, backprop, batch_loss
from mlp_jax.core.network import Params, apply
from mlp_jax.core.optimizers import LearningRate

Metrics = dict[str, Array]


class Part(NamedTuple):
    """Examples on the device, with what their metrics need."""

    x: Float[Array, "num_examples n_0"]
    y: Float[Array, "num_examples n_L"]


class Parts(NamedTuple):
    """The parts of the data."""

    train: Part
    validation: Part | None = None
    test: Part | None = None


Order = PRNGKeyArray | Int[Array, "num_steps batch_size"]
"""The key that shuffles the examples anew for each epoch, or the examples of each step."""


class Best(NamedTuple):
    """Early stopping: the best parameters so far and how long ago they were found."""

    params: Params
    score: Float[Array, ""]
    step: Int[Array, ""]
    num_worse: Int[Array, ""]


class TrainState(NamedTuple):
    """All that changes while training."""

    params: Params
    opt_state: Any
    step: Int[Array, ""]
    best: Best | None


class Carry(NamedTuple):
    """What is carried from step to step: the training's state, and the losses to be logged.

    There is a log point every `log_every` steps; the loss of step t, from 0, stands at
    t mod `log_every`.
    """

    state: TrainState
    losses: Float[Array, " log_every"]


class Training(NamedTuple):
    """A training's fixed part: what is minimised, how, and what is measured."""

    objective: Objective
    optimizer: optax.GradientTransformationExtraArgs
    learning_rate: LearningRate
    batch_size: int
    autodiff: bool = False
    threshold: float | None = None
    """Of a single output's two classes; `None` in a regression."""
    monitor: Callable[[Metrics], Array] | None = None
    """The score that early stopping maximises, from the metrics of a log point."""
    patience: int | None = None
    """Log points without improvement after which nothing counts as better."""
    min_delta: float | Array = 0.0
    observe: Callable[[Params], Mapping[str, Array]] | None = None
    """What else is logged at a log point."""


def init_state(training: Training, params: Params) -> TrainState:
    """The state before the first step. `params` are copied, since the loop consumes its state."""

    def zero() -> Array:  # no two leaves may share a buffer
        return jnp.zeros((), jnp.int32)

    params = jax.tree.map(jnp.copy, params)
    best = None
    if training.monitor is not None:
        worst = jnp.full((), -jnp.inf, params[0].W.dtype)
        best = Best(jax.tree.map(jnp.copy, params), worst, zero(), zero())
    return TrainState(params, training.optimizer.init(params), zero(), best)


def kept(state: TrainState) -> tuple[Params, Int[Array, ""]]:
    """The parameters that a training ends with, and their step: the best if it looks for them."""
    if state.best is None:
        return state.params, state.step
    return state.best.params, state.best.step


def gradient(training: Training, params: Params, batch: Part) -> tuple[Array, Params]:
    """The value that is minimised and its gradient, by backprop or by `jax.value_and_grad`."""
    differentiate = jax.value_and_grad(batch_loss) if training.autodiff else backprop
    return differentiate(params, batch.x, batch.y, *training.objective)


def train_step(
    training: Training, state: TrainState, batch: Part
) -> tuple[TrainState, Float[Array, ""]]:
    """One update of the parameters. Returns the batch's mean loss before it, penalty excluded."""

    def value_of(params: Params) -> Array:
        return batch_loss(params, batch.x, batch.y, *training.objective)

    value, grads = gradient(training, state.params, batch)
    updates, opt_state = training.optimizer.update(
        grads, state.opt_state, state.params, value=value, grad=grads, value_fn=value_of
    )
    params = optax.apply_updates(state.params, updates)
    # Compiled, this is a part of `value`, and a penalty that nothing else asks for costs nothing.
    loss = batch_loss(state.params, batch.x, batch.y, *training.objective._replace(penalty=None))
    return state._replace(params=params, opt_state=opt_state, step=state.step + 1), loss


def keys_of(seed: int | Array) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Keys of the initial parameters and of the order: one root key, folded by purpose."""
    root_key = jax.random.key(seed)
    return jax.random.fold_in(root_key, 0), jax.random.fold_in(root_key, 1)


def permutation(key: PRNGKeyArray, length: int) -> Int[Array, " length"]:
    """A random order of 0 … length − 1, for up to 2²⁴ of them.

    Sorts by random numbers, again and again until a tie in all of them is less likely than
    1/length, as `jax.random.permutation` does. Number and index share a word: XLA on the CPU sorts
    single words four times as fast as pairs.
    """
    index_bits = max(length - 1, 1).bit_length()
    num_rounds = -(-3 * index_bits // (32 - index_bits))
    index = jnp.arange(length, dtype=jnp.uint32)
    order = index
    for round_key in jax.random.split(key, num_rounds):
        random_bits = jax.random.bits(round_key, (length,), jnp.uint32) << index_bits
        order = order[jnp.sort(random_bits | index) & ((1 << index_bits) - 1)]
    return order.astype(jnp.int32)


def batch_indices(
    shuffle_key: PRNGKeyArray,
    start: Int[Array, ""],
    num_steps: int,
    num_examples: int,
    batch_size: int,
    aligned: bool,
) -> Int[Array, "num_steps batch_size"]:
    """The examples of the steps start … start + num_steps − 1, one row a step.

    Each epoch is a permutation drawn from its own key, so the order depends on the seed and the
    step alone. An epoch's remainder of fewer than `batch_size` examples is dropped. `aligned`
    promises that the steps are whole epochs.
    """
    steps_per_epoch = num_examples // batch_size
    spare = 0 if aligned else 1
    num_epochs = -(-num_steps // steps_per_epoch) + spare
    epochs = start // steps_per_epoch + jnp.arange(num_epochs, dtype=start.dtype)
    orders = jax.vmap(
        lambda epoch: permutation(jax.random.fold_in(shuffle_key, epoch), num_examples)
    )(epochs)
    rows = orders[:, : steps_per_epoch * batch_size].reshape(-1, batch_size)
    return jax.lax.dynamic_slice_in_dim(rows, start % steps_per_epoch, num_steps)


def is_drawn(order: Order) -> bool:
    """Whether an order is drawn from a key, not written out."""
    return bool(jnp.issubdtype(order.dtype, jax.dtypes.prng_key))


def batch_at(training: Training, order: Order, train: Part, step: Int[Array, ""]) -> Part:
    """The examples of the step after `step` updates."""
    num_examples, batch_size = len(train.x), training.batch_size
    if not is_drawn(order):
        rows = order[step]
    elif batch_size == num_examples:  # the full batch needs no order
        return train
    else:
        rows = batch_indices(order, step, 1, num_examples, batch_size, aligned=False)[0]
    return Part(train.x[rows], train.y[rows])


def train_steps(
    training: Training,
    state: TrainState,
    shuffle_key: PRNGKeyArray,
    train: Part,
    num_steps: int,
    aligned: bool = False,
) -> tuple[TrainState, Float[Array, " num_steps"]]:
    """`num_steps` updates as one `scan`; returns the loss of each step's batch.

    Not unrolled: XLA would compile neighbouring steps together and round them differently, so the
    bits would depend on where the log points are.
    """
    num_examples = train.x.shape[0]
    if training.batch_size == num_examples:  # the full batch needs no order
        return jax.lax.scan(
            lambda state, _: train_step(training, state, train),
            state,
            length=num_steps,
        )
    indices = batch_indices(
        shuffle_key, state.step, num_steps, num_examples, training.batch_size, aligned
    )
    return jax.lax.scan(
        lambda state, rows: train_step(training, state, Part(train.x[rows], train.y[rows])),
        state,
        indices,
    )


def evaluate(training: Training, params: Params, part: Part, max_batch: int = 2048) -> Metrics:
    """Mean loss, and accuracy or R² (of several targets together), over all examples of a part.

    The examples are taken in batches of equal shape; the last one is filled up with copies that
    a mask leaves out, so that no example counts twice.
    """
    activation, loss, _ = training.objective

    def measure(x: Array, y: Array) -> Metrics:
        logits = apply(params, x, activation)
        y_hat = loss.output(logits)
        sums = {"loss": loss.value(logits, y)}
        if training.threshold is None:
            sums["squared_error"] = jnp.sum((y_hat - y) ** 2)
        else:
            correct = metrics.is_correct(y_hat, y, training.threshold)
            sums["accuracy"] = correct.astype(y.dtype)
        return sums

    num_examples = part.x.shape[0]
    num_batches = -(-num_examples // max_batch)
    batch_size = -(-num_examples // num_batches)
    rows = jnp.arange(num_batches * batch_size).reshape(num_batches, batch_size)

    def add_batch(total: Metrics, rows: Array) -> tuple[Metrics, None]:
        is_real = rows < num_examples
        rows = jnp.minimum(rows, num_examples - 1)
        values = jax.vmap(measure)(part.x[rows], part.y[rows])
        return {
            name: total[name] + jnp.sum(jnp.where(is_real, value, 0))
            for name, value in values.items()
        }, None

    shapes = jax.eval_shape(measure, part.x[0], part.y[0])
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    sums, _ = jax.lax.scan(add_batch, zeros, rows)
    if training.threshold is None:
        total = jnp.sum((part.y - jnp.mean(part.y, axis=0, keepdims=True)) ** 2)
        return {
            "loss": sums["loss"] / num_examples,
            "r2": metrics.r2(sums["squared_error"], total),
        }
    return {name: value / num_examples for name, value in sums.items()}


def _update_best(training: Training, best: Best, params: Params, score: Array, step: Array) -> Best:
    # The first log point counts in any case: what it measured may not be a finite number.
    is_better = (score > best.score + training.min_delta) | (best.step == 0)
    if training.patience is not None:  # in a population, a network that has stopped is carried on
        is_better &= best.num_worse < training.patience
    kept = jax.tree.map(lambda new, old: jnp.where(is_better, new, old), params, best.params)
    return Best(
        params=kept,
        score=jnp.where(is_better, score, best.score),
        step=jnp.where(is_better, step, best.step),
        num_worse=jnp.where(is_better, 0, best.num_worse + 1),
    )


def measure(
    training: Training,
    state: TrainState,
    mean_loss: Float[Array, ""],
    train: Part,
    validation: Part | None,
) -> tuple[TrainState, Metrics]:
    """What is logged after the last step, and the state with early stopping's part brought up.

    `train/loss` is `mean_loss`, over the batches since the last log point, each before its update;
    without a validation part it is the loss of the training part after the last update instead.
    """
    if validation is None:
        logged = {f"train/{k}": v for k, v in evaluate(training, state.params, train).items()}
    else:
        measured = evaluate(training, state.params, validation)
        logged = {"train/loss": mean_loss}
        logged |= {f"validation/{k}": v for k, v in measured.items()}
    if training.monitor is not None and state.best is not None:
        score = training.monitor(logged)
        best = _update_best(training, state.best, state.params, score, state.step)
        state = state._replace(best=best)
    if training.observe is not None:
        logged |= training.observe(state.params)
    logged["learning_rate"] = training.learning_rate(state.step - 1)
    return state, logged


def _num_finite(
    losses: Float[Array, " any_steps"],
    place: Int[Array, " any_steps"],
    num_steps: int | Int[Array, ""],
    params: Params,
) -> Int[Array, ""]:
    """Of `num_steps`, those before the first non-finite loss; `losses[i]` is of step `place[i]`.

    One less than `num_steps` where every loss is finite and a parameter after the last is not.
    """
    params_are_finite = jnp.all(
        jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)])
    )
    first_bad = jnp.min(jnp.where(jnp.isfinite(losses), num_steps, place), initial=num_steps)
    return jnp.minimum(first_bad, jnp.where(params_are_finite, num_steps, num_steps - 1))


def init_carry(training: Training, params: Params, log_every: int) -> Carry:
    """Before the first step."""
    return Carry(init_state(training, params), jnp.zeros(log_every, params[0].W.dtype))


_ORDER_LENGTH = 2**16
"""The indices that are drawn at once, in whole epochs: short ones are faster together."""


def advance(
    training: Training,
    carry: Carry,
    order: Order,
    train: Part,
    num_steps: Int[Array, ""],
) -> tuple[Carry, Int[Array, ""]]:
    """`num_steps` updates, not beyond the next log point, and how many of them were finite.

    One compiled loop for any number of steps: where the host looks changes no bit. (XLA compiles
    a scan of length 1 otherwise than one of length 2.) Its order is that of `train_steps`.
    """
    num_examples, batch_size = train.x.shape[0], training.batch_size
    start, log_every = carry.state.step, carry.losses.shape[0]
    stop = start + num_steps

    def update(carry: Carry, batch: Part) -> Carry:
        state, loss = train_step(training, carry.state, batch)
        return Carry(state, carry.losses.at[carry.state.step % log_every].set(loss))

    def epochs(carry: Carry) -> Carry:
        first = carry.state.step // steps_per_epoch * steps_per_epoch
        rows = batch_indices(
            order, first, num_epochs * steps_per_epoch, num_examples, batch_size, True
        )

        def step(t: Array, carry: Carry) -> Carry:
            batch = rows[t - first]
            return update(carry, Part(train.x[batch], train.y[batch]))

        until = jnp.minimum(stop, first + num_epochs * steps_per_epoch)
        return jax.lax.fori_loop(carry.state.step, until, step, carry)

    def one(t: Array, carry: Carry) -> Carry:
        return update(carry, batch_at(training, order, train, t))

    if batch_size == num_examples or not is_drawn(order):
        carry = jax.lax.fori_loop(start, stop, one, carry)
    else:
        steps_per_epoch = num_examples // batch_size
        num_epochs = min(max(1, _ORDER_LENGTH // num_examples), -(-log_every // steps_per_epoch))
        carry = jax.lax.while_loop(lambda carry: carry.state.step < stop, epochs, carry)
    place = (jnp.arange(log_every, dtype=start.dtype) - start) % log_every
    return carry, _num_finite(carry.losses, place, num_steps, carry.state.params)


def log_point(
    training: Training, carry: Carry, train: Part, validation: Part | None
) -> tuple[Carry, Metrics]:
    """`measure` after the steps that `advance` made since the last log point."""
    state, losses = carry
    num_losses = (state.step - 1) % losses.shape[0] + 1
    is_new = jnp.arange(losses.shape[0]) < num_losses
    mean_loss = jnp.sum(jnp.where(is_new, losses, 0)) / num_losses
    state, logged = measure(training, state, mean_loss, train, validation)
    return Carry(state, losses), logged


def train_interval(
    training: Training,
    num_steps: int,
    aligned: bool,
    state: TrainState,
    shuffle_key: PRNGKeyArray,
    train: Part,
    validation: Part | None,
) -> tuple[TrainState, Metrics]:
    """The steps between two log points, and what is logged after them, with `num_finite`."""
    state, losses = train_steps(training, state, shuffle_key, train, num_steps, aligned)
    num_finite = _num_finite(losses, jnp.arange(num_steps), num_steps, state.params)
    state, logged = measure(training, state, jnp.mean(losses), train, validation)
    return state, logged | {"num_finite": num_finite}
