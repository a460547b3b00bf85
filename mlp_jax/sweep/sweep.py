"""Many trainings: each group of jobs as one population, each job recorded as a run of its own."""

import math
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from mlp_jax import data
from mlp_jax.config.schema import Data, num_folds, with_values
from mlp_jax.core.gradcheck import insist_on
from mlp_jax.core.history import Progress
from mlp_jax.core.population import OnProgress
from mlp_jax.errors import RunError, UserError, reached
from mlp_jax.experiment import describe
from mlp_jax.experiment.console import Console, OnSweep, measured, number
from mlp_jax.experiment.describe import Result
from mlp_jax.experiment.repeats import interval_of
from mlp_jax.experiment.setup import numeric_settings
from mlp_jax.sweep import compare, groups, seeds
from mlp_jax.sweep import runs as in_store
from mlp_jax.sweep.candidates import Candidate, Candidates, ensemble_of
from mlp_jax.sweep.groups import spread_over_cores
from mlp_jax.sweep.jobs import Job, assignments, differences, own_overrides
from mlp_jax.sweep.runs import Row, Runs, Trained
from mlp_jax.tracking import recovery, search, store

if TYPE_CHECKING:  # these take seconds to import
    import mlflow
    import pandas as pd

_NUM_SHOWN = 5


class Outcome(NamedTuple):
    """What became of a job; `error` says why it has no value.

    `value` is that of the metric named `objective`; `run_id` is the run's in MLflow.
    """

    job: Job
    objective: str = ""
    value: float = math.nan
    error: Exception | None = None
    log: str = ""
    run_id: str | None = None
    is_earlier: bool = False
    """Whether an earlier sweep has trained it."""
    is_halved: bool = False
    """Whether successive halving ended it, so that its value is not that of the job alone."""
    interval: float = math.nan
    """Half of the 95 % interval of the value, which is a mean, of a job with several seeds."""
    best_seed: int | None = None
    """Of these the one whose network is kept."""

    @property
    def loss(self) -> float:
        """What a search minimises."""
        return describe.search_loss(self.objective, self.value)


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
        self._runs: dict[tuple[str, str], Runs] = {}
        self._stack = ExitStack()
        self._loaded: dict[str, data.Dataset] = {}
        self._candidates: dict[tuple[str, str], Candidates] = {}
        """For an ensemble, by their store and experiment."""
        self.num_not_begun = 0
        """The jobs for which there was no time."""
        self._budget: str | None = None
        self._trained_again: dict[int, Result] = {}
        """Of those that were trained by an earlier sweep first, by the numbers of their jobs."""

    def check(self, jobs: Sequence[Job]) -> None:
        """Raises `UserError`, which names the job, where one fits neither its data nor a device."""
        spread_over_cores()
        for job, *others in groups.by_structure(jobs):
            try:
                groups.check(job.config, self._load_data, 1 + len(others))
            except UserError as error:
                raise UserError(f"{error} (In the job {' '.join(job.overrides)}.)") from error

    def _load_data(self, config: Data) -> data.Dataset:
        """The data of a config; it remembers those that it has loaded last."""
        if repr(config) not in self._loaded:
            self._loaded = {repr(config): data.load(config)}
        return self._loaded[repr(config)]

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        with store.recording_errors():
            if error is None:
                with self._stack:
                    self._complete_best()
                    selected = self._select()
            else:
                self._stack.__exit__(kind, error, trace)
        if isinstance(error, KeyboardInterrupt):
            resume = in_store.resume_command(self.command)
            hint = f" Continue with: {resume}" if self._runs else ""
            raise KeyboardInterrupt(f"stopped.{hint}") from None
        if error is None:
            _show(self.outcomes, self.alone, self.console)
            for line in selected:
                self.console.facts({"ensemble": line})
            if self.num_not_begun:
                self.console.line(self._what_is_left())
            for each in self._runs.values():
                self.console.facts(each.links())

    def is_over(self) -> bool:
        """Whether the time of `budget` is up, so that no more jobs begin."""
        return self.console.is_over(self._budget)

    def _what_is_left(self) -> str:
        num_jobs = len(self.outcomes) + self.num_not_begun
        resume = f" Continue with: {in_store.resume_command(self.command)}" if self._runs else ""
        return (
            f"budget={self._budget}: the time was up; {self.num_not_begun:,} of {num_jobs:,} jobs "
            f"were not begun.{resume}"
        )

    def train(self, jobs: Sequence[Job], on_done: OnDone = lambda outcome: None) -> list[Outcome]:
        """Trains a batch; `on_done` hears of each job as soon as its group is done.

        A group that fails does not keep the others from being trained; none begins after the time
        of `budget`. Raises `UserError` or `RunError` where the runs cannot be recorded.
        """
        self._budget = jobs[0].config.budget
        tracked = [job for job in jobs if _is_tracked(job)]
        if any(job.config.sweep.resume for job in jobs if not _is_tracked(job)):
            raise UserError(
                "sweep.resume=true: nothing says what has finished with tracking=none; leave one "
                "of them out."
            )
        for uri in {job.config.tracking.uri for job in tracked}:
            store.check(uri)
        for key, of_store in _by_store(tracked).items():
            self._jobs.setdefault(key, []).extend(of_store)
        Thread(target=store.preload if tracked else _preload, daemon=True).start()
        spread_over_cores()
        with store.recording_errors(), self.console.sweep_progress(len(jobs)) as show:
            before = self._finished([job for job in tracked if job.config.sweep.resume])
            done = self._done(before, on_done)
            meter = _Meter(show, len(jobs), len(before))
            known = {outcome.job.index for outcome in before}
            left = [job for job in jobs if job.index not in known]
            if self.is_over() and not self.outcomes:
                raise UserError(
                    f"budget={self._budget}: the time was up before the first training began; give "
                    "it more time."
                )
            for key in _by_store(left):
                self._begin(key)
            for group in groups.by_structure(left):
                if self.is_over():
                    self.num_not_begun += len(group)
                    continue
                meter.say("compiling")
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
        self.console.line(_group_line(trained))
        meter.say("recording")
        run_ids = self._record([each for each in trained if each.result.gradient.passed])
        outcomes = [_outcome(each, run_ids.get(each.job.index)) for each in trained]
        for outcome, each in zip(outcomes, trained, strict=True):
            self._consider(outcome, each.result)
        return outcomes

    def _together(self, group: list[Job], on_progress: OnProgress) -> list[Trained]:
        start, first = _now(), group[0].config
        repeats, configs = seeds.count_of(first), [job.config for job in group]
        reached("compiling")

        def show(progress: Progress) -> None:
            reached("training together")
            num_done, num_jobs = progress.num_done // repeats, progress.num_networks // repeats
            on_progress(progress._replace(num_done=num_done, num_networks=num_jobs))

        with numeric_settings(first) as device:
            networks = groups.train(
                [network for config in configs for network in seeds.configs_of(config)],
                exact=first.population.exact,
                halvings=first.sweep.halvings,
                repeats=repeats,
                on_progress=show,
                load_data=self._load_data,
            )
        results = seeds.gathered(configs, networks)
        end = _now()
        steps = [max(int(result.fitted.history.steps[-1:].sum()), 1) for result in results]
        shares = [max(end - start, 1) * count / sum(steps) for count in steps]  # of the time, in ms
        return [
            Trained(
                job,
                result._replace(seconds=share / 1000),
                device,
                self.alone(own_overrides(job, describe.best_seed(result))),
                round(end - share),
                end,
            )
            for job, result, share in zip(group, results, shares, strict=True)
        ]

    def _complete_best(self) -> None:
        """Trains the best of an earlier sweep again where it had not come to their models.

        In their whole group, which gives the bits that they had.
        """
        for each in self._runs.values():
            lacking = each.lacking()
            of_job = {o.job.index: o.run_id for o in self.outcomes if o.run_id in each.run_ids}
            jobs = [outcome.job for outcome in self.outcomes if outcome.job.index in of_job]
            for group in groups.by_structure(jobs):
                if lacking.isdisjoint(of_job[job.index] for job in group):
                    continue
                self.console.line("trains the best again, whose models were not made before")
                for trained in self._together(group, lambda progress: None):
                    run_id = of_job[trained.job.index]
                    if run_id in lacking:
                        each.complete(run_id, trained.result)
                    if trained.job.config.sweep.ensemble:
                        self._trained_again[trained.job.index] = trained.result

    def _consider(self, outcome: Outcome, result: Result | None) -> None:
        """A run for the ensemble; one that diverged or was halved is only counted."""
        job = outcome.job
        if not job.config.sweep.ensemble:
            return
        candidates = self._candidates.setdefault(_place(job), Candidates())
        candidates.num_runs += 1
        if outcome.error is None and not outcome.is_halved and math.isfinite(outcome.loss):
            found = Candidate(job, outcome.run_id, outcome.objective, outcome.loss, result)
            candidates.add(found, self._load_data(job.config.data))

    def _select(self) -> list[str]:
        """The ensemble of each experiment's runs, as far as one is asked for; says what it is."""
        lines = []
        for place, candidates in self._candidates.items():
            found = self._with_results(candidates.comparable())
            if len(found) < 2:
                lines.append(
                    f"none, which takes two runs of the same data that came to their end; of "
                    f"{candidates.num_runs:,} there is {len(found)}"
                )
                continue
            ensemble = ensemble_of(found, found[0].job.config.sweep.ensemble)
            lines.append(ensemble.line(candidates.num_runs))
            if place in self._runs:
                self._runs[place].ensemble = ensemble
        return lines

    def _with_results(self, candidates: list[Candidate]) -> list[Candidate]:
        """Trains those of an earlier sweep again, whose parameters are nowhere."""
        results = self._trained_again
        lacking = [
            replace(each.job, config=with_values(each.job.config, {"sweep.halvings": 0}))
            for each in candidates
            if each.result is None and each.job.index not in results
        ]
        if lacking:
            self.console.line(
                f"trains {len(lacking):,} runs again, whose parameters the ensemble needs"
            )
        for group in groups.by_structure(lacking):
            for trained in self._together(group, lambda progress: None):
                results[trained.job.index] = trained.result
        completed = [
            each._replace(result=each.result or results[each.job.index]) for each in candidates
        ]
        return [each for each in completed if each.result and each.result.diverged_at is None]

    def _failed(self, group: list[Job], error: Exception) -> list[Outcome]:
        """Says so at once."""
        where = " ".join(group[0].overrides)
        self.console.line(f"{len(group):,} of the jobs failed, such as {where}: {error}")
        is_known = isinstance(error, (UserError, RunError))
        log = f"error: {error}\n" if is_known else "".join(traceback.format_exception(error))
        return [Outcome(job, error=error, log=log) for job in group]

    def _record(self, trained: list[Trained]) -> dict[int, str | None]:
        """Writes the runs, those of an experiment together, and returns their ids."""
        of_job = {each.job.index: each for each in trained}
        run_ids: dict[int, str | None] = {}
        for key, jobs in _by_store(each.job for each in trained).items():
            ids = self._begin(key).write([of_job[job.index] for job in jobs])
            run_ids |= zip((job.index for job in jobs), ids, strict=True)
        return run_ids

    def _begin(self, key: tuple[str, str], parent: Row | None = None) -> Runs:
        """The sweep's runs in an experiment, whose `parent` may be one that goes on."""
        if key not in self._runs:
            reached("beginning the parent")
            begun = Runs(*key, self._jobs[key], self.command, self.console.line, parent)
            self._runs[key] = self._stack.enter_context(begun)
        return self._runs[key]

    def _finished(self, jobs: list[Job]) -> list[Outcome]:
        """The jobs that have FINISHED in their experiments before."""
        outcomes: list[Outcome] = []
        for key, of_store in _by_store(jobs).items():
            uri, experiment = key
            client = store.open_store(uri)
            self._deliver_earlier(client, uri, Path(of_store[0].config.checkpoint.root))
            runs = search.runs(client, experiment)
            found = _on_the_same_data(in_store.find_finished(runs, of_store), of_store)
            rows = dict(zip(found.index, found.to_dict("records"), strict=True))
            earlier = [_before(job, rows[job.index]) for job in of_store
                       if job.index in rows]  # fmt: skip
            parent = in_store.find_parent(runs, found, self.command)
            if parent:
                in_store.remove_unfinished(client, runs, parent)
            for outcome in earlier:
                self._consider(outcome, None)
            has_more = len(earlier) < len(of_store) or key in self._candidates
            if parent or key in self._runs or has_more:
                losses = [outcome.loss for outcome in earlier]
                self._begin(key, parent).include(found.loc[[o.job.index for o in earlier]], losses)
            outcomes += earlier
        if jobs:
            self.console.line(f"{len(outcomes):,} of {len(jobs):,} jobs have FINISHED before")
        return outcomes

    def _deliver_earlier(self, client: "mlflow.MlflowClient", uri: str, root: Path) -> None:
        """What earlier sweeps left here, and whether they are gone."""
        for line in recovery.deliver(root, client):
            if line:
                self.console.line(line)


def _is_tracked(job: Job) -> bool:
    return job.config.tracking.name != "none"


def _by_store(jobs: Iterable[Job]) -> dict[tuple[str, str], list[Job]]:
    """Those that are tracked, by their store and experiment."""
    found: dict[tuple[str, str], list[Job]] = {}
    for job in filter(_is_tracked, jobs):
        found.setdefault(_place(job), []).append(job)
    return found


def _place(job: Job) -> tuple[str, str]:
    """The store and the experiment of a job; one that is not tracked has no store."""
    uri = store.store_uri(job.config.tracking.uri) if _is_tracked(job) else ""
    return uri, describe.experiment_name(job.config)


def _on_the_same_data(found: "pd.DataFrame", jobs: Sequence[Job]) -> "pd.DataFrame":
    """Without the runs whose files have changed since: a config has only a file's path."""
    files = {job.index: _files(job) for job in jobs}
    configs = {files[job.index]: job.config.data for job in jobs}
    digest = cache(lambda name: data.load(configs[name]).digest)
    same = [
        not files[i] or digest(files[i]) == was
        for i, was in zip(found.index, found["data"], strict=True)
    ]
    return found[same]


def _files(job: Job) -> str:
    """What a job reads from files, and how; empty where it makes its data."""
    reads = hasattr(job.config.data, "path") or hasattr(job.config.data, "root")
    return repr(job.config.data) if reads else ""


def _now() -> int:
    """In ms since 1970."""
    return time.time_ns() // 1_000_000


class _Meter:
    """How far a sweep is, over its groups."""

    def __init__(self, show: OnSweep, num_jobs: int, num_done: int) -> None:
        self._show, self._num_jobs, self._num_done = show, num_jobs, num_done
        self._steps = self._steps_of_group = 0
        self._best = self._best_now = math.nan
        """Of the groups that are done, and with the networks in training as they are now."""

    def say(self, doing: str) -> None:
        """What is done between the trainings."""
        self._show(self._num_done / self._num_jobs, self._num_done, doing, None)

    def update(self, progress: Progress) -> None:
        self._steps_of_group = progress.network_steps
        ways = self._num_done + progress.share * progress.num_networks
        better = max if progress.higher_is_better else min
        both = [best for best in (self._best, progress.best) if best == best]
        self._best_now = better(both, default=math.nan)
        self._show(
            ways / self._num_jobs,
            self._num_done + progress.num_done,
            f"best so far {number(self._best_now)}",
            self._steps + progress.network_steps,
        )

    def end_group(self, num_jobs: int) -> None:
        self._num_done += num_jobs
        self._best = self._best_now
        self._steps, self._steps_of_group = self._steps + self._steps_of_group, 0


def _preload() -> None:
    """Imports what the end of a sweep needs, while a compiler runs."""
    import pandas  # noqa: F401


# --- what became of the jobs -------------------------------------------------------------------


def _outcome(trained: Trained, run_id: str | None) -> Outcome:
    """Of a job that was trained, with its log."""
    result, gradient = trained.result, trained.result.gradient
    facts = describe.header(result.problem, trained.device)
    lines = [f"{name:8}  {value}" for name, value in facts.items()]
    lines.append(f"gradient  {describe.gradient_line(gradient)}")
    error: Exception | None = trained.error
    try:
        insist_on(gradient)
    except RunError as wrong:
        error = wrong
    if error is not None:
        lines.append(f"error: {error}")
        return Outcome(trained.job, error=error, log=_text(lines), run_id=run_id)
    lines += [f"{part:10}  {measured(values)}" for part, values in result.metrics.items()]
    if result.halved_at is not None:
        lines.append(f"ended by successive halving at step {result.halved_at:,}")
    if run_id is not None:
        lines.append(f"run       {run_id}")
    name, value = describe.standing(result)
    return Outcome(
        trained.job,
        name,
        value,
        None,
        _text(lines),
        run_id,
        is_halved=result.halved_at is not None,
        interval=describe.half_interval(result),
        best_seed=describe.best_seed(result),
    )


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


def _before(job: Job, run: Row) -> Outcome:
    """Of a job in an earlier sweep."""
    name = run["tags.objective"]
    kept = compare.kept(name, job.config.early_stopping.patience is not None)
    is_halved = isinstance(run.get("tags.halved_at"), str)
    value = run.get(f"metrics.{kept}", math.nan)
    best_seed = run.get("tags.best_seed")
    return Outcome(
        job,
        name,
        value,
        run_id=run["run_id"],
        is_earlier=True,
        is_halved=is_halved,
        interval=run.get(f"metrics.{interval_of(name)}", math.nan),
        best_seed=int(best_seed) if isinstance(best_seed, str) else None,
    )


def _group_line(trained: Sequence[Trained]) -> str:
    """A group in one line: its networks, the check of their gradients, how many diverged."""
    first = trained[0]
    network = describe.header(first.result.problem, first.device)["network"]
    config = first.job.config
    counts = {"folds": num_folds(config), "seeds": config.sweep.seeds}
    of_each = "".join(f"{count:,} {name} × " for name, count in counts.items() if count > 1)
    checks = [each.result.gradient for each in trained]
    worst = max(layer.autodiff_error for check in checks for layer in check.layers)
    num_wrong = sum(not check.passed for check in checks)
    proof = f"WRONG in {num_wrong:,} of them" if num_wrong else "proved"
    num_lost = sum(each.error is not None for each in trained)
    lost = f"; {num_lost:,} diverged" if num_lost else ""
    return (
        f"{len(trained):,} × {of_each}{network}; gradients {proof}, − jax.grad ≤ {worst:.1e}{lost}"
    )


def _show(
    outcomes: Sequence[Outcome], alone: Callable[[Sequence[str]], str], console: Console
) -> None:
    """The best jobs, the best settings over their seeds, and the command of the very best."""
    import pandas as pd

    keys = differences([each.job for each in outcomes])
    for objective in dict.fromkeys(each.objective for each in outcomes if each.error is None):
        rows = [_row(each, keys) for each in outcomes if each.objective == objective]
        runs = compare.best_first(pd.DataFrame(rows), objective)
        shown = [*keys, objective, *compare.intervals(runs, objective)]
        best = compare.run_table(runs, objective)[shown]
        for table in (best, compare.group_table(compare.groups(runs, objective), objective)):
            if table is best or (table["runs"] > 1).any():
                names = _short_names(keys) | {interval_of(objective): "± 95 %"}
                top = table[:_NUM_SHOWN].rename(columns=names)
                console.table([*map(str, top)], top.to_numpy().tolist())
        first: Outcome = runs["outcome"].iloc[0]
        console.facts({"best": alone(own_overrides(first.job, first.best_seed))})
    num_failed = sum(each.error is not None for each in outcomes)
    if num_failed:
        console.line(f"{num_failed:,} of {len(outcomes):,} jobs failed or diverged")


def _row(outcome: Outcome, keys: Sequence[str]) -> dict[str, Any]:
    """As runs are compared."""
    given = assignments(outcome.job)
    interval = f"metrics.{interval_of(outcome.objective)}"
    of_seeds = {} if math.isnan(outcome.interval) else {interval: outcome.interval}
    return {
        "outcome": outcome,
        "name": "",
        "run_id": outcome.run_id,
        "status": "HALVED" if outcome.is_halved else "FINISHED",
        f"metrics.{outcome.objective}": outcome.value,
        **of_seeds,
        **{f"params.{key}": given.get(key, "") for key in keys},
    }


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, where no other one has the same: a terminal is narrow."""
    ends = [key.rpartition(".")[2] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}
