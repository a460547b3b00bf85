"""What earlier processes left: runs that are not in their store, or still RUNNING there.

Whether the process that writes a run is still there can be known only as far as this machine
goes. The system lets go of a lock when its process ends in any way, whatever container it was in;
so on the machine of the process its lock says it. The lock of another machine may not be seen
here, and after a restart another one may have its name: there the age of the last sign of life
decides.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlp_jax.durable import rundir
from mlp_jax.errors import RunError, redacted
from mlp_jax.tracking import old, store
from mlp_jax.tracking.mirror import mirror
from mlp_jax.tracking.record import (
    FACTS,
    FILES,
    HISTORY,
    MODEL,
    BusyError,
    Record,
    is_locked,
    read_facts,
)

if TYPE_CHECKING:  # takes seconds to import
    import mlflow

HEARTBEAT_SECONDS = 60.0
HEARTBEAT_TAG = "run.heartbeat"
_STALE_SECONDS = 3 * HEARTBEAT_SECONDS
"""After a restart of the machine, an older heartbeat is of no process."""
_STALE_ELSEWHERE_SECONDS = 3600.0
"""The same for another machine, which may have lost touch with its files for a while."""
_REPAIRED_TAG = "run.repaired"
_REPAIRED = "left RUNNING by a process that is gone; marked KILLED when this was found"


def sync_command(directory: Path) -> str:
    return f"python -m mlp_jax.sync {rundir.shown(directory)}"


# --- is its process gone? ----------------------------------------------------------------------


def process_facts(directory: Path) -> dict[str, str]:
    """Of this process, which writes the run: facts of `run.json`, and tags `run.…` of the run."""
    return {
        "host": socket.gethostname(),
        "process": f"{os.getpid()}/{_boot()}",
        "directory": str(directory.absolute()),
    }


def is_gone(facts: Mapping[str, Any], heartbeat: float, *, is_unlocked: bool) -> bool:
    """Whether the process of a run has certainly ended.

    `facts` are its own, `heartbeat` is when it was last heard of, and `is_unlocked` says that
    nobody holds its lock as seen from here; False also where its directory is not here.
    """
    boot = str(facts.get("process", "")).rpartition("/")[2]
    if is_unlocked and boot and boot == _boot():
        return True
    is_here = facts.get("host") == socket.gethostname()
    limit = _STALE_SECONDS if is_unlocked and is_here else _STALE_ELSEWHERE_SECONDS
    return time.time() - heartbeat > limit


def _boot() -> str:
    """A name of this run of the machine; its own name where the system has none for that."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


# --- the directories ---------------------------------------------------------------------------


def run_directories(root: Path) -> list[Path]:
    """The directories of runs at or right below `root`, the one that began first first."""
    found = filter(_is_run, [root, *root.glob("*/")])
    return sorted(found, key=lambda directory: (_started(directory), directory))


def _is_run(directory: Path) -> bool:
    """Also where `run.json` is gone; not where a process died before it began the run."""
    if any((directory / sign).exists() for sign in (FACTS, HISTORY, old.JOURNAL, FILES, MODEL)):
        return True
    if not any((directory / rundir.CHECKPOINTS).glob("*")):  # the first thing after `run.json`
        return False
    with suppress(RunError, LookupError):
        return bool(rundir.read(directory, rundir.CONFIG)["tracking"]["name"] != "none")
    return False


def _started(directory: Path) -> int:
    with suppress(RunError):  # a damaged one is told of when it is its turn
        return int(read_facts(directory).get("started", 0))
    return 0


def read(directory: Path) -> dict[str, Any]:
    """The facts of a run. Raises `RunError` where they are damaged or gone."""
    if facts := read_facts(directory):
        return facts
    how = "Bring it back from a copy; the rest of the run is here."
    if (directory / rundir.CONFIG).exists():
        how = f"Record the run anew, with all its points: {rundir.resume_command(directory)}"
    raise RunError(f"{directory / FACTS}: is gone, which says what the store has of it. {how}")


def is_left(directory: Path) -> bool:
    """Whether there is something to deliver or to repair."""
    try:
        facts = read_facts(directory)
    except RunError:  # `recover` tells what is wrong
        return True
    return old.is_left(directory, facts) if _is_old(facts) else not facts.get("is_delivered")


def _is_old(facts: Mapping[str, Any]) -> bool:
    return bool(facts) and "form" not in facts


def open_record(directory: Path) -> Record:
    """The record of a run, turned into the new form where it has the old one."""
    return (old.open_record if _is_old(read_facts(directory)) else Record)(directory)


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
    with closing(open_record(directory)) as record:
        facts = record.facts
        is_running = facts["status"] == "RUNNING"
        if is_running and not is_gone(facts, last_seen, is_unlocked=True):
            raise BusyError(f"{directory}: its process may be alive on {facts.get('host')}.")
        record.mend()
        if is_running:
            record.tag(_REPAIRED_TAG, _REPAIRED)
            record.end("KILLED", int(last_seen * 1000))
        mirror(record, client)
        return Recovered(facts["name"], is_running, record.facts.get("damage", []))


# --- all of them -------------------------------------------------------------------------------


def deliver(root: Path, client: "mlflow.MlflowClient") -> Iterator[str]:
    """Recovers the runs below `root` that belong to this store, and those that it has as RUNNING.

    One after the other; after each it yields what the user should know, or ''.
    """
    yield from _repair_store(client)
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


def _repair_store(client: "mlflow.MlflowClient") -> Iterator[str]:
    """Marks the runs of processes of this host that are gone KILLED.

    One whose directory is still there, wherever it is, is recovered from that.
    """
    host = socket.gethostname()
    experiments = [e.experiment_id for e in client.search_experiments()]
    query = f"attributes.status = 'RUNNING' AND tags.`run.host` = '{host}'"
    for run in list(store.pages(client, experiments, query)):  # what follows changes the pages
        run_id, tags = run.info.run_id, run.data.tags
        if "run.process" not in tags:
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
        # Asked once more: it may have ended itself since it was found, and its process after it.
        if (
            is_gone(facts, heartbeat, is_unlocked=is_unlocked)
            and client.get_run(run_id).info.status == "RUNNING"
        ):
            client.set_tag(run_id, _REPAIRED_TAG, _REPAIRED)
            client.set_terminated(run_id, "KILLED", int(heartbeat * 1000))
            yield _line(Recovered(run.info.run_name, True, []), None)


def _line(recovered: Recovered, directory: Path | None) -> str:
    lines = []
    if recovered.is_repaired:
        is_there = directory is not None and directory.exists()  # a sweep's is removed
        how = f"; go on with: {rundir.resume_command(directory)}" if directory and is_there else ""
        lines.append(
            f"the run {recovered.name!r} was left RUNNING by a process that is gone: marked "
            f"KILLED{how}"
        )
    if recovered.damage:
        lines.append(f"{directory}: DAMAGED: {'; '.join(recovered.damage)}; the rest is delivered")
    return "\n".join(lines)
