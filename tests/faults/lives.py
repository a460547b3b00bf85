"""Real training processes that are killed or asked to stop at a chosen instant, and followed up.

A process is forked off one that has imported everything and has not yet started JAX, so a life
costs a second. An instant is the n-th time that a life comes to one of its phases, and some
milliseconds after that.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlp_jax import errors
from mlp_jax.durable.checkpoint import Checkpoints

if TYPE_CHECKING:  # takes seconds to import
    import mlflow.entities

EXPERIMENT = ["+exp=digits", "num_epochs=300", "log_every=66", "checkpoint.every_epochs=10",
              "tracking.figures=false"]  # fmt: skip


class Phase(NamedTuple):
    """A part of a life: what follows a place that the product names with `errors.reached`."""

    most_calls: int
    """The instant is at one of the first so many times that the place is reached."""
    most_seconds: float
    """And at most so long after it."""


PHASES = {
    "start-up": Phase(1, 1.0),
    "opening the store": Phase(1, 2.0),
    "training": Phase(30, 0.01),
    "saving": Phase(9, 0.003),
    "logging": Phase(4, 0.01),
    "ending": Phase(1, 0.4),
}


SWEEP_PHASES = {
    "composing": Phase(1, 0.3),
    "compiling": Phase(2, 2.0),
    "training together": Phase(6, 0.02),
    "beginning the parent": Phase(1, 0.3),
    "writing the runs": Phase(2, 0.1),
    "ending the parent": Phase(1, 1.0),
}


class Instant(NamedTuple):
    """When something happens to a process, and what: the signals that it gets, or a full disk."""

    phase: str
    call: int
    seconds: float
    signals: tuple[int, ...] = (signal.SIGKILL,)
    fills_disk: bool = False


def choose(random: Random, phase: str, *signals: int) -> Instant:
    most_calls, most_seconds = (PHASES | SWEEP_PHASES)[phase]
    call, seconds = random.randint(1, most_calls), random.uniform(0, most_seconds)
    return Instant(phase, call, seconds, signals or (signal.SIGKILL,))


class Life(NamedTuple):
    """How a process ended: its exit status, negative for a signal, and its last words."""

    status: int
    output: str
    seconds: float
    """From the instant to the end."""


def prepare(cache: Path) -> None:
    """Imports what a life needs, without starting JAX; what one compiles, the next finds there."""
    from mlp_jax.tracking import store

    store.preload()
    import jax
    import sklearn.datasets  # noqa: F401

    from mlp_jax.commands import train  # noqa: F401

    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # JAX has no threads yet


def live(directory: Path, arguments: Sequence[str], instant: Instant | None = None) -> Life:
    """Runs `python -m mlp_jax.train` with these arguments in a directory."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        _child(directory, arguments, instant, writes)
    os.close(writes)
    _, status = os.waitpid(child, 0)
    end = time.monotonic()
    with os.fdopen(reads) as pipe:
        text = pipe.read()
    began = float(text or end)
    output = _output(directory).read_text(encoding="utf-8", errors="replace")
    return Life(os.waitstatus_to_exitcode(status), output, end - began)


def _output(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.txt")


def _child(directory: Path, arguments: Sequence[str], instant: Instant | None, pipe: int) -> None:
    status = 70
    try:
        os.chdir(directory)
        output = os.open(_output(directory), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if instant is not None:
            _arm(instant, pipe)
        from mlp_jax.commands import train

        sys.argv = ["train", *arguments]
        train.main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 70
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _arm(instant: Instant, pipe: int) -> None:
    """Lets the signals come at the instant."""
    num_calls = 0

    def act() -> None:
        time.sleep(instant.seconds)
        os.write(pipe, str(time.monotonic()).encode())
        if instant.fills_disk:
            fill(Path.cwd())
        for number in instant.signals:
            os.kill(os.getpid(), number)
            time.sleep(0.05)

    def count() -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == instant.call:
            threading.Thread(target=act, daemon=True).start()

    errors.FAULTS[instant.phase] = count


BALLAST = "ballast"


def fill(directory: Path) -> None:
    """Leaves no byte free on the disk of a directory."""
    with (directory / BALLAST).open("ab", buffering=0) as ballast:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:
                continue


# --- what a run left ---------------------------------------------------------------------------


def run_directory(directory: Path) -> Path | None:
    """The run that can be resumed there, if one has begun."""
    found = sorted((directory / "runs").glob("*/config.json"))
    return found[-1].parent if found else None


def status_of_run(directory: Path) -> str | None:
    """In the store; `None` where no run is."""
    runs = _runs(directory)
    return runs[0].info.status if runs else None


def _runs(directory: Path) -> "list[mlflow.entities.Run]":
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{directory}/mlflow.db")
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


class Outcome(NamedTuple):
    """A finished run: its last checkpoint as arrays, and its points in the store."""

    arrays: dict[str, np.ndarray]
    params_sha256: str
    points: dict[str, list[tuple[int, float]]]
    status: str


def outcome(directory: Path) -> Outcome:
    """What a finished run left on disk and in the store. Raises `AssertionError`, `LookupError`.

    What a store that was slow did not take in time is delivered first, as its user is told to do.
    """
    from mlflow import MlflowClient

    from mlp_jax.commands import sync

    place = run_directory(directory)
    assert place is not None, "no run"
    assert sync.sync([place]), "not delivered"
    checkpoints = Checkpoints(place / "checkpoints", keep=1)
    last = checkpoints.load(checkpoints.steps()[-1])
    arrays = {**last.arrays, "history": np.array([[at, *p.values()] for at, p in last.history])}
    client = MlflowClient(f"sqlite:///{directory}/mlflow.db")
    runs = _runs(directory)
    assert len(runs) == 1, f"{len(runs)} runs in the store"
    names = set(runs[0].data.metrics) - {"steps_per_second"}
    points = {
        name: [(p.step, p.value) for p in client.get_metric_history(runs[0].info.run_id, name)]
        for name in names
    }
    digest = json.loads((place / "result.json").read_text(encoding="utf-8"))["params_sha256"]
    assert runs[0].data.tags["params_sha256"] == digest, "another params_sha256 in the store"
    return Outcome(arrays, digest, points, runs[0].info.status)


def differences(wanted: Outcome, found: Outcome) -> Iterator[str]:
    """What is not bit for bit the same."""
    if found.status != "FINISHED":
        yield f"status {found.status}"
    if found.params_sha256 != wanted.params_sha256:
        yield "other parameters"
    if found.arrays.keys() != wanted.arrays.keys():
        yield "other arrays in the checkpoint"
    for name in wanted.arrays.keys() & found.arrays.keys():
        if not np.array_equal(wanted.arrays[name], found.arrays[name], equal_nan=True):
            yield f"{name} is another"
    for name in wanted.points.keys() | found.points.keys():
        if sorted(found.points.get(name, [])) != sorted(wanted.points.get(name, [])):
            yield f"{name}: {len(found.points.get(name, []))} points, not the same"


def fresh(directory: Path, store: Path | None) -> Path:
    """An empty directory, with a copy of an empty store unless the life shall create its own."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    if store is not None:
        shutil.copy(store, directory)
    return directory


def until_done(
    directory: Path, next_instant: Callable[[], Instant | None]
) -> list[tuple[Instant | None, Life]]:
    """Begins a run and resumes it until it is done; `next_instant` is asked before each life."""
    lives: list[tuple[Instant | None, Life]] = []
    while not lives or lives[-1][1].status != 0:
        place = run_directory(directory)
        arguments = [*EXPERIMENT] if place is None else [f"resume={place}"]
        instant = next_instant()
        lives.append((instant, live(directory, arguments, instant)))
        if len(lives) > 60 or (instant is None and lives[-1][1].status != 0):
            break
    return lives
