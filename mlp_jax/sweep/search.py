"""Where a sweep looks: every combination, random points, a Latin hypercube, Optuna's proposals.

Each override of the command line is a dimension; a point of the unit cube is a job.
"""

import itertools
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mlp_jax.config.schema import find_field
from mlp_jax.errors import UserError, redacted

if TYPE_CHECKING:  # a grid needs none of them
    import numpy as np
    import optuna
    from hydra.core.override_parser.types import Override

Overrides = list[str]
"""Of one job."""

MAX_JOBS = 10**6


class Dimension(NamedTuple):
    """One override: `KEY=` and what may follow it, single values or an interval."""

    key: str
    values: tuple[str, ...]
    interval: "Interval | None" = None

    def at(self, fraction: float) -> str:
        """The override at a fraction from 0 to below 1 of the way."""
        if self.interval is not None:
            return f"{self.key}={self.interval.at(fraction)}"
        return f"{self.key}{self.values[int(fraction * len(self.values))]}"


class Interval(NamedTuple):
    """From `low` to `high`; whole numbers include both."""

    low: float
    high: float
    is_log: bool
    is_whole: bool

    def at(self, fraction: float) -> int | float:
        low, high = self.low, self.high + self.is_whole
        linear = low + (high - low) * fraction
        value = low * (high / low) ** fraction if self.is_log else linear
        return min(int(value), int(self.high)) if self.is_whole else self.rounded(value)

    def rounded(self, value: int | float) -> int | float:
        """Four digits are enough for a number that nobody chose."""
        if self.is_whole:
            return int(value)
        return min(max(float(f"{value:.4g}"), self.low), self.high)


def dimensions(overrides: Iterable["Override"]) -> list[Dimension]:
    """The overrides of a sweep; the last one of a key counts. Raises `UserError`."""
    by_key: dict[str, Dimension] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_interval_sweep():
            by_key[key] = Dimension(key, (), _interval(override))
        elif override.is_sweep_override():
            texts = itertools.islice(override.sweep_string_iterator(), MAX_JOBS + 1)
            values = tuple(f"={value}" for value in texts)
            if len(values) > MAX_JOBS:
                raise UserError(
                    f"{override.input_line}: has more than {MAX_JOBS:,} values, the limit of a "
                    "sweep. List fewer, or draw some of an interval with hydra/sweeper=random."
                )
            if not values:
                raise UserError(f"{override.input_line}: has no values; give at least one.")
            by_key[key] = Dimension(key, values)
        else:
            by_key[key] = Dimension(key, ((override.input_line or key).removeprefix(key),))
    return list(by_key.values())


def _interval(override: "Override") -> Interval:
    sweep: Any = override.value()
    low, high, is_log = sweep.start, sweep.end, "log" in sweep.tags
    item = find_field(override.key_or_group)
    is_whole = isinstance(low, int) or (item is not None and "int" in str(item.type))
    problem = (
        "must be finite" if not (math.isfinite(low) and math.isfinite(high))
        else "must rise" if low >= high
        else "must be > 0 on a log scale" if is_log and low <= 0
        else "must be whole" if is_whole and not (low == int(low) and high == int(high))
        else ""
    )  # fmt: skip
    if problem:
        raise UserError(f"{override.input_line}: the bounds of the interval {problem}.")
    return Interval(low, high, is_log, is_whole)


def grid(dimensions: Sequence[Dimension]) -> list[Overrides]:
    """Every combination; the last dimension changes fastest."""
    for dimension in dimensions:
        if dimension.interval is not None:
            low, high, is_log, _ = dimension.interval
            scale = (
                f"tag(log,interval({low:g},{high:g}))" if is_log else f"interval({low:g},{high:g})"
            )
            raise UserError(
                f"{dimension.key}={scale}: a grid has no values of an interval. Add "
                "hydra/sweeper=random (or latin_hypercube, optuna), or list values."
            )
    num_jobs = math.prod(len(dimension.values) for dimension in dimensions)
    if num_jobs > MAX_JOBS:
        raise UserError(
            f"the sweep has {num_jobs:,} combinations; the limit is {MAX_JOBS:,}. List fewer "
            "values, or draw some with hydra/sweeper=random."
        )
    columns = [[f"{d.key}{value}" for value in d.values] for d in dimensions]
    return [list(point) for point in itertools.product(*columns)]


def random(dimensions: Sequence[Dimension], num_trials: int, seed: int) -> list[Overrides]:
    """Independent uniform points."""
    import numpy as np

    points = np.random.default_rng(seed).random((num_trials, len(dimensions)))
    return _at(dimensions, points)


def latin_hypercube(dimensions: Sequence[Dimension], num_trials: int, seed: int) -> list[Overrides]:
    """Points of which each dimension's `num_trials` equal parts have one each."""
    import numpy as np
    from scipy.stats import qmc

    rng = np.random.default_rng(seed)
    return _at(dimensions, qmc.LatinHypercube(len(dimensions), rng=rng).random(num_trials))


def _at(dimensions: Sequence[Dimension], points: "np.ndarray") -> list[Overrides]:
    return [
        [dimension.at(fraction) for dimension, fraction in zip(dimensions, point, strict=True)]
        for point in points
    ]


class Study:
    """Optuna's search by its tree-structured Parzen estimator, a batch of jobs at a time."""

    def __init__(
        self, dimensions: Sequence[Dimension], seed: int, storage: str | None, name: str | None
    ) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError(
                "hydra/sweeper=optuna: Optuna is not installed: pip install 'mlp_jax[optuna]'."
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._dimensions = dimensions
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # A trial of the batch that is not yet known counts as a bad one, so they spread.
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        try:
            self._storage = optuna.storages.RDBStorage(storage) if storage is not None else None
            self._study = optuna.create_study(
                sampler=sampler, storage=self._storage, study_name=name, load_if_exists=True
            )
        except Exception as error:  # whatever the database and its driver come up with
            reason = str(error).splitlines()[0]
            raise UserError(redacted(f"hydra.sweeper.storage={storage}: {reason}")) from None
        self._name = name
        self._asked: list[optuna.Trial] = []

    def ask(self, num_trials: int) -> list[Overrides]:
        """The jobs that look best before they are run."""
        space = {d.key: _distribution(d) for d in self._dimensions if _is_open(d)}
        try:
            self._asked = [self._study.ask(space) for _ in range(num_trials)]
        except ValueError as error:
            raise UserError(
                f"hydra.sweeper.study_name={self._name}: this study has other ranges or choices "
                f"({error}); take another name."
            ) from None
        return [
            [_proposed(dimension, trial.params) for dimension in self._dimensions]
            for trial in self._asked
        ]

    def tell(self, losses: Sequence[float]) -> None:
        """What the jobs of the last `ask` came to; infinite where there is nothing finite."""
        for trial, loss in zip(self._asked, losses, strict=True):
            self._study.tell(trial, loss)

    def close(self) -> None:
        """Lets go of the storage."""
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()


def _proposed(dimension: Dimension, params: dict[str, Any]) -> str:
    """The override that a trial's parameters stand for."""
    key = dimension.key
    if dimension.interval is not None:
        return f"{key}={dimension.interval.rounded(params[key])}"
    return f"{key}{params.get(key, dimension.values[0])}"


def _is_open(dimension: Dimension) -> bool:
    return dimension.interval is not None or len(dimension.values) > 1


def _distribution(dimension: Dimension) -> "optuna.distributions.BaseDistribution":
    from optuna import distributions

    if dimension.interval is None:
        return distributions.CategoricalDistribution(dimension.values)
    low, high, is_log, is_whole = dimension.interval
    if is_whole:
        return distributions.IntDistribution(int(low), int(high), log=is_log)
    return distributions.FloatDistribution(low, high, log=is_log)
