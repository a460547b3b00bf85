"""The ensemble of a sweep: the runs that it is selected from, and what those selected reach."""

from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from mlp_jax.core import metrics
from mlp_jax.core.training import Part
from mlp_jax.data import Dataset
from mlp_jax.experiment import describe
from mlp_jax.experiment.console import number
from mlp_jax.experiment.describe import Result
from mlp_jax.experiment.prediction import Committee, Model
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
    best_alone: dict[str, dict[str, float]]
    """Its metrics."""
    num_candidates: int

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
    best, results = candidates[0], [each.result for each in candidates if each.result is not None]
    problem, y_hats = results[0].problem, np.stack([_held_out(result) for result in results])
    y = np.concatenate([np.asarray(_validation(one).y) for one in _networks(results[0])])
    measure = partial(_measured, problem)
    metric = best.objective.partition("/")[2]

    def loss(y_hat: np.ndarray) -> float:
        return describe.search_loss(metric, measure(y_hat, y, [metric])[metric])

    picks = select(y_hats, loss, most).picks
    places, counts = zip(*Counter(picks).most_common(), strict=True)
    models = [_model(results[place]) for place in places]
    committee, names = (
        Committee(tuple(models), counts),
        metrics.names_of(problem.training.threshold),
    )

    def reached(picks: Sequence[int], model: Committee | Model) -> dict[str, dict[str, float]]:
        found = {"validation": measure(y_hats[list(picks)].mean(axis=0), y, names)}
        if (test := problem.test) is not None:
            found["test"] = measure(model.outputs(np.asarray(test.x)), np.asarray(test.y), names)
        return found

    return Ensemble(
        tuple(candidates[place] for place in places),
        committee,
        reached(picks, committee),
        best,
        reached([0], _model(results[0])),
        len(candidates),
    )


def _networks(result: Result) -> list[Result]:
    """The network of each fold, or the only one."""
    return result.repeats or [result]


def _held_out(result: Result) -> Float[np.ndarray, "n n_L"]:
    """ŷ of the validation part, or of each fold by the network that has not seen it."""
    return np.concatenate(
        [describe.outputs(one, np.asarray(_validation(one).x)) for one in _networks(result)]
    )


def _validation(network: Result) -> Part:
    part = network.problem.validation
    assert part is not None  # as was checked before the training
    return part


def _model(result: Result) -> Model:
    """Of folds the mean of their networks."""
    if result.repeats is None:
        return describe.to_model(result)
    params = [one.fitted.params for one in result.repeats]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *params)
    return describe.to_model(result._replace(fitted=result.fitted._replace(params=stacked)))


def _measured(
    problem: Problem, y_hat: np.ndarray, y: np.ndarray, names: Collection[str]
) -> dict[str, float]:
    """But for the loss, in which the members may differ."""
    fixed = problem.training
    measured = metrics.of_outputs(
        y_hat, y, threshold=fixed.threshold, units=fixed.units, names=names
    )
    return {name: float(value) for name, value in measured.items()}
