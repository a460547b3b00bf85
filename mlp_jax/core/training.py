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
from mlp_jax.core.network import Params, apply, dtype_of
from mlp_jax.core.optimizers import LearningRate
from mlp_jax.core.regularization import Noise, add_noise, averaged, draw_masks, within_norm

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
    average: Params | None = None
    """The moving average of the parameters, where there is one."""


class Carry(NamedTuple):
    """What is carried from step to step: the training's state, and the losses to be logged.

    There is a log point every `log_every` steps; the loss of step t, from 0, stands at
    t mod `log_every`. Many networks' states have a leading axis, their losses a trailing one.
    """

    state: TrainState
    losses: Float[Array, "log_every ..."]


class Block(NamedTuple):
    """The examples of consecutive steps, one row a step: block k begins with step k·len(rows)."""

    number: Int[Array, ""]
    rows: Int[Array, "num_steps ... batch_size"]


class Training(NamedTuple):
    """A training's fixed part: what is minimised, how, and what is measured."""

    objective: Objective
    optimizer: optax.GradientTransformationExtraArgs
    learning_rate: LearningRate
    batch_size: int
    autodiff: bool = False
    threshold: float | None = None
    """Of a single output's two classes; `None` in a regression."""
    units: metrics.Units | None = None
    """In a regression, from y to the targets' own units, where these are others."""
    also: tuple[str, ...] = ()
    """More metrics of a log point than the loss and accuracy or R²: what `monitor` looks at."""
    monitor: Callable[[Metrics], Array] | None = None
    """The score that early stopping maximises, from the metrics of a log point."""
    patience: int | None = None
    """Log points without improvement after which nothing counts as better."""
    min_delta: float | Array = 0.0
    observe: Callable[[Params], Mapping[str, Array]] | None = None
    """What else is logged at a log point."""
    noise: Noise | None = None
    max_norm: float | Array | None = None
    """The largest norm of a hidden neuron's weights."""
    ema_decay: float | Array | None = None
    """β of the moving average of the parameters, which then stands for them wherever the network
    is looked at."""


def init_state(training: Training, params: Params) -> TrainState:
    """The state before the first step. `params` are copied, since the loop consumes its state."""

    def zero() -> Array:  # no two leaves may share a buffer
        return jnp.zeros((), jnp.int32)

    params = jax.tree.map(jnp.copy, params)
    best = None
    if training.monitor is not None:
        worst = jnp.full((), -jnp.inf, dtype_of(params))
        best = Best(jax.tree.map(jnp.copy, params), worst, zero(), zero())
    average = None if training.ema_decay is None else jax.tree.map(jnp.copy, params)
    return TrainState(params, training.optimizer.init(params), zero(), best, average)


def current(state: TrainState) -> Params:
    """The parameters that a log point looks at."""
    return state.params if state.average is None else state.average


def kept(state: TrainState) -> tuple[Params, Int[Array, ""]]:
    """The parameters that a training ends with, and their step: the best if it looks for them."""
    if state.best is None:
        return current(state), state.step
    return state.best.params, state.best.step


def noise_key_of(order: Order) -> PRNGKeyArray:
    """The key of a training's noise, beside those of its epochs, which are below 2³¹."""
    return jax.random.fold_in(order, 2**32 - 1)


def with_noise(
    training: Training, state: TrainState, batch: Part, order: Order | None
) -> tuple[Part, Objective]:
    """The examples of a step and what it minimises, with the noise of this step."""
    if training.noise is None:
        return batch, training.objective
    if order is None or not is_drawn(order):
        raise ValueError("dropout and noise are drawn from a seed, not from a written-out order")
    mask_key, noise_key = jax.random.split(jax.random.fold_in(noise_key_of(order), state.step))
    masks = draw_masks(training.noise, mask_key, state.step, state.params, len(batch.x))
    x = add_noise(training.noise, noise_key, batch.x)
    return batch._replace(x=x), training.objective._replace(masks=masks)


def example_objective(training: Training, params: Params, num_examples: int) -> Objective:
    """What a step minimises, with the masks that one draw gives: what a gradient check holds."""
    if training.noise is None:
        return training.objective
    key, first = jax.random.key(0), jnp.int32(0)
    masks = draw_masks(training.noise, key, first, params, num_examples)
    return training.objective._replace(masks=masks)


def train_step(
    training: Training, state: TrainState, batch: Part, order: Order | None = None
) -> tuple[TrainState, Float[Array, ""]]:
    """One update of the parameters. Returns the batch's mean loss before it, penalty excluded.

    `order` is the key that the order and the noise are drawn from.
    """
    batch, objective = with_noise(training, state, batch, order)

    def value_of(params: Params) -> Array:
        return batch_loss(params, batch.x, batch.y, *objective)

    differentiate = jax.value_and_grad(batch_loss) if training.autodiff else backprop
    value, grads = differentiate(state.params, batch.x, batch.y, *objective)
    updates, opt_state = training.optimizer.update(
        grads, state.opt_state, state.params, value=value, grad=grads, value_fn=value_of
    )
    params = optax.apply_updates(state.params, updates)
    if training.max_norm is not None:
        params = within_norm(params, training.max_norm)
    step, average = state.step + 1, state.average
    if training.ema_decay is not None and average is not None:
        average = averaged(training.ema_decay, average, params, step)
    # Compiled, this is a part of `value`, and a penalty that nothing else asks for costs nothing.
    loss = batch_loss(state.params, batch.x, batch.y, *objective._replace(penalty=None))
    return TrainState(params, opt_state, step, state.best, average), loss


def keys_of(seed: int | Array) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Keys of the initial parameters and of the order: one root key, folded by purpose."""
    root_key = jax.random.key(seed)
    return jax.random.fold_in(root_key, 0), jax.random.fold_in(root_key, 1)


def permutation(key: PRNGKeyArray, length: int) -> Int[Array, " length"]:
    """A random order of 0 … length − 1.

    Up to 2¹⁶ of them are sorted by random numbers, again and again until a tie in all of them is
    less likely than 1/length, as `jax.random.permutation` does. Number and index share a word: XLA
    on the CPU sorts single words four times as fast as pairs. Longer ones would leave too few
    random bits beside the index, and are enciphered instead.
    """
    index_bits = max(length - 1, 1).bit_length()
    if index_bits > 16:
        return _enciphered(key, length, index_bits)
    num_rounds = -(-3 * index_bits // (32 - index_bits))
    index = jnp.arange(length, dtype=jnp.uint32)
    order = index
    for round_key in jax.random.split(key, num_rounds):
        random_bits = jax.random.bits(round_key, (length,), jnp.uint32) << index_bits
        order = order[jnp.sort(random_bits | index) & ((1 << index_bits) - 1)]
    return order.astype(jnp.int32)


def _enciphered(key: PRNGKeyArray, length: int, index_bits: int) -> Int[Array, " length"]:
    """0 … length − 1 in the order of their ciphers: each index costs the same, however many.

    A Feistel network of eight rounds, a bijection of the words of 2·half bits whatever mixes
    (Luby and Rackoff, 1988); of its values those below `length` are taken, in turn. The mixing
    is MurmurHash3's.
    """
    half = (index_bits + 1) // 2
    low = jnp.uint32((1 << half) - 1)
    words = jnp.arange(1 << 2 * half, dtype=jnp.uint32)
    left, right = words >> half, words & low
    for round_key in jax.random.bits(key, (8,), jnp.uint32):
        mixed = (right ^ round_key) * jnp.uint32(0x85EBCA6B)
        mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
        left, right = right, left ^ ((mixed ^ (mixed >> 16)) & low)
    cipher = (left << half | right).astype(jnp.int32)
    place = jnp.where(cipher < length, jnp.cumsum(cipher < length) - 1, length)
    order = jnp.zeros(length, jnp.int32)
    return order.at[place].set(cipher, mode="drop")


BLOCK_LENGTH = 2**16
"""The indices that are drawn at once, in whole epochs: short ones are faster together."""


def is_drawn(order: Order) -> bool:
    """Whether an order is drawn from a key, not written out."""
    return bool(jnp.issubdtype(order.dtype, jax.dtypes.prng_key))


def draw(
    training: Training,
    order: Order,
    num_examples: int,
    number: Int[Array, ""] | int,
    num_networks: int = 1,
) -> Int[Array, "num_steps batch_size"] | None:
    """The rows of a `Block`; `None` for the full batch, which needs no order.

    A block is of whole epochs, as many as make about `BLOCK_LENGTH` indices in all networks. Each
    epoch is a permutation drawn from its own key, so the order depends on the seed and the step
    alone. An epoch's remainder of fewer than `batch_size` examples is dropped. An order that is
    written out is one block.
    """
    if not is_drawn(order):
        return order
    batch_size = training.batch_size
    if batch_size == num_examples:
        return None
    num_epochs = max(1, BLOCK_LENGTH // (num_examples * num_networks))
    orders = jax.vmap(lambda epoch: permutation(jax.random.fold_in(order, epoch), num_examples))(
        number * num_epochs + jnp.arange(num_epochs)
    )
    return orders[:, : num_examples // batch_size * batch_size].reshape(-1, batch_size)


def take(train: Part, rows: Int[Array, " batch_size"] | None) -> Part:
    """The examples of a step."""
    return train if rows is None else Part(train.x[rows], train.y[rows])


def batch_at(training: Training, order: Order, train: Part, step: int) -> Part:
    """The examples of the step after `step` updates."""
    shape = jax.eval_shape(lambda: draw(training, order, len(train.x), 0))
    if shape is None:
        return train
    number, place = divmod(step, len(shape))
    rows = draw(training, order, len(train.x), number)
    assert rows is not None
    return take(train, rows[place])


def predictions(
    objective: Objective, params: Params, part: Part, max_batch: int = 2048
) -> tuple[Float[Array, " n"], Float[Array, "n n_L"]]:
    """The loss and ŷ of each example of a part, taken in batches of equal shape."""

    def predict(row: Array) -> tuple[Array, Array]:
        logits = apply(params, part.x[row], objective.activation)
        return objective.loss.value(logits, part.y[row]), objective.loss.output(logits)

    num_examples = part.x.shape[0]
    num_batches = -(-num_examples // max_batch)
    batch_size = -(-num_examples // num_batches)
    rows = jnp.minimum(jnp.arange(num_batches * batch_size), num_examples - 1)
    found = jax.lax.map(jax.vmap(predict), rows.reshape(num_batches, batch_size))
    losses, y_hat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:num_examples], found)
    return losses, y_hat


def evaluate(training: Training, params: Params, part: Part, max_batch: int = 2048) -> Metrics:
    """The metrics of a log point over all examples of a part: the mean loss and the accuracy or R²,
    and what else the training measures.
    """
    losses, y_hat = predictions(training.objective, params, part, max_batch)
    names = ("r2" if training.threshold is None else "accuracy", *training.also)
    return metrics.measure(
        losses, y_hat, part.y, threshold=training.threshold, units=training.units, names=names
    )


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


def init_carry(training: Training, params: Params, log_every: int) -> Carry:
    """Before the first step."""
    return Carry(init_state(training, params), jnp.zeros(log_every, dtype_of(params)))


def advance(
    step: Callable[[Any, Any], tuple[Any, Array]],
    draw: Callable[[Int[Array, ""]], Any],
    carry: Carry,
    block: Block | None,
    start: Int[Array, ""],
    stop: Int[Array, ""],
) -> tuple[Carry, Block | None]:
    """The updates from step `start` to `stop`, not beyond the next log point.

    `step` is `train_step` of one network or of many under `vmap`, `draw` gives the rows of a block
    by its number. A block is drawn once, where its steps begin: `block` is the last one drawn, or
    `None` for full batches. One compiled loop for any number of steps: where the host looks
    changes no bit. (XLA compiles a scan of length 1 otherwise than one of length 2, and steps that
    are unrolled together otherwise than one by one.)
    """
    log_every = carry.losses.shape[0]

    def updates(carry: Carry, block: Block | None, start: Array, stop: Array) -> Carry:
        def update(t: Array, carry: Carry) -> Carry:
            rows = None if block is None else block.rows[t - block.number * len(block.rows)]
            state, losses = step(carry.state, rows)
            return Carry(state, carry.losses.at[t % log_every].set(losses))

        return jax.lax.fori_loop(start, stop, update, carry)

    if block is None:
        return updates(carry, None, start, stop), None
    length = len(block.rows)

    def within_a_block(reached: tuple[Array, Carry, Block]) -> tuple[Array, Carry, Block]:
        t, carry, block = reached
        number = t // length
        block = jax.lax.cond(
            number == block.number, lambda: block, lambda: Block(number, draw(number))
        )
        end = jnp.minimum(stop, (number + 1) * length)
        return end, updates(carry, block, t, end), block

    _, carry, block = jax.lax.while_loop(
        lambda reached: reached[0] < stop, within_a_block, (start, carry, block)
    )
    return carry, block


def num_finite(carry: Carry, start: Int[Array, ""], stop: Int[Array, ""]) -> Int[Array, ""]:
    """Of the steps from `start` to `stop`, those before the first non-finite loss.

    One less than all where every loss is finite and a parameter after the last is not.
    """
    params_are_finite = jnp.all(
        jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(carry.state.params)])
    )
    log_every, num_steps = carry.losses.shape[0], stop - start
    place = (jnp.arange(log_every, dtype=start.dtype) - start) % log_every
    first_bad = jnp.min(jnp.where(jnp.isfinite(carry.losses), num_steps, place), initial=num_steps)
    return jnp.minimum(first_bad, jnp.where(params_are_finite, num_steps, num_steps - 1))


def log_point(
    training: Training, carry: Carry, train: Part, validation: Part | None
) -> tuple[Carry, Metrics]:
    """What is logged after the last step, and the carry with early stopping's part brought up.

    `train/loss` is the mean over the batches since the last log point, each before its update;
    without a validation part it is the loss of the training part after the last update instead.
    """
    state, losses = carry
    num_losses = (state.step - 1) % losses.shape[0] + 1
    if validation is None:
        logged = {f"train/{k}": v for k, v in evaluate(training, current(state), train).items()}
    else:
        is_new = jnp.arange(losses.shape[0]) < num_losses
        logged = {"train/loss": jnp.sum(jnp.where(is_new, losses, 0)) / num_losses}
        measured = evaluate(training, current(state), validation)
        logged |= {f"validation/{k}": v for k, v in measured.items()}
    if training.monitor is not None and state.best is not None:
        score = training.monitor(logged)
        best = _update_best(training, state.best, current(state), score, state.step)
        state = state._replace(best=best)
    if training.observe is not None:
        logged |= training.observe(current(state))
    logged["learning_rate"] = training.learning_rate(state.step - 1)
    return Carry(state, losses), logged
