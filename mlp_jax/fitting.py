"""The host side of a training: calls the compiled intervals and collects what they measured."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax

from mlp_jax import training
from mlp_jax.errors import NoResultError
from mlp_jax.problem import Problem
from mlp_jax.training import Metrics, TrainState
from mlp_jax.types import Params


class LogPoint(NamedTuple):
    """What was measured after `step` updates."""

    step: int
    metrics: dict[str, float]


class Fitted(NamedTuple):
    """A finished training: the parameters it kept, of which step, and all that was logged."""

    params: Params
    step: int
    history: list[LogPoint]


class DivergedError(NoResultError):
    """A loss or a parameter stopped being a finite number at `step`."""

    def __init__(self, step: int, learning_rate: float) -> None:
        super().__init__(
            f"training diverged: the loss or a parameter is not finite at step {step:,}. Try a "
            f"smaller optimizer.learning_rate (now {learning_rate:g}), optimizer.clip_norm=1 or "
            "data.standardize=true."
        )
        self.step = step


Interval = Callable[[TrainState], tuple[TrainState, Metrics]]


def compile_intervals(problem: Problem) -> dict[int, Interval]:
    """The compiled programs of `fit` by their number of steps: a log interval, a shorter last one.

    Each consumes the state it is given.
    """
    state = jax.eval_shape(partial(training.init_state, problem.training), problem.params)
    data = (problem.shuffle_key, problem.train, problem.validation)

    def compiled(num_steps: int) -> Interval:
        aligned = not (problem.log_every % problem.steps_per_epoch) and not (
            num_steps % problem.steps_per_epoch
        )
        program = training.compile_interval(problem.training, num_steps, aligned, state, *data)
        return lambda state: program(state, *data)

    lengths = {problem.log_every, problem.num_steps % problem.log_every} - {0}
    return {num_steps: compiled(num_steps) for num_steps in lengths}


def fit(
    problem: Problem,
    intervals: dict[int, Interval],
    on_log: Callable[[LogPoint], None] = lambda point: None,
) -> Fitted:
    """Trains to the last step, or until early stopping, with `compile_intervals(problem)`.

    The host sees numbers at the log points only. Raises `DivergedError`.
    """
    state = jax.jit(partial(training.init_state, problem.training))(problem.params)
    history: list[LogPoint] = []
    step, is_patient = 0, True
    while step < problem.num_steps and is_patient:
        num_steps = min(problem.log_every, problem.num_steps - step)
        state, logged = intervals[num_steps](state)
        metrics = {name: float(value) for name, value in jax.device_get(logged).items()}
        num_finite = int(metrics.pop("num_finite"))
        if num_finite < num_steps:
            raise DivergedError(step + num_finite + 1, problem.config.optimizer.learning_rate)
        step += num_steps
        history.append(LogPoint(step, metrics))
        on_log(history[-1])
        if state.best is not None:
            is_patient = int(state.best.num_worse) < (problem.config.early_stopping.patience or 0)
    if state.best is None:
        return Fitted(state.params, step, history)
    return Fitted(state.best.params, int(state.best.step), history)


def evaluate_parts(problem: Problem, params: Params) -> dict[str, dict[str, float]]:
    """Every part's metrics, as `{"test": {"loss": …, "accuracy": …}, …}`."""
    parts = {"train": problem.train, "validation": problem.validation, "test": problem.test}
    evaluate = jax.jit(lambda params, part: training.evaluate(problem.training, params, part))
    return {
        name: {key: float(value) for key, value in evaluate(params, part).items()}
        for name, part in parts.items()
        if part is not None
    }
