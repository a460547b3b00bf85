"""What earlier processes left: runs that are not in their store, or still RUNNING there."""

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlp_jax.durable.rundir import resume_command, shown
from mlp_jax.errors import RunError, redacted
from mlp_jax.tracking import liveness, old, store
from mlp_jax.tracking.mirror import mirror
from mlp_jax.tracking.record import (
    FACTS,
    FILES,
    HISTORY,
    LOCK,
    MODEL,
    BusyError,
    is_locked,
    read_facts,
)

if TYPE_CHECKING:  # takes seconds to import
    import mlflow

HEARTBEAT_TAG = "run.heartbeat"
_REPAIRED_TAG = "run.repaired"
_REPAIRED = "left RUNNING by a process that is gone; marked KILLED when this was found"


def sync_command(directory: Path) -> str:
    return f"python -m mlp_jax.sync {shown(directory)}"


def run_directories(root: Path) -> list[Path]:
    """The directories of runs at or right below `root`, the one that began first first.

    What only a run can have left is one, too, where its `run.json` is gone.
    """
    signs = (FACTS, HISTORY, old.JOURNAL, LOCK)
    found = {file.parent for sign in signs for at in (sign, f"*/{sign}") for file in root.glob(at)}
    return sorted(filter(_is_run, found), key=lambda directory: (_started(directory), directory))


def _is_run(directory: Path) -> bool:
    """A process that died before it began a run leaves a lock, and nothing else."""
    signs = (FACTS, HISTORY, old.JOURNAL, FILES, MODEL)
    return any((directory / sign).exists() for sign in signs)


def _started(directory: Path) -> int:
    with suppress(RunError):  # a damaged one is told of when it is its turn
        return int(read_facts(directory).get("started", 0))
    return 0


def read(directory: Path) -> dict[str, Any]:
    """The facts of a run. Raises `RunError` where they are damaged or gone."""
    if facts := read_facts(directory):
        return facts
    raise RunError(f"{directory / FACTS}: is gone, which says what run this is; the rest is here.")


def is_left(directory: Path) -> bool:
    """Whether there is something to deliver or to repair."""
    try:
        facts = read_facts(directory)
    except RunError:  # `recover` tells what is wrong
        return True
    return old.is_left(directory, facts) if old.is_old(facts) else not facts.get("is_delivered")


def damage(directory: Path) -> list[str]:
    """What was damaged of a run; it is kept there in `damaged/`, as far as it was found."""
    with suppress(RunError):
        return list(read_facts(directory).get("damage", []))
    return []


class Recovered(NamedTuple):
    """What was done for a run's directory."""

    name: str
    is_repaired: bool
    damage: list[str]


def recover(directory: Path, client: "mlflow.MlflowClient") -> Recovered:
    """Marks the run KILLED where its process is gone, and delivers what is whole of it.

    Raises `BusyError` where it may go on, `RunError`, and whatever the client does; then the rest
    is still there.
    """
    read(directory)
    last_seen = (directory / FACTS).stat().st_mtime
    with closing(old.open_record(directory)) as record:
        facts = record.facts
        is_running = facts["status"] == "RUNNING"
        if is_running and not liveness.is_gone(facts, last_seen, is_unlocked=True):
            raise BusyError(f"{directory}: its process may be alive on {facts.get('host')}.")
        record.mend()
        if is_running:
            record.tag(_REPAIRED_TAG, _REPAIRED)
            record.end("KILLED", int(last_seen * 1000))
        mirror(record, client)
        return Recovered(facts["name"], is_running, record.facts.get("damage", []))


def deliver(root: Path, client: "mlflow.MlflowClient", own_run_id: str = "") -> Iterator[str]:
    """Recovers the runs below `root` that belong to this store, and those that it has as RUNNING.

    One after the other; after each it yields what the user should know, or ''.
    """
    yield from _repair_store(client, own_run_id)
    uri = redacted(client.tracking_uri)
    for directory in run_directories(root):
        try:
            if is_left(directory) and read(directory).get("uri") == uri:
                yield _line(recover(directory, client), directory)
        except BusyError:  # this run itself, or another one that is alive
            continue
        except RunError as error:  # of the directory itself
            yield str(error)
        except Exception as error:  # whatever the store and its client come up with
            yield f"{directory}: is not delivered yet. {store.failure(error, client.tracking_uri)}"


def _repair_store(client: "mlflow.MlflowClient", own_run_id: str) -> Iterator[str]:
    """Marks the runs of processes of this host that are gone KILLED.

    One whose directory is still there, wherever it is, is recovered from that.
    """
    host = liveness.process_facts(Path())["host"]
    experiments = [e.experiment_id for e in client.search_experiments()]
    query = f"attributes.status = 'RUNNING' AND tags.`run.host` = '{host}'"
    for run in client.search_runs(experiments, query):
        run_id, tags = run.info.run_id, run.data.tags
        if run_id == own_run_id or "run.process" not in tags:
            continue
        directory = Path(tags.get("run.directory", "/nowhere"))
        try:
            if read_facts(directory).get("run_id") == run_id:
                with suppress(BusyError):
                    yield _line(recover(directory, client), directory)
                continue
        except RunError as error:  # of the directory, which is as good as gone then
            yield str(error)
        heartbeat = float(tags.get(HEARTBEAT_TAG, run.info.start_time / 1000))
        facts = {"host": host, "process": tags["run.process"]}
        is_unlocked = directory.exists() and not is_locked(directory)
        is_gone = liveness.is_gone(facts, heartbeat, is_unlocked=is_unlocked)
        if is_gone and _is_running(client, run_id):
            client.set_tag(run_id, _REPAIRED_TAG, _REPAIRED)
            client.set_terminated(run_id, "KILLED", int(heartbeat * 1000))
            yield _line(Recovered(run.info.run_name, True, []), None)


def _is_running(client: "mlflow.MlflowClient", run_id: str) -> bool:
    """Asked once more: it may have ended itself since it was found, and its process after it."""
    return bool(client.get_run(run_id).info.status == "RUNNING")


def _line(recovered: Recovered, directory: Path | None) -> str:
    lines = []
    if recovered.is_repaired:
        is_there = directory is not None and directory.exists()  # a sweep's is removed
        how = f"; go on with: {resume_command(directory)}" if directory and is_there else ""
        lines.append(
            f"the run {recovered.name!r} was left RUNNING by a process that is gone: marked "
            f"KILLED{how}"
        )
    if recovered.damage:
        lines.append(f"{directory}: DAMAGED: {'; '.join(recovered.damage)}; the rest is delivered")
    return "\n".join(lines)
