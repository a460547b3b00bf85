"""Many finished runs written at once: in one transaction, or one by one through the client.

Where the store fails, they are kept in directories as other runs, and delivered later.

Through the client a run costs tens of milliseconds. Into an SQLite store whose schema is known
here, the rows are inserted directly, with every column that MLflow's own store fills. MLflow does
not promise that schema: a test reads such runs back through the client and compares them with
runs that the client wrote.
"""

import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlp_jax.errors import RunError, reached, redacted
from mlp_jax.tracking import facts, store
from mlp_jax.tracking.facts import RunRecord
from mlp_jax.tracking.history import Point
from mlp_jax.tracking.mirror import Mirror, dataset_input
from mlp_jax.tracking.record import FORM, Record

if TYPE_CHECKING:  # these take seconds to import
    import mlflow.entities
    import sqlalchemy

_KNOWN_SCHEMA = "dc11669786a5"  # MLflow 3.17
_CHUNK = 200  # runs whose rows are in memory at once


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

    A kill at any time leaves all of them or none in an SQLite store; elsewhere those that are
    complete and at most one that is still RUNNING. Raises `NotWrittenError`.
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
            if _has_known_schema(client.tracking_uri) and is_local_uri(home.artifact_location):
                return _insert(client, home, records, context, on_progress)
            for record in records:
                run_ids.append(_send(client, experiment, record, context))
                on_progress(len(run_ids))
    except RunError as error:
        raise NotWrittenError(str(error), run_ids) from error
    return run_ids


def keep(
    uri: str, experiment: str, records: Sequence[RunRecord], parent_id: str, root: Path
) -> None:
    """Puts runs below `root`, in directories that are delivered when the store is back.

    `parent_id` is the parent's own id, which is below `root` too or in the store.
    """
    context = facts.context_tags()
    root.mkdir(parents=True, exist_ok=True)
    for record in records:
        id_ = record.id or uuid.uuid4().hex
        with TemporaryDirectory(dir=root, prefix=".") as folder:  # which is no run's
            place = Path(folder, id_)
            _keep(
                place,
                record,
                context,
                id=id_,
                uri=redacted(uri),
                experiment=experiment,
                parent=parent_id,
                is_temporary=True,
            ).close()
            place.rename(root / id_)


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
    kept.note(  # last: what has no `run.json` is no run
        form=FORM,
        name=record.name,
        status=record.status,
        started=int(time.time() * 1000),  # after the parent
        start_time=record.start_time,
        end_time=record.end_time,
        params=flat.params,
        tags=flat.tags,
        data=record.data,
        history=kept.history.length,
        **places,
    )
    return kept


def _has_known_schema(uri: str) -> bool:
    """Of the database; MLflow refuses one that differs from its own, so its tables agree, too."""
    if not uri.startswith("sqlite:"):
        return False
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        versions = database.execute("SELECT version_num FROM alembic_version").fetchall()
    return versions == [(_KNOWN_SCHEMA,)]


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


# --- in one transaction ------------------------------------------------------------------------


def _insert(
    client: "mlflow.MlflowClient",
    experiment: "mlflow.entities.Experiment",
    records: Sequence[RunRecord],
    context: Mapping[str, str],
    on_progress: Callable[[int], None],
) -> list[str]:
    """Writes the artifacts, which nothing refers to yet, and then all rows in one transaction."""
    import sqlalchemy
    from mlflow.utils.file_utils import local_file_uri_to_path

    # Sorted, so that the tables' indices grow at their ends, which is faster.
    run_ids = sorted(uuid.uuid4().hex for _ in records)
    root = Path(local_file_uri_to_path(experiment.artifact_location))
    engine = sqlalchemy.create_engine(client.tracking_uri, connect_args={"timeout": 20})
    try:
        for run_id, record in zip(run_ids, records, strict=True):
            _write_texts(root / run_id / "artifacts", record.texts)
        with engine.begin() as connection:
            # Room for 64 MiB that are not yet written.
            connection.exec_driver_sql("PRAGMA cache_size=-65536")
            # Nobody else may add a dataset between the search for it and its insertion.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            dataset_ids = _insert_datasets(connection, experiment.experiment_id, records)
            for i in range(0, len(records), _CHUNK):
                chunk = list(zip(run_ids, records, strict=True))[i : i + _CHUNK]
                for table, rows in _rows(experiment, chunk, context, dataset_ids).items():
                    _insert_rows(connection, table, rows)
                on_progress(i + len(chunk))
    except Exception:
        for run_id in run_ids:
            shutil.rmtree(root / run_id, ignore_errors=True)
        raise
    finally:
        engine.dispose()
    return run_ids


def _write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    for file, text in texts.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        _write_text(text, folder / file)


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _insert_datasets(
    connection: "sqlalchemy.Connection", experiment_id: str, records: Sequence[RunRecord]
) -> dict[tuple[str, str], str]:
    """Each dataset's id in this experiment by its name and digest; new ones are inserted."""
    import sqlalchemy
    from mlflow.store.tracking.dbmodels.models import SqlDataset

    used = {(r.data.name, r.data.digest): r.data for r in records if r.data is not None}
    table = SqlDataset.__table__
    query = sqlalchemy.select(table).where(table.c.experiment_id == experiment_id)
    ids = {(row.name, row.digest): row.dataset_uuid for row in connection.execute(query)}
    for key in used.keys() - ids.keys():
        ids[key] = uuid.uuid4().hex
        entity = dataset_input(used[key]).dataset
        row = {
            "dataset_uuid": ids[key],
            "experiment_id": experiment_id,
            "name": entity.name,
            "digest": entity.digest,
            "dataset_source_type": entity.source_type,
            "dataset_source": entity.source,
            "dataset_schema": entity.schema,
            "dataset_profile": entity.profile,
        }
        _insert_rows(connection, SqlDataset, [row])
    return ids


def _insert_rows(
    connection: "sqlalchemy.Connection", table: Any, rows: list[dict[str, Any]]
) -> None:
    """As `sqlalchemy.insert` would, without its copy of each row."""
    if rows:
        connection.exec_driver_sql(
            f"INSERT INTO {table.__tablename__} ({', '.join(rows[0])}) "
            f"VALUES (:{', :'.join(rows[0])})",
            rows,
        )


def _rows(
    experiment: "mlflow.entities.Experiment",
    runs: Sequence[tuple[str, RunRecord]],
    context: Mapping[str, str],
    dataset_ids: Mapping[tuple[str, str], str],
) -> dict[Any, list[dict[str, Any]]]:
    """The rows of runs, of which each has its id, by their table."""
    from mlflow.store.tracking.dbmodels import models

    tables: dict[Any, list[dict[str, Any]]] = {
        table: []
        for table in (models.SqlRun, models.SqlTag, models.SqlParam, models.SqlMetric,
                      models.SqlLatestMetric, models.SqlInput, models.SqlInputTag)
    }  # fmt: skip
    for run_id, record in runs:
        flat = _flat(record, context)
        tags = flat.tags | {"mlflow.runName": record.name}
        tables[models.SqlRun].append(_run_row(experiment, run_id, record, tags["mlflow.user"]))
        for table, pairs in ((models.SqlTag, tags), (models.SqlParam, flat.params)):
            tables[table] += [
                {"key": key, "value": value, "run_uuid": run_id} for key, value in pairs.items()
            ]
        for key, points in flat.points.items():
            rows = [
                {"key": key, "timestamp": time, "step": step, "value": value,
                 "is_nan": False, "run_uuid": run_id}
                for time, step, value in points
            ]  # fmt: skip
            tables[models.SqlMetric] += rows
            tables[models.SqlLatestMetric].append(rows[-1])
        if record.data is not None:
            dataset_id = dataset_ids[record.data.name, record.data.digest]
            input_id = uuid.uuid4().hex
            tables[models.SqlInput].append(_input_row(input_id, dataset_id, run_id))
            tables[models.SqlInputTag] += [
                {"input_uuid": input_id, "name": tag.key, "value": tag.value}
                for tag in dataset_input(record.data).tags
            ]
    return tables


def _run_row(
    experiment: "mlflow.entities.Experiment", run_id: str, record: RunRecord, user: str
) -> dict[str, Any]:
    """As `SqlAlchemyStore.create_run` fills it; what it knows of a source stands in the tags."""
    return {
        "run_uuid": run_id,
        "name": record.name,
        "experiment_id": experiment.experiment_id,
        "artifact_uri": f"{experiment.artifact_location}/{run_id}/artifacts",
        "source_type": "UNKNOWN",
        "source_name": "",
        "source_version": "",
        "entry_point_name": "",
        "user_id": user,
        "status": record.status,
        "start_time": record.start_time,
        "end_time": record.end_time,
        "deleted_time": None,
        "lifecycle_stage": "active",
    }


def _input_row(input_id: str, dataset_id: str, run_id: str) -> dict[str, str]:
    return {
        "input_uuid": input_id,
        "source_type": "DATASET",
        "source_id": dataset_id,
        "destination_type": "RUN",
        "destination_id": run_id,
    }


# --- through the client ------------------------------------------------------------------------


def _send(
    client: "mlflow.MlflowClient", experiment: str, record: RunRecord, context: Mapping[str, str]
) -> str:
    with TemporaryDirectory() as folder:
        kept = _keep(Path(folder), record, context, experiment=experiment, parent=None,
                     id=record.id or uuid.uuid4().hex)  # fmt: skip
        try:
            Mirror(kept, client).update()
        except BaseException:
            with suppress(Exception):  # the store may be gone, which the first error says
                client.set_terminated(kept.facts["run_id"], "FAILED")  # it must not stay RUNNING
            raise
        finally:
            kept.close()
        return str(kept.facts["run_id"])
