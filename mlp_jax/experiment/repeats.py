"""One training with several seeds in numbers: means, standard deviations and an interval."""

from collections.abc import Mapping, Sequence

import numpy as np

_PARTS = ("train_", "validation_", "test_")


def interval_of(metric: str) -> str:
    """The name of the interval beside a metric that runs are ranked by.

    >>> interval_of("validation/log_loss"), interval_of("best_validation_log_loss")
    ('validation_log_loss_interval', 'validation_log_loss_interval')
    """
    return f"{metric.removeprefix('best_').replace('/', '_')}_interval"


def interval(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of n values: t_{0.975, n−1} s / √n (Student, 1908).

    >>> round(interval([1.0, 2.0, 3.0]), 4)
    2.4841
    """
    from scipy.stats import t  # takes a while to import

    count = len(values)
    return float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))


def over_seeds(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric; of those of the parts also the standard deviation of a sample.

    >>> over_seeds([{"test_loss": 1.0, "kept_step": 5.0}, {"test_loss": 2.0, "kept_step": 7.0}])
    {'test_loss': 1.5, 'test_loss_std': 0.7071067811865476, 'kept_step': 6.0}
    """
    found: dict[str, float] = {}
    for name in measured[0]:
        values = [one[name] for one in measured]
        found[name] = float(np.mean(values))
        if name.startswith(_PARTS):
            found[f"{name}_std"] = float(np.std(values, ddof=1))
    return found
