"""A sweep in MLflow: a parent run, and a child run for each network, as it would be alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import yaml

from mlp_jax import (
    bulk,
    comparison,
    environment,
    overview,
    packaging,
    pyfunc,
    recorded,
    store,
    summary,
    tracking,
)
from mlp_jax.bulk import RunRecord
from mlp_jax.config import flat_values
from mlp_jax.course import Member
from mlp_jax.delivery import put_model_files
from mlp_jax.errors import NoResultError, RunError
from mlp_jax.fitting import LogPoint, divergence
from mlp_jax.jobs import Job, config_hash, differences
from mlp_jax.summary import Result

if TYPE_CHECKING:  # takes seconds to import
    import mlflow
    import mlflow.entities

_PARENT = "mlflow.parentRunId"
_IS_SWEEP = "sweep"
"""A tag that only the parents of sweeps have."""


class Trained(NamedTuple):
    """A network of a sweep after its training; `command` trains it alone, times are in ms."""

    job: Job
    member: Member
    device: jax.Device
    command: str
    start_time: int
    end_time: int

    @property
    def result(self) -> Result:
        member = self.member
        seconds = max(self.end_time - self.start_time, 1) / 1000
        return Result(member.problem, member.gradient, member.fitted, member.metrics, seconds)

    @property
    def error(self) -> NoResultError | None:
        if self.member.diverged_at is None:
            return None
        rate = self.job.config.optimizer.learning_rate
        return NoResultError(divergence(self.member.diverged_at, rate))


def record(trained: Trained, name: str) -> RunRecord:
    """All that `experiment.run` would have recorded of this training."""
    job, member, result, error = trained.job, trained.member, trained.result, trained.error
    problem, points = member.problem, member.fitted.history
    tags = summary.tags(problem, trained.device, trained.command)
    tags |= {"config_hash": config_hash(job.config)}
    if error is not None:
        tags |= {"error": f"DivergedError: {error}", "diverged_at": str(member.diverged_at)}
    else:
        tags |= {"params_sha256": summary.params_sha256(member.fitted.params)}
        points = [*points, LogPoint(points[-1].step, _last_metrics(result))]
    if member.halved_at is not None:
        tags["halved_at"] = str(member.halved_at)
    texts = {
        "config.yaml": recorded.to_record(problem.config, problem.log_every),
        "environment.yaml": environment.describe(trained.device, problem.dataset.digest),
    }
    return RunRecord(
        name=name,
        params=summary.parameters(problem),
        tags=tags,
        note=summary.note(problem, trained.device, trained.command),
        metrics=_curves(points),
        status="FINISHED" if error is None else "FAILED",
        start_time=trained.start_time,
        end_time=trained.end_time,
        texts={file: _yaml(values) for file, values in texts.items()},
        dataset=problem.dataset,
    )


def _last_metrics(result: Result) -> dict[str, float]:
    speed = result.fitted.history[-1].step / result.seconds
    return {**summary.final_metrics(result), "steps_per_second": speed}


def _curves(points: Sequence[LogPoint]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The steps and the values of each metric."""
    by_name: dict[str, tuple[list[int], list[float]]] = {}
    for point in points:
        for name, value in point.metrics.items():
            steps, values = by_name.setdefault(name, ([], []))
            steps.append(point.step)
            values.append(value)
    return {name: (np.array(s), np.array(v)) for name, (s, v) in by_name.items()}


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """The C library's where PyYAML has it: ten times as fast as `OmegaConf.to_yaml`."""


def _quoted_if_number(dumper: Any, text: str) -> Any:
    """OmegaConf reads `1e3` as a number, YAML as a text."""
    try:
        float(text)
    except ValueError:
        return dumper.represent_str(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _quoted_if_number)


def _yaml(values: Mapping[str, Any]) -> str:
    text = yaml.dump(
        values, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    )
    return store.redacted(str(text))


class Family:
    """The runs of a sweep in one experiment. A context: the parent ends as `tracking.Run` does.

    A parent that comes to its end is given what its children have in common.
    """

    def __init__(
        self, client: "mlflow.MlflowClient", experiment: str, jobs: Sequence[Job], command: str
    ) -> None:
        self.client, self.experiment, self.command = client, experiment, command
        names = ", ".join(differences(jobs))
        self.parent = tracking.start(
            client,
            experiment,
            f"sweep of {names or 'one'}",
            params=_in_common(jobs),
            note=f"```\n{command}\n```\n",
            tags={"command": command, _IS_SWEEP: names},
        )
        self._stops_early = jobs[0].config.early_stopping.patience is not None
        self._best: list[tuple[float, str, Result]] = []
        self._runs: dict[str, RunRecord] = {}
        """All children, by their ids."""
        self._best_first: str | None = None

    def __enter__(self) -> "Family":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.parent.__exit__(kind, error, traceback)
            return
        with self.parent:
            for _, run_id, result in self._best:
                self._attach(run_id, result)
            if any(each.metrics for each in self._runs.values()):
                self._best_first = self._log_overview()

    def _log_overview(self) -> str:
        """Returns the link to the list of the runs, best first."""
        records = list(self._runs.values())
        metric = comparison.kept(records[0].tags["objective"], self._stops_early)
        return overview.log(
            self.client, self.parent, records, list(self._runs), metric, self.command
        )

    def write(
        self, trained: Sequence[Trained], on_progress: Callable[[int], None] = lambda count: None
    ) -> list[str]:
        """The runs' ids. `on_progress` hears how many are written."""
        records = [record(each, _run_name(each)) for each in trained]
        parent_id = self._parent_id
        run_ids = bulk.write(self.client, self.experiment, records, parent_id, on_progress)
        self._runs |= zip(run_ids, records, strict=True)
        for each, run_id in zip(trained, run_ids, strict=True):
            if each.error is None and each.member.halved_at is None:
                self._keep_best(each, run_id)
        return run_ids

    def include(self, runs: Sequence["mlflow.entities.Run"]) -> None:
        """Compares runs of earlier sweeps with the children, as if they were some."""
        self._runs |= {run.info.run_id: overview.read(self.client, run) for run in runs}

    def _keep_best(self, trained: Trained, run_id: str) -> None:
        """Remembers a run if it is one of those whose figures and models are kept."""
        result, best = trained.result, trained.job.config.sweep.best
        loss = summary.search_loss(*summary.standing(result))
        self._best = sorted([*self._best, (loss, run_id, result)], key=lambda kept: kept[0])
        if best != "all":
            del self._best[best:]

    @property
    def _parent_id(self) -> str:
        if self.parent.run_id is None:
            raise RunError("the tracking store did not answer: the sweep's runs are not recorded.")
        return self.parent.run_id

    def _attach(self, run_id: str, result: Result) -> None:
        """The figures and the model of a child, as its config wants them."""
        config = result.problem.config
        if config.tracking.figures:
            for name, figure in summary.draw_figures(result):
                self.client.log_figure(run_id, figure, f"{name}.png")
        if config.tracking.model:
            self._attach_model(run_id, result)

    def _attach_model(self, run_id: str, result: Result) -> None:
        from mlflow.entities import LoggedModelOutput

        model = summary.to_model(result)
        example = pyfunc.raw_inputs(result.problem.dataset, 5)
        save = partial(pyfunc.save, model=model)
        experiment = self.client.get_run(run_id).info.experiment_id
        logged = self.client.create_logged_model(
            experiment, "model", source_run_id=run_id, model_type="mlp"
        )
        with TemporaryDirectory() as folder:
            path = Path(folder, "model")
            packaging.save_model(path, pyfunc.__name__, save, example, model.predict(example))
            put_model_files(self.client, run_id, logged, path)
        self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])

    def adopt(self, runs: Sequence["mlflow.entities.Run"], parent_id: str) -> None:
        """Takes over those children of a sweep that was interrupted, and removes what is left.

        Children that it left unfinished go, too: they are trained again.
        """
        for run in runs:
            if run.data.tags.get(_PARENT) == parent_id:
                self.client.set_tag(run.info.run_id, _PARENT, self._parent_id)
        unfinished = f"tags.`{_PARENT}` = '{parent_id}' and attributes.status = 'RUNNING'"
        experiment = self.client.get_run(self._parent_id).info.experiment_id
        for run in _search(self.client, experiment, unfinished):
            self.client.delete_run(run.info.run_id)
        self.client.delete_run(parent_id)

    def links(self) -> dict[str, object]:
        """Where to look at it."""
        command = store.ui_command(self.client.tracking_uri)
        facts: dict[str, object] = {"sweep": self.parent.name, "page": self.parent.url}
        if self._best_first is not None:
            facts["best first"] = self._best_first
        return facts | ({"open it with": command} if command else {})


def _run_name(trained: Trained) -> str:
    return trained.job.config.tracking.run_name or summary.run_name(trained.member.problem)


def _in_common(jobs: Sequence[Job]) -> dict[str, Any]:
    """The values that are the same in all configs."""
    flat = [flat_values(job.config) for job in jobs]
    return {
        path: value
        for path, value in flat[0].items()
        if not path.startswith(("sweep.", "population."))
        and all(values.get(path) == value for values in flat)
    }


def find_finished(
    client: "mlflow.MlflowClient", experiment: str, jobs: Sequence[Job]
) -> dict[int, "mlflow.entities.Run"]:
    """The FINISHED runs of an experiment that are what jobs ask for, by the job's index."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return {}
    runs = _search(client, found.experiment_id, "attributes.status = 'FINISHED'")
    by_hash = {run.data.tags.get("config_hash"): run for run in runs}
    hashes = {job.index: config_hash(job.config) for job in jobs}
    return {index: by_hash[name] for index, name in hashes.items() if name in by_hash}


def interrupted_parents(
    client: "mlflow.MlflowClient", runs: Sequence["mlflow.entities.Run"]
) -> list[str]:
    """The sweeps that some runs are children of and that did not come to their end."""
    ids = dict.fromkeys(run.data.tags[_PARENT] for run in runs if _PARENT in run.data.tags)
    parents = [client.get_run(parent_id) for parent_id in ids]
    return [
        parent.info.run_id
        for parent in parents
        if parent.info.status in ("KILLED", "FAILED") and _IS_SWEEP in parent.data.tags
    ]


def _search(
    client: "mlflow.MlflowClient", experiment_id: str, condition: str
) -> Iterator["mlflow.entities.Run"]:
    token = None
    while True:
        page = client.search_runs([experiment_id], condition, max_results=1000, page_token=token)
        yield from page
        if not (token := page.token):
            return
