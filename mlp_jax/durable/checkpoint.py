"""Checkpoints: all that a training carries, one file a step, there whole or not at all.

A file is NumPy's npz without pickle, and behind it the SHA-256 of every byte before. (Orbax 0.12
restores a flipped bit without a word, does not sync and takes 124 ms a save; this takes a fraction
of that.) No key is in it: those of the run follow from its seed and the step.
"""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from mlp_jax.durable import files
from mlp_jax.errors import RunError

Arrays = Mapping[str, np.ndarray]
Points = Sequence[tuple[int, Mapping[str, float]]]
"""Steps and what was measured after each, every time the same."""

_STATE = "state/"
"""Before the names of a training's arrays; the others are `step`, `metrics` and `history`."""


class Checkpoint(NamedTuple):
    """The arrays of a training after a step, and the log points up to it."""

    file: Path
    step: int
    arrays: dict[str, np.ndarray]
    history: list[tuple[int, dict[str, float]]]


class Checkpoints:
    """The checkpoints of one run, in a directory of their own: the last `keep` and the best."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory, self.keep = directory, keep

    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint, from first to last."""
        stems = (file.stem for file in self.directory.glob("*.npz"))
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def path(self, step: int) -> Path:
        return self.directory / f"{step:010d}.npz"

    def save(self, step: int, arrays: Arrays, history: Points) -> None:
        """Saves the arrays and removes what is no longer kept. Raises `OSError`; all is as was."""
        with suppress(RunError):
            self.load(step)
            return  # it is there already, and whole
        self.directory.mkdir(parents=True, exist_ok=True)
        metrics = list(history[0][1]) if history else []
        buffer = io.BytesIO()
        np.savez(
            buffer,
            allow_pickle=False,
            step=np.int64(step),
            metrics=np.array(metrics, str),
            history=np.array([[at, *(point[name] for name in metrics)] for at, point in history]),
            **{_STATE + name: array for name, array in arrays.items()},
        )
        files.write_bytes(self.path(step), buffer.getvalue())
        self._prune(step, history)

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of a step. Raises `RunError` where it is missing or damaged."""
        file = self.path(step)
        content = files.read_bytes(file)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as opened:
                arrays = dict(opened)
            if arrays["step"] != step:
                raise ValueError("is of another step")
            metrics, rows = (arrays[name].tolist() for name in ("metrics", "history"))
            history = [(int(at), dict(zip(metrics, row, strict=True))) for at, *row in rows]
        except (ValueError, LookupError, TypeError, EOFError, BadZipFile) as error:
            raise RunError(f"{file}: {error}") from None
        of_state = [name for name in arrays if name.startswith(_STATE)]
        state = {name.removeprefix(_STATE): arrays[name] for name in of_state}
        return Checkpoint(file, step, state, history)

    def restore(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is whole; `None` if there is none.

        `warn` is told of each that is damaged. Raises `RunError` where all are.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.load(step)
            except RunError as error:
                warn(f"damaged checkpoint {error}; taking the one before it")
        if steps or any(self.directory.glob("*/manifest.json")):
            what = "every checkpoint is damaged" if steps else "is of an earlier version of mlp_jax"
            raise RunError(
                f"{self.directory}: {what}. Remove this directory, and the same command begins the "
                "run again from its first step."
            )
        return None

    def remove_unfinished(self) -> None:
        """Clears away what a process that was killed had begun to write."""
        for file in self.directory.glob(f".*{files.UNFINISHED}"):
            file.unlink()

    def _prune(self, newest: int, history: Points) -> None:
        """Those beyond the newest are damaged: the run went on from one before them."""
        steps = self.steps()
        good = [step for step in steps if step <= newest]
        for step in set(steps) - set(good[-self.keep :]) - set(_best(good, history)):
            self.path(step).unlink()


def _best(steps: list[int], history: Points) -> list[int]:
    """Of these steps the one with the lowest loss, of the validation part where there is one."""
    losses = {
        step: metrics.get("validation/loss", metrics.get("train/loss", np.inf))
        for step, metrics in history
        if step in steps
    }
    finite = {step: loss for step, loss in losses.items() if np.isfinite(loss)}  # NaN has no order
    return [min(finite, key=finite.__getitem__)] if finite else []


# --- when ------------------------------------------------------------------------------------

Take = Callable[[], Arrays]
"""Copies what a training carries at this moment; it may be consumed then."""


class Saver(AbstractContextManager["Saver"]):
    """Saves a training that goes on meanwhile; one checkpoint at a time.

    One that is due while the last is still being written is taken as soon as that is done. What
    cannot be written is told to `warn`, and the training goes on.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        every_steps: int | None,
        every_seconds: float | None,
        warn: Callable[[str], None],
    ) -> None:
        self.checkpoints, self.warn = checkpoints, warn
        self.every_steps, self.every_seconds = every_steps, every_seconds
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None
        self.failure: str | None = None
        """Why the last checkpoint could not be written, if it could not."""
        self._is_due = False
        self._saved_at = time.monotonic()

    def offer(self, step: int, take: Take, history: Points) -> None:
        """Takes a checkpoint if one is due."""
        if self.every_steps is not None:
            self._is_due |= step % self.every_steps == 0
        if self.every_seconds is not None:
            self._is_due |= time.monotonic() - self._saved_at >= self.every_seconds
        if self._is_due and (self._writing is None or self._writing.done()):
            self.save(step, take, history)

    def save(self, step: int, take: Take, history: Points) -> None:
        """Takes a checkpoint; it is on the disk when the `with` of the saver ends."""
        self.wait()
        self._writing = self._thread.submit(self._write, step, take(), list(history))
        self._is_due, self._saved_at = False, time.monotonic()

    def wait(self) -> None:
        """Until what is being written is on the disk."""
        if self._writing is not None:
            self._writing.result()

    def _write(self, step: int, arrays: Arrays, history: Points) -> None:
        try:
            self.checkpoints.save(step, arrays, history)
            self.failure = None
        except OSError as error:
            self.failure = f"the checkpoint of step {step:,} could not be written: {error.strerror}"
            self.warn(self.failure)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()
