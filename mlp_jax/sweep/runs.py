"""A sweep in MLflow: a parent run, and a child run for each network, as it would be alone."""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from mlp_jax import data
from mlp_jax.config.saved import config_hash
from mlp_jax.config.schema import flat_values
from mlp_jax.errors import NoResultError, RunError, reached
from mlp_jax.experiment import describe, finished, setup
from mlp_jax.experiment.describe import Result
from mlp_jax.experiment.model import save_model
from mlp_jax.sweep import compare, summary
from mlp_jax.sweep.candidates import Ensemble
from mlp_jax.sweep.jobs import Job, differences
from mlp_jax.tracking import bulk, links, store
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking.bulk import NotWrittenError
from mlp_jax.tracking.facts import RunRecord
from mlp_jax.tracking.mirror import add_model
from mlp_jax.tracking.store import UnreachableError

if TYPE_CHECKING:  # takes seconds to import
    import mlflow
    import pandas as pd

_PARENT = "tags.mlflow.parentRunId"
_IS_SWEEP = "sweep"
"""A tag that only the parents of sweeps have."""
_RESUME = " sweep.resume=true"
_BEGIN_SECONDS = 30.0
"""How long the first runs wait for a store that is slow to take their parent."""


Row = Mapping[Any, Any]
"""Of a data frame of runs: the run's values by their columns."""
OnLine = Callable[[str], None]


def resume_command(command: str) -> str:
    """The command that goes on with the sweep of another one, which may go on with one itself.

    >>> resume_command("train -m sweep.resume=true seed=1,2")
    'train -m seed=1,2 sweep.resume=true'
    """
    return command.replace(_RESUME, "") + _RESUME


class Trained(NamedTuple):
    """A job of a sweep after its training; `command` trains it alone, times are in ms."""

    job: Job
    result: Result
    device: jax.Device
    command: str
    start_time: int
    end_time: int

    @property
    def error(self) -> NoResultError | None:
        return finished.error_of(self.result)


def record(trained: Trained) -> RunRecord:
    """All that `experiment.run` would have recorded of this training."""
    config, problem = trained.job.config, trained.result.problem
    stops_early = config.early_stopping.patience is not None
    ranked_by = compare.kept(setup.objective(problem.config, problem.dataset), stops_early)
    return finished.record(
        *(trained.result, config, trained.device, trained.command),
        *(ranked_by, trained.start_time, trained.end_time),
    )


class _Best(NamedTuple):
    """A run among the best of a sweep; `result` is None in one of an earlier sweep."""

    loss: float
    run_id: str
    result: Result | None
    is_complete: bool
    """Whether it has its figures and its model."""


class Runs:
    """The runs of a sweep in one experiment. A context: the parent ends as `tracking.Run` does.

    A parent that comes to its end is given what its children have in common. Where the store does
    not take runs they are kept beside the parent's directory and delivered later; the parent then
    ends as FAILED. `parent` is the row of one that did not come to its end, which goes on.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        jobs: Sequence[Job],
        command: str,
        warn: OnLine,
        parent: Row | None = None,
    ) -> None:
        self.uri, self.experiment, self.command, self._warn = uri, experiment, command, warn
        self._root = Path(jobs[0].config.checkpoint.root)
        self._client: mlflow.MlflowClient | None = None
        names = ", ".join(differences(jobs))
        record = RunRecord(
            parent["name"] if parent else f"sweep of {names or 'one'}",
            _in_common(jobs),
            {"command": command, _IS_SWEEP: names},
            f"```\n{command}\n```\n",
            id=parent["tags.run.id"] if parent else "",
        )
        self.parent = tracking.begin(
            self._reach() or uri, experiment, record, root=self._root, warn=warn
        )
        self._stops_early = jobs[0].config.early_stopping.patience is not None
        self._num_best = jobs[0].config.sweep.best
        self._best: list[_Best] = []
        self._records: dict[str, RunRecord] = {}
        """Of all children that are in the store, by their ids."""
        self._num_kept = 0
        self._best_first: str | None = None
        self.ensemble: Ensemble | None = None
        """What was selected from the runs at the end, if it was asked for."""

    def _reach(self) -> "mlflow.MlflowClient | None":
        """A client; None while the store does not answer.

        Raises `UserError` where it never will.
        """
        if self._client is None:
            with suppress(UnreachableError):
                self._client = store.open_store(self.uri)
        return self._client

    @property
    def client(self) -> "mlflow.MlflowClient":
        """Raises `UnreachableError`."""
        return self._reach() or store.open_store(self.uri)

    def __enter__(self) -> "Runs":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None and self._num_kept:
            error = RunError(f"{self._num_kept:,} runs were not in the store at the sweep's end")
        if error is not None:
            self.parent.__exit__(type(error), error, traceback)
            return
        with self.parent:
            for best in self._best:
                if best.result is not None and not best.is_complete:
                    self._attach(best.run_id, best.result)
            if any(record.metrics for record in self._records.values()):
                reached("ending the parent")
                first = next(iter(self._records.values()))
                metric = compare.kept(first.tags["objective"], self._stops_early)
                self._best_first = summary.log(
                    *(self.client, self.parent, self._records, metric, self.command, self._warn),
                    self.ensemble,
                )
            if self.ensemble is not None:
                self._add_model(self.ensemble)

    def write(self, trained: Sequence[Trained]) -> list[str | None]:
        """The runs' ids; None for those that the store did not take."""
        records = [record(each) for each in trained]
        written = self._write(records)
        self._records |= zip(written, records, strict=False)
        for each, run_id in zip(trained, written, strict=False):
            if each.error is None and each.result.halved_at is None:
                loss = describe.search_loss(*describe.standing(each.result))
                self._keep_best(_Best(loss, run_id, each.result, False))
        kept = records[len(written) :]
        if kept:
            bulk.keep(self.uri, self.experiment, kept, self.parent.id, self._root)
            self._num_kept += len(kept)
        return [*written, *[None] * len(kept)]

    def _write(self, records: Sequence[RunRecord]) -> list[str]:
        """The ids of the runs that the store takes, the first ones; says why it takes no more."""

        def on_progress(num_written: int) -> None:  # anywhere but in a local file it takes a while
            if not self.uri.startswith("sqlite:") and num_written % -(-len(records) // 10) == 0:
                self._warn(f"recorded {num_written:,} of {len(records):,} runs")

        client, reason = self._reach(), "the tracking store does not answer"
        parent_id = self.parent.wait_until_begun(_BEGIN_SECONDS) if client else None
        written: list[str] = []
        if client and parent_id:
            try:
                return bulk.write(client, self.experiment, records, parent_id, on_progress)
            except NotWrittenError as error:
                written, reason = error.run_ids, str(error)
        self._warn(
            f"{reason}\n{len(records) - len(written):,} runs are kept in {self._root}; when the "
            f"store is back: python -m mlp_jax.sync\nand for their curves, figures and the best "
            f"model: {resume_command(self.command)}"
        )
        return written

    def include(self, runs: "pd.DataFrame", losses: Sequence[float]) -> None:
        """Compares runs of earlier sweeps, with these losses, as if they were children."""
        for run, loss in zip(runs.to_dict("records"), losses, strict=True):
            earlier = summary.read(self.client, run)
            self._records[run["run_id"]] = earlier
            if math.isfinite(loss) and "halved_at" not in earlier.tags:
                # A model is the last thing that one of the best is given.
                wants_model = earlier.params.get("tracking.model") == "true"
                is_complete = not wants_model or isinstance(run["model"], str)
                self._keep_best(_Best(loss, run["run_id"], None, is_complete))

    @property
    def run_ids(self) -> Set[str]:
        """Of the children that are in the store."""
        return self._records.keys()

    def _keep_best(self, new: _Best) -> None:
        """Remembers a run if it is one of those whose figures and models are kept."""
        self._best = sorted([*self._best, new], key=lambda best: best.loss)
        if self._num_best != "all":
            del self._best[self._num_best :]

    def lacking(self) -> set[str]:
        """The ids of the best runs whose model a sweep that was interrupted did not come to."""
        return {best.run_id for best in self._best if not best.result and not best.is_complete}

    def complete(self, run_id: str, result: Result) -> None:
        """Gives one of `lacking` the result of training it again."""
        self._best = [
            best._replace(result=result) if best.run_id == run_id else best for best in self._best
        ]

    def _attach(self, run_id: str, result: Result) -> None:
        """The figures and the model of a child, as its config wants them."""
        config, example = result.problem.config, data.raw_inputs(result.problem.dataset, 5)
        with TemporaryDirectory() as folder:
            if config.tracking.figures:
                for name, picture in describe.pictures(result, self._warn):
                    file = Path(folder, name)
                    file.write_bytes(picture)
                    self.client.log_artifact(run_id, str(file))
            if config.tracking.model:
                path = Path(folder, "model")
                save_model(path, describe.to_model(result), example)
                add_model(self.client, run_id, path)

    def _add_model(self, ensemble: Ensemble) -> None:
        """The ensemble as the parent's model, if the best run's config wants one."""
        assert ensemble.best.result is not None
        problem = ensemble.best.result.problem
        if problem.config.tracking.model:
            example = data.raw_inputs(problem.dataset, 5)
            self.parent.add(tracking.MODEL, lambda path: save_model(path, ensemble.model, example))

    def links(self) -> dict[str, object]:
        """Where to look at it."""
        command = links.ui_command(self.uri)
        facts: dict[str, object] = {"sweep": self.parent.name}
        if self.parent.url is not None:
            facts["page"] = self.parent.url
        if self.parent.model_uri is not None:
            facts["model"] = self.parent.model_uri
        if self._best_first is not None:
            facts["best first"] = self._best_first
        if not self.parent.is_delivered:
            return facts | {"deliver it": "python -m mlp_jax.sync"}
        return facts | ({"open it with": command} if command else {})


def _in_common(jobs: Sequence[Job]) -> dict[str, Any]:
    """The values that are the same in all configs."""
    flat = [flat_values(job.config) for job in jobs]
    return {
        path: value
        for path, value in flat[0].items()
        if not path.startswith(("sweep.", "population."))
        and all(values.get(path) == value for values in flat)
    }


# --- what earlier sweeps left ------------------------------------------------------------------


def find_finished(runs: "pd.DataFrame", jobs: Sequence[Job]) -> "pd.DataFrame":
    """The FINISHED ones that are what jobs ask for, each at its job's index."""
    import pandas as pd

    if "tags.config_hash" not in runs:
        return runs[:0]
    finished = runs[runs["status"] == "FINISHED"]
    if (tag := f"tags.{describe.OUT_OF_TIME}") in finished:  # of a run alone, which may go on
        finished = finished[finished[tag].fillna("") == ""]
    finished = finished.drop_duplicates("tags.config_hash", keep="last")
    finished = finished.set_index("tags.config_hash")
    hashes = pd.Series({job.index: config_hash(job.config) for job in jobs})
    hashes = hashes[hashes.isin(finished.index)]
    return finished.loc[hashes.tolist()].set_axis(hashes.index)


def find_parent(runs: "pd.DataFrame", finished: "pd.DataFrame", command: str) -> "Row | None":
    """The last sweep that did not come to its end and that has some of the finished runs.

    Or none yet, where the command was the same.
    """
    if f"tags.{_IS_SWEEP}" not in runs:
        return None
    ended = runs[runs[f"tags.{_IS_SWEEP}"].notna() & runs["status"].isin(["KILLED", "FAILED"])]
    same = ended["tags.command"].fillna("").map(resume_command) == resume_command(command)
    ended = ended[same | ended["run_id"].isin(finished.get(_PARENT, ()))]
    return None if ended.empty else ended.to_dict("records")[0]


def remove_unfinished(client: "mlflow.MlflowClient", runs: "pd.DataFrame", parent: Row) -> None:
    """Children that a sweep left in the middle of being written: they are trained again."""
    is_left = (runs.get(_PARENT) == parent["run_id"]) & (runs["status"] == "RUNNING")
    for run_id in runs["run_id"][is_left]:
        client.delete_run(run_id)
