"""kill -9 as a run's record is being delivered, after calls of the store.

`python -m tests.faults.kills STORE` tries them all on a store of its own.
"""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

from mlp_jax.errors import FAULTS
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking import store
from tests.faults import tracking_faults as faults


def die_after(num_calls: int) -> None:
    """The process kills itself as soon as the store has answered so many calls."""
    calls = itertools.count()

    def count() -> None:
        if next(calls) == num_calls:
            os.kill(os.getpid(), signal.SIGKILL)

    FAULTS["logging"] = count


def killed_and_resumed(uri: str, directory: Path, num_calls: int) -> list[str]:
    """What is wrong with a run whose process was killed, and which another one has finished."""
    child = os.fork()
    if child == 0:
        die_after(num_calls)
        faults.record(uri, "kills", directory, {}, [])
        os._exit(0)  # it had no more to deliver
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        return ["was not killed"]
    warnings: list[str] = []
    run = tracking.resume(uri, directory, warn=warnings.append)
    faults.log(run, {})
    return [*warnings, *faults.problems(run, "kills")]


def main() -> None:
    """Prints the problems after each number of calls, as JSON."""
    store.preload()  # before the fork, so that it costs once
    uri = sys.argv[1]
    root = Path(uri.removeprefix("sqlite:///")).parent / "runs"
    numbers = range(2, 18, 2)
    print(json.dumps({n: killed_and_resumed(uri, root / str(n), n) for n in numbers}))


if __name__ == "__main__":
    main()
