"""A run in its directory: trains, saves itself, is recorded, and can be continued."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import jax
from omegaconf import OmegaConf

from mlp_jax import data
from mlp_jax.config import saved as recorded
from mlp_jax.core.fit import (
    DivergedError,
    Fitted,
    LogPoint,
    Pause,
    Programs,
    evaluate_parts,
    fit,
    template,
)  # fmt: skip
from mlp_jax.core.gradcheck import GradientCheck
from mlp_jax.durable import rundir
from mlp_jax.durable.checkpoints import Checkpoint, Checkpoints
from mlp_jax.durable.saver import Saver
from mlp_jax.errors import RunError, UserError, reached
from mlp_jax.experiment import describe as summary
from mlp_jax.experiment import environment
from mlp_jax.experiment.console import Console
from mlp_jax.experiment.describe import Result
from mlp_jax.experiment.interrupt import Interrupt
from mlp_jax.experiment.model import save_model
from mlp_jax.experiment.setup import Problem
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking import store
from mlp_jax.tracking.facts import RunRecord
from mlp_jax.tracking.journal import BusyError


class Prepared(NamedTuple):
    """What a run needs that can be had before anything is written."""

    problem: Problem
    gradient: GradientCheck
    programs: Programs
    device: jax.Device


class Session:
    """One process's part of a run: from its beginning, or from its last checkpoint."""

    def __init__(
        self, prepared: Prepared, directory: Path, console: Console, interrupt: Interrupt
    ) -> None:
        config = prepared.problem.config
        self.prepared, self.problem = prepared, prepared.problem
        self.directory, self.console, self.interrupt = directory, console, interrupt
        uri = store.store_uri(config.tracking.uri) if self._is_tracked else None
        self.record = recorded.to_record(config, self.problem.log_every, uri)
        self.environment = environment.describe(prepared.device, self.problem.dataset.digest)
        self.checkpoints = Checkpoints(directory / rundir.CHECKPOINTS, config.checkpoint.keep)

    def start(self, command: str, tags: Mapping[str, str]) -> Result:
        """Begins the run."""
        rundir.write(self.directory, rundir.ENVIRONMENT, self.environment)
        rundir.write(self.directory, rundir.CONFIG, self.record)
        try:
            run = self._start_record(command, tags)
        except UserError:  # with which nothing is left on the disk
            rundir.remove(self.directory)
            raise
        return self._finish(run, None)

    def resume(self, command: str, tags: Mapping[str, str]) -> Result:
        """Goes on from the last checkpoint that is whole, or from the first step without one."""
        self._compare_environment()
        self.checkpoints.remove_unfinished()
        checkpoint = self.checkpoints.restore(template(self.problem), self.console.line)
        step = int(checkpoint.state.state.step) if checkpoint else 0
        self.console.line(f"resumed at step {step:,} of {self.problem.num_steps:,}")
        return self._finish(self._resume_record(command, tags), checkpoint)

    @property
    def _is_tracked(self) -> bool:
        return self.problem.config.tracking.name != "none"

    def _start_record(self, command: str, tags: Mapping[str, str]) -> tracking.Run | None:
        problem, device = self.problem, self.prepared.device
        if not self._is_tracked:
            return None
        record = RunRecord(
            problem.config.tracking.run_name or summary.run_name(problem),
            summary.parameters(problem),
            {**summary.tags(problem, device, command), **tags},
            summary.note(problem, device, command),
            data=summary.data_facts(problem.dataset),
        )
        uri, experiment = problem.config.tracking.uri, summary.experiment_name(problem.config)
        return tracking.begin(uri, experiment, record, self.directory, warn=self.console.line)

    def _resume_record(self, command: str, tags: Mapping[str, str]) -> tracking.Run | None:
        """None where the run is not tracked, or its record is damaged, which costs no training."""
        try:
            if not (self._is_tracked and tracking.has_begun(self.directory)):
                return self._start_record(command, tags)
            uri = self.problem.config.tracking.uri
            run = tracking.resume(uri, self.directory, warn=self.console.line)
        except BusyError:
            raise
        except RunError as error:
            self.console.line(f"warning: {error} The run goes on without being recorded.")
            return None
        if rundir.read(self.directory, rundir.CONFIG) != self.record:
            # Another training from here on, while the store keeps a run's parameters for good.
            length = "num_epochs" if self.problem.config.num_epochs else "num_steps"
            prolonged = f"{length}={getattr(self.problem.config, length)}"
            for name, value in {**tags, "prolonged": prolonged}.items():
                run.tag(name, value)
        return run

    def _compare_environment(self) -> None:
        then = rundir.read(self.directory, rundir.ENVIRONMENT)
        if then.get("data") != self.environment["data"]:
            raise UserError(
                f"{self.problem.dataset.source}: the data is not what the run was begun with "
                f"(digest {self.environment['data']}, then {then.get('data')})."
            )
        if changes := environment.differences(then, self.environment):
            self.console.line(f"not bit for bit as it was begun: {', '.join(changes)}")

    def _finish(self, run: tracking.Run | None, checkpoint: Checkpoint | None) -> Result:
        """Trains to the end and records what came of it."""
        with self._saver() as saver, nullcontext() if run is None else run:
            (self.directory / rundir.RESULT).unlink(missing_ok=True)  # of a run that is prolonged
            rundir.write(self.directory, rundir.CONFIG, self.record)
            if run is not None:
                run.add("config.yaml", OmegaConf.to_yaml(self.record))
                run.add("environment.yaml", OmegaConf.to_yaml(self.environment))
            first_step = int(checkpoint.state.state.step) if checkpoint else 0
            fitted, seconds = self._fit(run, saver, checkpoint)
            reached("ending")
            metrics = evaluate_parts(self.problem, fitted.params)
            result = Result(self.problem, self.prepared.gradient, fitted, metrics, seconds)
            summary.print_result(result, self.console)
            if run is not None:
                self._record(result, run, first_step)
        if saver.failure is not None:
            raise RunError(f"{saver.failure}.\n{rundir.how_to_resume(self.directory)}")
        rundir.write(self.directory, rundir.RESULT, summary.ending(result))
        if run is not None:
            self.console.facts(run.where())
        return result

    def _saver(self) -> Saver:
        when = self.problem.config.checkpoint
        return Saver(
            self.checkpoints,
            every_steps=when.every_epochs and when.every_epochs * self.problem.steps_per_epoch,
            every_seconds=when.every_minutes and when.every_minutes * 60,
            warn=self.console.line,
        )

    def _fit(
        self, run: tracking.Run | None, saver: Saver, checkpoint: Checkpoint | None
    ) -> tuple[Fitted, float]:
        """The trained network, and the seconds that the steps of this session took."""
        problem, history = self.problem, []
        with self.console.progress(problem.num_steps, problem.steps_per_epoch) as show:

            def on_log(point: LogPoint) -> None:
                show(point.step, point.metrics)
                if run is not None:
                    run.log(point.metrics, point.step)

            def on_pause(pause: Pause) -> None:
                reached("training")
                if pause.is_last or self.interrupt.requested:
                    saver.save(pause.step, pause.carry, pause.history)
                else:
                    saver.offer(pause.step, pause.carry, pause.history)
                self.interrupt.check()

            if checkpoint is not None:
                history = [LogPoint(*point) for point in checkpoint.history]
                for point in history:
                    on_log(point)
            start = time.perf_counter()
            try:
                fitted = fit(
                    problem,
                    self.prepared.programs,
                    checkpoint and checkpoint.state,
                    history,
                    on_log=on_log,
                    on_pause=on_pause,
                    pause_every=saver.every_steps,
                )
            except DivergedError as error:
                self._keep_last_finite(error, run, saver)
                raise
        return fitted, time.perf_counter() - start

    def _keep_last_finite(
        self, error: DivergedError, run: tracking.Run | None, saver: Saver
    ) -> None:
        last = error.last_finite
        saver.save(last.step, last.carry, last.history)
        self.console.line(f"finite until step {last.step:,}: {self.checkpoints.path(last.step)}")
        if run is not None:
            run.tag("diverged_at", str(error.step))

    def _record(self, result: Result, run: tracking.Run, first_step: int) -> None:
        """The final metrics and, as the config wants them, figures and the model."""
        config, fitted = self.problem.config, result.fitted
        last_step = fitted.history[-1].step
        metrics = summary.final_metrics(result)
        if last_step > first_step:
            metrics["steps_per_second"] = (last_step - first_step) / result.seconds
        run.log(metrics, last_step)
        run.tag("params_sha256", summary.params_sha256(fitted.params))
        self.interrupt.check()
        if config.tracking.figures:
            for file, picture in summary.pictures(result, self.console.line):
                run.add(file, picture)
                self.interrupt.check()
        if config.tracking.model:
            example = data.raw_inputs(self.problem.dataset, 5)
            run.add(
                tracking.MODEL, lambda path: save_model(path, summary.to_model(result), example)
            )
