"""The compiled training: a pure step, and one program for all steps between two log points."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from mlp_jax import metrics
from mlp_jax.backprop import Penalty, backprop, batch_loss, penalty_value
from mlp_jax.losses import Loss
from mlp_jax.network import Activations, apply
from mlp_jax.optimizers import LearningRate
from mlp_jax.types import Params

Metrics = dict[str, Array]


class Part(NamedTuple):
    """Examples on the device, with what their metrics need."""

    x: Float[Array, "num_examples n_0"]
    y: Float[Array, "num_examples n_L"]


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


class Training(NamedTuple):
    """A training's fixed part: what is minimised, how, and what is measured."""

    activation: Activations
    loss: Loss
    penalty: Penalty | None
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
    """The parameters that a training ends with, and their step: the best where it looks for them."""
    if state.best is None:
        return state.params, state.step
    return state.best.params, state.best.step


def gradient(training: Training, params: Params, batch: Part) -> tuple[Array, Params]:
    """The value that is minimised and its gradient, by backprop or by `jax.value_and_grad`."""
    differentiate = jax.value_and_grad(batch_loss) if training.autodiff else backprop
    return differentiate(params, *batch, training.activation, training.loss, training.penalty)


def train_step(
    training: Training, state: TrainState, batch: Part
) -> tuple[TrainState, Float[Array, ""]]:
    """One update of the parameters. Returns the batch's mean loss before it, penalty excluded."""

    def objective(params: Params) -> Array:
        return batch_loss(params, *batch, training.activation, training.loss, training.penalty)

    value, grads = gradient(training, state.params, batch)
    updates, opt_state = training.optimizer.update(
        grads, state.opt_state, state.params, value=value, grad=grads, value_fn=objective
    )
    if training.penalty is not None:
        value = value - penalty_value(state.params, training.penalty)
    params = optax.apply_updates(state.params, updates)
    return state._replace(params=params, opt_state=opt_state, step=state.step + 1), value


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

    def measure(x: Array, y: Array) -> Metrics:
        logits = apply(params, x, training.activation)
        y_hat = training.loss.output(logits)
        sums = {"loss": training.loss.value(logits, y)}
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


def train_interval(
    training: Training,
    num_steps: int,
    aligned: bool,
    state: TrainState,
    shuffle_key: PRNGKeyArray,
    train: Part,
    validation: Part | None,
) -> tuple[TrainState, Metrics]:
    """The steps between two log points, and what is logged after them.

    `train/loss` is the mean over the interval's batches, each before its update; without a
    validation part it is the loss of the training part after the last update instead.
    `num_finite` counts the steps before the first non-finite loss or, where every loss is finite
    and a parameter is not, is one less than `num_steps`.
    """
    last_step = state.step + num_steps - 1
    state, losses = train_steps(training, state, shuffle_key, train, num_steps, aligned)
    if validation is None:
        logged = {f"train/{k}": v for k, v in evaluate(training, state.params, train).items()}
    else:
        measured = evaluate(training, state.params, validation)
        logged = {"train/loss": jnp.mean(losses)}
        logged |= {f"validation/{k}": v for k, v in measured.items()}
    if training.monitor is not None and state.best is not None:
        score = training.monitor(logged)
        best = _update_best(training, state.best, state.params, score, state.step)
        state = state._replace(best=best)
    params_are_finite = jnp.all(
        jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.params)])
    )
    is_finite = jnp.isfinite(losses)
    is_finite = is_finite.at[-1].set(is_finite[-1] & params_are_finite)
    logged["learning_rate"] = training.learning_rate(last_step)
    logged["num_finite"] = jnp.sum(jnp.cumprod(is_finite.astype(jnp.int32)))
    return state, logged


def compile_interval(
    training: Training, num_steps: int, aligned: bool, *arguments: Any
) -> Callable[..., tuple[TrainState, Metrics]]:
    """`train_interval` compiled for the shapes of `arguments`; the state's buffers are donated."""

    def interval(
        state: TrainState, shuffle_key: PRNGKeyArray, train: Part, validation: Part | None
    ) -> tuple[TrainState, Metrics]:
        return train_interval(training, num_steps, aligned, state, shuffle_key, train, validation)

    return jax.jit(interval, donate_argnums=0).lower(*arguments).compile()
