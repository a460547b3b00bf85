"""Many trainings: each group of jobs as one population, each job recorded as a run of its own."""

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from mlp_jax import data
from mlp_jax.core import population
from mlp_jax.core.course import Progress
from mlp_jax.core.lockstep import OnProgress, spread_over_cores
from mlp_jax.errors import RunError, UserError, reached
from mlp_jax.experiment import describe as summary
from mlp_jax.experiment.console import Console, OnSweep, number
from mlp_jax.experiment.setup import numeric_settings
from mlp_jax.sweep import runs as family
from mlp_jax.sweep import standings
from mlp_jax.sweep.jobs import Job, groups, own_overrides
from mlp_jax.sweep.runs import Family, Trained
from mlp_jax.sweep.standings import Outcome
from mlp_jax.tracking import recovery, store

if TYPE_CHECKING:  # takes seconds to import
    import mlflow
    import mlflow.entities

OnDone = Callable[[Outcome], None]


class Sweep:
    """Trains jobs, in one batch or several. A context, whose end reports on all of them.

    `command` is the command line of the sweep, and `alone` makes that of a job by itself, of its
    overrides.
    """

    def __init__(
        self,
        command: str = "",
        alone: Callable[[Sequence[str]], str] = " ".join,
        console: Console | None = None,
    ) -> None:
        self.command, self.alone = command, alone
        self.console = console or Console()
        self.outcomes: list[Outcome] = []
        self._jobs: dict[tuple[str, str], list[Job]] = {}
        """Those that are tracked, by their store and experiment."""
        self._families: dict[tuple[str, str], Family] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        with store.recording_errors():
            if error is None:
                with self._stack:
                    self._complete_best()
            else:
                self._stack.__exit__(kind, error, trace)
        if isinstance(error, KeyboardInterrupt):
            resume = family.resume_command(self.command)
            hint = f" Continue with: {resume}" if self._families else ""
            raise KeyboardInterrupt(f"stopped.{hint}") from None
        if error is None:
            standings.show(self.outcomes, self.alone, self.console)
            for each in self._families.values():
                self.console.facts(each.links())

    def train(self, jobs: Sequence[Job], on_done: OnDone = lambda outcome: None) -> list[Outcome]:
        """Trains a batch; `on_done` hears of each job as soon as its group is done.

        A group that fails does not keep the others from being trained. Raises `UserError` or
        `RunError` where the runs cannot be recorded.
        """
        tracked = [job for job in jobs if _is_tracked(job)]
        if any(job.config.sweep.resume for job in jobs if not _is_tracked(job)):
            raise UserError(
                "sweep.resume=true: nothing says what has finished with tracking=none; leave one "
                "of them out."
            )
        for uri in {job.config.tracking.uri for job in tracked}:
            store.check(uri)
        for job in tracked:
            self._jobs.setdefault(_family_key(job), []).append(job)
        if tracked:
            Thread(target=store.preload, daemon=True).start()
        spread_over_cores()
        with store.recording_errors(), self.console.sweep_progress(len(jobs)) as show:
            before = self._finished([job for job in tracked if job.config.sweep.resume])
            done = self._done(before, on_done)
            meter = _Meter(show, len(jobs), len(before))
            known = {outcome.job.index for outcome in before}
            left = [job for job in jobs if job.index not in known]
            for job in filter(_is_tracked, left):
                self._family(_family_key(job))
            for group in groups(left):
                done += self._done(self._train_group(group, meter), on_done)
                meter.end_group(len(group))
        return done

    def _done(self, outcomes: list[Outcome], on_done: OnDone) -> list[Outcome]:
        self.outcomes += outcomes
        for outcome in outcomes:
            on_done(outcome)
        return outcomes

    def _train_group(self, group: list[Job], meter: "_Meter") -> list[Outcome]:
        """The group's jobs as one population, and their runs."""
        try:
            trained = self._together(group, meter.update)
        except Exception as error:
            return self._failed(group, error)
        self.console.line(standings.describe(trained))
        proved = [each for each in trained if each.member.gradient.passed]
        run_ids = self._record(proved)
        return [standings.outcome(each, run_ids.get(each.job.index)) for each in trained]

    def _together(self, group: list[Job], on_progress: OnProgress) -> list[Trained]:
        start, first = _now(), group[0].config
        reached("compiling")

        def show(progress: Progress) -> None:
            reached("training together")
            on_progress(progress)

        with numeric_settings(first) as device:
            members = population.train(
                [job.config for job in group],
                exact=first.population.exact,
                halvings=first.sweep.halvings,
                on_progress=show,
            )
        end = _now()
        return [
            Trained(job, member, device, self.alone(own_overrides(job)), start, end)
            for job, member in zip(group, members, strict=True)
        ]

    def _complete_best(self) -> None:
        """Trains the best of an earlier sweep again where it had not come to their models.

        In their whole group, which gives the bits that they had.
        """
        for each in self._families.values():
            lacking = each.lacking()
            of_job = {o.job.index: o.run_id for o in self.outcomes if o.run_id in each.run_ids}
            jobs = [outcome.job for outcome in self.outcomes if outcome.job.index in of_job]
            for group in groups(jobs):
                if lacking.isdisjoint(of_job[job.index] for job in group):
                    continue
                self.console.line("trains the best again, whose models were not made before")
                for trained in self._together(group, lambda progress: None):
                    run_id = of_job[trained.job.index]
                    if run_id in lacking:
                        each.complete(run_id, trained)

    def _failed(self, group: list[Job], error: Exception) -> list[Outcome]:
        """Says so at once."""
        where = " ".join(group[0].overrides)
        self.console.line(f"{len(group):,} of the jobs failed, such as {where}: {error}")
        is_known = isinstance(error, (UserError, RunError))
        log = f"error: {error}\n" if is_known else "".join(traceback.format_exception(error))
        return [Outcome(job, error=error, log=log) for job in group]

    def _record(self, trained: list[Trained]) -> dict[int, str | None]:
        """Writes the runs, those of an experiment together, and returns their ids."""
        by_family: dict[tuple[str, str], list[Trained]] = {}
        for each in trained:
            if _is_tracked(each.job):
                by_family.setdefault(_family_key(each.job), []).append(each)
        run_ids: dict[int, str | None] = {}
        for key, members in by_family.items():
            ids = self._family(key).write(members, self._progress_of_writing(len(members), key[0]))
            run_ids |= zip((each.job.index for each in members), ids, strict=True)
        return run_ids

    def _progress_of_writing(self, num_runs: int, uri: str) -> Callable[[int], None]:
        """Says each tenth where a run takes a while: anywhere but in a local file."""

        def on_progress(num_written: int) -> None:
            if not uri.startswith("sqlite:") and num_written % -(-num_runs // 10) == 0:
                self.console.line(f"recorded {num_written:,} of {num_runs:,} runs")

        return on_progress

    def _family(self, key: tuple[str, str]) -> Family:
        """The runs of an experiment."""
        if key not in self._families:
            reached("beginning the parent")
            started = Family(*key, self._jobs[key], self.command, self.console.line)
            self._families[key] = self._stack.enter_context(started)
        return self._families[key]

    def _finished(self, jobs: list[Job]) -> list[Outcome]:
        """The jobs that have FINISHED in their experiments before."""
        by_family: dict[tuple[str, str], list[Job]] = {}
        for job in jobs:
            by_family.setdefault(_family_key(job), []).append(job)
        outcomes: list[Outcome] = []
        for key, of_family in by_family.items():
            client = store.open_store(key[0])
            self._deliver_earlier(client, key[0], Path(of_family[0].config.checkpoint.root))
            found = _on_the_same_data(family.find_finished(client, key[1], of_family), of_family)
            runs = list(found.values())
            interrupted = family.interrupted_parents(client, key[1], runs, self.command)
            earlier = [
                standings.before(job, found[job.index]) for job in of_family if job.index in found
            ]
            if interrupted or len(runs) < len(of_family):
                losses = [outcome.loss for outcome in earlier]
                self._family(key).include(runs, losses)
            for parent_id in interrupted:
                self._family(key).adopt(runs, parent_id)
            outcomes += earlier
        if jobs:
            self.console.line(f"{len(outcomes):,} of {len(jobs):,} jobs have FINISHED before")
        return outcomes

    def _deliver_earlier(self, client: "mlflow.MlflowClient", uri: str, root: Path) -> None:
        """What earlier sweeps left here, and whether they are gone."""
        for line in recovery.recover_all(root, client, uri):
            if line:
                self.console.line(line)
        for line in recovery.repair_store(client, own_run_id=""):
            self.console.line(line)


def _is_tracked(job: Job) -> bool:
    return job.config.tracking.name != "none"


def _on_the_same_data(
    found: dict[int, "mlflow.entities.Run"], jobs: Sequence[Job]
) -> dict[int, "mlflow.entities.Run"]:
    """Without the runs whose files have changed since: a config has only a file's path."""
    files = {job.index: _files(job) for job in jobs}
    configs = {files[job.index]: job.config.data for job in jobs}
    digest = cache(lambda name: data.load(configs[name]).digest)
    return {
        index: run
        for index, run in found.items()
        if not files[index] or digest(files[index]) == _digest(run)
    }


def _digest(run: "mlflow.entities.Run") -> str | None:
    """Of the data that a run was trained on."""
    return run.inputs.dataset_inputs[0].dataset.digest if run.inputs else None


def _files(job: Job) -> str:
    """What a job reads from files, and how; empty where it makes its data."""
    reads = hasattr(job.config.data, "path") or hasattr(job.config.data, "root")
    return repr(job.config.data) if reads else ""


def _family_key(job: Job) -> tuple[str, str]:
    """The store and the experiment."""
    return store.store_uri(job.config.tracking.uri), summary.experiment_name(job.config)


def _now() -> int:
    """In ms since 1970."""
    return time.time_ns() // 1_000_000


class _Meter:
    """How far a sweep is, over its groups."""

    def __init__(self, show: OnSweep, num_jobs: int, num_done: int) -> None:
        self._show, self._num_jobs, self._num_done = show, num_jobs, num_done
        self._steps = self._steps_of_group = 0

    def update(self, progress: Progress) -> None:
        self._steps_of_group = progress.network_steps
        ways = self._num_done + progress.share * progress.num_networks
        self._show(
            ways / self._num_jobs,
            self._num_done + progress.num_done,
            self._steps + progress.network_steps,
            f"best {number(progress.best)}",
        )

    def end_group(self, num_jobs: int) -> None:
        self._num_done += num_jobs
        self._steps, self._steps_of_group = self._steps + self._steps_of_group, 0
