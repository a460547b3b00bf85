"""The directory of a run: the truth about it, of which the store is a mirror.

run.json        what the run is: its parameters, tags, status, files; replaced whole each time
history.jsonl   its log points
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
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from mlp_jax.durable import files as verified
from mlp_jax.errors import RunError
from mlp_jax.tracking.history import History, Point, encode

FACTS, HISTORY, LOCK = "run.json", "history.jsonl", "run.lock"
FILES, MODEL, DAMAGED, _INCOMING = "files", "model", "damaged", "incoming"
FORM = 2
"""Of the directory; the first one had a journal."""
EMPTY: Mapping[str, Any] = {"params": {}, "tags": {}, "data": None, "files": {}, "model": {}}
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


class Record:
    """The directory of a run, which one process holds at a time. Its calls may come from threads.

    Raises `BusyError` where another process holds it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(directory / LOCK, thread_local=False)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise BusyError(
                f"{directory}: another process is writing this run or delivering it; wait for it."
            ) from None
        try:
            self._mutex = threading.RLock()
            self.facts: dict[str, Any] = {**EMPTY, **read_facts(directory)}
            self._open_history()
        except BaseException:
            self._lock.release()
            raise

    def start_over(self) -> None:
        """Forgets what was read, and nothing is noted until there is an `id` again."""
        self.facts = dict(EMPTY)
        self._open_history()

    def _open_history(self) -> None:
        self.history = History(self.directory / HISTORY, self.facts.get("history"))

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
        parts = PurePosixPath(file).parts
        if ".." in parts or PurePosixPath(file).is_absolute():
            raise ValueError(f"{file}: is not below the run's artifacts")
        incoming = self.directory / _INCOMING / uuid.uuid4().hex
        path = incoming / file
        path.parent.mkdir(parents=True)
        write(path)
        with self._mutex:
            if file == MODEL:
                model = digests(path)
                _move(path, self._model_folder(model))
                self.note(model=model)
            else:
                files = {**self.facts["files"], file: digest(path)}
                _move(path, self._file(file, files[file]))
                self.note(files=files)
        shutil.rmtree(incoming)

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
        path = self._file(name, self.facts["files"][name])
        if wrong := self._wrong_with_file(name):
            raise RunError(f"{path}: {wrong}.")
        return path

    def model(self) -> Path | None:
        """The folder of the run's model. Raises `RunError` where it is not what was written."""
        folder = self._model_folder(self.facts["model"])
        if wrong := self._wrong_with_model():
            raise RunError(f"{folder}: {wrong}.")
        return folder if self.facts["model"] else None

    def _file(self, name: str, sha256: str) -> Path:
        return self.directory / FILES / sha256[:16] / name

    def _model_folder(self, model: Mapping[str, str]) -> Path:
        return self.directory / MODEL / model_digest(model)[:16]

    def _wrong_with_file(self, name: str) -> str:
        sha256 = self.facts["files"][name]
        return self._wrong(self._file(name, sha256), sha256)

    def _wrong_with_model(self) -> str:
        model = self.facts["model"]
        folder = self._model_folder(model)
        wrong = ((name, self._wrong(folder / name, sha256)) for name, sha256 in model.items())
        return next((f"{name} {what}" for name, what in wrong if what), "")

    def _wrong(self, path: Path, sha256: str) -> str:
        """Why this is not the file that was written; '' where it is."""
        is_below = path.is_relative_to(self.directory)
        if not is_below or path.resolve() != self.directory.resolve() / path.relative_to(
            self.directory
        ):
            return "leads elsewhere"
        try:
            return "" if digest(path) == sha256 else "is damaged"
        except OSError as error:
            return f"cannot be read ({error.strerror})"

    # --- what is not

    def mend(self) -> None:
        """Sets aside what is damaged and says so in `run.json` and a tag; the rest is whole then.

        After a kill at any time the same can be done again.
        """
        found, files, model = [], dict(self.facts["files"]), self.facts["model"]
        if self.history.num_lost:
            found.append(f"{self.history.num_lost} log points")
        for name in self.facts["files"]:
            if wrong := self._wrong_with_file(name):
                found.append(f"{name} {wrong}")
                self._set_aside(self._file(name, files.pop(name)), name)
        if wrong := self._wrong_with_model():
            found.append(f"the model's {wrong}")
            self._set_aside(self._model_folder(model), MODEL)
            model = {}
        if not found:
            return
        damage = [*self.facts.get("damage", []), *found]
        tags = {**self.facts["tags"], "run.damaged": "; ".join(damage)[:5000]}
        content, length = encode(self.history.points)
        if self.history.num_lost:
            self._set_aside(self.directory / HISTORY, HISTORY)
        self.note(files=files, model=model, history=length, damage=damage, tags=tags)
        verified.replace(self.directory / HISTORY, content)
        self._open_history()

    def _set_aside(self, path: Path, name: str) -> None:
        """A copy, so that a kill leaves what can be told apart from what is whole once more."""
        aside = self.directory / DAMAGED / name
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
        self.facts = {**self.facts, **EMPTY, "history": None, "is_delivered": True}
        with suppress(OSError):
            self._save()  # first: what it names must be there
            (self.directory / HISTORY).unlink(missing_ok=True)
            for folder in (FILES, MODEL, _INCOMING):
                shutil.rmtree(self.directory / folder, ignore_errors=True)
        if self.facts.get("is_temporary") and not self.facts.get("damage"):
            self.discard()

    def discard(self) -> None:
        """Removes the run, and its directory where that is empty then."""
        for folder in (FILES, MODEL, _INCOMING):
            shutil.rmtree(self.directory / folder, ignore_errors=True)
        for file in (FACTS, HISTORY, LOCK):
            (self.directory / file).unlink(missing_ok=True)
        with suppress(OSError):
            self.directory.rmdir()
            self.directory.parent.rmdir()

    def close(self) -> None:
        """Lets go of the directory; a second time it does nothing."""
        if self.facts.get("is_delivered"):
            (self.directory / LOCK).unlink(missing_ok=True)
        self._lock.release()


def model_digest(model: Mapping[str, str]) -> str:
    """One SHA-256 for all files of a model."""
    return hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()


def _move(path: Path, place: Path) -> None:
    """Where a model with the same files has been before, that stays."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_dir():
        path.replace(place)


def is_locked(directory: Path) -> bool:
    """Whether a process holds the record of this directory, as far as its lock tells here."""
    if not (directory / LOCK).exists():
        return False
    lock = FileLock(directory / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False
