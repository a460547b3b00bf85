"""Faults of the disk: writes that fail, files that are damaged, and what saving costs."""

import errno
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from mlp_jax import data
from mlp_jax.commands import train
from mlp_jax.config.compose import compose
from mlp_jax.config.schema import Experiment
from mlp_jax.core import fit as fitting
from mlp_jax.core.fit import compile_programs
from mlp_jax.durable import rundir
from mlp_jax.durable.checkpoint import Checkpoints, Saver
from mlp_jax.errors import RunError, UserError
from mlp_jax.experiment import run as experiment
from mlp_jax.experiment import setup as problem
from tests.faults.rows import Row

CIRCLES = ["+exp=circles", "num_epochs=12", "log_every=18", "checkpoint.every_epochs=3",
           "tracking=none"]  # fmt: skip


class FailingDisk:
    """Counts the operations on files that change something, and lets the k-th one fail.

    A write that fails has written half of its bytes. With `stays_full` all later ones fail, too.
    """

    def __init__(self, fails_at: int | None, stays_full: bool) -> None:
        self.fails_at, self.stays_full = fails_at, stays_full
        self.operations: list[str] = []

    def check(self, operation: str) -> None:
        self.operations.append(operation)
        count = len(self.operations)
        if self.fails_at is None or count < self.fails_at:
            return
        if count == self.fails_at or self.stays_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), operation)

    @contextmanager
    def plugged_in(self) -> Iterator[None]:
        with ExitStack() as patches:
            for name in ("fsync", "rename", "replace", "mkdir"):
                patches.enter_context(patch.object(os, name, self._failing(getattr(os, name))))
            patches.enter_context(patch.object(io, "open", self._opening(io.open)))
            yield

    def _failing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*args: Any, **kwargs: Any) -> Any:
            self.check(function.__name__)
            return function(*args, **kwargs)

        return failing

    def _opening(self, open_file: Callable[..., Any]) -> Callable[..., Any]:
        def opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not set(mode) & set("wax+"):
                return open_file(file, mode, *args, **kwargs)
            self.check("open")
            opened = open_file(file, mode, *args, **kwargs)
            return _FailingFile(opened, self)

        return opening


class _FailingFile:
    def __init__(self, file: Any, disk: FailingDisk) -> None:
        self._file, self._disk = file, disk

    def write(self, content: Any) -> Any:
        try:
            self._disk.check("write")
        except OSError:
            self._file.write(content[: len(content) // 2])
            self._file.flush()
            raise
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_FailingFile":
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()


class Bench:
    """A run that is compiled once, to be made many times, and what it comes to undisturbed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.programs: dict[str, Any] = {}
        self.run(root / "first")
        self.wanted = outcome(root / "first")

    def run(self, runs: Path) -> None:
        with self._quick():
            experiment.run(compose([*CIRCLES, f"checkpoint.root={runs}"]))

    def resume_or_run(self, runs: Path) -> None:
        """What a user does after an error."""
        begun = [path.parent for path in runs.glob(f"*/{rundir.CONFIG}")]
        if not begun:
            self.run(runs)
            return
        with self._quick():
            train.resume(str(begun[0]), [])

    @contextmanager
    def _quick(self) -> Iterator[None]:
        """Each program is compiled once; what is due is saved before the training goes on."""
        offer = Saver.offer

        def offer_and_wait(saver: Saver, *args: Any) -> None:
            offer(saver, *args)
            saver.wait()

        with ExitStack() as patches:
            for name in ("compile_programs", "check"):
                patches.enter_context(patch.object(experiment, name, self._once(name)))
            patches.enter_context(patch.object(Saver, "offer", offer_and_wait))
            patches.enter_context(redirect_stdout(io.StringIO()))
            yield

    def _once(self, name: str) -> Callable[..., Any]:
        original = getattr(experiment, name)

        def once(*args: Any) -> Any:
            if name not in self.programs:
                self.programs[name] = original(*args)
            return self.programs[name]

        return once


class Outcome(NamedTuple):
    """The arrays of a run's last checkpoint, its log points, and its ending."""

    arrays: dict[str, np.ndarray]
    history: list[tuple[int, dict[str, float]]]
    ending: dict[str, Any] | None


def outcome(runs: Path) -> Outcome:
    """Of the only run below `runs`."""
    (place,) = [path.parent for path in runs.glob(f"*/{rundir.CONFIG}")]
    checkpoints = Checkpoints(place / rundir.CHECKPOINTS, keep=1)
    last = checkpoints.load(checkpoints.steps()[-1])
    return Outcome(last.arrays, last.history, rundir.result(place))


def _are_equal(a: Outcome, b: Outcome) -> bool:
    return (
        (a.ending, a.history) == (b.ending, b.history)
        and a.arrays.keys() == b.arrays.keys()
        and all(np.array_equal(a.arrays[k], b.arrays[k], equal_nan=True) for k in a.arrays)
    )


def failing_operations(at: Bench, stays_full: bool) -> Row:
    """Every write, sync, rename and new directory of a run fails; then the run is resumed."""
    disk = FailingDisk(None, stays_full)
    with disk.plugged_in():
        at.run(at.root / f"counted-{stays_full}")
    problems: list[str] = []
    num_finished = 0
    for k, operation in enumerate(disk.operations, start=1):
        runs = at.root / f"{'full' if stays_full else 'failing'}-{k}"
        try:
            with FailingDisk(k, stays_full).plugged_in():
                at.run(runs)
            num_finished += 1
        except (RunError, UserError):  # which the command prints in a line or two
            pass
        except Exception as error:
            problems.append(f"k = {k}, {operation}: {error!r}")
        try:
            at.resume_or_run(runs)
            if not _are_equal(outcome(runs), at.wanted):
                problems.append(f"k = {k}, {operation}: another result after resuming")
        except Exception as error:
            problems.append(f"k = {k}, {operation}: resuming ended in {error!r}")
    count = len(disk.operations)
    return Row(
        "disk full from the k-th operation on, for every k"
        if stays_full
        else "failure of the k-th write, sync, rename or mkdir, for every k of a run",
        count,
        "clear error or success; resumes to the same bits",
        f"{num_finished} finished with a warning, {count - num_finished} ended with a clear error; "
        f"{len(problems)} problems",
        tuple(problems),
    )


def damaged_files(at: Bench, num_trials: int, seed: int) -> Row:
    """The last checkpoint with a bit flipped, cut, emptied, zeroed, longer or exchanged."""
    (place,) = [path.parent for path in (at.root / "first").glob(f"*/{rundir.CONFIG}")]
    source = Checkpoints(place / rundir.CHECKPOINTS, keep=2)
    before, last = source.steps()[-2:]
    problems = []
    for trial in range(num_trials):
        random = Random(f"{seed}-{trial}")
        copy = Checkpoints(at.root / "damaged", keep=2)
        shutil.rmtree(copy.directory, ignore_errors=True)
        shutil.copytree(source.directory, copy.directory)
        what = _damage(random, copy.path(last), copy.path(before))
        warnings: list[str] = []
        restored = copy.restore(warnings.append)
        step = None if restored is None else restored.step
        if step != before or [str(copy.path(last)) in warning for warning in warnings] != [True]:
            problems.append(f"seed {seed}, trial {trial}, {what}: step {step}, {warnings}")
    return Row(
        "bit flip, truncation, exchange of a checkpoint",
        num_trials,
        "reported, the previous one taken; 0 silent",
        f"{len(problems)} silent, {num_trials - len(problems)} named and the previous one taken",
        tuple(problems),
    )


def _damage(random: Random, file: Path, other: Path) -> str:
    """Damages the file; returns what was done."""
    content = bytearray(file.read_bytes())
    kind = random.choice(["flip", "flip", "flip", "cut", "empty", "zero", "lengthen", "exchange"])
    where = random.randrange(len(content))
    match kind:
        case "flip":
            content[where] ^= 1 << random.randrange(8)
        case "cut":
            del content[where:]
        case "empty":
            content.clear()
        case "zero":
            content[where // 2 :] = bytes(len(content) - where // 2)
        case "lengthen":
            content += random.randbytes(1 + where % 7)
        case "exchange":
            content = bytearray(other.read_bytes())
    file.write_bytes(content)
    return f"{kind} at {where}"


# --- what saving costs -------------------------------------------------------------------------

MNIST_SIZED = ["data=gauss", "batch_size=128", "log_every=390",
               "optimizer=adam", "model.hidden_sizes=[100]", "model.loss=cross_entropy",
               "data.validation_size=0", "data.test_size=0"]  # fmt: skip
MOST_COST = 0.03


def cost(root: Path, num_epochs: int) -> Row:
    """784-100-10 on 50,000 examples of noise: epochs during which a checkpoint is written, and not.

    Every other epoch is, so that both kinds see the same machine; the first quartiles are compared,
    since what else the machine does only ever adds to an epoch.
    """
    config = compose([*MNIST_SIZED, f"num_epochs={num_epochs}", "tracking=none"])
    seconds: tuple[list[float], list[float]] = ([], [])
    with problem.numeric_settings(config):
        prepared = _mnist_sized(config)
        began_at = time.perf_counter()

        def on_pause(pause: fitting.Pause) -> None:
            nonlocal began_at
            epoch, rest = divmod(pause.step, prepared.steps_per_epoch)
            if rest == 0:
                seconds[epoch % 2].append(time.perf_counter() - began_at)
                began_at = time.perf_counter()
                if epoch % 2 == 0:  # what it takes belongs to the next epoch, an odd one
                    saver.save(pause.step, lambda: experiment.to_arrays(pause.carry), pause.history)

        with Saver(Checkpoints(root, keep=2), None, None, warn=print) as saver:
            fitting.fit(prepared, compile_programs(prepared), on_pause=on_pause)
    without, during = (float(np.quantile(kind[1:], 0.25)) for kind in seconds)
    slowdown = during / without - 1
    return Row(
        "no fault: a checkpoint every epoch, 784-100-10, batches of 128, adam",
        num_epochs,
        f"less than {MOST_COST:.0%} slower",
        f"{slowdown:+.1%}: {1000 * during:.0f} ms an epoch, without {1000 * without:.0f} ms",
        () if slowdown < MOST_COST else (f"{slowdown:.1%} slower",),
    )


def _mnist_sized(config: Experiment) -> problem.Problem:
    """A problem of MNIST's sizes whose pixels and labels are noise."""
    random = np.random.default_rng(0)
    dataset = data.load(config.data)
    x = random.random((50_000, 784), np.float32)
    part = dataset.train._replace(x=x, y=random.integers(0, 10, len(x)))
    names = tuple(map(str, range(10)))
    return problem.prepare(
        config, dataset._replace(train=part, validation=None, test=None, class_names=names)
    )
