"""A run from beginning to end: from the config to what is trained."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TypeVar

import jax

from mlp_jax import data
from mlp_jax.config.saved import config_hash
from mlp_jax.config.schema import Experiment
from mlp_jax.core.fit import Programs, compile_programs
from mlp_jax.core.gradcheck import GradientCheck, check_gradient, insist_on
from mlp_jax.data import Dataset
from mlp_jax.durable import rundir
from mlp_jax.errors import RunError
from mlp_jax.experiment import describe as summary
from mlp_jax.experiment.console import Console
from mlp_jax.experiment.describe import Result
from mlp_jax.experiment.interrupt import deferred
from mlp_jax.experiment.session import Prepared, Session
from mlp_jax.experiment.setup import Problem, numeric_settings, prepare
from mlp_jax.tracking import store

T = TypeVar("T")


def run(
    config: Experiment,
    console: Console | None = None,
    command: str = "",
    directory: Path | None = None,
    tags: Mapping[str, str] | None = None,
    dataset: Dataset | None = None,
) -> Result:
    """Trains what `config` describes, proves its gradient first and records it in MLflow.

    `command` is the command line and `tags` are more, for the record. `directory` is that of a run
    to continue, whose config this is. `dataset` is its data, if loaded before. Raises `UserError`
    for a config that cannot be run, before anything is written, `RunError` for a run that fails,
    and `KeyboardInterrupt`, with the command to continue it, for one that was stopped.
    """
    console = console or Console()
    with numeric_settings(config) as device:
        if directory is None:
            rundir.check_root(config.checkpoint.root)
        prepared = _prepare(config, dataset, console, device)
        place = rundir.create(config.checkpoint.root) if directory is None else directory
        with rundir.locked(place), deferred() as interrupt:
            session = Session(prepared, place, console, interrupt)
            try:
                begin_or_go_on = session.start if directory is None else session.resume
                return begin_or_go_on(command, {"config_hash": config_hash(config), **(tags or {})})
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"stopped. {rundir.how_to_resume(place)}") from None
            except OSError as error:  # the disk is full or gone, as a rule
                raise RunError(
                    f"{error.filename or place}: {error.strerror}.\n{rundir.how_to_resume(place)}"
                ) from error


def _prepare(
    config: Experiment, dataset: Dataset | None, console: Console, device: jax.Device
) -> Prepared:
    """All that can fail before anything is written."""
    is_tracked = config.tracking.name != "none"
    if is_tracked:
        store.check(config.tracking.uri)
    dataset = dataset or data.load(config.data)
    # In the background, as is the compiler: an error in what follows need not wait for either.
    preloading = _in_background(store.preload) if is_tracked else None
    problem = prepare(config, dataset)
    compiling = _in_background(lambda: _compile(problem))
    gradient = check(problem, console, device)
    insist_on(gradient)
    programs = compiling.result()
    if preloading is not None:
        preloading.result()
    return Prepared(problem, gradient, programs, device)


def _in_background(work: Callable[[], T]) -> "Future[T]":
    """In a thread that the end of the process does not wait for."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def prove(config: Experiment, console: Console | None = None) -> GradientCheck:
    """Proves the gradient of what `config` describes, layer by layer, and does nothing else."""
    console = console or Console()
    with numeric_settings(config) as device:
        problem = prepare(config, data.load(config.data))
        gradient = check(problem, console, device)
    console.table(
        ["layer", "shape of W", "− jax.grad", "− differences", "compared", "not smooth"],
        [
            [str(number), "×".join(map(str, params.W.shape)), *layer]
            for number, (params, layer) in enumerate(
                zip(problem.params, gradient.layers, strict=True), start=1
            )
        ],
    )
    insist_on(gradient)
    return gradient


def check(problem: Problem, console: Console, device: jax.Device) -> GradientCheck:
    """Prints the header and holds backprop against jax.grad and differences on real examples."""
    console.facts(summary.header(problem, device))
    for note in problem.dataset.notes:
        console.line(note)
    fixed = problem.training
    x, y = problem.train.x[:32], problem.train.y[:32]
    gradient = check_gradient(fixed.objective, problem.params, x, y)
    console.line(summary.gradient_line(gradient))
    return gradient


def _compile(problem: Problem) -> Programs:
    with numeric_settings(problem.config):  # which every thread has of its own
        return compile_programs(problem)
