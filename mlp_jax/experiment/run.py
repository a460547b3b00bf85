"""A run from its config to its end: checked, trained, saved, recorded; continued if it was stopped.

Its directory below `checkpoint.root` has all that it takes to go on.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from omegaconf import OmegaConf

from mlp_jax import data
from mlp_jax.config import saved
from mlp_jax.config.schema import Experiment, num_folds
from mlp_jax.core.fit import (
    DivergedError,
    Fitted,
    Pause,
    Programs,
    compile_programs,
    evaluate_parts,
    fit,
    from_arrays,
    template,
    to_arrays,
)
from mlp_jax.core.gradcheck import GradientCheck, check_gradient, insist_on
from mlp_jax.core.history import LogPoint
from mlp_jax.core.network import part_names
from mlp_jax.core.population import Saved
from mlp_jax.core.training import Carry, example_objective
from mlp_jax.data import Dataset
from mlp_jax.durable import rundir
from mlp_jax.durable.checkpoint import Checkpoints, Saver
from mlp_jax.errors import RunError, UserError, reached
from mlp_jax.experiment import describe, finished, machine
from mlp_jax.experiment.console import Console, measured
from mlp_jax.experiment.describe import Result
from mlp_jax.experiment.ensemble import Members
from mlp_jax.experiment.model import save_model
from mlp_jax.experiment.probabilities import cooled, temperature_of
from mlp_jax.experiment.setup import Problem, numeric_settings, prepare
from mlp_jax.tracking import bulk, store
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking.facts import RunRecord
from mlp_jax.tracking.record import BusyError

T = TypeVar("T")

MANY_LAYERS = 100
"""From here on XLA takes a quarter of a minute and more, of which the user is told."""


def run(
    config: Experiment,
    console: Console | None = None,
    command: str = "",
    directory: Path | None = None,
    tags: Mapping[str, str] | None = None,
    dataset: Dataset | None = None,
) -> Result:
    """Trains what `config` describes, checks its gradient first and records it in MLflow.

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
        place = directory or rundir.create(config.checkpoint.root)
        with rundir.locked(place), machine.deferred() as interrupt:
            all_tags = {"config_hash": saved.config_hash(config), **(tags or {})}
            process = _Process(prepared, place, console, interrupt, command, all_tags)
            try:
                return process.begin() if directory is None else process.resume()
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"stopped. {rundir.how_to_resume(place)}") from None
            except OSError as error:  # the disk is full or gone, as a rule
                raise RunError(
                    f"{error.filename or place}: {error.strerror}.\n{rundir.how_to_resume(place)}"
                ) from error


class Prepared(NamedTuple):
    """What a run needs that can be had before anything is written."""

    problem: Problem
    gradient: GradientCheck
    programs: Programs | Members
    device: jax.Device


def _is_tracked(config: Experiment) -> bool:
    return config.tracking.name != "none"


def _prepare(
    config: Experiment, dataset: Dataset | None, console: Console, device: jax.Device
) -> Prepared:
    """All that can fail before anything is written."""
    if _is_tracked(config):
        store.check(config.tracking.uri)
    dataset = dataset or data.load(config.data)
    # In the background, as is the compiler: neither waits for what follows.
    preloading = _in_background(store.preload) if _is_tracked(config) else None
    problem = prepare(config, dataset)
    compiling = _in_background(lambda: _compile(problem, device))
    try:
        gradient = check(problem, console, device)
    finally:  # a process that ends while XLA compiles may be ended by a signal of its own
        programs = compiling.result()
    insist_on(gradient)
    if preloading is not None:
        preloading.result()
    return Prepared(problem, gradient, programs, device)


def _compile(problem: Problem, device: jax.Device) -> Programs | Members:
    with numeric_settings(problem.config):  # which every thread has of its own
        config = problem.config
        is_ensemble = config.ensemble.size * num_folds(config) > 1
        return Members(problem, device) if is_ensemble else compile_programs(problem)


def _in_background(work: Callable[[], T]) -> "Future[T]":
    """In a thread that the end of the process does not wait for."""
    future: Future[T] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=do, daemon=True).start()
    return future


def check(problem: Problem, console: Console, device: jax.Device) -> GradientCheck:
    """Prints the header and holds backprop against jax.grad and differences on real examples."""
    console.facts(describe.header(problem, device))
    for note in problem.dataset.notes:
        console.line(note)
    if len(problem.params) >= MANY_LAYERS:
        console.line(f"compiling {len(problem.params)} layers one by one: this takes a while")
    x, y = problem.train.x[:32], problem.train.y[:32]
    objective = example_objective(problem.training, problem.params, len(x))
    gradient = check_gradient(objective, problem.params, x, y)
    console.line(f"gradient  {describe.gradient_line(gradient)}")
    return gradient


def prove(config: Experiment, console: Console | None = None) -> GradientCheck:
    """Checks the gradient of what `config` describes, layer by layer, and does nothing else."""
    console = console or Console()
    with numeric_settings(config) as device:
        problem = prepare(config, data.load(config.data))
        gradient = check(problem, console, device)
    console.table(
        ["part", "shapes", "− jax.grad", "− differences", "compared", "not smooth"],
        [
            [name, " + ".join("×".join(map(str, leaf.shape)) for leaf in leaves), *layer]
            for name, leaves, layer in zip(
                part_names(problem.params),
                map(jax.tree.leaves, problem.params),
                gradient.layers,
                strict=True,
            )
        ],
    )
    insist_on(gradient)
    return gradient


# --- one process -------------------------------------------------------------------------------


class _Process:
    """What one process does of a run: all of it, or the rest from the last checkpoint on."""

    def __init__(
        self,
        prepared: Prepared,
        directory: Path,
        console: Console,
        interrupt: machine.Interrupt,
        command: str,
        tags: Mapping[str, str],
    ) -> None:
        self.prepared, self.problem = prepared, prepared.problem
        self.config = config = prepared.problem.config
        self.directory, self.console, self.interrupt = directory, console, interrupt
        self.command, self.tags = command, tags
        self.out_of_time_at: int | None = None
        """The step at which the time was up."""
        uri = store.store_uri(config.tracking.uri) if _is_tracked(config) else None
        self.record = saved.to_record(config, self.problem.log_every, uri)
        self.environment = machine.environment(prepared.device, self.problem.dataset.digest)
        self.checkpoints = Checkpoints(directory / rundir.CHECKPOINTS, config.checkpoint.keep)

    def begin(self) -> Result:
        rundir.write(self.directory, rundir.ENVIRONMENT, self.environment)
        rundir.write(self.directory, rundir.CONFIG, self.record)
        try:
            run = self._begin_record()
        except UserError:  # with which nothing is left on the disk
            rundir.remove(self.directory)
            raise
        return self._finish(run, None, [])

    def resume(self) -> Result:
        """Goes on from the last checkpoint that is whole, or from the first step without one."""
        self._compare_environment()
        self.checkpoints.remove_unfinished()
        carry: Carry | Saved | None = None
        history: list[LogPoint] = []
        if checkpoint := self.checkpoints.restore(self.console.line):
            members = self.prepared.programs
            if isinstance(members, Members):
                carry = members.restore(checkpoint)
            else:
                carry = from_arrays(template(self.problem), checkpoint)
            history = [LogPoint(*point) for point in checkpoint.history]
        step = checkpoint.step if checkpoint else 0
        self.console.line(f"resumed at step {step:,} of {self.problem.num_steps:,}")
        return self._finish(self._resume_record(), carry, history)

    def _compare_environment(self) -> None:
        then = rundir.read(self.directory, rundir.ENVIRONMENT)
        if then.get("data") != self.environment["data"]:
            raise UserError(
                f"{self.problem.dataset.source}: the data is not what the run was begun with "
                f"(digest {self.environment['data']}, then {then.get('data')})."
            )
        if changes := machine.differences(then, self.environment):
            self.console.line(f"not bit for bit as it was begun: {', '.join(changes)}")

    def _begin_record(self) -> tracking.Run | None:
        problem, device = self.problem, self.prepared.device
        if not _is_tracked(self.config):
            return None
        record = RunRecord(
            self.config.tracking.run_name or describe.run_name(problem),
            describe.parameters(problem),
            {**describe.tags(problem, device, self.command), **self.tags},
            describe.note(problem, device, self.command),
            data=describe.data_facts(problem.dataset),
        )
        uri, experiment = self.config.tracking.uri, describe.experiment_name(self.config)
        return tracking.begin(uri, experiment, record, self.directory, warn=self.console.line)

    def _resume_record(self) -> tracking.Run | None:
        """None where the run is not tracked, or its record is damaged, which costs no training."""
        try:
            if not (_is_tracked(self.config) and tracking.has_begun(self.directory)):
                return self._begin_record()
            uri = self.config.tracking.uri
            run = tracking.resume(uri, self.directory, warn=self.console.line)
        except BusyError:
            raise
        except RunError as error:
            self.console.line(f"warning: {error} The run goes on without being recorded.")
            return None
        recorded = rundir.read(self.directory, rundir.CONFIG)
        length = "num_epochs" if self.config.num_epochs else "num_steps"
        if recorded[length] != self.record[length]:
            # Another training from here on, while the store keeps a run's parameters for good.
            prolonged = f"{length}={getattr(self.config, length)}"
            for name, value in {**self.tags, "prolonged": prolonged}.items():
                run.tag(name, value)
        return run

    def _finish(
        self, run: tracking.Run | None, carry: Carry | Saved | None, history: list[LogPoint]
    ) -> Result:
        """Trains to the end and records what came of it."""
        when, first_step = self.config.checkpoint, int(np.max(carry.state.step)) if carry else 0
        saver = Saver(
            self.checkpoints,
            every_steps=when.every_epochs and when.every_epochs * self.problem.steps_per_epoch,
            every_seconds=when.every_minutes and when.every_minutes * 60,
            warn=self.console.line,
        )
        with saver, nullcontext() if run is None else run:
            (self.directory / rundir.RESULT).unlink(missing_ok=True)  # of a run that is prolonged
            rundir.write(self.directory, rundir.CONFIG, self.record)
            if run is not None:
                run.add("config.yaml", OmegaConf.to_yaml(self.record))
                run.add("environment.yaml", OmegaConf.to_yaml(self.environment))
            result = self._train(run, saver, carry, history)
            describe.print_result(result, self.console)
            if self.out_of_time_at is not None:
                self.console.line(
                    f"budget={self.config.budget}: the time was up at step "
                    f"{self.out_of_time_at:,} of {self.problem.num_steps:,}. "
                    f"{rundir.how_to_resume(self.directory)}"
                )
            if run is not None:
                self._record(result, run, first_step)
        if saver.failure is not None:
            raise RunError(f"{saver.failure}.\n{rundir.how_to_resume(self.directory)}")
        rundir.write(self.directory, rundir.RESULT, describe.ending(result))
        if run is not None:
            self.console.facts(run.where())
        return result

    def _train(
        self,
        run: tracking.Run | None,
        saver: Saver,
        carry: Any,
        history: list[LogPoint],
    ) -> Result:
        programs = self.prepared.programs
        if isinstance(programs, Members):
            return self._train_members(programs, run, saver, carry)
        fitted, seconds = self._fit(programs, run, saver, carry, history)
        reached("ending")
        params, temperature = fitted.params, None
        if self.config.calibration != "none":
            temperature = temperature_of(self.problem, [(params, self.problem.validation)])
            params = cooled(params, temperature)
        metrics = evaluate_parts(self.problem, params)
        return Result(
            self.problem,
            self.prepared.gradient,
            fitted._replace(params=params),
            metrics,
            seconds,
            out_of_time_at=self.out_of_time_at,
            temperature=temperature,
        )

    def _is_end(self, step: int, is_last: bool) -> bool:
        """Whether the training ends after this step, as it does where the time is up."""
        if not is_last and self.console.is_over(self.config.budget):
            self.out_of_time_at = step
        return is_last or self.interrupt.requested or self._is_over()

    def _is_over(self) -> bool:
        return self.out_of_time_at is not None

    def _train_members(
        self, members: Members, run: tracking.Run | None, saver: Saver, saved: Saved | None
    ) -> Result:
        """An ensemble, which the host has in its hands after each tenth of the training."""
        start = time.perf_counter()
        objective = f"members/{describe.objective(self.config, self.problem.dataset)}"
        with self.console.sweep_progress(len(members)) as show:
            for now in members.train(saved, self._is_over):
                reached("training")
                for point in now.new:
                    if run is not None:
                        run.log(describe.in_order(point.metrics, objective), point.step)
                shown = {k: v for k, v in now.new[-1].metrics.items() if k.endswith("/loss")}
                progress = now.progress
                show(progress.share, progress.num_done, measured(shown), progress.network_steps)
                take = saver.save if self._is_end(now.step, now.is_last) else saver.offer
                take(now.step, now.arrays, now.history)
                self.interrupt.check()
        reached("ending")
        result = members.result(time.perf_counter() - start)
        return result._replace(out_of_time_at=self.out_of_time_at)

    def _fit(
        self,
        programs: Programs,
        run: tracking.Run | None,
        saver: Saver,
        carry: Carry | None,
        history: list[LogPoint],
    ) -> tuple[Fitted, float]:
        """The trained network, and the seconds that the steps of this process took."""
        problem = self.problem
        objective = describe.objective(problem.config, problem.dataset)
        with self.console.progress(problem.num_steps, problem.steps_per_epoch) as show:

            def on_log(point: LogPoint) -> None:
                show(point.step, point.metrics)
                if run is not None:
                    run.log(describe.in_order(point.metrics, objective), point.step)

            def on_pause(pause: Pause) -> None:
                reached("training")
                take = saver.save if self._is_end(pause.step, pause.is_last) else saver.offer
                take(pause.step, lambda: to_arrays(pause.carry), pause.history)
                self.interrupt.check()

            for point in history:
                on_log(point)
            start = time.perf_counter()
            try:
                fitted = fit(
                    problem,
                    programs,
                    carry,
                    history,
                    on_log=on_log,
                    on_pause=on_pause,
                    pause_every=saver.every_steps,
                    is_over=self._is_over,
                )
            except DivergedError as error:
                last = error.last_finite
                saver.save(last.step, lambda: to_arrays(last.carry), last.history)
                self.console.line(
                    f"finite until step {last.step:,}: {self.checkpoints.path(last.step)}"
                )
                if run is not None:
                    run.tag("diverged_at", str(error.step))
                raise
        if not len(fitted.history):
            raise RunError(
                f"budget={self.config.budget}: the time was up at step {self.out_of_time_at:,}, "
                f"before the first log point, step {problem.log_every:,}; give more time, or make "
                f"log_every smaller. {rundir.how_to_resume(self.directory)}"
            )
        return fitted, time.perf_counter() - start

    def _record(self, result: Result, run: tracking.Run, first_step: int) -> None:
        """The final metrics and, as the config wants them, figures and the model."""
        last_step = describe.last_step(result)
        metrics = describe.final_metrics(result)
        if last_step > first_step:
            metrics["steps_per_second"] = (last_step - first_step) / result.seconds
        run.log(describe.in_order(metrics, describe.standing(result)[0]), last_step)
        for name, value in describe.final_tags(result).items():
            run.tag(name, value)
        if self._is_over() or first_step:
            run.tag(describe.OUT_OF_TIME, str(self.out_of_time_at or ""))
        note = describe.note(self.problem, self.prepared.device, self.command, result)
        run.tag("mlflow.note.content", note)
        self.interrupt.check()
        if self.config.tracking.figures:
            for file, picture in describe.pictures(result, self.console.line):
                run.add(file, picture)
                self.interrupt.check()
        if self.config.tracking.model:
            example = data.raw_inputs(self.problem.dataset, 5)
            run.add(
                tracking.MODEL, lambda path: save_model(path, describe.to_model(result), example)
            )
        if result.members is not None and not self._is_over():  # else they may go on
            self._record_members(result.members, run)

    def _record_members(self, members: list[Result], run: tracking.Run) -> None:
        """Each member as a child run; kept on the disk where the store does not take them."""
        end = int(time.time() * 1000)
        records = [
            finished.record(
                *(member, member.problem.config, self.prepared.device),
                f"{self.command} {describe.of_member(member)}",
                describe.standing(member)[0],
                *(end - max(1, int(1000 * member.seconds)), end),
            )
            for member in members
        ]
        uri, root = store.store_uri(self.config.tracking.uri), Path(self.config.checkpoint.root)
        experiment = describe.experiment_name(self.config)
        if failure := bulk.write_or_keep(uri, experiment, records, run, root):
            self.console.line(f"warning: {failure}")
