"""A thread that delivers a run's journal while the run goes on.

Whatever the store does, the run notices three things of it: the wait of `begin` and the wait of
`finish`, both bounded, and one warning.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from mlp_jax.errors import UserError, redacted
from mlp_jax.tracking import liveness, recovery, store
from mlp_jax.tracking.delivery import MAX_METRICS, Delivery
from mlp_jax.tracking.journal import RECORD, Entry, Journal

if TYPE_CHECKING:  # takes seconds to import
    import mlflow

_FLUSH_SECONDS = 5.0  # the longest that a point of a metric waits while the store is well
_SECURE_SECONDS = 2.0  # the longest that an entry is not yet safe from a power cut
_BEGIN_SECONDS = 1.0
_FAILING_SECONDS = 2.0  # that the end of a run waits for a store that has failed before
_EARLIER_RUNS_SECONDS = 5.0
_MAX_RETRY_SECONDS = 30.0
_NAP_SECONDS = 0.5


class Patience(NamedTuple):
    """How many seconds the end of a run waits, in all and without an entry being delivered."""

    total: float
    idle: float


class Sender:
    """Delivers the entries it is given, in their order, to the store at `uri`.

    When all is delivered and the run has ended, it removes the journal.
    """

    def __init__(
        self,
        uri: str,
        client: "mlflow.MlflowClient | None",
        held: Journal,
        warn: Callable[[str], None],
        *,
        in_doubt: bool,
    ) -> None:
        self._uri, self._client, self._journal, self._warn = uri, client, held, warn
        self._in_doubt = in_doubt
        self._delivery: Delivery | None = None
        self._pending: deque[Entry] = deque()
        self._num_points = 0
        self._oldest = 0.0  # when the first of the pending entries came
        self._is_urgent = False
        self._num_failures = 0  # in a row
        self._retry_at = 0.0
        self._has_begun = self._has_warned = self._is_closing = self._is_abandoned = False
        self._refusal: UserError | None = None
        self._earlier_runs: Iterator[str] | None = self._recover_earlier_runs()
        self._beat_at = time.monotonic()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="delivery", daemon=True)

    def put(self, entry: Entry) -> None:
        """Hands over an entry of the journal; never waits for the store."""
        with self._changed:
            if not self._pending:
                self._oldest = time.monotonic()
            self._pending.append(entry)
            self._num_points += recovery.num_points(entry)
            self._is_urgent |= entry.kind != "metrics"
            if self._is_due():
                self._changed.notify_all()

    def begin(self) -> None:
        """Starts, and waits a moment for the run to be in the store.

        Raises `UserError` where the store says that it never will be.
        """
        self._thread.start()
        # An SQLite file is here, and creating it takes seconds, once.
        patience = None if self._uri.startswith("sqlite:") else _BEGIN_SECONDS
        with self._changed:
            self._changed.wait_for(lambda: self._delivery or self._num_failures, patience)
            if self._delivery:
                self._changed.wait_for(
                    lambda: "run_id" in self._journal.record or self._num_failures, _BEGIN_SECONDS
                )
            self._has_begun = True
            self._is_abandoned = self._refusal is not None
            self._changed.notify_all()
        if self._refusal is not None:
            self._thread.join()
            raise self._refusal

    def wait_until_begun(self, seconds: float) -> None:
        """Until the store knows the run, but so long at most, and not after a failure."""
        with self._changed:
            self._changed.wait_for(
                lambda: "run_id" in self._journal.record or self._num_failures, seconds
            )

    def finish(self, patience: Patience) -> bool:
        """Waits as long as entries are being delivered; says whether all were."""
        with self._changed:
            if self._num_failures:
                patience = Patience(_FAILING_SECONDS, _FAILING_SECONDS)
            self._is_closing = self._is_urgent = True
            self._retry_at = 0.0
            self._changed.notify_all()
            if self._wait_until_delivered(patience):
                self._changed.wait_for(lambda: self._earlier_runs is None, _EARLIER_RUNS_SECONDS)
        if self._pending:
            self._leave_behind()
        with self._changed:
            self._is_abandoned = True
            self._changed.notify_all()
        if not self._pending:
            self._thread.join(_EARLIER_RUNS_SECONDS)
        return not self._pending

    def join(self) -> None:
        """Waits for the call that is under way, and lets go of the journal then."""
        self._thread.join()

    def _wait_until_delivered(self, patience: Patience) -> bool:
        most_failures = max(2, self._num_failures + 1)
        end = time.monotonic() + patience.total
        while self._pending and self._num_failures < most_failures:
            before = self._progress()
            timeout = min(patience.idle, end - time.monotonic())
            self._changed.wait_for(lambda: self._progress() != before, timeout)  # noqa: B023
            if self._progress() == before:
                break
        return not self._pending

    def _progress(self) -> tuple[int, int]:
        return len(self._pending), self._num_failures

    def _leave_behind(self) -> None:
        """What is left must not depend on this process."""
        try:
            self._journal.secure()
        except OSError as error:
            self._warn(
                f"{self._journal.directory}: {error.strerror}. What could neither be written there "
                "nor delivered is lost."
            )
        self._warn_once("The store did not take everything in time.")

    def _warn_once(self, cause: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            directory = self._journal.directory
            self._warn(
                f"{cause}\nThe run is kept in {directory} and delivered when the store is back, at "
                f"the latest by: {recovery.sync_command(directory)}"
            )

    # --- the thread

    def _work(self) -> None:
        while self._step():
            pass
        if self._pending:
            self._journal.close()
        else:
            self._journal.remove()

    def _step(self) -> bool:
        """Does one thing of what there is to do; False at the end."""
        with self._changed:
            self._changed.wait_for(self._has_work, _NAP_SECONDS)
            has_all = self._is_closing and not self._pending and self._earlier_runs is None
            if self._is_abandoned or has_all:
                return False
            batch = next(recovery.batches(self._pending)) if self._is_due() else []
        try:
            self._keep()
            if self._delivery is None:
                self._open()
            elif batch:
                self._deliver(self._delivery, batch)
            elif self._earlier_runs is not None and not self._num_failures:
                self._recover_one(self._earlier_runs)
        except Exception as error:  # whatever the store and its client come up with
            self._note_failure(error)
        return True

    def _has_work(self) -> bool:
        return (
            self._is_abandoned
            or self._is_due()
            or (self._delivery is None and self._may_try())
            or (self._earlier_runs is not None and not self._num_failures)
            or (self._is_closing and not self._pending)
        )

    def _is_due(self) -> bool:
        return (
            bool(self._pending)
            and self._may_try()
            and (
                self._is_urgent
                or self._num_points >= MAX_METRICS
                or time.monotonic() - self._oldest > _FLUSH_SECONDS
            )
        )

    def _may_try(self) -> bool:
        return time.monotonic() >= self._retry_at

    def _keep(self) -> None:
        """Secures what waits, and shows that the run is alive."""
        now = time.monotonic()
        if self._pending and now - self._oldest > _SECURE_SECONDS:
            with suppress(OSError):  # `finish` says it if that lasts
                self._journal.secure()
        if now - self._beat_at > liveness.HEARTBEAT_SECONDS:
            self._beat_at = now
            with suppress(OSError):
                os.utime(self._journal.directory / RECORD)
            if self._client is not None and not self._num_failures:
                self._client.set_tag(
                    self._journal.record["run_id"], recovery.HEARTBEAT_TAG, str(int(time.time()))
                )

    def _open(self) -> None:
        if not self._may_try():
            return
        if self._client is None:
            self._client = store.open_store(self._uri)
        delivery = Delivery(self._client, self._journal, in_doubt=self._in_doubt)
        with self._changed:
            self._delivery, self._num_failures = delivery, 0
            self._changed.notify_all()

    def _deliver(self, delivery: Delivery, batch: list[Entry]) -> None:
        delivery.deliver(batch)
        with self._changed:
            for entry in batch:
                self._pending.popleft()
                self._num_points -= recovery.num_points(entry)
            self._oldest = time.monotonic()
            self._is_urgent &= bool(self._pending)
            self._num_failures = 0
            self._changed.notify_all()

    def _recover_one(self, earlier_runs: Iterator[str]) -> None:
        line = next(earlier_runs, None)
        if line:
            self._warn(line)
        with self._changed:
            self._earlier_runs = None if line is None else earlier_runs
            self._changed.notify_all()

    def _recover_earlier_runs(self) -> Iterator[str]:
        """Takes them one by one, so that this run's own entries come first."""
        assert self._client is not None
        root, own = self._journal.directory.parent, self._journal.record["run_id"]
        yield from recovery.repair_store(self._client, own)
        yield from recovery.recover_all(root, self._client, redacted(self._uri))

    def _note_failure(self, error: Exception) -> None:
        with self._changed:
            self._num_failures += 1
            delay = min(2.0 ** (self._num_failures - 2), _MAX_RETRY_SECONDS)
            self._retry_at = time.monotonic() + delay
            if not self._has_begun and _is_final(error):
                self._refusal = error
            self._changed.notify_all()
        if self._refusal is None:
            is_told = isinstance(error, UserError)
            self._warn_once(str(error) if is_told else store.failure(error, self._uri))


def _is_final(error: Exception) -> TypeGuard[UserError]:
    return isinstance(error, UserError) and not isinstance(error, store.UnreachableError)
