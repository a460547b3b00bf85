"""What a run has for its store, on disk before any of it is sent.

A run has a directory. Its `journal.jsonl` is only ever appended to: a line is the CRC-32 of an
entry in hexadecimal, a blank, and the entry in JSON. A line that was cut short as the process died
is dropped; a damaged one is known by its checksum, a lost one by the entries' numbers. Files that
are to be stored wait in `outbox/`. `run.json` says which run this is and how much was delivered.
"""

import json
import os
import shutil
import threading
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from mlp_jax.durable import files as signed
from mlp_jax.errors import RunError

JOURNAL, RECORD, OUTBOX, _LOCK = "journal.jsonl", "run.json", "outbox", "journal.lock"


class Entry(NamedTuple):
    """One thing to deliver; the numbers count from 0."""

    number: int
    kind: str
    body: dict[str, Any]


class Contents(NamedTuple):
    """What a journal holds: its readable entries, the numbers of others, its length in bytes
    without a line that was cut short.
    """

    entries: list[Entry]
    lost: list[int]
    size: int


class BusyError(RunError):
    """Another process is writing or delivering this journal."""


def read(file: Path) -> Contents:
    """The entries of a journal; none where there is no such file."""
    content = file.read_bytes() if file.exists() else b""
    size = content.rfind(b"\n") + 1
    entries: list[Entry] = []
    lost: list[int] = []
    number = num_unreadable = 0
    for line in content[:size].split(b"\n")[:-1]:
        entry = _parse(line)
        if entry is None:
            num_unreadable += 1
            continue
        lost += range(number, entry.number)
        number, num_unreadable = entry.number + 1, 0
        entries.append(entry)
    return Contents(entries, [*lost, *range(number, number + num_unreadable)], size)


def _parse(line: bytes) -> Entry | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    return Entry(*json.loads(text))


def read_record(directory: Path) -> dict[str, Any]:
    """`run.json` of a run's directory; empty where there is none."""
    try:
        return signed.read(directory / RECORD)
    except signed.MissingError:
        return {}


class Journal:
    """The journal of a run's directory, which one process holds at a time.

    Raises `BusyError` where another one does. Its calls from two threads don't mix.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.outbox = directory / OUTBOX
        directory.mkdir(parents=True, exist_ok=True)
        self._hold = FileLock(directory / _LOCK, thread_local=False)
        try:
            self._hold.acquire(blocking=False)
        except Timeout:
            raise BusyError(
                f"{directory}: another process is writing this run or delivering it; wait for it."
            ) from None
        try:
            self._open()
        except BaseException:
            self._hold.release()
            raise

    def _open(self) -> None:
        self._mutex = threading.Lock()
        self._record_mutex = threading.Lock()  # no entry waits for the disk to sync the record
        self.record = read_record(self.directory)
        path = self.directory / JOURNAL
        self.entries, lost, self._size = read(path)
        self.delivered: int = self.record.get("delivered", 0)
        """How many entries the store has for certain."""
        self.lost = [number for number in lost if number >= self.delivered]
        last = max([self.delivered - 1, *lost, *(entry.number for entry in self.entries[-1:])])
        self._next = last + 1
        self._unwritten: list[bytes] = []
        self._is_durable = False
        self._file = path.open("ab", buffering=0)
        self._file.truncate(self._size)

    def pending(self) -> list[Entry]:
        """The entries that were there when the journal was opened and may not be in the store."""
        return [entry for entry in self.entries if entry.number >= self.delivered]

    def append(self, kind: str, body: dict[str, Any]) -> Entry:
        """Writes an entry. Where the disk is full it is kept in memory and written later."""
        with self._mutex:
            entry = Entry(self._next, kind, body)
            text = json.dumps(entry, allow_nan=False).encode()
            self._next += 1
            self._unwritten.append(b"%08x %s\n" % (zlib.crc32(text), text))
            self._is_durable = False
            with suppress(OSError):
                self._write()
        return entry

    def _write(self) -> None:
        while self._unwritten:
            line = self._unwritten[0]
            try:
                if self._file.write(line) != len(line):
                    raise OSError("the line was not written whole")
            except OSError:
                self._file.truncate(self._size)  # half a line would spoil the next one
                raise
            self._size += len(line)
            del self._unwritten[0]

    def secure(self) -> None:
        """Makes the entries survive a power cut, too. Raises `OSError` where they don't."""
        with self._mutex:
            if self._file.closed:
                return
            self._write()
            if self._is_durable:
                return
            self._is_durable = True
            file, folder = os.dup(self._file.fileno()), os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(file)
            os.fsync(folder)
        except OSError:
            self._is_durable = False
            raise
        finally:
            os.close(file)
            os.close(folder)

    def note(self, **facts: Any) -> None:
        """Adds facts to `run.json`; where the disk is full, with the next facts."""
        with self._record_mutex:
            self.record |= facts
            with suppress(OSError):
                signed.write(self.directory / RECORD, self.record)

    def acknowledge(self, number: int) -> None:
        """Entries up to `number` are in the store."""
        self.delivered = number + 1
        self.note(delivered=self.delivered)

    def close(self) -> None:
        """Lets go of the journal; a second time it does nothing."""
        with self._mutex:
            self._file.close()
        self._hold.release()

    def remove(self) -> None:
        """After all was delivered; `run.json` stays unless the directory was only lent."""
        with self._mutex:
            self._file.close()
        with suppress(OSError):
            (self.directory / JOURNAL).unlink(missing_ok=True)
            shutil.rmtree(self.outbox, ignore_errors=True)
            (self.directory / _LOCK).unlink(missing_ok=True)
        if self.record.get("is_temporary"):
            self._remove_directory()
        self._hold.release()

    def discard(self) -> None:
        """Removes the run, and its directory where that is empty then."""
        self.remove()
        self._remove_directory()

    def _remove_directory(self) -> None:
        (self.directory / RECORD).unlink(missing_ok=True)
        with suppress(OSError):
            self.directory.rmdir()
            self.directory.parent.rmdir()
