"""kill -9 as a run's record is being delivered, after each thing that the store was given.

`python -m tests.faults.kills STORE` tries them all on a store of its own.
"""

import json
import os
import signal
import sys
from pathlib import Path

from mlp_jax.tracking import run as tracking
from mlp_jax.tracking import store
from mlp_jax.tracking.journal import Journal
from tests.faults import tracking_faults as faults


def die_after(num_delivered: int) -> None:
    """The process kills itself as soon as the store has so many things and before it notes that."""
    acknowledge = Journal.acknowledge

    def dying(self: Journal, number: int) -> None:
        if number >= num_delivered:
            os.kill(os.getpid(), signal.SIGKILL)
        acknowledge(self, number)

    Journal.acknowledge = dying  # type: ignore[method-assign]


def killed_and_resumed(uri: str, directory: Path, num_delivered: int) -> list[str]:
    """What is wrong with a run whose process was killed, and which another one has finished."""
    child = os.fork()
    if child == 0:
        die_after(num_delivered)
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
    """Prints the problems after each number of delivered things, as JSON."""
    store.preload()  # before the fork, so that it costs once
    uri = sys.argv[1]
    root = Path(uri.removeprefix("sqlite:///")).parent / "runs"
    # Run, parameters, a batch of points, a tag, a text, a model, the status.
    numbers = [0, 1, 2, faults.NUM_STEPS, *range(faults.NUM_STEPS + 2, faults.NUM_STEPS + 6)]
    print(json.dumps({n: killed_and_resumed(uri, root / str(n), n) for n in numbers}))


if __name__ == "__main__":
    main()
