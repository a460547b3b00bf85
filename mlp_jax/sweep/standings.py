"""What became of the jobs of a sweep, and which of them are the best."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mlp_jax.core.gradcheck import insist_on
from mlp_jax.errors import RunError
from mlp_jax.experiment import describe as summary
from mlp_jax.experiment.console import Console, measured
from mlp_jax.sweep import compare as comparison
from mlp_jax.sweep.jobs import Job, assignments, differences, own_overrides
from mlp_jax.sweep.runs import Trained

if TYPE_CHECKING:  # takes seconds to import
    import mlflow.entities

NUM_SHOWN = 5


class Outcome(NamedTuple):
    """What became of a job; `error` says why it has no value.

    `value` is that of the metric named `objective`; `run_id` is the run's in MLflow.
    """

    job: Job
    objective: str = ""
    value: float = math.nan
    error: Exception | None = None
    log: str = ""
    run_id: str | None = None
    is_halved: bool = False
    """Whether successive halving ended it, so that its value is not that of the job alone."""

    @property
    def loss(self) -> float:
        """What a search minimises."""
        return summary.search_loss(self.objective, self.value)


def outcome(trained: Trained, run_id: str | None) -> Outcome:
    """What became of a job that was trained, with its log."""
    problem, gradient = trained.member.problem, trained.member.gradient
    lines = [f"{name:8}  {value}" for name, value in
             summary.header(problem, trained.device).items()]  # fmt: skip
    lines.append(summary.gradient_line(gradient))
    error: Exception | None = trained.error
    try:
        insist_on(gradient)
    except RunError as wrong:
        error = wrong
    if error is not None:
        lines.append(f"error: {error}")
        return Outcome(trained.job, error=error, log=_text(lines), run_id=run_id)
    lines += [f"{part:10}  {measured(values)}" for part, values in trained.member.metrics.items()]
    if trained.member.halved_at is not None:
        lines.append(f"ended by successive halving at step {trained.member.halved_at:,}")
    if run_id is not None:
        lines.append(f"run       {run_id}")
    name, value = summary.standing(trained.result)
    is_halved = trained.member.halved_at is not None
    return Outcome(trained.job, name, value, None, _text(lines), run_id, is_halved)


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


def before(job: Job, run: "mlflow.entities.Run") -> Outcome:
    """What became of a job in an earlier sweep."""
    metrics, name = run.data.metrics, run.data.tags.get("objective", "train/loss")
    kept = comparison.kept(name, job.config.early_stopping.patience is not None)
    log = f"run {run.info.run_id} has FINISHED before\n"
    value, is_halved = metrics.get(kept, math.nan), "halved_at" in run.data.tags
    return Outcome(job, name, value, None, log, run.info.run_id, is_halved)


def describe(trained: Sequence[Trained]) -> str:
    """A group in one line: its networks, the proof of their gradients, how many diverged."""
    first = trained[0]
    network = summary.header(first.member.problem, first.device)["network"]
    checks = [each.member.gradient for each in trained]
    worst = max(layer.autodiff_error for check in checks for layer in check.layers)
    num_wrong = sum(not check.passed for check in checks)
    proof = f"WRONG in {num_wrong:,} of them" if num_wrong else "proved"
    num_lost = sum(each.error is not None for each in trained)
    lost = f"; {num_lost:,} diverged" if num_lost else ""
    return f"{len(trained):,} × {network}; gradients {proof}, − jax.grad ≤ {worst:.1e}{lost}"


def show(
    outcomes: Sequence[Outcome], alone: Callable[[Sequence[str]], str], console: Console
) -> None:
    """The best jobs, the best settings over their seeds, and the command of the very best."""
    keys = differences([each.job for each in outcomes])
    for objective in dict.fromkeys(each.objective for each in outcomes if each.error is None):
        found = [_compared(each, keys) for each in outcomes if each.objective == objective]
        best = comparison.best_first(found, objective)
        short = _short_names(keys)
        console.table(
            [*short.values(), objective],
            [
                [*(each.differs.get(key, "") for key in keys), each.metrics[objective]]
                for each in best[:NUM_SHOWN]
            ],
        )
        groups = comparison.groups(found, objective)
        if any(len(group.values) > 1 for group in groups):
            columns, rows = comparison.group_table(groups[:NUM_SHOWN], objective)
            console.table([short.get(column, column) for column in columns], rows)
        console.facts({"best": alone(best[0].name.split("\n"))})
    num_failed = sum(each.error is not None for each in outcomes)
    if num_failed:
        console.line(f"{num_failed:,} of {len(outcomes):,} jobs failed or diverged")


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, where no other one has the same: a terminal is narrow."""
    ends = [key.rpartition(".")[2] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def _compared(outcome: Outcome, keys: Sequence[str]) -> comparison.Outcome:
    """As runs are compared; its name is the job's overrides, a line each."""
    given = assignments(outcome.job)
    return comparison.Outcome(
        name="\n".join(own_overrides(outcome.job)),
        differs={key: given[key] for key in keys if key in given},
        metrics={outcome.objective: outcome.value},
        status="HALVED" if outcome.is_halved or math.isnan(outcome.value) else "FINISHED",
        run_id=outcome.run_id or "",
    )
