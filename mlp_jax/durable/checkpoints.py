"""Checkpoints: all that a training carries, on disk whole or not at all.

A checkpoint is a directory named by its step. It is written under a temporary name, synced and
renamed; its manifest holds the SHA-256 of each other file, which a restore compares first. (Orbax
0.12 restores a flipped bit without a word, does not sync and takes 124 ms a save. NumPy's npz
takes a fraction of that, and is read without pickle.) No key is among it: those of the run follow
from its seed and the step.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np

from mlp_jax.errors import RunError, reached

STATE, HISTORY, MANIFEST = "state.npz", "history.npz", "manifest.json"
FILES = (STATE, HISTORY)

_UNFINISHED = ".unfinished-"

Points = Sequence[tuple[int, Mapping[str, float]]]
"""Steps and what was measured after each, every time the same."""


class Checkpoint(NamedTuple):
    """What was saved: a pytree of arrays, and the log points up to it."""

    state: Any
    history: list[tuple[int, dict[str, float]]]


class DamagedError(Exception):
    """A checkpoint that is not what was written, and how."""


class Checkpoints:
    """The checkpoints of one run, in a directory of their own: the last `keep` and the best."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory = directory
        self.keep = keep

    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint, from first to last."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit())

    def path(self, step: int) -> Path:
        return self.directory / f"{step:010d}"

    def save(self, step: int, state: Any, history: Points) -> None:
        """Saves the state and removes what is no longer kept. Raises `OSError`; then all is as was.

        A checkpoint of this step that is there already, and whole, stays as it is.
        """
        if self._is_whole(self.path(step)):
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        unfinished = Path(mkdtemp(prefix=_UNFINISHED, dir=self.directory))
        try:
            sums = {
                name: _write(unfinished / name, _npz(arrays))
                for name, arrays in ((STATE, _encode(state)), (HISTORY, _columns(history)))
            }
            _write(unfinished / MANIFEST, _manifest(sums))
            _sync(unfinished)
            self._remove(step)  # a damaged one
            unfinished.rename(self.path(step))
            _sync(self.directory)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        self._prune(history)

    def restore(self, template: Any, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is whole, as `template` is built; `None` if there is none.

        `warn` is told of each that is damaged. Raises `RunError` where all are, and where one
        does not fit the template.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return _load(self.path(step), template)
            except DamagedError as error:
                warn(f"damaged checkpoint {self.path(step)}: {error}; taking the one before it")
        if steps:
            raise RunError(
                f"{self.directory}: every checkpoint is damaged. Remove this directory, and the "
                "same command begins the run again from its first step."
            )
        return None

    def remove_unfinished(self) -> None:
        """Clears away what a process that was killed had begun to write or to remove."""
        for path in self.directory.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _is_whole(self, path: Path) -> bool:
        try:
            _verify(path)
        except DamagedError:
            return False
        return True

    def _prune(self, history: Points) -> None:
        steps = self.steps()
        for step in set(steps) - set(steps[-self.keep :]) - set(_best(steps, history)):
            self._remove(step)

    def _remove(self, step: int) -> None:
        """Out of sight in one step, so that no half of it is ever taken for a damaged one."""
        if self.path(step).exists():
            hidden = self.directory / f"{_UNFINISHED}removed-{step}"
            shutil.rmtree(hidden, ignore_errors=True)
            self.path(step).rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)


def _best(steps: list[int], history: Points) -> list[int]:
    """Of these steps the one with the lowest loss, of the validation part where there is one."""
    losses = {
        step: metrics.get("validation/loss", metrics.get("train/loss", np.inf))
        for step, metrics in history
        if step in steps
    }
    finite = {
        step: loss for step, loss in losses.items() if np.isfinite(loss)
    }  # NaN orders nothing
    return [min(finite, key=finite.__getitem__)] if finite else []


# --- files -------------------------------------------------------------------------------------


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _write(file: Path, content: bytes) -> str:
    """Writes and syncs; returns the SHA-256."""
    reached("saving")
    with file.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    return hashlib.sha256(content).hexdigest()


def _sync(directory: Path) -> None:
    """Makes the names in it last."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest(sums: Mapping[str, str]) -> bytes:
    return (json.dumps(sums, indent=1) + "\n").encode()


def _verify(path: Path) -> dict[str, bytes]:
    """The files of a checkpoint. Raises `DamagedError` unless the manifest is theirs, exactly."""
    try:
        files = {name: (path / name).read_bytes() for name in FILES}
        manifest = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise DamagedError(f"{Path(error.filename).name}: {error.strerror}") from None
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    if manifest != _manifest(sums):
        changed = [name for name, digest in sums.items() if digest.encode() not in manifest]
        raise DamagedError(f"the SHA-256 of {changed[0] if changed else MANIFEST} is another")
    return files


def _load(path: Path, template: Any) -> Checkpoint:
    files = _verify(path)
    state, history = (_arrays(files, name) for name in FILES)
    return Checkpoint(_decode(state, template, path), _points(history))


def _arrays(files: Mapping[str, bytes], name: str) -> dict[str, np.ndarray]:
    """Of a file. Raises `DamagedError` for what is no npz, or one with a pickle in it."""
    try:
        with np.load(io.BytesIO(files[name]), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, EOFError, BadZipFile) as error:
        raise DamagedError(f"{name}: {error}") from None


# --- arrays ------------------------------------------------------------------------------------


def _columns(history: Points) -> dict[str, np.ndarray]:
    names = history[0][1] if history else {}
    return {
        "step": np.array([step for step, _ in history], np.int64),
        **{name: np.array([metrics[name] for _, metrics in history]) for name in names},
    }


def _points(columns: dict[str, np.ndarray]) -> list[tuple[int, dict[str, float]]]:
    steps = columns.pop("step")
    return [
        (int(step), {name: float(column[i]) for name, column in columns.items()})
        for i, step in enumerate(steps)
    ]


def _leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their place in it and their dtype."""
    return {
        f"{jax.tree_util.keystr(path)}:{leaf.dtype}": leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _encode(tree: Any) -> dict[str, np.ndarray]:
    """Arrays of dtypes that npz knows: bfloat16 as integers of its width."""
    arrays = {}
    for name, leaf in _leaves(tree).items():
        array = np.asarray(leaf)
        is_numpys = array.dtype.kind != "V"
        arrays[name] = array if is_numpys else array.view(f"u{array.itemsize}")
    return arrays


def _decode(arrays: dict[str, np.ndarray], template: Any, path: Path) -> Any:
    wanted = _leaves(template)
    if arrays.keys() != wanted.keys():
        odd = sorted(arrays.keys() ^ wanted.keys())[0]
        raise RunError(f"{path}: is of another kind of training; {odd} is in only one of them.")
    leaves = []
    for name, leaf in wanted.items():
        array = arrays[name].view(leaf.dtype)
        if array.shape != leaf.shape:
            raise RunError(f"{path}: {name} has shape {array.shape}, this run {leaf.shape}.")
        leaves.append(jnp.array(array))
    return jax.tree.unflatten(jax.tree.structure(template), leaves)
