"""Directories of runs as they were until version 1: a journal of what is to be sent, and an outbox.

They are turned into the new form where they are opened. This can go with the next version.
"""

import json
import shutil
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlp_jax.tracking.facts import Data
from mlp_jax.tracking.history import Point
from mlp_jax.tracking.record import FACTS, FORM, HISTORY, MODEL, BusyError, Record

JOURNAL = "journal.jsonl"
_OUTBOX, _LOCK = "outbox", "journal.lock"


def is_old(facts: dict[str, Any]) -> bool:
    """Whether these are the facts of a run in the old form."""
    return "id" in facts and "form" not in facts


def is_left(directory: Path, facts: dict[str, Any]) -> bool:
    """Whether there is something to deliver or to repair."""
    return (directory / JOURNAL).exists() or facts.get("status") == "RUNNING"


def open_record(directory: Path) -> Record:
    """The record of a run, turned into the new form where it has the old one."""
    record = Record(directory)
    try:
        if is_old(record.facts):
            _convert(record)
    except BaseException:
        record.close()
        raise
    return record


def _convert(record: Record) -> None:
    """`run.json` is written last: after a kill the same is done again."""
    directory, facts = record.directory, record.facts
    lock = FileLock(directory / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BusyError(f"{directory}: another process is writing this run; wait for it.") from None
    last_seen = int((directory / FACTS).stat().st_mtime * 1000)
    entries, num_lost = _read(directory / JOURNAL, facts.get("delivered", 0))
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for kind, body in entries:
        by_kind.setdefault(kind, []).append(body)
    begun = by_kind.get("run", [{}])[0]
    ended = next((body for body in by_kind.get("status", [])[-1:] if "end_time" in body), None)
    if facts["status"] != "RUNNING" and ended is None and (directory / JOURNAL).exists():
        num_lost += 1  # its end, at least
    (directory / HISTORY).unlink(missing_ok=True)
    record.start_over()
    for point in _points(by_kind.get("metrics", [])):
        record.log(point)
    damage = [f"{num_lost} entries of its journal"] if num_lost else []
    damage += [f"{file} is gone" for file in _move_files(record, by_kind)]
    tags = begun.get("tags", {})
    for body in by_kind.get("tags", []):
        tags = {**tags, **body}
    pid, _, boot, _ = facts.get("process", "///").split("/")
    record.history.secure()
    record.facts = {**facts, **record.facts}
    record.note(
        form=FORM,
        process=f"{pid}/{boot}",
        parent=begun.get("parent"),
        start_time=begun.get("start_time", facts.get("started")),
        params=by_kind.get("params", [{}])[0],
        tags=tags | ({"run.damaged": "; ".join(damage)} if damage else {}),
        data=_data(by_kind.get("dataset", [])),
        damage=damage,
        history=record.history.length,
        **_end(facts, ended, last_seen),
    )
    (directory / JOURNAL).unlink(missing_ok=True)
    shutil.rmtree(directory / _OUTBOX, ignore_errors=True)
    (directory / _LOCK).unlink(missing_ok=True)
    lock.release()


def _end(facts: dict[str, Any], ended: dict[str, Any] | None, last_seen: int) -> dict[str, Any]:
    """How the run ended; the journal knows it before `run.json` does."""
    if ended is not None:
        return ended
    is_over = facts["status"] != "RUNNING"
    return {"status": facts["status"], "end_time": last_seen if is_over else None}


def _points(bodies: list[dict[str, Any]]) -> Iterator[Point]:
    together: dict[tuple[int, int], dict[str, float]] = {}
    for body in bodies:
        for key, value, time, step in body["points"]:
            together.setdefault((step, time), {})[key] = value
    for (step, time), metrics in together.items():
        yield Point(step, time, metrics)


def _data(bodies: list[dict[str, Any]]) -> Data | None:
    return Data(*(bodies[0]["dataset"][key] for key in Data._fields)) if bodies else None


def _move_files(record: Record, by_kind: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Takes what waits in the outbox; the names of what is not there."""
    outbox = record.directory / _OUTBOX
    bodies = [*by_kind.get("artifact", []), *by_kind.get("model", [])]
    gone = []
    for file, path in {
        body.get("file", MODEL): outbox / body["folder"] / body.get("file", "") for body in bodies
    }.items():
        within = path.resolve().is_relative_to(outbox.resolve())
        if within and path.exists() and not any(f.is_symlink() for f in (path, *path.rglob("*"))):
            record.add(file, partial(_copy, path))
        else:
            gone.append(file)
    return gone


def _copy(path: Path, place: Path) -> None:
    shutil.copytree(path, place) if path.is_dir() else shutil.copyfile(path, place)


def _read(file: Path, num_delivered: int) -> tuple[list[tuple[str, dict[str, Any]]], int]:
    """The entries that are whole, as kind and body, and how many are lost before their delivery."""
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    entries = {}
    last = -1
    for line in lines:
        checksum, _, text = line.partition(b" ")
        if checksum == b"%08x" % zlib.crc32(text):
            last, kind, body = json.loads(text)
            entries[last] = (kind, body)
        else:
            last += 1
    lost = set(range(num_delivered, last + 1)) - entries.keys()
    return list(entries.values()), len(lost)
