"""Sweeps that are killed at random instants and continued, until they are done."""

import signal
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from tests.faults import lives
from tests.faults.lives import Instant, Life
from tests.faults.processes import make_store, unexpected
from tests.faults.rows import Row

if TYPE_CHECKING:  # takes seconds to import
    from mlflow import MlflowClient
    from mlflow.entities import Run

SWEEP = ["-m", "+exp=xor", "seed=range(20)", "optimizer.learning_rate=0.3,1",
         "model.activation=sigmoid,tanh", "num_epochs=1500"]  # fmt: skip
NUM_JOBS = 80
ENDINGS = {0, -signal.SIGKILL}
CONTINUED = [*SWEEP, "sweep.resume=true"]

Point = tuple[str, int, float]


class Outcome(NamedTuple):
    """What a sweep left in the store."""

    jobs: dict[str, tuple[str, list[Point]]]
    """The hash of each finished network's parameters and its points, by the hash of its config."""
    problems: list[str]
    """What no sweep may leave."""


def kills(root: Path, num_kills: int, seed: int) -> Row:
    """Sweeps that are killed again and again and continued, until so many kills have been made."""
    lives.prepare(root / "cache")
    first = lives.fresh(root / "first", None)
    life = lives.live(first, SWEEP)
    if life.status != 0:
        raise RuntimeError(life.output)
    make_store(root / "mlflow.db")
    wanted = outcome(first)
    problems = list(wanted.problems)
    counts: Counter[str] = Counter()
    num_sweeps = 0
    while sum(counts.values()) < num_kills:
        random = Random(f"{seed}-{num_sweeps}")
        store = root / "mlflow.db" if num_sweeps % 4 else None
        directory = lives.fresh(root / f"killed-{num_sweeps}", store)
        lived = _until_done(directory, random)
        counts += Counter(instant.phase for instant, life in lived if instant and life.status == -9)
        wrong = [*_differences(wanted, outcome(directory)), *unexpected(lived, ENDINGS)]
        problems += [f"seed {seed}, sweep {num_sweeps}: {problem}" for problem in wrong]
        num_sweeps += 1
    bad = len({problem.split(":")[0] for problem in problems})
    spread = ", ".join(f"{count} {phase}" for phase, count in counts.items())
    return Row(
        "kill -9 of a sweep at random instants, sweep.resume=true, until done",
        sum(counts.values()),
        "each job's parameters and history identical to uninterrupted, exactly once",
        f"{num_sweeps - bad} of {num_sweeps} sweeps of {NUM_JOBS} jobs identical ({spread})",
        tuple(problems),
    )


def _until_done(directory: Path, random: Random) -> list[tuple[Instant | None, Life]]:
    """A life for each phase, killed in it if it gets there, and one that nothing disturbs."""
    lived: list[tuple[Instant | None, Life]] = []
    for phase in random.sample([*lives.SWEEP_PHASES], len(lives.SWEEP_PHASES)):
        instant = lives.choose(random, phase)
        lived.append((instant, lives.live(directory, CONTINUED, instant)))
        if lived[-1][1].status == 0:
            return lived
    return [*lived, (None, lives.live(directory, CONTINUED))]


def outcome(directory: Path) -> Outcome:
    """Of a sweep that has come to its end."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{directory}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parents = [run for run in runs if "sweep" in run.data.tags]
    children = [run for run in runs if "config_hash" in run.data.tags]
    hashes = Counter(run.data.tags["config_hash"] for run in children)
    wrong = {
        f"{len(parents)} parents": len(parents) != 1,
        f"{len(hashes)} jobs, {len(children)} runs": (len(hashes), len(children))
        != (NUM_JOBS, NUM_JOBS),
        "other runs": len(runs) != len(parents) + len(children),
        "status": {run.info.status for run in runs} != {"FINISHED"},
        "children of another parent": {run.data.tags["mlflow.parentRunId"] for run in children}
        != {parent.info.run_id for parent in parents},
        "no figure, table or curves of the parent": not all(
            _is_complete(client, parent) for parent in parents
        ),
        "the best run has no model": not _has_model(children),
    }
    jobs = {
        run.data.tags["config_hash"]: (run.data.tags["params_sha256"], _points(client, run))
        for run in children
    }
    return Outcome(jobs, [what for what, is_wrong in wrong.items() if is_wrong])


def _is_complete(client: "MlflowClient", parent: "Run") -> bool:
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    return {"sweep.png", "runs.csv", "runs.md"} <= files and len(parent.data.metrics) > 0


def _has_model(children: "list[Run]") -> bool:
    best = min(children, key=lambda run: run.data.metrics["train/loss"])
    return bool(best.outputs and best.outputs.model_outputs)


def _points(client: "MlflowClient", run: "Run") -> list[Point]:
    names = sorted(set(run.data.metrics) - {"steps_per_second"})
    return [
        (name, point.step, point.value)
        for name in names
        for point in client.get_metric_history(run.info.run_id, name)
    ]


def _differences(wanted: Outcome, found: Outcome) -> list[str]:
    """What is not bit for bit as in the sweep that nothing disturbed."""
    others = [name for name, job in wanted.jobs.items() if found.jobs.get(name, job) != job]
    return found.problems + ([f"{len(others)} jobs have other bits"] if others else [])
