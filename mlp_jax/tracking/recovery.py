"""What earlier processes left: journals that are not delivered, runs that are still RUNNING."""

from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mlp_jax.durable.rundir import resume_command, shown
from mlp_jax.errors import RunError
from mlp_jax.tracking import journal, liveness, store
from mlp_jax.tracking.delivery import MAX_METRICS, Delivery
from mlp_jax.tracking.journal import Entry, Journal

if TYPE_CHECKING:  # takes seconds to import
    import mlflow
    import mlflow.entities

HEARTBEAT_TAG = "run.heartbeat"
_REPAIRED_TAG = "run.repaired"
_REPAIRED = "left RUNNING by a process that is gone; marked KILLED when this was found"


def process_facts(directory: Path) -> dict[str, str]:
    """What tells at a later start whether the process of a run is still there.

    `run.json` holds it, and the tags `run.host`, `run.process` and `run.directory`.
    """
    process = liveness.this_process()
    return {
        "host": process.host,
        "process": str(process),
        "directory": str(directory.absolute()),
    }


def sync_command(directory: Path) -> str:
    return f"python -m mlp_jax.sync {shown(directory)}"


def run_directories(root: Path) -> list[Path]:
    """The directories of runs at or right below `root`, the one that began first first."""
    records = [*root.glob(journal.RECORD), *root.glob(f"*/{journal.RECORD}")]
    return sorted((record.parent for record in records), key=_started)


def _started(directory: Path) -> int:
    with suppress(RunError):  # a damaged one is told of when it is its turn
        return int(journal.read_record(directory).get("started", 0))
    return 0


def is_left(directory: Path) -> bool:
    """Whether there is something to deliver or to repair."""
    try:
        return (directory / journal.JOURNAL).exists() or was_left_running(directory)
    except RunError:  # `recover` tells what is wrong
        return True


def was_left_running(directory: Path) -> bool:
    """Whether the run is said to go on, and its process is certainly gone."""
    record = journal.read_record(directory)
    process = liveness.parse(record.get("host", ""), record.get("process", ""))
    if record.get("status") != "RUNNING" or process is None:
        return False
    return liveness.is_gone(process, (directory / journal.RECORD).stat().st_mtime)


class Recovered(NamedTuple):
    """What was done for a run's directory."""

    name: str
    num_delivered: int
    repaired: bool
    num_lost: int


def recover(directory: Path, client: "mlflow.MlflowClient") -> Recovered:
    """Marks the run KILLED where its process is gone, and delivers what its journal holds.

    Raises `BusyError`, `RunError`, and whatever the client does; then the rest is still there.
    """
    with closing(Journal(directory)) as held:
        entries = held.pending()
        if "run_id" not in held.record and not (entries or held.lost):
            held.discard()  # the process died before it had begun the run
            return Recovered("a run that never began", 0, False, 0)
        repaired = was_left_running(directory) and not _ended(held)
        if repaired:
            entries += _mark_killed(held)
        if held.lost:
            lost = f"{len(held.lost)} entries of its journal were damaged before their delivery"
            entries.append(held.append("tags", {"run.lost": lost}))
        delivery = Delivery(client, held, in_doubt=True)
        for batch in batches(entries):
            delivery.deliver(batch)
        held.remove()
    return Recovered(held.record["name"], len(entries), repaired, len(held.lost))


def _ended(held: Journal) -> bool:
    """Whether the process had come to the run's end, and only `run.json` does not know it."""
    said = [entry.body["status"] for entry in held.entries if entry.kind == "status"]
    if not said or said[-1] == "RUNNING":
        return False
    held.note(status=said[-1])
    return True


def _mark_killed(held: Journal) -> list[Entry]:
    last_seen = int((held.directory / journal.RECORD).stat().st_mtime * 1000)
    entries = [
        held.append("tags", {_REPAIRED_TAG: _REPAIRED}),
        held.append("status", {"status": "KILLED", "end_time": last_seen}),
    ]
    held.note(status="KILLED")
    return entries


def batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries as `Delivery.deliver` takes them, in their order."""
    batch: list[Entry] = []
    num_in_batch = 0
    for entry in entries:
        # Nothing shares a batch with an entry that is not of metrics.
        num_new = num_points(entry) or MAX_METRICS
        if batch and num_in_batch + num_new > MAX_METRICS:
            yield batch
            batch, num_in_batch = [], 0
        batch.append(entry)
        num_in_batch += num_new
    if batch:
        yield batch


def num_points(entry: Entry) -> int:
    return len(entry.body["points"]) if entry.kind == "metrics" else 0


def recover_all(root: Path, client: "mlflow.MlflowClient", uri: str) -> Iterator[str]:
    """Recovers the runs below `root` that belong to the store at `uri`, as `run.json` says it.

    After each it yields what the user should know, or ''.
    """
    for directory in run_directories(root):
        try:
            if not is_left(directory) or journal.read_record(directory).get("uri") != uri:
                continue
            recovered = recover(directory, client)
            yield repaired_line(recovered.name, directory) if recovered.repaired else ""
        except journal.BusyError:  # this run itself, or another one that is alive
            continue
        except RunError as error:  # of the directory itself
            yield str(error)
        except Exception as error:  # whatever the store and its client come up with
            cause = store.failure(error, client.tracking_uri)
            yield f"{directory}: is not delivered yet. {cause}"


def repair_store(client: "mlflow.MlflowClient", own_run_id: str) -> Iterator[str]:
    """Marks the runs of processes of this host that are gone KILLED; says which, in a line each.

    A run whose directory is still there is repaired through its journal, so that what is in it
    comes along.
    """
    host = liveness.this_process().host
    experiments = [e.experiment_id for e in client.search_experiments()]
    query = f"attributes.status = 'RUNNING' AND tags.`run.host` = '{host}'"
    for run in client.search_runs(experiments, query):
        tags = run.data.tags
        process = liveness.parse(host, tags.get("run.process", ""))
        heartbeat = float(tags.get(HEARTBEAT_TAG, run.info.start_time / 1000))
        if run.info.run_id == own_run_id or process is None:
            continue
        directory = Path(tags.get("run.directory", "/nowhere"))
        try:
            if journal.read_record(directory).get("run_id") == run.info.run_id:
                if is_left(directory) and _try_recover(directory, client):
                    yield repaired_line(run.info.run_name, directory)
                continue
        except RunError as error:  # of the directory, which is as good as gone then
            yield str(error)
        if liveness.is_gone(process, heartbeat) and _is_running(client, run.info.run_id):
            client.set_tag(run.info.run_id, _REPAIRED_TAG, _REPAIRED)
            client.set_terminated(run.info.run_id, "KILLED", int(heartbeat * 1000))
            yield repaired_line(run.info.run_name, None)


def _is_running(client: "mlflow.MlflowClient", run_id: str) -> bool:
    """Asked once more: it may have ended itself since it was found, and its process after it."""
    return bool(client.get_run(run_id).info.status == "RUNNING")


def _try_recover(directory: Path, client: "mlflow.MlflowClient") -> bool:
    try:
        return recover(directory, client).repaired
    except journal.BusyError:  # another process was faster
        return False


def repaired_line(name: str, directory: Path | None) -> str:
    is_left = directory is not None and directory.exists()  # a sweep's is removed
    how = f"; go on with: {resume_command(directory)}" if directory and is_left else ""
    return f"the run {name!r} was left RUNNING by a process that is gone: marked KILLED{how}"
