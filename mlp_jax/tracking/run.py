"""A run in MLflow: what it is given at its start, its metrics as they come, its model.

Everything is written to the journal of the run's directory first; a thread delivers it. So the
store can be slow, fail or come back later, and the training does not notice.
"""

import math
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Union

from mlp_jax.errors import UserError, redacted
from mlp_jax.tracking.delivery import MAX_METRICS
from mlp_jax.tracking.facts import (
    Data,
    RunRecord,
    context_tags,
    flat_params,
    not_finite_tag,
    run_tags,
    tag_text,
)
from mlp_jax.tracking.journal import Entry, Journal, read_record
from mlp_jax.tracking.links import base_url, run_url, ui_command
from mlp_jax.tracking.recovery import process_facts, sync_command
from mlp_jax.tracking.sender import Patience, Sender
from mlp_jax.tracking.store import check

if TYPE_CHECKING:  # these take seconds to import
    import mlflow
    import mlflow.entities

MODEL = "model"
"""The file of a run that is a directory: its model, as MLflow reads it."""
_SERVER_PATIENCE = Patience(total=4.0, idle=3.0)
_FILE_PATIENCE = Patience(total=math.inf, idle=4.5)
_KILLED_PATIENCE = Patience(total=1.0, idle=1.0)

Store = Union["mlflow.MlflowClient", str, None]
"""A client that is open, or a URI as in `tracking.uri`."""


def _print_warning(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


class Run:
    """A run that is being recorded; nothing it does waits for the store or fails with it.

    A context manager: leaving it ends the run as FINISHED, FAILED after an exception, KILLED after
    Ctrl-C, and waits a few seconds for what is not yet delivered. If some is left, `is_delivered`
    says so, and it is delivered later.
    """

    def __init__(self, journal: Journal, sender: Sender, uri: str) -> None:
        self.directory = journal.directory
        self.uri = uri
        self.is_delivered = False
        self._journal = journal
        self._sender = sender
        self._num_folders = 0
        self._not_finite: set[str] = set()
        self._steps: dict[str, set[int]] = {}  # by key, of the points in the journal
        for entry in journal.entries:
            if entry.kind == "metrics":
                self._without_doubles(entry.body["points"])

    @property
    def id(self) -> str:
        """Its own id, known from the start; a tag of the run in the store."""
        return str(self._journal.record["id"])

    @property
    def name(self) -> str:
        return str(self._journal.record["name"])

    @property
    def run_id(self) -> str | None:
        """The store's id of the run; None as long as the store did not answer."""
        return self._journal.record.get("run_id")

    def wait_until_begun(self, seconds: float) -> str | None:
        """Its `run_id`, as soon as the store has given one."""
        self._sender.wait_until_begun(seconds)
        return self.run_id

    @property
    def experiment_id(self) -> str | None:
        return self._journal.record.get("experiment_id")

    @property
    def model_uri(self) -> str | None:
        """For `mlflow.pyfunc.load_model`, once the model is in the store."""
        return self._journal.record.get("model_uri")

    @property
    def url(self) -> str | None:
        """The run's page, in the UI that `ui_command` starts or on the tracking server."""
        if self.run_id is None or self.experiment_id is None:
            return None
        return run_url(base_url(self.uri), self.experiment_id, self.run_id)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records the points of one step; a key has one point at a step, the first.

        A number that is not finite would break the charts; a tag says which came first.
        """
        now = int(time.time() * 1000)
        points = []
        for name, value in metrics.items():
            if math.isfinite(value):
                points.append((name, float(value), now, int(step)))
            elif name not in self._not_finite:
                self._not_finite.add(name)
                self.tag(*not_finite_tag(name, value, step))
        points = self._without_doubles(points)
        for i in range(0, len(points), MAX_METRICS):
            self._record("metrics", {"points": points[i : i + MAX_METRICS]})

    def _without_doubles(self, points: list[Any]) -> list[Any]:
        new = []
        for point in points:
            steps = self._steps.setdefault(point[0], set())
            if point[3] not in steps:
                steps.add(point[3])
                new.append(point)
        return new

    def tag(self, name: str, value: str) -> None:
        self._record("tags", {name: tag_text(value)})

    def add(self, file: str, content: str | bytes | Callable[[Path], object]) -> None:
        """Keeps a file: text, in which secrets are hidden, bytes, or what writes it to a path.

        `MODEL` is a directory, the run's model, which `model_uri` names then.
        """
        folder = self._new_folder()
        path = self._journal.outbox / folder / file
        if not path.resolve().is_relative_to((self._journal.outbox / folder).resolve()):
            raise ValueError(f"{file}: is not below the run's artifacts")
        if file == MODEL:
            path = path.parent
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(redacted(content), encoding="utf-8")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
        if file == MODEL:
            self._record("model", {"folder": folder})
        else:
            self._record("artifact", {"folder": folder, "file": file})

    def _new_folder(self) -> str:
        self._num_folders += 1
        return f"{self._num_folders}-{uuid.uuid4().hex[:8]}"

    def _record(self, kind: str, body: dict[str, Any]) -> None:
        self._sender.put(self._journal.append(kind, body))

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        status = "FINISHED"
        patience = _FILE_PATIENCE if self.uri.startswith("sqlite:") else _SERVER_PATIENCE
        if isinstance(error, KeyboardInterrupt):
            status, patience = "KILLED", _KILLED_PATIENCE
        elif error is not None:
            status = "FAILED"
            self.tag("error", f"{type(error).__name__}: {error}")
        self._record("status", {"status": status, "end_time": int(time.time() * 1000)})
        self._journal.note(status=status)
        self.is_delivered = self._sender.finish(patience)

    def wait(self) -> None:
        """After the run's end: until the call that was under way has ended, so that another
        process, or this one, can deliver what is left.
        """
        self._sender.join()

    def where(self) -> dict[str, object]:
        """Where the run is now, as facts to print."""
        facts: dict[str, object] = {"run": self.name}
        if self.url is not None:
            facts["page"] = self.url
        if self.model_uri is not None:
            facts["model"] = self.model_uri
        if not self.is_delivered:
            facts["deliver it"] = sync_command(self.directory)
        elif command := ui_command(self.uri):
            facts["open it with"] = command
        return facts


def begin(
    store: Store,
    experiment: str,
    record: RunRecord,
    directory: Path | None = None,
    *,
    parent: Run | None = None,
    root: Path = Path("runs"),
    warn: Callable[[str], None] = _print_warning,
) -> Run:
    """Begins a run, of which `record` says what is known.

    With an `id` it is the run that the store has by this one: it goes on, keeps its params and is
    RUNNING again. `directory` is the run's own, new or without a run; None takes one below
    `root`, which is removed when all is delivered. Raises `UserError` where the store can never be
    used; one that cannot be reached now is only warned of.
    """
    uri, client = _uri_and_client(store)
    id_, now = record.id or uuid.uuid4().hex, int(time.time() * 1000)
    journal = _open_journal(directory or root / id_)
    process = process_facts(journal.directory)
    context = {**context_tags(), **{f"run.{name}": value for name, value in process.items()}}
    journal.note(
        id=id_,
        name=record.name,
        experiment=experiment,
        uri=redacted(uri),
        status="RUNNING",
        started=now,
        is_temporary=directory is None,
        **process,
    )
    tags = run_tags(record, context)
    body: dict[str, Any] = {
        "id": id_,
        "experiment": experiment,
        "name": record.name,
        "parent": parent.id if parent else None,
        "start_time": now,
        "tags": tags,
    }
    entries = [journal.append("run", body)]
    if record.id:
        entries.append(journal.append("tags", tags))
        entries.append(journal.append("status", {"status": "RUNNING"}))
    else:
        entries.append(journal.append("params", flat_params(record.params)))
    if record.data is not None:
        entries.append(journal.append("dataset", dataset_input(record.data).to_dictionary()))
    try:
        sender = Sender(uri, client, journal, warn, in_doubt=bool(record.id))
        return _begin(sender, journal, uri, entries)
    except UserError:
        journal.discard()
        raise


def resume(store: Store, directory: Path, *, warn: Callable[[str], None] = _print_warning) -> Run:
    """Goes on with the run of a directory: it is RUNNING again, and no point is written twice.

    Raises `BusyError` where its process is alive.
    """
    uri, client = _uri_and_client(store)
    if not read_record(directory):
        raise UserError(f"{directory}: is not the directory of a run.")
    journal = Journal(directory)
    process = process_facts(directory)
    entries = [
        *journal.pending(),
        journal.append("tags", {f"run.{name}": value for name, value in process.items()}),
        journal.append("status", {"status": "RUNNING"}),
    ]
    journal.note(uri=redacted(uri), status="RUNNING", **process)
    return _begin(Sender(uri, client, journal, warn, in_doubt=True), journal, uri, entries)


def has_begun(directory: Path) -> bool:
    """Whether there is a run to `resume`; else what a process that died left of one is removed."""
    with closing(Journal(directory)) as held:
        begun = "run_id" in held.record or bool(held.entries)
        if not begun:
            held.discard()
    return begun


def _uri_and_client(store: Store) -> tuple[str, "mlflow.MlflowClient | None"]:
    if store is None or isinstance(store, str):
        return check(store), None
    return store.tracking_uri, store


def _open_journal(directory: Path) -> Journal:
    if record := read_record(directory):
        raise UserError(f"{directory}: holds the run {record.get('name')!r}; take another one.")
    try:
        return Journal(directory)
    except OSError as error:
        raise UserError(f"{directory}: {error.strerror}; a run needs a directory here.") from None


def _begin(sender: Sender, journal: Journal, uri: str, entries: list[Entry]) -> Run:
    for entry in entries:
        sender.put(entry)
    sender.begin()
    return Run(journal, sender, uri)


def dataset_input(data: Data) -> "mlflow.entities.DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    entity = Dataset(data.name, data.digest, "local", data.source, data.schema, data.profile)
    return DatasetInput(entity, tags=[InputTag("mlflow.data.context", "training")])
