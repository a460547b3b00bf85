"""The ensemble of a sweep: the runs that it is selected from, and what those selected reach."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from mlp_jax.core import metrics
from mlp_jax.core.training import Part
from mlp_jax.data import Dataset
from mlp_jax.experiment import describe
from mlp_jax.experiment.console import number
from mlp_jax.experiment.describe import Result
from mlp_jax.experiment.prediction import Committee
from mlp_jax.experiment.setup import Problem, choose_output_and_loss
from mlp_jax.sweep.jobs import Job
from mlp_jax.sweep.selection import select

MOST = 100
"""So many of the best runs are candidates: more would take memory, and those far behind do not help
(Caruana, Munson & Niculescu-Mizil 2006, "Getting the most out of ensemble selection")."""


class Candidate(NamedTuple):
    """A run that came to its end; `result` is None where an earlier sweep has trained it."""

    job: Job
    run_id: str | None
    objective: str
    loss: float
    result: Result | None


class Candidates:
    """The best runs of a sweep, apart by their data, their outputs and what they are ranked by."""

    def __init__(self) -> None:
        self.num_runs = 0
        """Of all, also of those that are no candidates."""
        self._by_kind: dict[tuple[str, ...], list[Candidate]] = {}

    def add(self, candidate: Candidate, dataset: Dataset) -> None:
        config = candidate.job.config
        output, _ = choose_output_and_loss(config, dataset)
        kind = repr(config.data), output, candidate.objective
        best = [*self._by_kind.get(kind, []), candidate]
        self._by_kind[kind] = sorted(best, key=lambda each: each.loss)[:MOST]

    def comparable(self) -> list[Candidate]:
        """Those of one kind, the one with the most of them; the best comes first."""
        return max(self._by_kind.values(), key=len, default=[])


class Ensemble(NamedTuple):
    """What was selected; those that were picked most often come first."""

    members: tuple[Candidate, ...]
    model: Committee
    metrics: dict[str, dict[str, float]]
    """Of the validation part and the test part."""
    best: Candidate
    """Alone."""
    num_candidates: int

    @property
    def best_alone(self) -> dict[str, dict[str, float]]:
        """The metrics of the best run where the ensemble has its own."""
        assert self.best.result is not None
        return {
            part: {name: self.best.result.metrics[part][name] for name in names}
            for part, names in self.metrics.items()
        }

    def line(self, num_runs: int) -> str:
        """What it reaches, and the best run alone, of a sweep of so many runs."""
        name = self.best.objective.partition("/")[2]
        reached = "; ".join(
            f"{part}/{name} {number(measured[name])}, the best run {number(alone[name])}"
            for (part, measured), alone in zip(
                self.metrics.items(), self.best_alone.values(), strict=True
            )
        )
        left_out = num_runs - self.num_candidates
        others = f" ({left_out:,} left out)" if left_out else ""
        return (
            f"{_count(sum(self.model.counts), 'pick')} of {_count(len(self.members), 'run')}, "
            f"selected from {self.num_candidates:,}{others}: {reached}"
        )


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def ensemble_of(candidates: Sequence[Candidate], most: int) -> Ensemble:
    """Selected from runs of one kind, the best of which comes first, by at most so many picks."""
    best = candidates[0]
    results = [each.result for each in candidates if each.result is not None]
    problem, models = results[0].problem, [describe.to_model(result) for result in results]
    assert problem.validation is not None
    validation, metric = problem.validation, best.objective.partition("/")[2]
    x = np.asarray(validation.x)

    def loss(y_hat: np.ndarray) -> float:
        return describe.search_loss(metric, _measured(problem, validation, y_hat, [metric])[metric])

    picks = select(np.stack([model.outputs(x) for model in models]), loss, most).picks
    places, counts = zip(*Counter(picks).most_common(), strict=True)
    model = Committee(tuple(models[place] for place in places), counts)
    parts = {"validation": problem.validation, "test": problem.test}
    names = metrics.names_of(problem.training.threshold)
    return Ensemble(
        tuple(candidates[place] for place in places),
        model,
        {
            name: _measured(problem, part, model.outputs(np.asarray(part.x)), names)
            for name, part in parts.items()
            if part is not None
        },
        best,
        len(candidates),
    )


def _measured(
    problem: Problem, part: Part, y_hat: np.ndarray, names: Collection[str]
) -> dict[str, float]:
    """But for the loss, in which the members may differ."""
    fixed = problem.training
    measured = metrics.of_outputs(
        y_hat, np.asarray(part.y), threshold=fixed.threshold, units=fixed.units, names=names
    )
    return {name: float(value) for name, value in measured.items()}
