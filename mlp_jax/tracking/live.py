"""A thread that mirrors a run while it goes on.

Whatever the store does, the run notices three things of it: the wait of `begin` and the wait of
`finish`, both bounded, and one warning.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from mlp_jax.errors import UserError
from mlp_jax.tracking import recovery, store
from mlp_jax.tracking.mirror import MAX_METRICS, Mirror
from mlp_jax.tracking.record import Record

if TYPE_CHECKING:  # takes seconds to import
    import mlflow

_FLUSH_SECONDS = 5.0  # the longest that a log point waits while the store is well
_SECURE_SECONDS = 2.0  # the longest that a log point is not yet safe from a power cut
_BEGIN_SECONDS = 1.0
_FAILING_SECONDS = 2.0  # that the end of a run waits for a store that has failed before
_EARLIER_RUNS_SECONDS = 5.0
_MAX_RETRY_SECONDS = 30.0
_NAP_SECONDS = 0.5


class Patience(NamedTuple):
    """How many seconds the end of a run waits, in all and without an answer of the store."""

    total: float
    idle: float


class Live:
    """Mirrors a record to the store at `uri` until the run has ended and is there."""

    def __init__(
        self,
        uri: str,
        client: "mlflow.MlflowClient | None",
        record: Record,
        warn: Callable[[str], None],
    ) -> None:
        self._uri, self._client, self._record, self._warn = uri, client, record, warn
        self._mirror: Mirror | None = None
        self._num_new = 0  # points since the last update began
        self._oldest = 0.0  # when the first of them came
        self._is_urgent = True
        self._num_failures = 0  # in a row
        self._retry_at = 0.0
        self._has_begun = self._has_warned = False
        self._is_closing = self._is_done = self._is_abandoned = False
        self._refusal: UserError | None = None
        self._earlier_runs: Iterator[str] | None = None
        self._beat_at = self._secured_at = time.monotonic()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    def notice(self, num_points: int = 0) -> None:
        """Hears that the record has more points, or else what should not wait."""
        with self._changed:
            if not self._num_new:
                self._oldest = time.monotonic()
            self._num_new += num_points
            self._is_urgent |= not num_points
            if self._is_due():
                self._changed.notify_all()

    def begin(self) -> None:
        """Starts, and waits a moment for the run to be in the store.

        Raises `UserError` where the store says that it never will be.
        """
        self._thread.start()
        # An SQLite file is here, and creating it takes seconds, once.
        patience = None if store.sqlite_file(self._uri) else _BEGIN_SECONDS
        with self._changed:
            self._changed.wait_for(lambda: self._mirror or self._num_failures, patience)
        if self._mirror:
            self.wait_until_known(_BEGIN_SECONDS)
        with self._changed:
            self._has_begun = True
        if self._refusal is not None:
            self._abandon()
            self.join()
            raise self._refusal

    def wait_until_known(self, seconds: float) -> None:
        """Until the store knows the run, but so long at most, and not after a failure."""
        with self._changed:
            self._changed.wait_for(
                lambda: "run_id" in self._record.facts or self._num_failures, seconds
            )

    def finish(self, patience: Patience) -> bool:
        """Waits as long as the store answers; says whether it has all."""
        with self._changed:
            if self._num_failures:
                patience = Patience(_FAILING_SECONDS, _FAILING_SECONDS)
            self._is_closing = True
            self._retry_at = 0.0
            self._changed.notify_all()
            self._wait_until_done(patience)
            if is_done := self._is_done:
                self._changed.wait_for(lambda: self._earlier_runs is None, _EARLIER_RUNS_SECONDS)
        if not is_done:
            self._leave_behind()
        self._abandon()
        if is_done:
            self._thread.join(_EARLIER_RUNS_SECONDS)
        return is_done

    def join(self) -> None:
        """Waits for the call that is under way, and lets go of the record then."""
        self._thread.join()

    def _abandon(self) -> None:
        with self._changed:
            self._is_abandoned = True
            self._changed.notify_all()

    def _wait_until_done(self, patience: Patience) -> None:
        most_failures = max(2, self._num_failures + 1)
        end = time.monotonic() + patience.total
        is_moving = True
        while is_moving and not self._is_done and self._num_failures < most_failures:
            before = self._progress()
            timeout = min(patience.idle, end - time.monotonic())
            is_moving = self._changed.wait_for(lambda: self._progress() != before, timeout)  # noqa: B023

    def _progress(self) -> tuple[int, int, bool]:
        num_calls = self._mirror.client.num_calls if self._mirror else 0
        return num_calls, self._num_failures, self._is_done

    def _leave_behind(self) -> None:
        """What is left must not depend on this process."""
        try:
            self._record.secure()
        except OSError as error:
            self._warn(
                f"{self._record.directory}: {error.strerror}. What could neither be written there "
                "nor delivered is lost."
            )
        self._warn_once("The store did not take everything in time.")

    def _warn_once(self, cause: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            directory = self._record.directory
            self._warn(
                f"{cause}\nThe run is kept in {directory} and delivered when the store is back, at "
                f"the latest by: {recovery.sync_command(directory)}"
            )

    # --- the thread

    def _work(self) -> None:
        while self._step():
            pass
        self._record.close()

    def _step(self) -> bool:
        """Does one thing of what there is to do; False at the end."""
        with self._changed:
            self._changed.wait_for(self._has_work, _NAP_SECONDS)
            if self._is_abandoned or (self._is_done and self._earlier_runs is None):
                return False
            is_due = self._is_due()
        try:
            if not self._is_done:
                self._keep()
            if self._mirror is None:
                if self._may_try():
                    self._open()
            elif is_due:
                self._update(self._mirror)
            elif self._earlier_runs is not None and not self._num_failures:
                self._recover_one(self._earlier_runs)
        except Exception as error:  # whatever the store and its client come up with
            self._note_failure(error)
        return True

    def _has_work(self) -> bool:
        return (
            self._is_abandoned
            or self._is_done
            or self._is_due()
            or (self._mirror is None and self._may_try())
            or (self._earlier_runs is not None and not self._num_failures)
        )

    def _is_due(self) -> bool:
        is_old = self._num_new > 0 and time.monotonic() - self._oldest > _FLUSH_SECONDS
        has_much = is_old or self._num_new >= MAX_METRICS or self._is_urgent or self._is_closing
        return has_much and not self._is_done and self._may_try()

    def _may_try(self) -> bool:
        return time.monotonic() >= self._retry_at

    def _keep(self) -> None:
        """Secures what is new, and shows that the run is alive."""
        now = time.monotonic()
        if now - self._secured_at > _SECURE_SECONDS:
            self._secured_at = now
            with suppress(OSError):  # `finish` says it if that lasts
                self._record.history.secure()
        if now - self._beat_at > recovery.HEARTBEAT_SECONDS:
            self._beat_at = now
            self._record.beat()
            run_id = self._record.facts.get("run_id")
            if self._client is not None and run_id and not self._num_failures:
                self._client.set_tag(run_id, recovery.HEARTBEAT_TAG, str(int(time.time())))

    def _open(self) -> None:
        if self._client is None:
            self._client = store.open_store(self._uri)
        with self._changed:
            self._mirror = Mirror(self._record, self._client, on_call=self._notify)
            self._earlier_runs = recovery.deliver(self._record.directory.parent, self._client)
            self._num_failures = 0
            self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _update(self, mirror: Mirror) -> None:
        with self._changed:
            num_new, oldest, is_urgent = self._num_new, self._oldest, self._is_urgent
            self._num_new, self._is_urgent = 0, False
            is_closing = self._is_closing
        try:
            mirror.complete() if is_closing else mirror.update()
        except BaseException:
            with self._changed:
                self._num_new, self._oldest = self._num_new + num_new, oldest
                self._is_urgent |= is_urgent
            raise
        with self._changed:
            self._num_failures, self._is_done = 0, is_closing
            self._changed.notify_all()

    def _recover_one(self, earlier_runs: Iterator[str]) -> None:
        """One by one, so that this run's own points come first."""
        if line := next(earlier_runs, None):
            self._warn(line)
        elif line is None:
            with self._changed:
                self._earlier_runs = None
                self._changed.notify_all()

    def _note_failure(self, error: Exception) -> None:
        with self._changed:
            self._num_failures += 1
            delay = min(2.0 ** (self._num_failures - 2), _MAX_RETRY_SECONDS)
            self._retry_at = time.monotonic() + delay
            if not self._has_begun and isinstance(error, UserError):
                self._refusal = None if isinstance(error, store.UnreachableError) else error
            self._changed.notify_all()
        if self._refusal is None:
            is_told = isinstance(error, UserError)
            self._warn_once(str(error) if is_told else store.failure(error, self._uri))
