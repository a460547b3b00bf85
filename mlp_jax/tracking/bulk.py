"""Many finished runs written at once: a few hundred in a transaction, or through the client.

Where the store fails, they are kept in directories as other runs, and delivered later.

Through the client a run costs tens of milliseconds. Into an SQLite store whose schema is known
here, the rows are inserted directly, with every column that MLflow's own store fills. MLflow does
not promise that schema: a test reads such runs back through the client and compares them with
runs that the client wrote.
"""

import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlp_jax.errors import RunError, UserError, reached, redacted
from mlp_jax.tracking import facts, search, store
from mlp_jax.tracking.facts import RunRecord
from mlp_jax.tracking.mirror import Mirror
from mlp_jax.tracking.record import Point, Record
from mlp_jax.tracking.run import Run

if TYPE_CHECKING:  # takes seconds to import
    import mlflow.entities

_CHUNK = 200  # runs whose rows are in memory at once, and in one transaction
_LOCKED_SECONDS = 20.0
_PARENT_SECONDS = 30.0  # how long children wait for a store that is slow to take their parent
_STATISTICS = 400  # rows of each table that SQLite looks at to plan its queries


class NotWrittenError(RunError):
    """The store failed; `run_ids` are those of the runs that it has, the first ones."""

    def __init__(self, message: str, run_ids: list[str]) -> None:
        super().__init__(message)
        self.run_ids = run_ids


def write(
    client: "mlflow.MlflowClient",
    experiment: str,
    records: Sequence[RunRecord],
    parent_run_id: str | None = None,
    on_progress: Callable[[int], None] = lambda num_written: None,
) -> list[str]:
    """Writes runs as `tracking.begin` and `Run` do, as children of a parent, and returns their ids.

    A kill at any time leaves the first ones, each of them complete; where the store is no SQLite
    file, one more may still be RUNNING. Raises `NotWrittenError`.
    """
    from mlflow.utils.uri import is_local_uri

    reached("writing the runs")
    run_ids: list[str] = []
    try:
        with store.recording_errors():
            home = client.get_experiment(store.experiment_id(client, experiment))
            context = facts.context_tags()
            if parent_run_id is not None:
                context["mlflow.parentRunId"] = parent_run_id
            file = store.known_database(client.tracking_uri)
            if file is not None and is_local_uri(home.artifact_location):
                written = _insert(file, home, records, context)
            else:
                written = ([_send(client, experiment, each, context)] for each in records)
            for ids in written:
                run_ids += ids
                on_progress(len(run_ids))
    except RunError as error:
        raise NotWrittenError(str(error), run_ids) from error
    return run_ids


def write_or_keep(
    uri: str, experiment: str, records: Sequence[RunRecord], parent: Run, root: Path
) -> str | None:
    """Writes runs as children, or keeps below `root` those that the store does not take.

    Those that it has, from a process that was killed meanwhile, are left out; runs are the same
    where their tag `config_hash` is. Returns why they are kept, if they are.
    """
    parent_id = parent.wait_until_begun(_PARENT_SECONDS)
    num_written, reason = 0, "the tracking store does not answer"
    if parent_id is not None:
        try:
            client = store.open_store(uri)
            records = _unwritten(client, experiment, records, parent_id)
            write(client, experiment, records, parent_id)
            return None
        except NotWrittenError as error:
            num_written, reason = len(error.run_ids), str(error)
        except (RunError, UserError) as error:
            reason = str(error)
    keep(uri, experiment, records[num_written:], parent.id, root)
    num_kept = len(records) - num_written
    return f"{reason}\n{num_kept:,} runs are kept in {root}; later: python -m mlp_jax.sync"


def _unwritten(
    client: "mlflow.MlflowClient", experiment: str, records: Sequence[RunRecord], parent_id: str
) -> Sequence[RunRecord]:
    """Those that are no children yet; a child that did not come to its end is removed."""
    where = f"tags.`mlflow.parentRunId` = '{parent_id}'"
    children = search.runs(client, experiment, where)
    if children.empty:
        return records
    is_left = children["status"] == "RUNNING"
    with store.recording_errors():
        for run_id in children["run_id"][is_left]:
            client.delete_run(run_id)
    present = set(children["tags.config_hash"][~is_left])
    return [record for record in records if record.tags["config_hash"] not in present]


def keep(
    uri: str, experiment: str, records: Sequence[RunRecord], parent_id: str, root: Path
) -> None:
    """Puts runs below `root`, in directories that are delivered when the store is back.

    `parent_id` is the parent's own id, which is below `root` too or in the store.
    """
    context = facts.context_tags()
    places = {"uri": redacted(uri), "experiment": experiment, "parent": parent_id}
    root.mkdir(parents=True, exist_ok=True)
    for record in records:
        with TemporaryDirectory(dir=root, prefix=".") as folder:  # which is no run's
            kept = _keep(Path(folder, "run"), record, context, is_temporary=True, **places)
            kept.close()
            kept.directory.rename(root / kept.facts["id"])


def _keep(directory: Path, record: RunRecord, context: Mapping[str, str], **places: Any) -> Record:
    flat = _flat(record, context)
    kept = Record(directory)
    by_step: dict[tuple[int, int], dict[str, float]] = {}
    for key, points in flat.points.items():
        for time_, step, value in points:
            by_step.setdefault((step, time_), {})[key] = value
    for (step, time_), metrics in by_step.items():
        kept.log(Point(step, time_, metrics))
    for file, text in record.texts.items():
        kept.add(file, partial(_write_text, text))
    kept.history.secure()
    begun = facts.begun(record._replace(id=record.id or uuid.uuid4().hex), context)
    ended = {"end_time": record.end_time, "tags": flat.tags, "history": kept.history.length}
    kept.note(**begun | ended, **places)  # last: what has no `run.json` is no run
    return kept


def _write_text(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


class _Flat(NamedTuple):
    """What a store keeps of a record; `points` are (time, step, value) of each metric."""

    tags: dict[str, str]
    params: dict[str, str]
    points: dict[str, list[tuple[int, int, float]]]


def _flat(record: RunRecord, context: Mapping[str, str]) -> _Flat:
    """A point's time lies between the run's start and its end as its step lies among the steps."""
    tags = facts.run_tags(record, context)
    last_step = max((steps[-1] for steps, _ in record.metrics.values() if len(steps)), default=0)
    duration = record.end_time - record.start_time
    points = {}
    for name, (steps, values) in record.metrics.items():
        if (np.diff(steps) <= 0).any():
            raise ValueError(f"{record.name}: the steps of {name} do not increase")
        is_finite = np.isfinite(values)
        if not is_finite.all():
            first = int(np.argmin(is_finite))
            tag, text = facts.not_finite_tag(name, float(values[first]), int(steps[first]))
            tags.setdefault(tag, text)
            steps, values = steps[is_finite], values[is_finite]
        times = record.start_time + duration * steps // max(last_step, 1)
        if len(steps):
            points[name] = list(zip(times.tolist(), steps.tolist(), values.tolist(), strict=True))
    return _Flat(tags, facts.flat_params(record.params), points)


def _send(
    client: "mlflow.MlflowClient", experiment: str, record: RunRecord, context: Mapping[str, str]
) -> str:
    """Writes a run through the client."""
    with (
        TemporaryDirectory() as folder,
        closing(_keep(Path(folder), record, context, experiment=experiment, parent=None)) as kept,
    ):
        try:
            Mirror(kept, client).update()
        except BaseException:
            with suppress(Exception):  # the store may be gone, which the first error says
                client.set_terminated(kept.facts["run_id"], "FAILED")  # it must not stay RUNNING
            raise
        return str(kept.facts["run_id"])


# --- into a database ---------------------------------------------------------------------------

_COLUMNS = {
    "runs": "run_uuid name experiment_id artifact_uri source_type source_name source_version "
    "entry_point_name user_id status start_time end_time lifecycle_stage",
    "tags": "run_uuid key value",
    "params": "run_uuid key value",
    "metrics": "run_uuid key timestamp step value is_nan",
    "latest_metrics": "run_uuid key timestamp step value is_nan",
    "inputs": "input_uuid source_type source_id destination_type destination_id",
    "input_tags": "input_uuid name value",
    "datasets": "dataset_uuid experiment_id name digest dataset_source_type dataset_source "
    "dataset_schema dataset_profile",
}
_Rows = dict[str, list[tuple[Any, ...]]]
"""By their table, their values in the order of `_COLUMNS`."""


def _insert(
    file: Path,
    home: "mlflow.entities.Experiment",
    records: Sequence[RunRecord],
    context: Mapping[str, str],
) -> Iterator[list[str]]:
    """Writes the artifacts of a chunk, which nothing refers to yet, and then all of its rows.

    The database is locked only while these are inserted, so that others come in between.
    """
    from mlflow.utils.file_utils import local_file_uri_to_path

    # Sorted, so that the tables' indices grow at their ends, which is faster.
    run_ids = sorted(uuid.uuid4().hex for _ in records)
    root = Path(local_file_uri_to_path(home.artifact_location))
    with closing(sqlite3.connect(file, _LOCKED_SECONDS, isolation_level=None)) as database:
        database.execute("PRAGMA cache_size=-65536")  # room for 64 MiB that are not yet written
        database.execute(f"PRAGMA analysis_limit={_STATISTICS}")
        dataset_ids = _insert_datasets(database, home.experiment_id, records)
        for start in range(0, len(records), _CHUNK):
            part = slice(start, start + _CHUNK)
            chunk = dict(zip(run_ids[part], records[part], strict=True))
            try:
                for run_id, record in chunk.items():
                    for name, text in record.texts.items():
                        _write_text(text, root / run_id / "artifacts" / name)
                rows = _rows(home, chunk, context, dataset_ids)
                with database:
                    database.execute("BEGIN IMMEDIATE")
                    _insert_rows(database, rows)
                    # Without them the page of a sweep, best first, takes the square of its runs.
                    database.execute("ANALYZE")
            except Exception:
                for run_id in chunk:
                    shutil.rmtree(root / run_id, ignore_errors=True)
                raise
            yield list(chunk)


def _insert_datasets(
    database: sqlite3.Connection, experiment_id: str, records: Sequence[RunRecord]
) -> dict[tuple[str, str], str]:
    """Each dataset's id in this experiment by its name and digest; new ones are inserted."""
    used = {(r.data.name, r.data.digest): r.data for r in records if r.data is not None}
    with database:
        database.execute("BEGIN IMMEDIATE")  # nobody else adds one between search and insertion
        query = "SELECT name, digest, dataset_uuid FROM datasets WHERE experiment_id = ?"
        found = database.execute(query, [experiment_id])
        ids = {(name, digest): dataset_id for name, digest, dataset_id in found}
        for key in used.keys() - ids.keys():
            ids[key] = uuid.uuid4().hex
            name, digest, source, schema, profile = used[key]
            row = (ids[key], experiment_id, name, digest, "local", source, schema, profile)
            _insert_rows(database, {"datasets": [row]})
    return ids


def _insert_rows(database: sqlite3.Connection, rows: _Rows) -> None:
    for table, values in rows.items():
        columns = _COLUMNS[table].split()
        places = ", ".join("?" * len(columns))
        command = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"
        database.executemany(command, values)


def _rows(
    home: "mlflow.entities.Experiment",
    runs: Mapping[str, RunRecord],
    context: Mapping[str, str],
    dataset_ids: Mapping[tuple[str, str], str],
) -> _Rows:
    """The rows of runs by their ids; what MLflow knows of a run's source stands in the tags."""
    rows: _Rows = {table: [] for table in _COLUMNS if table != "datasets"}
    for run_id, record in runs.items():
        flat = _flat(record, context)
        place = f"{home.artifact_location}/{run_id}/artifacts"
        rows["runs"].append((
            run_id, record.name, home.experiment_id, place, "UNKNOWN", "", "", "",
            flat.tags["mlflow.user"], record.status, record.start_time, record.end_time, "active",
        ))  # fmt: skip
        tags = flat.tags | {"mlflow.runName": record.name}
        for table, pairs in (("tags", tags), ("params", flat.params)):
            rows[table] += [(run_id, *pair) for pair in pairs.items()]
        for key, points in flat.points.items():
            rows["metrics"] += [(run_id, key, *point, False) for point in points]
            rows["latest_metrics"].append((run_id, key, *points[-1], False))
        if record.data is not None:
            dataset_id = dataset_ids[record.data.name, record.data.digest]
            input_id = uuid.uuid4().hex
            rows["inputs"].append((input_id, "DATASET", dataset_id, "RUN", run_id))
            rows["input_tags"].append((input_id, "mlflow.data.context", "training"))
    return rows
