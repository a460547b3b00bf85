"""Directories of runs as they were until version 1: a journal of what is to be sent, and an outbox.

They are turned into the new form where they are opened. This can go with the next version.
"""

import json
import shutil
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlp_jax.tracking.facts import Data
from mlp_jax.tracking.record import FACTS, MODEL, BusyError, Point, Record, checked

JOURNAL = "journal.jsonl"
_OUTBOX, _LOCK = "outbox", "journal.lock"


def is_left(directory: Path, facts: dict[str, Any]) -> bool:
    """Whether there is something to deliver or to repair."""
    return (directory / JOURNAL).exists() or facts.get("status") == "RUNNING"


def open_record(directory: Path) -> Record:
    """The record of a run, turned into the new form."""
    record = Record(directory)
    try:
        with FileLock(directory / _LOCK).acquire(blocking=False):
            _convert(record)
        (directory / _LOCK).unlink(missing_ok=True)
    except BaseException as error:
        record.close()
        if isinstance(error, Timeout):
            raise BusyError(f"{directory}: another process is writing this run.") from None
        raise
    return record


def _convert(record: Record) -> None:
    """`run.json` is written last: after a kill the same is done again."""
    directory, facts = record.directory, record.facts
    last_seen = int((directory / FACTS).stat().st_mtime * 1000)
    entries, num_lost = _read(directory / JOURNAL, facts.get("delivered", 0))
    is_over = facts["status"] != "RUNNING"
    end = {"status": facts["status"], "end_time": last_seen if is_over else None}
    if entries["status"] and "end_time" in entries["status"][-1]:
        end = entries["status"][-1]  # the journal knows it before `run.json` does
    elif is_over and (directory / JOURNAL).exists():
        num_lost += 1  # its end, at least
    record.start_over()
    _add_points(record, entries["metrics"])
    damage = [f"{num_lost} entries of its journal"] if num_lost else []
    damage += [f"{file} is gone" for file in _move_files(record, entries)]
    begun: dict[str, Any] = next(iter(entries["run"]), {})
    tags = dict(begun.get("tags", {}))
    for body in [*entries["tags"], *([{"run.damaged": "; ".join(damage)}] if damage else [])]:
        tags |= body
    pid, _, boot, _ = facts.get("process", "///").split("/")
    record.history.secure()
    record.facts = {**facts, **record.facts}
    record.note(
        process=f"{pid}/{boot}",
        parent=begun.get("parent"),
        start_time=begun.get("start_time", facts.get("started")),
        params=next(iter(entries["params"]), {}),
        tags=tags,
        data=next((Data(*map(b["dataset"].get, Data._fields)) for b in entries["dataset"]), None),
        damage=damage,
        history=record.history.length,
        **end,
    )
    (directory / JOURNAL).unlink(missing_ok=True)
    shutil.rmtree(directory / _OUTBOX, ignore_errors=True)


def _add_points(record: Record, bodies: list[dict[str, Any]]) -> None:
    together: dict[tuple[int, int], dict[str, float]] = {}
    for body in bodies:
        for key, value, time, step in body["points"]:
            together.setdefault((step, time), {})[key] = value
    for (step, time), metrics in together.items():
        record.log(Point(step, time, metrics))


def _move_files(record: Record, entries: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Takes what waits in the outbox; the names of what is not there."""
    outbox = record.directory / _OUTBOX
    bodies = [*entries["artifact"], *entries["model"]]
    paths = {b.get("file", MODEL): outbox / b["folder"] / b.get("file", "") for b in bodies}
    gone = []
    for file, path in paths.items():
        within = path.resolve().is_relative_to(outbox.resolve())
        if within and path.exists() and not any(f.is_symlink() for f in (path, *path.rglob("*"))):
            record.add(file, partial(shutil.copytree if path.is_dir() else shutil.copyfile, path))
        else:
            gone.append(file)
    return gone


def _read(file: Path, num_delivered: int) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """The bodies of the entries that are whole, by their kind, and how many others are lost."""
    found, numbers, last = defaultdict(list), set(range(num_delivered)), -1
    for line in file.read_bytes().split(b"\n")[:-1] if file.exists() else []:
        last += 1
        if (text := checked(line)) is not None:
            last, kind, body = json.loads(text)
            found[kind].append(body)
            numbers.add(last)
    return found, len(set(range(last + 1)) - numbers)
