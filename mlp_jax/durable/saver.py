"""When a run saves itself, and that it need not wait for the disk."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from mlp_jax.durable.checkpoint import Arrays, Checkpoints, Points

Take = Callable[[], Arrays]
"""Copies what a training carries at this moment; it may be consumed then."""


class Saver:
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

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()
