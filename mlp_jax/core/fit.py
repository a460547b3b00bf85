"""The host side of a training: calls the compiled loop and collects what it measured."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mlp_jax.core import metrics, training
from mlp_jax.core.backprop import Objective
from mlp_jax.core.divergence import first_non_finite
from mlp_jax.core.history import History, LogPoint, value_of
from mlp_jax.core.network import Params
from mlp_jax.core.training import Block, Carry, Metrics, Order, Part, Parts, Training
from mlp_jax.errors import NoResultError, RunError

T = TypeVar("T")

CALL_SECONDS = 0.25
"""How long the compiled loop runs before the host looks whether it should stop."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """One training as arrays and pure functions: all that `fit` needs."""

    training: Training
    params: Params
    order: Order
    train: Part
    validation: Part | None = None
    test: Part | None = None
    num_steps: int
    log_every: int
    advice: str = "Try a smaller learning_rate, clip_norm=1 or inputs of about unit size."
    """What to do where it diverges."""

    @property
    def parts(self) -> Parts:
        return Parts(self.train, self.validation, self.test)


class Fitted(NamedTuple):
    """A finished training: the parameters it kept, of which step, and all that was logged."""

    params: Params
    step: int
    history: History


class Pause(NamedTuple):
    """A training in the hands of the host, after `step` updates."""

    step: int
    carry: Carry
    history: list[LogPoint]
    is_last: bool
    """Whether it ends here."""


class DivergedError(NoResultError):
    """A number stopped being finite in the update to `step`; before that is `last_finite`."""

    def __init__(self, step: int, where: str, advice: str, last_finite: Pause) -> None:
        super().__init__(divergence(step, advice, where))
        self.step = step
        self.where = where
        self.last_finite = last_finite


def divergence(step: int, advice: str, where: str = "the loss or a parameter") -> str:
    """What is said of a training that diverged."""
    return f"training diverged at step {step:,}: {where} was the first that is not finite. {advice}"


class Programs(NamedTuple):
    """The compiled programs of `fit`. `advance` and `log_point` consume the carry they take."""

    start: Callable[[Params], Carry]
    copy: Callable[[Carry], Carry]
    advance: Callable[..., tuple[Carry, Block | None, Array]]
    log_point: Callable[[Carry, Part, Part | None], tuple[Carry, Metrics]]


def _start(task: Task, params: Params) -> Carry:
    return training.init_carry(task.training, params, task.log_every)


def template(task: Task) -> Carry:
    """The shapes and dtypes of a training's carry."""
    return jax.eval_shape(partial(_start, task), task.params)


@jax.disable_jit(False)
def compile_programs(task: Task) -> Programs:
    """For all tasks of these shapes and this fixed part, whatever their parameters and keys."""
    fixed, train = task.training, task.train
    carry, step = template(task), jax.ShapeDtypeStruct((), jnp.int32)

    def compiled(function: Callable[..., Any], *arguments: Any, donated: tuple[int, ...]) -> Any:
        return jax.jit(function, donate_argnums=donated).lower(*arguments).compile()

    return Programs(
        start=compiled(partial(_start, task), task.params, donated=()),
        copy=compiled(partial(jax.tree.map, jnp.copy), carry, donated=()),
        advance=compiled(
            partial(train_steps, fixed),
            *(carry, no_block(task), task.order, train, step, step),
            donated=(0, 1),
        ),
        log_point=compiled(
            partial(training.log_point, fixed), carry, train, task.validation, donated=(0,)
        ),
    )


def train_steps(
    fixed: Training,
    carry: Carry,
    block: Block | None,
    order: Order,
    train: Part,
    start: Array,
    stop: Array,
) -> tuple[Carry, Block | None, Array]:
    """The updates of one network from step `start` to `stop`, and how many were finite."""
    carry, block = training.advance(
        lambda state, rows: training.train_step(fixed, state, training.take(train, rows), order),
        partial(training.draw, fixed, order, len(train.x)),
        *(carry, block, start, stop),
    )
    return carry, block, training.num_finite(carry, start, stop)


def no_block(task: Task) -> Block | None:
    """Before the first block is drawn."""
    rows = jax.eval_shape(
        partial(training.draw, task.training, num_examples=len(task.train.x), number=0), task.order
    )
    return None if rows is None else Block(jnp.int32(-1), jnp.zeros(rows.shape, rows.dtype))


class _Loop:
    """The compiled loop, and the last block of examples that it drew."""

    def __init__(self, task: Task, programs: Programs) -> None:
        self.task, self.programs, self.block = task, programs, no_block(task)

    def advance(self, carry: Carry, start: int, num_steps: int) -> tuple[Carry, int]:
        carry, self.block, num_finite = self.programs.advance(
            *(carry, self.block, self.task.order, self.task.train),
            *(np.int32(start), np.int32(start + num_steps)),
        )
        return carry, int(num_finite)


@jax.disable_jit(False)  # the programs are compiled; $JAX_DISABLE_JIT leaves nothing of them
def fit(
    task: Task,
    programs: Programs,
    carry: Carry | None = None,
    history: Iterable[LogPoint] = (),
    *,
    on_log: Callable[[LogPoint], None] = lambda point: None,
    on_pause: Callable[[Pause], None] = lambda pause: None,
    pause_every: int | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Trains to the last step, or until early stopping, from the beginning or from `carry`.

    The host sees numbers at the log points only. It has the training in its hands after each call
    of the compiled loop, a quarter of a second apart and at every multiple of `pause_every` steps,
    which changes no bit: `on_pause` may save the carry, and what it raises ends the training.
    Where `is_over` says so after that, the training ends as it is. Raises `DivergedError`.
    """
    carry = programs.start(task.params) if carry is None else carry
    history, loop = list(history), _Loop(task, programs)
    step, steps_per_call = int(carry.state.step), 1
    is_last = _is_last(task, carry, step)
    while not (is_last or is_over()):
        until = [_next_multiple(step, n) for n in (task.log_every, pause_every) if n]
        num_steps = min(steps_per_call, task.num_steps - step, min(until) - step)
        called_at = time.perf_counter()
        before = programs.copy(carry)
        carry, num_finite = loop.advance(carry, step, num_steps)
        if num_finite < num_steps:
            raise _diverged(loop, Pause(step, before, history, False), num_steps)
        seconds = time.perf_counter() - called_at
        steps_per_call = max(1, int(num_steps * CALL_SECONDS / seconds))
        step += num_steps
        if step % task.log_every == 0 or step == task.num_steps:
            carry, logged = programs.log_point(carry, task.train, task.validation)
            metrics = {name: value_of(array) for name, array in jax.device_get(logged).items()}
            history.append(LogPoint(step, metrics))
            on_log(history[-1])
        is_last = _is_last(task, carry, step)
        on_pause(Pause(step, carry, history, is_last))
    params, kept_step = training.kept(carry.state)
    return Fitted(params, int(kept_step), History.of(history))


def _next_multiple(step: int, of: int) -> int:
    return (step // of + 1) * of


def _is_last(task: Task, carry: Carry, step: int) -> bool:
    best, patience = carry.state.best, task.training.patience
    has_lost_patience = (
        best is not None and patience is not None and int(best.num_worse) >= patience
    )
    return step >= task.num_steps or has_lost_patience


def _diverged(loop: _Loop, before: Pause, num_steps: int) -> DivergedError:
    """Repeats the steps after `before`, which are not all finite, to see where it began."""
    task, copy = loop.task, loop.programs.copy

    def is_lost(count: int) -> bool:
        return loop.advance(copy(before.carry), before.step, count)[1] < count

    num_good = bisect_left(range(num_steps + 1), True, key=is_lost) - 1
    carry, _ = loop.advance(copy(before.carry), before.step, num_good)
    step = before.step + num_good
    batch = training.batch_at(task.training, task.order, task.train, step)
    return DivergedError(
        step + 1,
        first_non_finite(task.training, carry.state, batch, task.order),
        task.advice,
        before._replace(step=step, carry=carry),
    )


_predictions = jax.jit(training.predictions, static_argnums=0)


def evaluate(
    objective: Objective,
    params: Params,
    part: Part,
    threshold: float | None,
    units: metrics.Units | None = None,
) -> dict[str, float]:
    """All metrics of a part by their names, computed on the host."""
    losses, y_hat = _predictions(objective, params, part)
    measured = metrics.measure(
        *jax.device_get((losses, y_hat, part.y)),
        threshold=threshold,
        units=units,
        names=metrics.names_of(threshold),
    )
    return {name: float(value) for name, value in measured.items()}


def evaluate_parts(task: Task, params: Params) -> dict[str, dict[str, float]]:
    """Every part's metrics, as `{"test": {"loss": …, "accuracy": …, …}, …}`."""
    fixed = task.training
    return {
        name: evaluate(fixed.objective, params, part, fixed.threshold, fixed.units)
        for name, part in task.parts._asdict().items()
        if part is not None
    }


# --- what is carried, as arrays with names ------------------------------------------------------


def to_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Copies of a tree's leaves by their place and dtype, as npz knows them.

    A dtype that is not NumPy's own, as bfloat16, becomes integers of its width.
    """
    arrays = {name: np.array(leaf) for name, leaf in _leaves(tree).items()}
    return {
        name: array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array
        for name, array in arrays.items()
    }


@runtime_checkable
class Saved(Protocol):
    """What was read from a file."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]: ...
    @property
    def file(self) -> Path: ...


def from_arrays(template: T, saved: Saved) -> T:
    """The tree of a file's arrays, built as `template`; `RunError` if it is another."""
    wanted, arrays = _leaves(template), saved.arrays
    if odd := sorted(arrays.keys() ^ wanted.keys()):
        raise RunError(
            f"{saved.file}: is of another kind of training; {odd[0]} is in only one of them."
        )
    for name, leaf in wanted.items():
        if arrays[name].shape != leaf.shape:
            raise RunError(
                f"{saved.file}: {name} has shape {arrays[name].shape}, this run {leaf.shape}."
            )
    leaves = [jnp.array(arrays[name].view(leaf.dtype)) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _leaves(tree: Any) -> dict[str, Any]:
    return {
        f"{jax.tree_util.keystr(path)}:{leaf.dtype}": leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
