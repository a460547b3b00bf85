"""A run that is being recorded: what it is given at its start, its log points, files and model.

Everything is written to the run's directory first; a thread mirrors that to the store. So the
store can be slow, fail or come back later, and the training does not notice.
"""

import math
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Union

from mlp_jax.errors import UserError, redacted
from mlp_jax.tracking.facts import RunRecord, begun, context_tags, not_finite_tag, tag_text
from mlp_jax.tracking.links import base_url, run_url, ui_command
from mlp_jax.tracking.live import Live, Patience
from mlp_jax.tracking.record import MODEL, Point, Record, read_facts
from mlp_jax.tracking.recovery import open_record, process_facts, sync_command
from mlp_jax.tracking.store import check

if TYPE_CHECKING:  # takes seconds to import
    import mlflow

_SERVER_PATIENCE = Patience(total=4.0, idle=3.0)
_FILE_PATIENCE = Patience(total=math.inf, idle=4.5)
_KILLED_PATIENCE = Patience(total=1.0, idle=1.0)

Store = Union["mlflow.MlflowClient", str, None]
"""A client that is open, or a URI as in `tracking.uri`."""

__all__ = ["MODEL", "Run", "begin", "has_begun", "resume"]


def _print_warning(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


class Run:
    """A run that is being recorded; nothing it does waits for the store or fails with it.

    A context manager: leaving it ends the run as FINISHED, FAILED after an exception, KILLED after
    Ctrl-C, and waits a few seconds for what is not yet delivered. If some is left, `is_delivered`
    says so, and it is delivered later.
    """

    def __init__(self, record: Record, live: Live, uri: str) -> None:
        self.directory = record.directory
        self.uri = uri
        self.is_delivered = False
        self._record = record
        self._live = live
        self._not_finite: set[str] = set()
        self._logged = {(key, p.step) for p in record.history.points for key in p.metrics}

    @property
    def id(self) -> str:
        """Its own id, known from the start; a tag of the run in the store."""
        return str(self._record.facts["id"])

    @property
    def name(self) -> str:
        return str(self._record.facts["name"])

    @property
    def run_id(self) -> str | None:
        """The store's id of the run; None as long as the store did not answer."""
        return self._record.facts.get("run_id")

    def wait_until_begun(self, seconds: float) -> str | None:
        """Its `run_id`, as soon as the store has given one."""
        self._live.wait_until_known(seconds)
        return self.run_id

    @property
    def experiment_id(self) -> str | None:
        return self._record.facts.get("experiment_id")

    @property
    def model_uri(self) -> str | None:
        """For `mlflow.pyfunc.load_model`, once the model is in the store."""
        return self._record.facts.get("model_uri")

    @property
    def url(self) -> str | None:
        """The run's page, in the UI that `ui_command` starts or on the tracking server."""
        if self.run_id is None or self.experiment_id is None:
            return None
        return run_url(base_url(self.uri), self.experiment_id, self.run_id)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records the values of one step; a key has one value at a step, the first.

        A number that is not finite would break the charts; a tag says which came first.
        """
        new = {}
        for key, value in metrics.items():
            if math.isfinite(value):
                if (key, step) not in self._logged:
                    new[key] = float(value)
            elif key not in self._not_finite:
                self._not_finite.add(key)
                self.tag(*not_finite_tag(key, value, step))
        if new:
            self._logged.update((key, step) for key in new)
            self._record.log(Point(int(step), int(time.time() * 1000), new))
            self._live.notice(len(new))

    def tag(self, name: str, value: str) -> None:
        self._record.tag(name, tag_text(value))
        self._live.notice()

    def add(self, file: str, content: str | bytes | Callable[[Path], object]) -> None:
        """Keeps a file: text, in which secrets are hidden, bytes, or what writes it to a path.

        `MODEL` is a directory, the run's model, which `model_uri` names then.
        """
        if isinstance(content, str):
            content = redacted(content).encode()
        write = content if callable(content) else lambda path: path.write_bytes(content)
        self._record.add(file, write)
        self._live.notice()

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
        self._record.end(status, int(time.time() * 1000))
        self.is_delivered = self._live.finish(patience)

    def wait(self) -> None:
        """After the run's end: until the call that was under way has ended, so that another
        process, or this one, can deliver what is left.
        """
        self._live.join()

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
    RUNNING again. `directory` is the run's own, new or without a run; None takes one below `root`,
    which is removed when all is delivered. Raises `UserError` where the store can never be used;
    one that cannot be reached now is only warned of.
    """
    uri, client = _uri_and_client(store)
    record = record._replace(id=record.id or uuid.uuid4().hex, start_time=int(time.time() * 1000))
    kept = _new_record(directory or root / record.id)
    process = process_facts(kept.directory)
    kept.note(
        **begun(record, {**context_tags(), **_process_tags(process)}),
        experiment=experiment,
        uri=redacted(uri),
        parent=parent.id if parent else None,
        is_temporary=directory is None,
        **process,
    )
    try:
        return _begin(uri, client, kept, warn)
    except UserError:
        kept.discard()
        raise


def resume(store: Store, directory: Path, *, warn: Callable[[str], None] = _print_warning) -> Run:
    """Goes on with the run of a directory: it is RUNNING again, and no value is written twice.

    Raises `BusyError` where its process is alive.
    """
    uri, client = _uri_and_client(store)
    if not read_facts(directory):
        raise UserError(f"{directory}: is not the directory of a run.")
    record = open_record(directory)
    record.mend()
    process = process_facts(directory)
    record.note(
        uri=redacted(uri),
        status="RUNNING",
        end_time=None,
        is_delivered=False,
        tags={**record.facts["tags"], **_process_tags(process)},
        **process,
    )
    return _begin(uri, client, record, warn)


def has_begun(directory: Path) -> bool:
    """Whether there is a run to `resume`. Raises `RunError` where that cannot be read."""
    return bool(read_facts(directory))


def _process_tags(process: Mapping[str, str]) -> dict[str, str]:
    return {f"run.{name}": value for name, value in process.items()}


def _uri_and_client(store: Store) -> tuple[str, "mlflow.MlflowClient | None"]:
    if store is None or isinstance(store, str):
        return check(store), None
    return store.tracking_uri, store


def _new_record(directory: Path) -> Record:
    if facts := read_facts(directory):
        raise UserError(f"{directory}: holds the run {facts.get('name')!r}; take another one.")
    try:
        return Record(directory)
    except OSError as error:
        raise UserError(f"{directory}: {error.strerror}; a run needs a directory here.") from None


def _begin(
    uri: str, client: "mlflow.MlflowClient | None", record: Record, warn: Callable[[str], None]
) -> Run:
    live = Live(uri, client, record, warn)
    live.begin()
    return Run(record, live, uri)
