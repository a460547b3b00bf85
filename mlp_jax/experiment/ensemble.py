"""An ensemble: networks of one run that differ in their seed, trained as one population.

The seed decides the initial parameters and the order of the examples. Each member stops early by
its own validation loss. The ensemble's ŷ is the mean of theirs (deep ensembles; Lakshminarayanan et
al., 2017); a classifier's loss is that of the averaged probabilities.

Where there are folds, as many members as `ensemble.size` have the same one for their validation
part and learn from the others. ŷ of its examples is then the mean of those that have not seen them
(cross-validation committees; Krogh & Vedelsby, 1995).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from mlp_jax.config.schema import Experiment, num_folds, with_values
from mlp_jax.core import metrics
from mlp_jax.core.backprop import Objective
from mlp_jax.core.fit import Fitted, divergence, evaluate_parts, from_arrays, to_arrays
from mlp_jax.core.gradcheck import insist_on
from mlp_jax.core.history import Histories, History, LogPoint, Progress, mean_history
from mlp_jax.core.network import Params, apply
from mlp_jax.core.population import FittedMany, Population, Saved, Trainer, make_mesh
from mlp_jax.core.training import Order, Part, Parts, keys_of
from mlp_jax.durable.checkpoint import Checkpoint
from mlp_jax.errors import NoResultError, UserError
from mlp_jax.experiment import machine
from mlp_jax.experiment.describe import Result
from mlp_jax.experiment.probabilities import cooled, mean_logits, temperature_of
from mlp_jax.experiment.setup import Problem, encode_parts, initial_params, objective

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
                f"{_asked(config)}: the line search of lbfgs takes one network at a time; use "
                "another optimizer, or none of them."
            )
        self.problem, self.members = problem, _members(problem)
        population = _population(problem, self.members)
        self.trainer = Trainer(population, make_mesh(len(population), device.platform))
        _check_memory(config, self.trainer.bytes_each(), device)

    def __len__(self) -> int:
        return len(self.members)

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
            asked = _asked(self.problem.config)
            raise UserError(f"{asked}: an ensemble cannot be made longer; start a new run.")
        state = {name: array for name, array in arrays.items() if not name.startswith(_HISTORIES)}
        template = self.trainer.saved_template()
        return Saved(
            from_arrays(template, checkpoint._replace(arrays=state)),
            int(np.searchsorted(steps, checkpoint.step)) + 1,
            histories,
        )

    def train(self, saved: Saved | None, is_over: Callable[[], bool]) -> Iterator[Round]:
        """Raises `NoResultError` where a member diverges, `RunError` for a wrong gradient."""
        histories, num_points, steps = self.trainer.histories, 0, self.trainer.histories.steps
        for take in self.trainer.rounds(saved, is_over):
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
            seed = self.members[first].config.seed
            raise NoResultError(f"member {first + 1} (seed {seed}): {what}")

    def result(self, seconds: float) -> Result:
        """That of the averaged output, with the members' own."""
        fitted = self.trainer.fitted()
        members = [self._member(fitted, index, seconds) for index in range(len(self))]
        history = members_history(fitted.history)
        worst = max(fitted.gradients, key=lambda each: max(e.autodiff_error for e in each.layers))
        temperature = temperature_of(self.problem, self._held_out(fitted.params))
        params = cooled(fitted.params, temperature)
        predicted = self._predicted(params)
        folds, held_out = self.problem.dataset.folds, None
        if folds is not None:
            targets = [dataset.validation.y for dataset in folds.datasets if dataset.validation]
            held_out = predicted["validation"].y_hat, np.concatenate(targets)
        return Result(
            self.problem,
            worst,
            Fitted(params, int(history.steps[-1]), history),
            {name: measured(self.problem, found) for name, found in predicted.items()},
            seconds,
            members=members,
            held_out=held_out,
            temperature=temperature,
        )

    def _predicted(self, params: Params) -> dict[str, "Predicted"]:
        """Of each part, for the stacked members; of folds all examples are the training part."""
        problem, folds = self.problem, self.problem.dataset.folds
        train = problem.train
        if folds is not None:
            train = encode_parts(problem.config, folds.known).train
        test = [] if problem.test is None else [(params, problem.test)]
        by_part = {"train": [(params, train)], "validation": self._held_out(params), "test": test}
        return {name: predict(problem, some) for name, some in by_part.items() if some}

    def _held_out(self, params: Params) -> list[tuple[Params, Part]]:
        """The validation part, or each fold, with the members that have not seen it."""
        folds, size = self.problem.dataset.folds, self.problem.config.ensemble.size
        firsts = [0] if folds is None else range(0, len(self), size)
        return [
            (jax.tree.map(lambda leaf: leaf[first : first + size], params), part)  # noqa: B023
            for first in firsts
            if (part := self.members[first].validation) is not None
        ]

    def _member(self, fitted: FittedMany, index: int, seconds: float) -> Result:
        params = jax.tree.map(lambda leaf: leaf[index], fitted.initial)
        problem, one = replace(self.members[index], params=params), fitted[index]
        measured = evaluate_parts(problem, one.params)
        return Result(problem, fitted.gradients[index], one, measured, seconds / len(self))


def _asked(config: Experiment) -> str:
    """The keys that make a run an ensemble."""
    folds = "" if config.data.folds is None else f" data.folds={config.data.folds}"
    return f"ensemble.size={config.ensemble.size}{folds}"


def _members(problem: Problem) -> list[Problem]:
    """Each member's problem but for its initial parameters."""
    config, folds = problem.config, problem.dataset.folds
    data = {config.data.fold: (problem.dataset, problem.parts)}
    if folds is not None:
        each = [(dataset, encode_parts(config, dataset)) for dataset in folds.datasets]
        data = dict(enumerate(each))
    members = []
    for seed, fold in seeds_and_folds(config, config.ensemble.size):
        own = {"seed": seed, "ensemble.size": 1, "data.fold": fold}
        dataset, parts = data[fold]
        member = replace(problem, config=with_values(config, own), dataset=dataset)
        members.append(replace(member, order=keys_of(seed)[1], **parts._asdict()))
    return members


def seeds_and_folds(config: Experiment, count: int) -> list[tuple[int, int | None]]:
    """`count` networks for each fold in its turn: the seed of the run and those after it."""
    count_folds = num_folds(config)
    folds = [config.data.fold] if count_folds == 1 else list(range(count_folds))
    of_each = [fold for fold in folds for _ in range(count)]
    return [((config.seed + number) % 2**32, fold) for number, fold in enumerate(of_each)]


def _population(problem: Problem, members: list[Problem]) -> Population:
    def start(seed: Array, numbers: dict[str, Array]) -> tuple[Params, Order]:
        init_key, shuffle_key = keys_of(seed)
        return initial_params(
            problem.config, problem.sizes, init_key, problem.embedded
        ), shuffle_key

    def own_parts(indices: np.ndarray) -> Parts:
        parts = [members[index].parts for index in indices]
        return jax.tree.map(lambda *arrays: np.stack(arrays), *parts)

    return Population(
        make_training=lambda numbers: problem.training,
        start=start,
        origins=np.array([member.config.seed for member in members], np.uint32),
        numbers={},
        parts=problem.parts if problem.dataset.folds is None else own_parts,
        num_steps=problem.num_steps,
        log_every=problem.log_every,
        objective=objective(problem.config, problem.dataset),
    )


def _check_memory(config: Experiment, bytes_each: int, device: jax.Device) -> None:
    """Raises `UserError` for an ensemble that is larger than the memory."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    memory = limit or machine.memory()
    count = config.ensemble.size * num_folds(config)
    if count * bytes_each > memory:
        raise UserError(
            f"{_asked(config)}: takes about {count * bytes_each / 2**30:,.1f} GiB, and the memory "
            f"has {memory / 2**30:,.1f}; at most {memory // bytes_each:,} of these networks fit."
        )


def _arrays(take: Callable[[], Saved]) -> dict[str, np.ndarray]:
    saved = take()
    histories = {_HISTORIES + name: array for name, array in saved.histories.items()}
    return to_arrays(saved.state) | histories


def members_history(histories: Histories) -> History:
    """The mean of each metric over the members, as `members/…`."""
    mean = mean_history([histories[member] for member in range(len(histories.is_done))])
    named = {f"members/{k}" if "/" in k else k: values for k, values in mean.metrics.items()}
    return History(mean.steps, named)


# --- the averaged output -------------------------------------------------------------------------


class Predicted(NamedTuple):
    """What an ensemble makes of examples: their losses, its ŷ and their targets."""

    losses: Float[np.ndarray, " n"]
    y_hat: Float[np.ndarray, "n n_L"]
    y: Float[np.ndarray, "n n_y"]


def predict(problem: Problem, held_out: Sequence[tuple[Params, Part]]) -> Predicted:
    """Of examples and more of them, each predicted by stacked members of their own."""
    fixed, output = problem.training, str(problem.config.model.output)
    found = [
        (*_predictions(fixed.objective, output, params, part), part.y) for params, part in held_out
    ]
    return Predicted(*map(np.concatenate, zip(*jax.device_get(found), strict=True)))


def measured(problem: Problem, predicted: Predicted) -> dict[str, float]:
    """All metrics of an averaged output."""
    fixed = problem.training
    found = metrics.measure(
        *predicted,
        threshold=fixed.threshold,
        units=fixed.units,
        names=metrics.names_of(fixed.threshold),
    )
    return {name: float(value) for name, value in found.items()}


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
