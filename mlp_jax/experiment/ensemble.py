"""An ensemble: networks of one run that differ in their seed, trained as one population.

The seed decides the initial parameters and the order of the examples. Each member stops early by
its own validation loss. The ensemble's ŷ is the mean of theirs (deep ensembles; Lakshminarayanan et
al., 2017); a classifier's loss is that of the averaged probabilities.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from mlp_jax.config.schema import Experiment, with_values
from mlp_jax.core import metrics
from mlp_jax.core.backprop import Objective
from mlp_jax.core.fit import Fitted, divergence, evaluate_parts, from_arrays, to_arrays
from mlp_jax.core.gradcheck import insist_on
from mlp_jax.core.history import Histories, History, LogPoint, Progress, mean_history
from mlp_jax.core.network import Params, apply
from mlp_jax.core.population import FittedMany, Population, Saved, Trainer, make_mesh
from mlp_jax.core.training import Order, Part, keys_of
from mlp_jax.durable.checkpoint import Checkpoint
from mlp_jax.errors import NoResultError, UserError
from mlp_jax.experiment import machine
from mlp_jax.experiment.describe import Result
from mlp_jax.experiment.probabilities import calibrated, mean_logits
from mlp_jax.experiment.setup import Problem, initial_params, objective

_HISTORIES = "histories/"
"""Before the names of the arrays of a checkpoint that are log points, not a state."""


class Round(NamedTuple):
    """What the host has in its hands after a tenth of an ensemble's training, about."""

    step: int
    new: list[LogPoint]
    """The members' means, of the log points since the last round."""
    history: History
    progress: Progress
    arrays: Callable[[], dict[str, np.ndarray]]
    """Copies all that the training carries."""
    is_last: bool


class Members:
    """The members of an ensemble: their population, and how far it is."""

    def __init__(self, problem: Problem, device: jax.Device) -> None:
        config = problem.config
        if config.optimizer.name == "lbfgs":
            raise UserError(
                f"ensemble.size={config.ensemble.size}: the line search of lbfgs takes one network "
                "at a time; use another optimizer, or ensemble.size=1."
            )
        self.problem, self.seeds = problem, seeds(config.seed, config.ensemble.size)
        population = _population(problem, self.seeds)
        self.trainer = Trainer(population, make_mesh(len(population), device.platform))
        _check_memory(config, self.trainer.bytes_each(), device)

    def __len__(self) -> int:
        return len(self.seeds)

    def restore(self, checkpoint: Checkpoint) -> Saved:
        """What a checkpoint has saved. Raises `RunError` where it is of another training."""
        arrays = checkpoint.arrays
        histories = {
            name.removeprefix(_HISTORIES): array
            for name, array in arrays.items()
            if name.startswith(_HISTORIES)
        }
        steps = self.trainer.histories.steps
        if any(rows.shape[1:] not in ((), steps.shape) for rows in histories.values()):
            raise UserError(
                f"ensemble.size={len(self)}: an ensemble cannot be made longer; start a new run."
            )
        state = {name: array for name, array in arrays.items() if not name.startswith(_HISTORIES)}
        template = self.trainer.saved_template()
        return Saved(
            from_arrays(template, checkpoint._replace(arrays=state)),
            int(np.searchsorted(steps, checkpoint.step)) + 1,
            histories,
        )

    def train(self, saved: Saved | None) -> Iterator[Round]:
        """Raises `NoResultError` where a member diverges, `RunError` for a wrong gradient."""
        histories, num_points, steps = self.trainer.histories, 0, self.trainer.histories.steps
        for take in self.trainer.rounds(saved):
            for gradient in self.trainer.gradients:
                insist_on(gradient)
            self._check_divergence()
            history = members_history(histories)
            new, num_points = history[num_points:], len(history)
            yield Round(
                int(steps[num_points - 1]),
                list(new),
                history,
                histories.progress(),
                partial(_arrays, take),
                bool(histories.is_done.all()),
            )

    def _check_divergence(self) -> None:
        diverged_at = self.trainer.histories.diverged_at
        if len(lost := np.flatnonzero(diverged_at)):
            first = int(lost[0])
            what = divergence(int(diverged_at[first]), self.problem.advice)
            raise NoResultError(f"member {first + 1} (seed {self.seeds[first]}): {what}")

    def result(self, seconds: float) -> Result:
        """That of the averaged output, with the members' own."""
        fitted = self.trainer.fitted()
        members = [self._member(fitted, index, seconds) for index in range(len(self))]
        history = members_history(fitted.history)
        worst = max(fitted.gradients, key=lambda each: max(e.autodiff_error for e in each.layers))
        params, temperature = calibrated(self.problem, fitted.params)
        return Result(
            self.problem,
            worst,
            Fitted(params, int(history.steps[-1]), history),
            averaged_metrics(self.problem, params),
            seconds,
            members=members,
            temperature=temperature,
        )

    def _member(self, fitted: FittedMany, index: int, seconds: float) -> Result:
        seed = int(self.seeds[index])
        params = jax.tree.map(lambda leaf: leaf[index], fitted.initial)
        own = {"seed": seed, "ensemble.size": 1}
        problem = replace(
            self.problem,
            config=with_values(self.problem.config, own),
            params=params,
            order=keys_of(seed)[1],
        )
        one = fitted[index]
        measured = evaluate_parts(problem, one.params)
        return Result(problem, fitted.gradients[index], one, measured, seconds / len(self))


def seeds(first: int, count: int) -> np.ndarray:
    """The seed of a run and those after it."""
    return ((first + np.arange(count)) % 2**32).astype(np.uint32)


def _population(problem: Problem, seeds: np.ndarray) -> Population:
    def start(seed: Array, numbers: dict[str, Array]) -> tuple[Params, Order]:
        init_key, shuffle_key = keys_of(seed)
        return initial_params(
            problem.config, problem.sizes, init_key, problem.embedded
        ), shuffle_key

    return Population(
        make_training=lambda numbers: problem.training,
        start=start,
        origins=seeds,
        numbers={},
        parts=problem.parts,
        num_steps=problem.num_steps,
        log_every=problem.log_every,
        objective=objective(problem.config, problem.dataset),
    )


def _check_memory(config: Experiment, bytes_each: int, device: jax.Device) -> None:
    """Raises `UserError` for an ensemble that is larger than the memory."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    memory = limit or machine.memory()
    if config.ensemble.size * bytes_each > memory:
        raise UserError(
            f"ensemble.size={config.ensemble.size}: takes about "
            f"{config.ensemble.size * bytes_each / 2**30:,.1f} GiB, and the memory has "
            f"{memory / 2**30:,.1f}; at most {memory // bytes_each:,} of these networks fit."
        )


def _arrays(take: Callable[[], Saved]) -> dict[str, np.ndarray]:
    saved = take()
    histories = {_HISTORIES + name: array for name, array in saved.histories.items()}
    return to_arrays(saved.state) | histories


def members_history(histories: Histories) -> History:
    """The mean of each metric over the members that are still in training, as `members/…`."""
    mean = mean_history([histories[member] for member in range(len(histories.is_done))])
    named = {f"members/{k}" if "/" in k else k: values for k, values in mean.metrics.items()}
    return History(mean.steps, named)


# --- the averaged output -------------------------------------------------------------------------


@partial(jax.jit, static_argnums=(0, 1))
def _predictions(
    objective: Objective, output: str, params: Params, part: Part
) -> tuple[Float[Array, " n"], Float[Array, "n n_L"]]:
    """The loss and ŷ of each example, of stacked members."""

    def predict(example: Part) -> tuple[Array, Array]:
        of_one = lambda one: apply(one, example.x, objective.activation)  # noqa: E731
        logits = mean_logits(jax.vmap(of_one)(params), output)
        return objective.loss.value(logits, example.y), objective.loss.output(logits)

    losses, y_hat = jax.lax.map(predict, part, batch_size=min(2048, len(part.x)))
    return losses, y_hat


def averaged_metrics(problem: Problem, params: Params) -> dict[str, dict[str, float]]:
    """Every part's metrics of the averaged output; `params` are stacked."""
    fixed, output = problem.training, str(problem.config.model.output)
    found: dict[str, dict[str, float]] = {}
    for name, part in problem.parts._asdict().items():
        if part is not None:
            losses, y_hat = _predictions(fixed.objective, output, params, part)
            measured = metrics.measure(
                *jax.device_get((losses, y_hat, part.y)),
                threshold=fixed.threshold,
                units=fixed.units,
                names=metrics.names_of(fixed.threshold),
            )
            found[name] = {key: float(value) for key, value in measured.items()}
    return found
