"""The directory of a run: the truth about it, of which the store is a mirror.

run.json        what the run is: its parameters, tags, status, files; replaced whole each time
history.jsonl   its log points, one checksummed line each; only appended to
files/, model/  what else it has, each version in a folder named by its SHA-256
damaged/        what was found to be another than was written
run.lock        held by the process that writes the run or sends it

`run.json` has its own SHA-256 and that of every file; once the run has ended, also when, and the
number of its log points with their SHA-256. So whatever is damaged or gone is noticed. When the
store was read back and lacks nothing, only the names of the run are left.
"""

import hashlib
import json
import shutil
import threading
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from mlp_jax.durable import files as verified
from mlp_jax.errors import RunError

FACTS, HISTORY, LOCK = "run.json", "history.jsonl", "run.lock"
FILES, MODEL, DAMAGED, _INCOMING = "files", "model", "damaged", "incoming"
FORM = 2
"""Of the directory; the first one had a journal."""
_EMPTY: Mapping[str, Any] = {
    "form": FORM, "params": {}, "tags": {}, "data": None, "files": {}, "model": {}
}  # fmt: skip
"""What a run has besides its names, before it has any."""


class BusyError(RunError):
    """Another process is writing this run or sending it."""


def read_facts(directory: Path) -> dict[str, Any]:
    """`run.json`; empty where there is none. Raises `RunError` where it is damaged."""
    try:
        return verified.read(directory / FACTS)
    except verified.MissingError:
        return {}


def digest(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a folder."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): digest(path) for path in files}


def model_digest(model: Mapping[str, str]) -> str:
    """One SHA-256 for all files of a model."""
    return hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()


def _lock(directory: Path) -> FileLock | None:
    """None where another process, or this one, holds it."""
    lock = FileLock(directory / LOCK, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def is_locked(directory: Path) -> bool:
    """Whether a process holds the record of this directory, as far as its lock tells here."""
    if not (directory / LOCK).exists():
        return False
    if lock := _lock(directory):
        lock.release()
    return lock is None


# --- log points --------------------------------------------------------------------------------


class Point(NamedTuple):
    """What was logged at a step; `time` is in ms since 1970."""

    step: int
    time: int
    metrics: dict[str, float]


class History:
    """The points of a file, which `append` adds to. Its calls from two threads don't mix.

    A line is the CRC-32 of what follows in hexadecimal, a blank, and in JSON its number, the step,
    the time and the metrics. A line that was cut short as the process died is dropped, a damaged
    one is known by its checksum, one that is gone by the numbers; that the last ones are gone is
    known by `noted`, the `length` that it had at least.
    """

    def __init__(self, file: Path, noted: Sequence[Any] | None) -> None:
        self._path = file
        content = file.read_bytes() if file.exists() else b""
        self._size = content.rfind(b"\n") + 1
        lines = [line + b"\n" for line in content[: self._size].split(b"\n")[:-1]]
        self.points, self.num_lost = _read(lines)
        """All that is whole, and how many points are not."""
        num_noted, sha256 = noted or (0, hashlib.sha256().hexdigest())
        self.num_lost = max(self.num_lost, num_noted - len(self.points))
        if hashlib.sha256(b"".join(lines[:num_noted])).hexdigest() != sha256:
            self.num_lost = max(self.num_lost, 1)
        self._sha256 = hashlib.sha256(content[: self._size])
        self._mutex = threading.Lock()
        self._unwritten: list[bytes] = []
        self._num_durable = len(self.points)

    @property
    def length(self) -> list[Any]:
        """The number of points, and the SHA-256 of their lines."""
        with self._mutex:
            return [len(self.points), self._sha256.hexdigest()]

    def append(self, point: Point) -> None:
        """Writes a point. Where the disk is full it is kept in memory and written later."""
        with self._mutex:
            line = _line(len(self.points), point)
            self.points.append(point)
            self._sha256.update(line)
            self._unwritten.append(line)
            with suppress(OSError):
                self._write()

    def _write(self) -> None:
        if not self._unwritten:
            return
        with self._path.open("ab", buffering=0) as file:
            file.truncate(self._size)  # half a line would spoil the next one
            while self._unwritten:
                if file.write(self._unwritten[0]) != len(self._unwritten[0]):
                    raise OSError(0, "the line was not written whole", str(self._path))
                self._size += len(self._unwritten.pop(0))

    def secure(self) -> None:
        """Makes the points survive a power cut, too. Raises `OSError` where they don't."""
        with self._mutex:
            self._write()
            num_written = len(self.points)
        if num_written > self._num_durable:
            verified.sync(self._path)
            verified.sync(self._path.parent)
            self._num_durable = num_written


def encode(points: Sequence[Point]) -> tuple[bytes, list[Any]]:
    """A whole history at once, and its length."""
    content = b"".join(_line(number, point) for number, point in enumerate(points))
    return content, [len(points), hashlib.sha256(content).hexdigest()]


def _line(number: int, point: Point) -> bytes:
    text = json.dumps([number, *point], allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _read(lines: Sequence[bytes]) -> tuple[list[Point], int]:
    """The points that are whole, and how many are damaged or gone between and after them."""
    points: list[Point] = []
    last = -1
    num_unreadable = 0  # after the last one that was read
    for line in lines:
        if (text := checked(line)) is None:
            num_unreadable += 1
            continue
        number, *point = json.loads(text)
        last, num_unreadable = number, 0
        points.append(Point(*point))
    return points, last + 1 - len(points) + num_unreadable


def checked(line: bytes) -> bytes | None:
    """What stands behind the checksum of a line; None where it is another."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    return text if checksum == b"%08x" % zlib.crc32(text) else None


# --- the directory -----------------------------------------------------------------------------


class Record:
    """The directory of a run, which one process holds at a time. Its calls may come from threads.

    Raises `BusyError` where another process holds it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        lock = _lock(directory)
        if lock is None:
            raise BusyError(
                f"{directory}: another process is writing this run or delivering it; wait for it."
            )
        self._lock, self._mutex = lock, threading.RLock()
        try:
            self.facts: dict[str, Any] = {**_EMPTY, **read_facts(directory)}
            self._open_history()
        except BaseException:
            self._lock.release()
            raise

    def _open_history(self) -> None:
        self.history = History(self.directory / HISTORY, self.facts.get("history"))

    def start_over(self) -> None:
        """Forgets what was read, and nothing is noted until there is an `id` again."""
        self.facts = dict(_EMPTY)
        (self.directory / HISTORY).unlink(missing_ok=True)
        self._open_history()

    # --- what the run writes

    def note(self, **facts: Any) -> None:
        """Adds facts to `run.json`; where the disk is full, with the next facts.

        A run begins with its `id`: until that is noted, nothing is written there.
        """
        with self._mutex:
            self.facts = {**self.facts, **facts}
            if "id" in self.facts:
                with suppress(OSError):
                    self._save()

    def _save(self) -> None:
        verified.write(self.directory / FACTS, self.facts)

    def tag(self, name: str, value: str) -> None:
        with self._mutex:
            self.note(tags={**self.facts["tags"], name: value})

    def log(self, point: Point) -> None:
        self.history.append(point)

    def add(self, file: str, write: Callable[[Path], object]) -> None:
        """Keeps what `write` makes at a path, in place of what the run had by this name.

        It is a file, or for `MODEL` a folder.
        """
        if not _is_below(file):
            raise ValueError(f"{file}: is not below the run's artifacts")
        incoming = self.directory / _INCOMING / uuid.uuid4().hex
        path = incoming / file
        path.parent.mkdir(parents=True)
        try:
            write(path)
            with self._mutex:
                if file == MODEL:
                    model = digests(path)
                    _move(path, self._model_folder(model))
                    self.note(model=model)
                else:
                    sha256 = digest(path)
                    _move(path, self._folder(sha256) / file)
                    self.note(files={**self.facts["files"], file: sha256})
        except Exception as error:
            cause = _disk_error(error)
            if cause is None or cause is error:
                raise
            text = cause.strerror or str(cause)
            raise OSError(cause.errno, text, str(self.directory)) from None
        finally:  # half a model would fill the disk that was too small for it
            shutil.rmtree(incoming, ignore_errors=True)

    def end(self, status: str, time: int) -> None:
        """The run is whole with this: nothing is missing that `run.json` does not name."""
        with suppress(OSError):
            self.history.secure()
        self.note(status=status, end_time=time, history=self.history.length)

    def beat(self) -> None:
        """Shows that the run is alive, and notes how much there is until now."""
        with suppress(OSError):
            self.history.secure()
            self.note(history=self.history.length)

    def secure(self) -> None:
        """Raises `OSError` where something is only in memory."""
        self.history.secure()
        with self._mutex:
            self._save()

    # --- what is there

    def file(self, name: str) -> Path:
        """A file of the run. Raises `RunError` where it is not what was written."""
        sha256 = self.facts["files"][name]
        return self._whole(self._folder(sha256), {name: sha256}) / name

    def model(self) -> Path | None:
        """The folder of the run's model. Raises `RunError` where it is not what was written."""
        model = self.facts["model"]
        return self._whole(self._model_folder(model), model) if model else None

    def _folder(self, sha256: str) -> Path:
        return self.directory / FILES / sha256[:16]

    def _model_folder(self, model: Mapping[str, str]) -> Path:
        return self.directory / MODEL / model_digest(model)[:16]

    def _whole(self, folder: Path, content: Mapping[str, str]) -> Path:
        if wrong := self._wrong(folder, content):
            raise RunError(f"{self.directory}: {wrong}.")
        return folder

    def _wrong(self, folder: Path, content: Mapping[str, str]) -> str:
        """The first file of a folder that is not as it was written, and why; '' where all are."""
        place = self.directory.resolve() / folder.relative_to(self.directory)
        for name, sha256 in content.items():
            if not _is_below(name) or (folder / name).resolve() != place / name:
                return f"{name} leads elsewhere"
            try:
                if digest(folder / name) != sha256:
                    return f"{name} is damaged"
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
        return ""

    # --- what is not

    def mend(self) -> None:
        """Sets aside what is damaged and says so in `run.json` and a tag; the rest is whole then.

        After a kill at any time the same can be done again.
        """
        found, files, model = [], dict(self.facts["files"]), self.facts["model"]
        if self.history.num_lost:
            found.append(f"{self.history.num_lost} log points")
            self._set_aside(self.directory / HISTORY, HISTORY)
        for name, sha256 in self.facts["files"].items():
            if wrong := self._wrong(self._folder(sha256), {name: sha256}):
                found.append(wrong)
                self._set_aside(self._folder(sha256) / name, name)
                del files[name]
        if wrong := self._wrong(self._model_folder(model), model):
            found.append(f"the model's {wrong}")
            self._set_aside(self._model_folder(model), MODEL)
            model = {}
        if not found:
            return
        damage = [*self.facts.get("damage", []), *found]
        tags = {**self.facts["tags"], "run.damaged": "; ".join(damage)[:5000]}
        content, length = encode(self.history.points)
        self.note(files=files, model=model, history=length, damage=damage, tags=tags)
        verified.replace(self.directory / HISTORY, content)
        self._open_history()

    def _set_aside(self, path: Path, name: str) -> None:
        """A copy, so that a kill leaves what can be told apart from what is whole once more."""
        aside = self.directory / DAMAGED / name
        if not _is_below(name):
            return
        with suppress(OSError):  # it is gone, or cannot be read
            aside.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, aside, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(path, aside, follow_symlinks=False)

    # --- the end

    def strip(self) -> None:
        """After the store was read back and lacks nothing: leaves the names, and the damage.

        A directory that was only lent goes, too.
        """
        self.facts = {**self.facts, **_EMPTY, "history": None, "is_delivered": True}
        with suppress(OSError):
            self._save()  # first: what it names must be there
            self._remove(HISTORY)
        if self.facts.get("is_temporary") and not self.facts.get("damage"):
            self.discard()

    def discard(self) -> None:
        """Removes the run, and its directory where that is empty then."""
        self._remove(FACTS, HISTORY, LOCK)
        with suppress(OSError):
            self.directory.rmdir()
            self.directory.parent.rmdir()

    def _remove(self, *files: str) -> None:
        for folder in (FILES, MODEL, _INCOMING):
            shutil.rmtree(self.directory / folder, ignore_errors=True)
        for file in files:
            (self.directory / file).unlink(missing_ok=True)

    def close(self) -> None:
        """Lets go of the directory; a second time it does nothing."""
        if self.facts.get("is_delivered"):
            (self.directory / LOCK).unlink(missing_ok=True)
        self._lock.release()


def _disk_error(error: BaseException | None) -> OSError | None:
    """The error itself, or the one that a library has wrapped in one of its own."""
    while not (error is None or isinstance(error, OSError)):
        error = error.__context__
    return error


def _is_below(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _move(path: Path, place: Path) -> None:
    """Where a model with the same files has been before, that stays."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_dir():
        path.replace(place)
