"""A run in MLflow: what it is given at its start, its metrics as they come, its model.

Everything is written to the journal of the run's directory first; a thread delivers it. So the
store can be slow, fail or come back later, and the training does not notice.
"""

import getpass
import json
import math
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Union

from omegaconf import OmegaConf

from mlp_jax.data import Dataset
from mlp_jax.errors import UserError, redacted
from mlp_jax.tracking.delivery import MAX_METRICS
from mlp_jax.tracking.journal import Entry, Journal, read_record
from mlp_jax.tracking.links import base_url, run_url, ui_command
from mlp_jax.tracking.recovery import process_facts, sync_command
from mlp_jax.tracking.sender import Patience, Sender
from mlp_jax.tracking.store import check

if TYPE_CHECKING:  # these take seconds to import
    import mlflow
    import mlflow.entities

_MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 5000
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

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
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
                self.set_tag(*not_finite_tag(name, value, step))
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

    def set_tag(self, name: str, value: str) -> None:
        self._record("tags", {name: redacted(value)[:_MAX_TAG_LENGTH]})

    def log_text(self, text: str, file: str) -> None:
        with self._outgoing(file) as path:
            path.write_text(text, encoding="utf-8")

    def log_dict(self, values: dict[str, Any], file: str) -> None:
        """As YAML or JSON, by the file's suffix."""
        is_json = file.endswith(".json")
        text = json.dumps(values, indent=2) if is_json else OmegaConf.to_yaml(values)
        self.log_text(redacted(text), file)

    def log_bytes(self, content: bytes, file: str) -> None:
        with self._outgoing(file) as path:
            path.write_bytes(content)

    @contextmanager
    def _outgoing(self, file: str) -> Iterator[Path]:
        """Where to put an artifact that goes out; each has a folder of its own."""
        folder = self._new_folder()
        path = self._journal.outbox / folder / file
        if not path.resolve().is_relative_to((self._journal.outbox / folder).resolve()):
            raise ValueError(f"{file}: is not below the run's artifacts")
        path.parent.mkdir(parents=True)
        yield path
        self._record("artifact", {"folder": folder, "file": file})

    def _new_folder(self) -> str:
        self._num_folders += 1
        return f"{self._num_folders}-{uuid.uuid4().hex[:8]}"

    def _record(self, kind: str, body: dict[str, Any]) -> None:
        self._sender.put(self._journal.append(kind, body))

    def log_model(self, save: Callable[[Path], None]) -> None:
        """Logs a model, which `model_uri` then names; `save` makes its directory for MLflow."""
        folder = self._new_folder()
        save(self._journal.outbox / folder)
        self._record("model", {"folder": folder})

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
            self.set_tag("error", f"{type(error).__name__}: {error}")
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


def start(
    store: Store,
    experiment: str,
    run_name: str,
    *,
    params: Mapping[str, Any],
    dataset: Dataset | None = None,
    note: str = "",
    tags: Mapping[str, str] | None = None,
    parent: Run | None = None,
    directory: Path | None = None,
    root: Path = Path("runs"),
    again: str | None = None,
    warn: Callable[[str], None] = _print_warning,
) -> Run:
    """Begins a run. `params` may be nested; `note` is Markdown for the top of the run's page.

    `again` is the id of a run that the store has and that has ended: it goes on, keeps its params
    and is RUNNING again. `directory` is the run's own, new or without a run; None takes one below
    `root`, which is removed when all is delivered. Raises `UserError` where the store can never be
    used; one that cannot be reached now is only warned of.
    """
    uri, client = _uri_and_client(store)
    id_, now = again or uuid.uuid4().hex, int(time.time() * 1000)
    journal = _open_journal(directory or root / id_)
    process = process_facts(journal.directory)
    context = {**context_tags(), **{f"run.{name}": value for name, value in process.items()}}
    journal.note(
        id=id_,
        name=run_name,
        experiment=experiment,
        uri=redacted(uri),
        status="RUNNING",
        started=now,
        is_temporary=directory is None,
        **process,
    )
    all_tags = run_tags(context, note, tags or {})
    body = {
        "id": id_,
        "experiment": experiment,
        "name": run_name,
        "parent": parent.id if parent else None,
        "start_time": now,
        "tags": all_tags,
    }
    entries = [journal.append("run", body)]
    if again:
        entries.append(journal.append("tags", all_tags))
        entries.append(journal.append("status", {"status": "RUNNING"}))
    else:
        entries.append(journal.append("params", flat_params(params)))
    if dataset is not None:
        entries.append(journal.append("dataset", dataset_input(dataset).to_dictionary()))
    try:
        sender = Sender(uri, client, journal, warn, in_doubt=again is not None)
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


def not_finite_tag(metric: str, value: float, step: int) -> tuple[str, str]:
    """What stands for the points of a metric that are no numbers a chart could show."""
    return f"not_finite.{metric}", f"{value} at step {step}"


def flat_params(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config as `{"optimizer.learning_rate": "0.1", …}`, written as in JSON.

    >>> flat_params({"model": {"hidden_sizes": [8], "loss": None}})
    {'model.hidden_sizes': '[8]', 'model.loss': 'null'}
    """
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flat_params(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[prefix + name] = redacted(text)[:_MAX_PARAM_LENGTH]
    return flat


def run_tags(context: Mapping[str, str], note: str, tags: Mapping[str, str]) -> dict[str, str]:
    """All tags of a run at its start, without secrets and cut to what a store takes."""
    all_tags = {**context, "mlflow.note.content": note, **tags}
    return {name: redacted(value)[:_MAX_TAG_LENGTH] for name, value in all_tags.items()}


def context_tags() -> dict[str, str]:
    """The tags that MLflow's fluent client sets, and `git.dirty`."""
    return {
        "mlflow.user": _user(),
        "mlflow.source.name": sys.argv[0],
        "mlflow.source.type": "LOCAL",
        **_git_tags(Path(__file__).parents[1]),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        return "unknown"


def _git_tags(directory: Path) -> dict[str, str]:
    """The commit of the checkout around `directory`, and whether a tracked file differs from it."""
    command = ["git", "-c", "core.fsmonitor=false"]  # which could be any command
    command += ["status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        status = subprocess.run(
            command,
            cwd=directory,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    commit = re.search("^# branch.oid ([0-9a-f]+)$", status, re.MULTILINE)
    if commit is None:
        return {}
    dirty = re.search("^[^#]", status, re.MULTILINE) is not None
    return {"mlflow.source.git.commit": commit[1], "git.dirty": str(dirty).lower()}


def dataset_input(dataset: Dataset) -> "mlflow.entities.DatasetInput":
    from mlflow.entities import Dataset as DatasetEntity
    from mlflow.entities import DatasetInput, InputTag

    parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    sizes = {name: len(part.x) for name, part in parts.items() if part is not None}
    columns = [{"name": c.name, "type": "string" if c.categories else "double", "required": True}
               for c in dataset.preprocessing.columns]  # fmt: skip
    entity = DatasetEntity(
        name=dataset.name,
        digest=dataset.digest,
        source_type="local",
        source=json.dumps({"uri": dataset.source}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps({"num_rows": sum(sizes.values()), **sizes}),
    )
    return DatasetInput(entity, tags=[InputTag("mlflow.data.context", "training")])
