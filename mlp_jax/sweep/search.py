"""Where a sweep looks: every combination, random points, a Latin hypercube, Optuna's proposals.

Each override of the command line is a dimension; a point of the unit cube is a job.
"""

import itertools
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from mlp_jax.config.schema import find_field
from mlp_jax.errors import UserError, redacted

if TYPE_CHECKING:  # a grid needs none of them
    import numpy as np
    import optuna
    from hydra.core.override_parser.types import Override

Overrides = list[str]
"""Of one job."""

MAX_JOBS = 10**6
_SEARCH = "mlp_jax.search"
"""An attribute of Optuna's: which trials of a study are those of one search."""


class Dimension(NamedTuple):
    """One override: `KEY=` and what may follow it, single values or an interval."""

    key: str
    values: tuple[str, ...]
    interval: "Interval | None" = None

    @property
    def is_open(self) -> bool:
        """Whether there is anything to choose."""
        return self.interval is not None or len(self.values) > 1

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


def resumes(dimensions: Sequence[Dimension]) -> bool:
    """Whether a search is asked to go on."""
    return any(d.at(0.0).lower() == "sweep.resume=true" for d in dimensions)


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

    return _at(dimensions, np.random.default_rng(seed).random((num_trials, _num_open(dimensions))))


def latin_hypercube(dimensions: Sequence[Dimension], num_trials: int, seed: int) -> list[Overrides]:
    """Points of which each dimension's `num_trials` equal parts have one each."""
    import numpy as np
    from scipy.stats import qmc

    sampler = qmc.LatinHypercube(max(1, _num_open(dimensions)), rng=np.random.default_rng(seed))
    return _at(dimensions, sampler.random(num_trials))


def _num_open(dimensions: Sequence[Dimension]) -> int:
    """Only what is searched takes part in the draw: `sweep.resume=true` must not change it."""
    return sum(dimension.is_open for dimension in dimensions)


def _at(dimensions: Sequence[Dimension], points: "np.ndarray") -> list[Overrides]:
    jobs = []
    for point in points.tolist():
        fractions = iter(point)
        jobs.append([d.at(next(fractions) if d.is_open else 0.0) for d in dimensions])
    return jobs


class Study:
    """Optuna's search by its tree-structured Parzen estimator, a batch of jobs at a time.

    A trial follows from the seed, its number and the losses of those before it. In a storage,
    `resume` goes on with the trials of the search begun last; without it they are new ones.
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        seed: int,
        storage: str | None = None,
        name: str | None = None,
        *,
        resume: bool = False,
    ) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError(
                "hydra/sweeper=optuna: Optuna is not installed: pip install 'mlp_jax[optuna]'."
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._dimensions, self._seed, self._name = dimensions, seed, name
        self._space = {d.key: _distribution(d) for d in dimensions if d.is_open}
        try:
            self._storage = optuna.storages.RDBStorage(storage) if storage is not None else None
            self._study = optuna.create_study(
                storage=self._storage, study_name=name, load_if_exists=True
            )
            if not resume or _SEARCH not in self._study.user_attrs:
                self._study.set_user_attr(_SEARCH, uuid4().hex)
            self._search = self._study.user_attrs[_SEARCH]
            trials = self._study.get_trials(deepcopy=False)
            self._earlier = [t for t in trials if t.user_attrs.get(_SEARCH) == self._search
                             and t.params.keys() == self._space.keys()]  # fmt: skip
            self._first = self._earlier[0].number if self._earlier else len(trials)
        except Exception as error:  # whatever the database and its driver come up with
            reason = str(error).splitlines()[0]
            raise UserError(redacted(f"hydra.sweeper.storage={storage}: {reason}")) from None
        self._num_asked = 0
        self._asked: list[optuna.Trial | optuna.trial.FrozenTrial] = []

    def ask(self, num_trials: int) -> list[Overrides]:
        """The jobs that look best before they are run."""
        self._asked = [self._ask(self._num_asked + i) for i in range(num_trials)]
        self._num_asked += num_trials
        return [
            [_proposed(dimension, trial.params) for dimension in self._dimensions]
            for trial in self._asked
        ]

    def _ask(self, number: int) -> "optuna.Trial | optuna.trial.FrozenTrial":
        import numpy as np
        from optuna.exceptions import ExperimentalWarning
        from optuna.samplers import TPESampler

        if number < len(self._earlier):
            return self._earlier[number]
        seed = int(np.random.SeedSequence([self._seed, self._first + number]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            # A trial of the batch that is not yet known counts as a bad one, so they spread.
            self._study.sampler = TPESampler(seed=seed, constant_liar=True)
        try:
            trial = self._study.ask(self._space)
        except ValueError as error:
            raise UserError(
                f"hydra.sweeper.study_name={self._name}: this study has other ranges or choices "
                f"({error}); take another name."
            ) from None
        trial.set_user_attr(_SEARCH, self._search)
        return trial

    def tell(self, losses: Sequence[float | None]) -> None:
        """What the jobs of the last `ask` came to; infinite where there is nothing finite.

        None of one that was not begun, which a search that goes on asks for again.
        """
        for trial, loss in zip(self._asked, losses, strict=True):
            if loss is not None:
                self._study.tell(trial.number, loss, skip_if_finished=True)

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


def _distribution(dimension: Dimension) -> "optuna.distributions.BaseDistribution":
    from optuna import distributions

    if dimension.interval is None:
        return distributions.CategoricalDistribution(dimension.values)
    low, high, is_log, is_whole = dimension.interval
    if is_whole:
        return distributions.IntDistribution(int(low), int(high), log=is_log)
    return distributions.FloatDistribution(low, high, log=is_log)
