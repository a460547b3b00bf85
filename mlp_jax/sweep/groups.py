"""From configs to populations: those that differ only in numbers train as one program."""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax import Array

from mlp_jax import data
from mlp_jax.config.compose import Job
from mlp_jax.config.schema import (
    RECORD_KEYS,
    TRACED_KEYS,
    Data,
    Experiment,
    Role,
    flat_values,
    keys,
    num_folds,
    with_values,
)
from mlp_jax.core import population
from mlp_jax.core.fit import DivergedError, Fitted, compile_programs, evaluate_parts, fit
from mlp_jax.core.history import History, Progress, lower_is_better
from mlp_jax.core.metrics import Units
from mlp_jax.core.network import Params
from mlp_jax.core.population import OnProgress, Population, check_start
from mlp_jax.core.training import Order, Parts, Training, keys_of
from mlp_jax.data import Dataset
from mlp_jax.errors import UserError
from mlp_jax.experiment import machine, setup
from mlp_jax.experiment.describe import Result
from mlp_jax.experiment.setup import (
    Problem,
    check_smoothing,
    encode_parts,
    initial_params,
    make_training,
    numeric_settings,
    objective,
    prepare,
    units_of,
)

LoadData = Callable[[Data], Dataset]

_NUMBERS = keys(Role.NUMBER)
"""What may be arguments of the program."""
_OUTSIDE = RECORD_KEYS | keys(Role.START)
"""Records and what the program starts from."""
_NUM_LOGGED = 6
"""The metrics of a log point, about."""


def spread_over_cores() -> None:
    """Lets JAX take each core of a CPU for a device, over which networks can be split.

    It does nothing where JAX has begun to compute in this process, or where the user has chosen.
    """
    if jax.config.jax_num_cpu_devices == -1:  # type: ignore[attr-defined]
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", machine.num_cores())


def by_structure(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that differ only in traced numbers together, in the order of their first job."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(_structure(job.config), []).append(job)
    return list(found.values())


def _structure(experiment: Experiment) -> str:
    """All that the networks of one population have in common, as text.

    Whether a key that may be null is null belongs to it; so does the data where the weights of
    the classes are counted from it, and whether labels are smoothed, which not all data allow.
    Where networks are halved by their losses, these are of the same labels.
    """
    counts_classes = experiment.model.class_weights == "balanced"
    structure = {
        path: value
        for path, value in flat_values(experiment).items()
        if path not in RECORD_KEYS
        and (
            path not in TRACED_KEYS
            or value is None
            or (path == "model.label_smoothing" and (value == 0 or experiment.sweep.halvings))
            or (counts_classes and path.startswith("data."))
        )
    }
    return json.dumps(structure)


def check(config: Experiment, load_data: LoadData = data.load, num_jobs: int = 1) -> None:
    """Whether a network and those of its structure can be trained, as far as nothing is computed.

    Raises `UserError` for a device that is not there, for what does not fit the data, and for more
    seeds of so many jobs than the memory takes.
    """
    halvings, size = config.sweep.halvings, config.ensemble.size
    if size > 1:
        raise UserError(
            f"ensemble.size={size}: the networks of a sweep are trained together already; add "
            "hydra/launcher=basic, and each job is an ensemble in a run of its own."
        )
    if config.calibration != "none":
        raise UserError(
            f"calibration={config.calibration}: the networks of a sweep are compared as they were "
            "trained; add hydra/launcher=basic, or calibrate a run of the best one's settings."
        )
    asked = [
        f"sweep.halvings={halvings}" * (halvings > 0),
        f"sweep.seeds={config.sweep.seeds}" * (config.sweep.seeds > 1),
        f"data.folds={config.data.folds}" * (num_folds(config) > 1),
    ]
    if any(asked) and (config.population.exact or config.optimizer.name == "lbfgs"):
        raise UserError(
            f"{next(filter(None, asked))}: takes networks that are trained together; set "
            "population.exact=false, and another optimizer than lbfgs."
        )
    if asked[-1] and config.model.class_weights == "balanced":
        raise UserError(
            f"{asked[-1]} model.class_weights=balanced: the folds of a sweep are trained together, "
            "with equal weights; give the weights as numbers."
        )
    with numeric_settings(config):
        dataset = load_data(config.data)
        num_points = setup.check(config, dataset)
    _check_ensemble(config, dataset)
    _check_memory(config, dataset, num_points, num_jobs)
    if num_points < 2**halvings:
        raise UserError(
            f"sweep.halvings={halvings}: needs {2**halvings} log points, there are {num_points}: "
            "make log_every smaller, or halve less often."
        )


def _check_ensemble(config: Experiment, dataset: Dataset) -> None:
    """Raises `UserError` where no ensemble can be selected from runs of this config."""
    most, count = config.sweep.ensemble, config.sweep.seeds
    if most and dataset.validation is None:
        raise UserError(
            f"sweep.ensemble={most}: {dataset.name} has no validation part to select it on; set "
            "data.validation_size, or sweep.ensemble=0."
        )
    if most and count > 1:
        raise UserError(
            f"sweep.ensemble={most} sweep.seeds={count}: an ensemble is selected from runs of one "
            f"network each; use sweep.seeds=1 and sweep over the seeds: 'seed=range({count})'."
        )


def _check_memory(config: Experiment, dataset: Dataset, num_points: int, num_jobs: int) -> None:
    """Raises `UserError` where the host cannot hold what comes of all seeds of the jobs."""
    if (count := config.sweep.seeds * num_folds(config)) == 1:
        return
    num_outputs = max(len(dataset.class_names), len(dataset.target_names))
    sizes = (dataset.train.x.shape[1], *config.model.hidden_sizes, num_outputs)
    num_params = sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(sizes))
    itemsize = np.dtype(config.dtype).itemsize
    # The first and the kept parameters, and the log points.
    bytes_of_seed = num_jobs * (2 * num_params * itemsize + _NUM_LOGGED * 4 * num_points)
    memory = machine.memory()
    if count * bytes_of_seed > memory:
        raise UserError(
            f"sweep.seeds={config.sweep.seeds}: {num_jobs * count:,} networks, which take about "
            f"{count * bytes_of_seed / 2**30:,.1f} GiB, and the memory has {memory / 2**30:,.1f}; "
            f"at most {memory // bytes_of_seed // num_folds(config):,} seeds of each job fit."
        )


def train(
    configs: Sequence[Experiment],
    *,
    exact: bool = False,
    halvings: int = 0,
    repeats: int = 1,
    on_progress: OnProgress = lambda progress: None,
    load_data: LoadData = data.load,
) -> list[Result]:
    """Trains the networks of `configs`, which differ only in traced numbers, in their order.

    Side by side their float32 results agree to about 1e-5 after 1,000 steps with those of each
    network alone, if the training is smooth: with an L1 penalty, weights near 0 jump. `exact`
    trains them one after the other, in one compiled program for those that differ in seed and data
    alone: then each bit is that of the network alone. lbfgs, whose line search would not agree, is
    always exact. `halvings` are those of `population.train`, and `repeats` those of a `Population`.
    Raises `UserError`.
    """
    exact = exact or configs[0].optimizer.name == "lbfgs"
    results: dict[int, Result] = {}
    num_steps = 0
    with numeric_settings(configs[0]) as device:
        datasets = _load(configs, load_data)
        for indices in _groups(configs, datasets, exact):
            num_before, steps_before = len(results), num_steps

            def show(now: Progress, num: int = num_before, steps: int = steps_before) -> None:
                nonlocal num_steps
                num_steps = steps + now.network_steps
                share = (num + now.share * now.num_networks) / len(configs)
                num_done = num + now.num_done
                on_progress(
                    now._replace(
                        share=share,
                        num_done=num_done,
                        num_networks=len(configs),
                        network_steps=num_steps,
                    )
                )

            some = _problems([configs[i] for i in indices], [datasets[i] for i in indices])
            if exact:
                trained = list(_one_by_one(some, show))
            else:
                trained = _together(some, device.platform, halvings, repeats, show)
            results |= dict(zip(indices, trained, strict=True))
    return [results[index] for index in range(len(configs))]


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
        numbers = [v for k, v in flat_values(config).items() if k in _NUMBERS]
        units = units_of(dataset)
        groups[repr(shapes), repr([numbers, units]) if exact else ""].append(index)
    return list(groups.values())


def _problems(configs: Sequence[Experiment], datasets: Sequence[Dataset]) -> list[Problem]:
    """Problems that share what they can with the first; its are the parameters and the order."""
    base = prepare(configs[0], datasets[0])
    pair = {"model.output": base.config.model.output, "model.loss": base.config.model.loss}
    problems = []
    for config, dataset in zip(configs, datasets, strict=True):
        config = with_values(config, pair)
        check_smoothing(config, dataset)
        own: dict[str, Any] = {}
        if dataset is not base.dataset:
            own = encode_parts(config, dataset)._asdict()
            own["training"] = base.training._replace(units=units_of(dataset))
        problems.append(replace(base, config=config, dataset=dataset, **own))
    return problems


def _numbers(configs: Sequence[Experiment]) -> dict[str, np.ndarray]:
    """The numbers in which the configs differ, by their key."""
    flat = [flat_values(config) for config in configs]
    numbers = {}
    for key, first in flat[0].items():
        values = [values.get(key) for values in flat]
        is_outside = key in _OUTSIDE or key.startswith("data.")
        if is_outside or all(value == first for value in values):
            continue
        if not all(isinstance(value, float) for value in values):
            raise ValueError(f"{key} differs within a population, and is not a number in each")
        numbers[key] = np.array(values, configs[0].dtype)
    return numbers


def population_of(problems: Sequence[Problem], repeats: int = 1) -> Population:
    """What the core needs to train problems that differ only in numbers."""
    base = problems[0]

    def config_of(numbers: dict[str, Array]) -> Experiment:
        of_config = {k: v for k, v in numbers.items() if not k.startswith("units.")}
        return with_values(base.config, of_config)

    def training_of(numbers: dict[str, Array]) -> Training:
        training = make_training(
            config_of(numbers), base.dataset, base.training.batch_size, base.num_steps
        )
        units = {k.removeprefix("units."): v for k, v in numbers.items() if k.startswith("units.")}
        return training._replace(units=Units(**units)) if units else training

    def start(seed: Array, numbers: dict[str, Array]) -> tuple[Params, Order]:
        init_key, shuffle_key = keys_of(seed)
        config = config_of(numbers)
        return initial_params(config, base.sizes, init_key, base.embedded), shuffle_key

    def own_parts(indices: np.ndarray) -> Parts:
        parts = [problems[index].parts for index in indices]
        return jax.tree.map(lambda *arrays: np.stack(arrays), *parts)

    is_shared = all(problem.dataset is base.dataset for problem in problems)
    if not is_shared and base.config.model.class_weights == "balanced":
        raise ValueError("balanced class weights depend on the data, which differ")
    numbers = _numbers([problem.config for problem in problems])
    if not is_shared and not base.dataset.class_names:
        units = [problem.training.units or Units(()) for problem in problems]
        for name, of_first in units[0]._asdict().items():
            if of_first is not None:
                values = [getattr(own, name) for own in units]
                numbers[f"units.{name}"] = np.array(values, base.config.dtype)
    return Population(
        make_training=training_of,
        start=start,
        origins=np.array([problem.config.seed for problem in problems], np.uint32),
        numbers=numbers,
        parts=base.parts if is_shared else own_parts,
        num_steps=base.num_steps,
        log_every=base.log_every,
        objective=objective(base.config, base.dataset),
        repeats=repeats,
    )


def _together(
    problems: Sequence[Problem],
    platform: str,
    halvings: int,
    repeats: int,
    on_progress: OnProgress,
) -> list[Result]:
    """Networks side by side, on the devices of a platform."""
    trained = population.train(
        population_of(problems, repeats),
        population.make_mesh(len(problems), platform),
        halvings=halvings,
        on_progress=on_progress,
    )
    seeds = np.array([problem.config.seed for problem in problems], np.uint32)
    keys = jax.device_get(jax.random.key_data(jax.vmap(lambda seed: keys_of(seed)[1])(seeds)))
    results = []
    for index, problem in enumerate(problems):
        params = jax.tree.map(lambda leaf: leaf[index], trained.initial)  # noqa: B023 (used here)
        problem = replace(problem, params=params, order=jax.random.wrap_key_data(keys[index]))
        diverged_at = int(trained.history.diverged_at[index]) or None
        metrics = {} if diverged_at else evaluate_parts(problem, trained[index].params)
        for part in metrics:  # as the network measured itself, by its own numbers
            measured = trained.metrics[part]
            metrics[part] |= {name: float(values[index]) for name, values in measured.items()}
        results.append(
            Result(
                problem,
                trained.gradients[index],
                trained[index],
                metrics,
                diverged_at=diverged_at,
                halved_at=int(trained.history.halved_at[index]) or None,
            )
        )
    return results


def _one_by_one(problems: Sequence[Problem], on_progress: OnProgress) -> Iterator[Result]:
    """Networks that differ in seed and data, each trained as it is alone, by the same programs."""
    programs = compile_programs(problems[0])
    name = objective(problems[0].config, problems[0].dataset)
    sign = -1 if lower_is_better(name) else 1
    num_steps, best = 0, -np.inf
    for number, problem in enumerate(problems, start=1):
        init_key, order = keys_of(problem.config.seed)
        params = initial_params(problem.config, problem.sizes, init_key, problem.embedded)
        problem = replace(problem, params=params, order=order)
        stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None], params)
        (gradient,) = check_start(lambda numbers: problems[0].training, stacked, problem.train, {})
        try:
            fitted = fit(problem, programs)
            metrics, diverged_at = evaluate_parts(problem, fitted.params), None
        except DivergedError as error:
            last = error.last_finite
            params = last.carry.state.params
            fitted = Fitted(params, last.step, History.of(last.history))
            metrics, diverged_at = {}, error.step
        if len(fitted.history):
            num_steps += fitted.history[-1].step
            best = max(best, sign * fitted.history[-1].metrics[name])
        share = number / len(problems)
        on_progress(Progress(share, number, len(problems), num_steps, sign * best, sign > 0))
        yield Result(problem, gradient, fitted, metrics, diverged_at=diverged_at)
