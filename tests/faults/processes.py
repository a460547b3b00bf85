"""Faults of the process: kill -9 at random instants, signals in each phase, a full disk."""

import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from tests.faults import lives
from tests.faults.lives import Instant, Life, Outcome
from tests.faults.rows import Row

STOP_SECONDS = 2.0


class Bench:
    """Where lives are led: a folder, an empty store, and what an undisturbed run comes to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        lives.prepare(root / "cache")
        first = lives.fresh(root / "first", None)
        life = lives.live(first, lives.EXPERIMENT)
        if life.status != 0:
            raise RuntimeError(life.output)
        self.wanted: Outcome = lives.outcome(first)
        self.store = root / "mlflow.db"
        make_store(self.store)

    def problems(self, directory: Path) -> list[str]:
        """What is not as in the undisturbed run."""
        try:
            return [*lives.differences(self.wanted, lives.outcome(directory))]
        except (AssertionError, LookupError, OSError) as error:
            return [repr(error)]


def make_store(file: Path) -> None:
    """In a process of its own: this one stays without threads, to fork from."""
    child = os.fork()
    if child == 0:
        from mlp_jax.tracking import store

        store.open_store(f"sqlite:///{file}")
        os._exit(0)
    os.waitpid(child, 0)


def kills(at: Bench, num_kills: int, seed: int) -> Row:
    """Runs that are killed again and again and resumed, until so many kills have been made."""
    counts: Counter[str] = Counter()
    problems: list[str] = []
    num_runs = 0
    while sum(counts.values()) < num_kills:
        random = Random(f"{seed}-{num_runs}")
        directory = lives.fresh(at.root / f"killed-{num_runs}", at.store if num_runs % 4 else None)
        plan = iter(random.sample([*lives.PHASES], len(lives.PHASES)))

        def next_instant() -> Instant | None:
            phase = next(plan, None)  # noqa: B023
            return None if phase is None else lives.choose(random, phase)  # noqa: B023

        lived = lives.until_done(directory, next_instant)
        counts += Counter(instant.phase for instant, life in lived if instant and life.status == -9)
        wrong = at.problems(directory) + unexpected(lived, {0, -signal.SIGKILL})
        problems += [f"seed {seed}, run {num_runs}: {problem}" for problem in wrong]
        num_runs += 1
    spread = ", ".join(f"{count} in {phase}" for phase, count in counts.items())
    return Row(
        "kill -9 at random instants, resume, until done",
        sum(counts.values()),
        "final state and history identical to uninterrupted; each (key, step) exactly once",
        f"{num_runs - len({p.split(':')[0] for p in problems})} of {num_runs} runs identical "
        f"({spread})",
        tuple(problems),
    )


def unexpected(lived: list[tuple[Instant | None, Life]], allowed: set[int]) -> list[str]:
    """The lives that ended in no way they may."""
    return [
        f"status {life.status} after {instant}: …{life.output[-300:]}"
        for instant, life in lived
        if life.status not in allowed or "Traceback" in life.output
    ]


def signals(at: Bench, num_rounds: int, seed: int) -> Row:
    """SIGINT, SIGTERM and a double Ctrl-C in each phase, and the run resumed after each."""
    longest, statuses = 0.0, Counter[int]()
    problems: list[str] = []
    cases = [
        (phase, sent)
        for _ in range(num_rounds)
        for phase in lives.PHASES
        for sent in ((signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGINT))
    ]
    for number, (phase, sent) in enumerate(cases):
        random = Random(f"{seed}-{number}")
        directory = lives.fresh(at.root / f"stopped-{number}", at.store)
        instant = lives.choose(random, phase, *sent)
        life = lives.live(directory, lives.EXPERIMENT, instant)
        wrong = _after_signal(directory, life, is_double=len(sent) > 1)
        lived = lives.until_done(directory, lambda: None)
        wrong += at.problems(directory) + unexpected(lived, {0})
        problems += [f"seed {seed}, case {number}, {instant}: {problem}" for problem in wrong]
        longest = max(longest, life.seconds)
        statuses[life.status] += 1
    return Row(
        "SIGINT, SIGTERM and Ctrl-C twice in each phase",
        len(cases),
        f"KILLED within {STOP_SECONDS:g} s, resumable; a second Ctrl-C stops at once",
        f"{len(cases) - len({p.split(':')[0] for p in problems})} of {len(cases)}; "
        f"the longest took {longest:.1f} s",
        tuple(problems),
    )


def _after_signal(directory: Path, life: Life, is_double: bool) -> list[str]:
    """What is wrong with a process that was asked to stop, and with its run in the store."""
    wrong = []
    if life.status not in {0, 130, *({-signal.SIGINT} if is_double else ())}:
        wrong.append(f"status {life.status}: …{life.output[-300:]}")
    if life.seconds > STOP_SECONDS:
        wrong.append(f"took {life.seconds:.1f} s")
    if life.status == 130 and lives.run_directory(directory):
        place = lives.run_directory(directory)
        if place is None or f"resume=runs/{place.name}" not in life.output:
            wrong.append("does not say how to resume")
        if (status := lives.status_of_run(directory)) != "KILLED":
            wrong.append(f"status {status} in the store")
    return wrong


def full_disk(at: Bench, num_rounds: int, seed: int) -> Row:
    """The disk is full from an instant of each phase on; then there is room again."""
    phases = [phase for _ in range(num_rounds) for phase in lives.PHASES]
    endings, problems = Counter[int](), list[str]()
    for number, phase in enumerate(phases):
        instant = lives.choose(Random(f"{seed}-{number}"), phase)._replace(
            signals=(), fills_disk=True
        )
        with small_disk(at.root / f"disk-{number}") as directory:
            shutil.copy(at.store, directory)
            first = (instant, lives.live(directory, lives.EXPERIMENT, instant))
            (directory / lives.BALLAST).unlink(missing_ok=True)
            wrong = unexpected([first], {0, 1, 2})
            lived = lives.until_done(directory, lambda: None)
            wrong += at.problems(directory) + unexpected(lived, {0})
        endings[first[1].status] += 1
        problems += [f"seed {seed}, case {number}, {instant}: {problem}" for problem in wrong]
    return Row(
        f"full disk ({SMALL_DISK} MB tmpfs), from each phase on",
        len(phases),
        "clear error, earlier work intact",
        f"{endings[0]} finished, {len(phases) - endings[0]} ended with a clear error; "
        f"{len(problems)} problems after resuming",
        tuple(problems),
    )


SMALL_DISK = 24
"""In MB: a store, a run and its model, and not much more."""


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A disk of its own, in memory; where this may not be mounted, `OSError`."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}m", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        raise PermissionError(f"{directory}: no tmpfs may be mounted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
