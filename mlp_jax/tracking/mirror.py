"""From a run's directory to its store: what the store lacks is sent, each thing once.

What the store has is looked up first, and again after any failure; so this can be stopped anywhere
and done again, by this process or another one. The run is found by its own id, which is a tag, a
log point by its key and step, a file and a model by what they hold.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from mlp_jax.errors import RunError, reached
from mlp_jax.tracking.facts import Data
from mlp_jax.tracking.record import Record, digest, digests, model_digest
from mlp_jax.tracking.store import experiment_id

if TYPE_CHECKING:  # takes seconds to import
    import mlflow
    import mlflow.entities

T = TypeVar("T")

MAX_METRICS = 1000  # in one batch
MAX_PARAMS = 100  # in one batch, and as many tags
RUN_ID_TAG = "run.id"
"""The tag by which a run is found again: its own id, from before the store knew of it."""
_MODEL_TAG = "run.model_sha256"
_NOTE = "mlflow.note.content"  # what the pages show on top
_MOST_LOOKS = 3


def mirror(record: Record, client: "mlflow.MlflowClient") -> None:
    """Sends a run until a look at the store finds nothing missing; then only its names are left.

    Raises whatever the client does; then the same can be done again.
    """
    Mirror(record, client).complete()


class _Watched:
    """A client whose calls are counted, with a place before each where tests let it fail."""

    def __init__(self, client: "mlflow.MlflowClient", on_call: Callable[[], None]) -> None:
        self._client, self._on_call = client, on_call
        self.num_calls = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            reached("logging")
            answer = method(*args, **kwargs)
            self.num_calls += 1
            self._on_call()
            return answer

        return call


class _Stored:
    """What the store has of a run, as far as that was looked up, and what was sent since."""

    def __init__(self, run: "mlflow.entities.Run") -> None:
        self.run_id, self.experiment_id = run.info.run_id, run.info.experiment_id
        self.end = run.info.status, run.info.end_time
        self.params: dict[str, str] = dict(run.data.params)
        self.tags: dict[str, str] = dict(run.data.tags)
        inputs = run.inputs.dataset_inputs if run.inputs else []
        self.data = {(each.dataset.name, each.dataset.digest) for each in inputs}
        self.outputs = [o.model_id for o in run.outputs.model_outputs] if run.outputs else []
        self.keys = set(run.data.metrics)
        self.steps: dict[str, set[int]] = {}  # by key, of those that were read back
        self.num_points = 0  # of the history, that are there for certain
        self.files: dict[str, str] = {}  # their SHA-256
        self.model: str | None = None  # the SHA-256 of the one that is complete


class Mirror:
    """The mirror of a run that may still go on."""

    def __init__(
        self,
        record: Record,
        client: "mlflow.MlflowClient",
        on_call: Callable[[], None] = lambda: None,
    ) -> None:
        self.record = record
        self.client: Any = _Watched(client, on_call)
        self._stored: _Stored | None = None

    def update(self) -> int:
        """Sends what the store lacks; returns how many things that were.

        In this order: a run that is said to have ended has all the rest.
        """
        stored, self._stored = self._stored or self._look(), None  # it is in doubt if this fails
        facts, points = self.record.facts, list(self.record.history.points)  # more may come
        num_sent = (
            self._send_pairs(stored, "params", facts["params"], stored.params)
            + self._send_data(stored, facts["data"])
            + self._send_points(stored, points)
            + self._send_pairs(stored, "tags", facts["tags"], stored.tags)
            + self._send_files(stored, facts["files"])
            + self._send_model(stored, facts["model"])
            + self._send_status(stored, facts["status"], facts.get("end_time"))
        )
        self._stored = stored
        return num_sent

    def complete(self) -> None:
        """Sends what is left of a run that has ended, reads it all back, and strips the record."""
        self.update()
        for _ in range(_MOST_LOOKS):
            self._stored = None
            if not self.update():
                self.record.strip()
                return
        raise RunError(f"{self.record.directory}: the store does not keep what it is sent.")

    # --- what the store has

    def _look(self) -> _Stored:
        """Creates the run where it is not there."""
        found = self._find(self.record.facts["id"])
        for double in found[1:]:  # a request to create it that was given up may have arrived, too
            self.client.delete_run(double.info.run_id)
        stored = _Stored(found[0] if found else self._create())
        place = {"run_id": stored.run_id, "experiment_id": stored.experiment_id}
        if not place.items() <= self.record.facts.items():
            self.record.note(**place)
        if found:
            stored.files = self._files_in_store(stored.run_id)
            stored.model = self._model_in_store(stored)
        return stored

    def _find(self, id_: str) -> "Sequence[mlflow.entities.Run]":
        """The runs with this id of ours, first the one that was created first."""
        found: Sequence[mlflow.entities.Run] = self.client.search_runs(
            [experiment_id(self.client, self.record.facts["experiment"])],
            f"tags.`{RUN_ID_TAG}` = '{id_}'",
            order_by=["attributes.start_time", "attributes.run_id"],
        )
        return found

    def _create(self) -> "mlflow.entities.Run":
        facts = self.record.facts
        tags = {RUN_ID_TAG: facts["id"], **dict(islice(facts["tags"].items(), MAX_PARAMS - 2))}
        if facts["parent"] is not None:
            found = self._find(facts["parent"])
            if not found:
                raise RunError(f"{self.record.directory}: its parent is not in the store yet.")
            tags["mlflow.parentRunId"] = found[0].info.run_id
        home = experiment_id(self.client, facts["experiment"])
        run: mlflow.entities.Run = self.client.create_run(
            home, start_time=facts["start_time"], tags=tags, run_name=facts["name"]
        )
        return run

    def _files_in_store(self, run_id: str) -> dict[str, str]:
        """The SHA-256 of those of the run's files that the store has."""
        wanted = list(self.record.facts["files"])
        folders = {str(PurePosixPath(name).parent) for name in wanted}
        listed = {
            file.path
            for folder in folders
            for file in self.client.list_artifacts(run_id, None if folder == "." else folder)
        }
        with TemporaryDirectory() as place:
            return {
                name: digest(Path(self.client.download_artifacts(run_id, name, place)))
                for name in wanted
                if name in listed
            }

    def _model_in_store(self, stored: _Stored) -> str | None:
        """The SHA-256 of the run's model, if the store has it whole."""
        wanted = model_digest(self.record.facts["model"])
        model = self.record.model()
        logged = self._logged_model(stored) if model else None
        if not model or not logged or logged.tags.get(_MODEL_TAG) != wanted:
            return None
        if logged.status != "READY" or logged.model_id not in stored.outputs:
            return None
        from mlflow.artifacts import download_artifacts

        with _with_ids(model, stored.run_id, logged) as expected, TemporaryDirectory() as place:
            uri = logged.artifact_location
            found = download_artifacts(uri, dst_path=place, tracking_uri=self.client.tracking_uri)
            is_whole = digests(expected).items() <= digests(Path(found)).items()
            return wanted if is_whole else None

    def _logged_model(self, stored: _Stored) -> "mlflow.entities.LoggedModel | None":
        found: Sequence[mlflow.entities.LoggedModel] = self.client.search_logged_models(
            [stored.experiment_id],
            f"tags.`{RUN_ID_TAG}` = '{self.record.facts['id']}'",
            order_by=[{"field_name": "creation_timestamp"}],
        )
        return found[0] if found else None

    # --- what it lacks; each returns how many things it sent

    def _send_pairs(
        self, stored: _Stored, kind: str, wanted: Mapping[str, str], there: dict[str, str]
    ) -> int:
        """`params` stay as they were first, `tags` may change."""
        from mlflow import entities

        entity = {"params": entities.Param, "tags": entities.RunTag}[kind]
        missing = {
            name: value
            for name, value in wanted.items()
            if name not in there or (kind == "tags" and there[name] != value)
        }
        for part in _parts(missing.items(), MAX_PARAMS):
            self.client.log_batch(stored.run_id, **{kind: [entity(*pair) for pair in part]})
        there |= missing
        return len(missing)

    def _send_data(self, stored: _Stored, facts: Sequence[str] | None) -> int:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = Data(*facts) if facts else None
        if data is None or (data.name, data.digest) in stored.data:
            return 0
        entity = Dataset(data.name, data.digest, "local", data.source, data.schema, data.profile)
        tags = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(stored.run_id, [DatasetInput(entity, tags)])
        stored.data.add((data.name, data.digest))
        return 1

    def _send_points(self, stored: _Stored, points: Sequence[Any]) -> int:
        from mlflow.entities import Metric

        missing = [
            Metric(key, value, point.time, point.step)
            for point in points[stored.num_points :]
            for key, value in point.metrics.items()
            if point.step not in self._steps_in_store(stored, key)
        ]
        for part in _parts(missing, MAX_METRICS):
            self.client.log_batch(stored.run_id, metrics=part)
        for metric in missing:
            stored.steps[metric.key].add(metric.step)
        stored.num_points = len(points)
        return len(missing)

    def _steps_in_store(self, stored: _Stored, key: str) -> set[int]:
        if key not in stored.steps:
            is_there = key in stored.keys
            known = self.client.get_metric_history(stored.run_id, key) if is_there else []
            stored.steps[key] = {metric.step for metric in known}
        return stored.steps[key]

    def _send_files(self, stored: _Stored, files: Mapping[str, str]) -> int:
        missing = {name: sha for name, sha in files.items() if stored.files.get(name) != sha}
        for name, sha256 in missing.items():
            folder = PurePosixPath(name).parent.as_posix()
            path = str(self.record.file(name))
            self.client.log_artifact(stored.run_id, path, None if folder == "." else folder)
            stored.files[name] = sha256
        return len(missing)

    def _send_model(self, stored: _Stored, model: Mapping[str, str]) -> int:
        """One for each run: where it has another than before, that takes its place."""
        sha256 = model_digest(model)
        folder = None if stored.model == sha256 else self.record.model()
        if folder is None:
            return 0
        tags = {RUN_ID_TAG: self.record.facts["id"]}
        id_ = _put_model(self.client, stored, folder, self._logged_model(stored), tags)
        self.client.set_logged_model_tags(id_, {_MODEL_TAG: sha256})
        stored.model = sha256
        self.record.note(model_uri=f"models:/{id_}")
        return 1

    def _send_status(self, stored: _Stored, status: str, end_time: int | None) -> int:
        is_running = status == "RUNNING"
        if stored.end == (status, end_time) or (is_running and stored.end[0] == status):
            return 0
        if is_running:
            self.client.update_run(stored.run_id, status)
        else:
            self.client.set_terminated(stored.run_id, status, end_time)
        stored.end = status, end_time
        return 1


def add_model(client: "mlflow.MlflowClient", run_id: str, folder: Path) -> None:
    """Gives a run that the store has a model."""
    _put_model(client, _Stored(client.get_run(run_id)), folder, None, {})


def _put_model(
    client: Any,
    stored: _Stored,
    folder: Path,
    logged: "mlflow.entities.LoggedModel | None",
    tags: dict[str, str],
) -> str:
    """Gives a model its files, which were saved before it had an id; returns that."""
    from mlflow.entities import LoggedModelOutput

    of_run = client.get_run(stored.run_id).data
    if logged is None:
        note = {name: of_run.tags[name] for name in (_NOTE,) if name in of_run.tags}
        logged = client.create_logged_model(
            stored.experiment_id, "model", stored.run_id, tags | note, of_run.params, "mlp"
        )
    with _with_ids(folder, stored.run_id, logged) as files:
        client.log_model_artifacts(logged.model_id, str(files))
    client.log_batch(stored.run_id, _metrics_of_model(of_run, logged.model_id, sorted(stored.data)))
    client.finalize_logged_model(logged.model_id, "READY")
    if logged.model_id not in stored.outputs:
        client.log_outputs(stored.run_id, [LoggedModelOutput(logged.model_id, step=0)])
        stored.outputs.append(logged.model_id)
    return logged.model_id


def _metrics_of_model(of_run: Any, model_id: str, data: Sequence[tuple[str, str]]) -> list[Any]:
    """The numbers of a run that have no curve, as those of its model: the run keeps each once.

    They name the data, which the model's page has from nowhere else.
    """
    from mlflow.entities import Metric

    name, digest = data[0] if data else (None, None)
    return [
        Metric(
            *(metric.key, metric.value, metric.timestamp, metric.step),
            model_id=model_id,
            dataset_name=name,
            dataset_digest=digest,
        )
        for metric in of_run._metric_objs  # with their times, which the public names leave out
        if "/" not in metric.key and metric.key != "learning_rate"
    ]


@contextmanager
def _with_ids(folder: Path, run_id: str, model: "mlflow.entities.LoggedModel") -> Iterator[Path]:
    """A copy of a model's files that says which model of the store it is."""
    from mlflow.models import Model

    with TemporaryDirectory() as place:
        files = Path(shutil.copytree(folder, Path(place, "model")))
        saved = Model.load(files)
        saved.run_id, saved.artifact_path = run_id, model.artifact_location
        saved.model_id = saved.model_uuid = model.model_id
        saved.save(files / "MLmodel")
        yield files


def _parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while part := list(islice(left, size)):
        yield part
