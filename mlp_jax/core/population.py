"""A population: many networks that differ only in numbers, trained by one call."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mlp_jax import data
from mlp_jax.config.schema import Data, Experiment, flat_values, with_values
from mlp_jax.core.course import Member, Progress
from mlp_jax.core.fit import DivergedError, Fitted, compile_programs, evaluate_parts, fit
from mlp_jax.core.lockstep import Lockstep, OnProgress, check_members, problem_of
from mlp_jax.data import Dataset
from mlp_jax.errors import UserError
from mlp_jax.experiment.setup import (
    Problem,
    check_smoothing,
    initial_params,
    keys_of,
    numeric_settings,
    objective,
    prepare,
)

LoadData = Callable[[Data], Dataset]

_TRACED_SECTIONS = ("model.", "optimizer.", "schedule.", "early_stopping.")
"""Where the numbers stand that may be arguments of the program; the rest is data and record."""


def train(
    configs: Sequence[Experiment],
    *,
    exact: bool = False,
    halvings: int = 0,
    on_progress: OnProgress = lambda progress: None,
    load_data: LoadData = data.load,
) -> list[Member]:
    """Trains the networks of `configs`, which differ only in traced numbers, in their order.

    Side by side their float32 results agree to about 1e-5 after 1,000 steps with those of each
    network alone, if the training is smooth: with an L1 penalty, weights near 0 jump. `exact`
    trains them one after the other, in one compiled program for those that differ in seed and data
    alone: then each bit is that of the network alone. lbfgs, whose line search would not agree, is
    always exact. With `halvings` k > 0 only the better half goes on after 1/2^k of the steps, the
    better half of those after twice as many, and so on until the last ones train to the end. Raises
    `UserError`.
    """
    exact = exact or configs[0].optimizer.name == "lbfgs"
    if exact and halvings:
        raise UserError(
            f"{halvings} halvings: networks that are trained one after the other cannot be halved; "
            "set population.exact=false, and another optimizer than lbfgs."
        )
    members: dict[int, Member] = {}
    num_steps = 0
    with numeric_settings(configs[0]):
        datasets = _load(configs, load_data)
        for indices in _groups(configs, datasets, exact):
            num_before, steps_before = len(members), num_steps

            def show(now: Progress, num: int = num_before, steps: int = steps_before) -> None:
                nonlocal num_steps
                num_steps = steps + now.network_steps
                ways = num + now.share * now.num_networks
                on_progress(
                    Progress(
                        ways / len(configs),
                        num + now.num_done,
                        len(configs),
                        num_steps,
                        now.best,
                    )
                )

            base = prepare(configs[indices[0]], datasets[indices[0]])
            pair = {"model.output": base.config.model.output, "model.loss": base.config.model.loss}
            some = [with_values(configs[index], pair) for index in indices]
            their_data = [datasets[index] for index in indices]
            for config, dataset in zip(some, their_data, strict=True):
                check_smoothing(config, dataset)
            if exact:
                trained = _one_by_one(base, some, their_data, show)
            else:
                trained = Lockstep(base, some, their_data, _numbers(some)).train(halvings, show)
            members |= dict(zip(indices, trained, strict=True))
    return [members[index] for index in range(len(configs))]


def _load(configs: Sequence[Experiment], load_data: LoadData) -> list[Dataset]:
    """The dataset of each config; equal ones are one."""
    loaded: dict[str, Dataset] = {}
    for config in configs:
        if repr(config.data) not in loaded:
            loaded[repr(config.data)] = load_data(config.data)
    return [loaded[repr(config.data)] for config in configs]


def _groups(
    configs: Sequence[Experiment], datasets: Sequence[Dataset], exact: bool
) -> list[list[int]]:
    """The networks of one program each: equal shapes of the data and, where each bit counts, equal
    numbers, since a compiler may round a constant otherwise than an argument.
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, (config, dataset) in enumerate(zip(configs, datasets, strict=True)):
        shapes = jax.tree.map(np.shape, (dataset.train, dataset.validation, dataset.test))
        numbers = [v for k, v in flat_values(config).items() if k.startswith(_TRACED_SECTIONS)]
        groups[repr(shapes), repr(numbers) if exact else ""].append(index)
    return list(groups.values())


def _numbers(configs: Sequence[Experiment]) -> dict[str, np.ndarray]:
    """The numbers in which the configs differ, by their key."""
    flat = [flat_values(config) for config in configs]
    numbers = {}
    for key, first in flat[0].items():
        values = [values.get(key) for values in flat]
        if not key.startswith(_TRACED_SECTIONS) or all(value == first for value in values):
            continue
        if not all(isinstance(value, float) for value in values):
            raise ValueError(f"{key} differs within a population, and is not a number in each")
        numbers[key] = np.array(values, configs[0].dtype)
    return numbers


def _one_by_one(
    base: Problem,
    configs: Sequence[Experiment],
    datasets: Sequence[Dataset],
    on_progress: OnProgress,
) -> list[Member]:
    """Networks that differ in seed and data, each trained as it is alone, by the same programs."""
    programs = compile_programs(base)
    name = objective(base.config, base.dataset)
    sign = -1 if name.endswith("/loss") else 1
    members: list[Member] = []
    num_steps, best = 0, -np.inf
    for config, dataset in zip(configs, datasets, strict=True):
        init_key, shuffle_key = keys_of(config.seed)
        params = initial_params(config, base.sizes, init_key)
        problem = problem_of(base, config, dataset)
        problem = problem._replace(params=params, shuffle_key=shuffle_key)
        stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None], params)
        (gradient,) = check_members(base, stacked, problem.train, {})
        try:
            fitted = fit(problem, programs)
            metrics, diverged_at = evaluate_parts(problem, fitted.params), None
        except DivergedError as error:
            last = error.last_finite
            fitted = Fitted(last.carry.state.params, last.step, last.history)
            metrics, diverged_at = {}, error.step
        members.append(Member(problem, gradient, fitted, metrics, diverged_at))
        if fitted.history:
            num_steps += fitted.history[-1].step
            best = max(best, sign * fitted.history[-1].metrics[name])
        share = len(members) / len(configs)
        on_progress(Progress(share, len(members), len(configs), num_steps, sign * best))
    return members
