"""From a run's journal to its store: every entry, in their order, once.

A call that failed, or a process that died in the middle of one, leaves in doubt whether the store
has it. In doubt, what is there is read back first: the run is searched by its own id, which is a
tag, and a point of a metric by its key and step.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlp_jax.errors import RunError, reached
from mlp_jax.tracking.journal import Entry, Journal
from mlp_jax.tracking.store import experiment_id

if TYPE_CHECKING:  # takes seconds to import
    import mlflow
    import mlflow.entities

MAX_METRICS = 1000  # in one batch
MAX_PARAMS = 100  # in one batch, and as many tags
RUN_ID_TAG = "run.id"
"""The tag by which a run is found again: its own id, from before the store knew of it."""


class Delivery:
    """Delivers the entries of one journal; `in_doubt`: some of them may be there already."""

    def __init__(self, client: "mlflow.MlflowClient", journal: Journal, *, in_doubt: bool) -> None:
        self.client = client
        self._journal = journal
        self._in_doubt = in_doubt
        self._stored_steps: dict[str, set[int]] = {}  # by key, of those that were read back
        self._kinds: dict[str, Callable[[dict[str, Any]], None]] = {
            "run": self._begin,
            "params": self._log_params,
            "dataset": self._log_dataset,
            "tags": self._log_tags,
            "artifact": self._log_artifact,
            "model": self._log_model,
            "status": self._set_status,
        }

    @property
    def _run_id(self) -> str:
        try:
            return str(self._journal.record["run_id"])
        except KeyError:
            raise RunError(
                f"{self._journal.directory}: the entry that begins the run is lost."
            ) from None

    def deliver(self, entries: Sequence[Entry]) -> None:
        """Delivers one entry, or several of metrics with at most `MAX_METRICS` points in all.

        Raises whatever the client does; then the same entries can be delivered again.
        """
        reached("logging")
        try:
            if entries[0].kind == "metrics":
                self._log_metrics([point for entry in entries for point in entry.body["points"]])
            else:
                self._kinds[entries[0].kind](entries[0].body)
        except BaseException:
            self._in_doubt = True
            self._stored_steps.clear()
            raise
        self._journal.acknowledge(entries[-1].number)

    def _begin(self, run: dict[str, Any]) -> None:
        found = self._find(run["experiment"], run["id"]) if self._in_doubt else []
        if found:
            info = found[0].info
        else:
            tags = dict(run["tags"])
            if run["parent"] is not None:
                tags["mlflow.parentRunId"] = self._parent(run)
            info = self.client.create_run(
                experiment_id(self.client, run["experiment"]),
                start_time=run["start_time"],
                tags={**tags, RUN_ID_TAG: run["id"]},
                run_name=run["name"],
            ).info
        self._journal.note(run_id=info.run_id, experiment_id=info.experiment_id)

    def _parent(self, run: dict[str, Any]) -> str:
        found = self._find(run["experiment"], run["parent"])
        if not found:
            raise RunError(f"{self._journal.directory}: its parent is not in the store yet.")
        return str(found[0].info.run_id)

    def _find(self, experiment: str, run_id: str) -> "Sequence[mlflow.entities.Run]":
        """The runs with this id of ours, first the one that was created first."""
        return self.client.search_runs(
            [experiment_id(self.client, experiment)],
            f"tags.`{RUN_ID_TAG}` = '{run_id}'",
            order_by=["attributes.start_time", "attributes.run_id"],
        )

    def _log_params(self, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        entries = [Param(name, value) for name, value in params.items()]
        for i in range(0, len(entries), MAX_PARAMS):
            self.client.log_batch(self._run_id, params=entries[i : i + MAX_PARAMS])

    def _log_dataset(self, dataset: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tags = [InputTag(key, value) for key, value in dataset["tags"].items()]
        self.client.log_inputs(self._run_id, [DatasetInput(Dataset(**dataset["dataset"]), tags)])

    def _log_metrics(self, points: Sequence[Sequence[Any]]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(*point) for point in points]
        if self._in_doubt:
            metrics = [m for m in metrics if m.step not in self._steps_in_store(m.key)]
        if metrics:
            self.client.log_batch(self._run_id, metrics=metrics)
        for metric in metrics:
            if metric.key in self._stored_steps:
                self._stored_steps[metric.key].add(metric.step)

    def _steps_in_store(self, key: str) -> set[int]:
        if key not in self._stored_steps:
            history = self.client.get_metric_history(self._run_id, key)
            self._stored_steps[key] = {metric.step for metric in history}
        return self._stored_steps[key]

    def _log_tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self._run_id, tags=[RunTag(*tag) for tag in tags.items()])

    def _log_artifact(self, artifact: dict[str, str]) -> None:
        folder = self._outgoing(artifact["folder"])
        file = (folder / artifact["file"]).resolve()
        parent = file.parent.relative_to(folder).as_posix()  # raises for a file elsewhere
        self.client.log_artifact(self._run_id, str(file), None if parent == "." else parent)

    def _log_model(self, body: dict[str, str]) -> None:
        """The files were saved before the store had given the model its id and place."""
        from mlflow.entities import LoggedModelOutput

        model = self._logged_model()
        put_model_files(self.client, self._run_id, model, self._outgoing(body["folder"]))
        if not (self._in_doubt and self._is_output(model.model_id)):
            self.client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, step=0)])
        self._journal.note(model_uri=f"models:/{model.model_id}")

    def _outgoing(self, folder: str) -> Path:
        """A folder of the outbox; raises `ValueError` for one that leads elsewhere."""
        outbox = self._journal.outbox.resolve()
        path = (outbox / folder).resolve()
        path.relative_to(outbox)
        if any(file.is_symlink() for file in path.rglob("*")):
            raise ValueError(f"{path}: holds a symbolic link")
        return path

    def _is_output(self, model_id: str) -> bool:
        outputs = self.client.get_run(self._run_id).outputs
        return outputs is not None and model_id in [o.model_id for o in outputs.model_outputs]

    def _logged_model(self) -> "mlflow.entities.LoggedModel":
        experiment = self._journal.record["experiment_id"]
        if self._in_doubt:
            found = self.client.search_logged_models(
                [experiment],
                f"tags.`{RUN_ID_TAG}` = '{self._journal.record['id']}'",
                order_by=[{"field_name": "creation_timestamp"}],
            )
            if found:
                return found[0]
        return self.client.create_logged_model(
            experiment,
            "model",
            source_run_id=self._run_id,
            tags={RUN_ID_TAG: self._journal.record["id"]},
            model_type="mlp",
        )

    def _set_status(self, status: dict[str, Any]) -> None:
        if status["status"] == "RUNNING":
            self.client.update_run(self._run_id, "RUNNING")
            return
        if self._in_doubt or self.client.tracking_uri.startswith("http"):
            self._drop_doubles()
        self.client.set_terminated(self._run_id, status["status"], status["end_time"])

    def _drop_doubles(self) -> None:
        """A request to create the run that was given up, or sent twice, may have arrived too."""
        for run in self._find(self._journal.record["experiment"], self._journal.record["id"]):
            if run.info.run_id != self._run_id:
                self.client.delete_run(run.info.run_id)


def put_model_files(
    client: "mlflow.MlflowClient",
    run_id: str,
    model: "mlflow.entities.LoggedModel",
    path: Path,
) -> None:
    """Gives a model that the store knows the files of MLflow's directory of it, its id in them.

    A kill leaves the files such that this can be done once more.
    """
    from mlflow.models import Model

    saved = Model.load(path)
    saved.run_id, saved.artifact_path = run_id, model.artifact_location
    saved.model_id = saved.model_uuid = model.model_id
    unfinished = path.with_name(f"{path.name}-MLmodel")
    saved.save(unfinished)
    unfinished.replace(path / "MLmodel")
    client.log_model_artifacts(model.model_id, str(path))
    client.finalize_logged_model(model.model_id, "READY")
