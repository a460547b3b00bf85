"""`sweep.seeds`, `data.folds`: a job of several networks, in a row in one population.

All jobs have the same seeds, unless they are told otherwise: their means differ less by chance than
those of seeds of their own would (common random numbers).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mlp_jax.config.schema import Experiment, num_folds, with_values
from mlp_jax.core.fit import Fitted
from mlp_jax.core.history import mean_history
from mlp_jax.experiment import describe, ensemble
from mlp_jax.experiment.describe import Result


def count_of(config: Experiment) -> int:
    """The networks of a job."""
    return config.sweep.seeds * num_folds(config)


def configs_of(config: Experiment) -> list[Experiment]:
    """The networks of a job: so many seeds for each fold, from its own seed on."""
    return [
        with_values(config, {"seed": seed, "sweep.seeds": 1, "data.fold": fold})
        for seed, fold in ensemble.seeds_and_folds(config, config.sweep.seeds)
    ]


def gathered(configs: Sequence[Experiment], results: Sequence[Result]) -> list[Result]:
    """The result of each job from those of all networks, in their order."""
    count = count_of(configs[0])
    if count == 1:
        return list(results)
    return [
        _of_job(config, list(results[count * number : count * (number + 1)]))
        for number, config in enumerate(configs)
    ]


def _of_job(config: Experiment, networks: list[Result]) -> Result:
    """The means over the networks; problem and parameters are those of the best network."""
    lost = [one for one in networks if one.diverged_at is not None]
    best = lost[0] if lost else describe.best_of(networks)
    own = {"seed": config.seed, "sweep.seeds": config.sweep.seeds, "data.fold": config.data.fold}
    halved_at = [one.halved_at for one in networks if one.halved_at is not None]
    return Result(
        replace(best.problem, config=with_values(best.problem.config, own)),
        max(
            (one.gradient for one in networks),
            key=lambda each: (not each.passed, each.autodiff_error),
        ),
        Fitted(
            best.fitted.params,
            best.fitted.step,
            mean_history([one.fitted.history for one in networks]),
        ),
        {} if lost else _mean_metrics(networks),
        diverged_at=best.diverged_at,
        halved_at=max(halved_at, default=None),
        repeats=networks,
    )


def _mean_metrics(networks: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Of every part."""
    return {
        part: {
            name: float(np.mean([network.metrics[part][name] for network in networks]))
            for name in names
        }
        for part, names in networks[0].metrics.items()
    }
