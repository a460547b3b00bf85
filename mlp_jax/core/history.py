"""What was logged: of one training, and of many with what has become of each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


def lower_is_better(metric: str) -> bool:
    """Of a loss or an error, such as `validation/log_loss` or `best_validation_rmse`."""
    return metric.endswith(("loss", "rmse", "mae"))


class LogPoint(NamedTuple):
    """What was measured after `step` updates."""

    step: int
    metrics: dict[str, float]


class History(Sequence[LogPoint]):
    """An array for each metric beside the steps of the log points; a sequence of the points, too.

    >>> history = History(np.array([10, 20]), {"train/loss": np.array([0.5, 0.25])})
    >>> history["train/loss"], history[-1]
    (array([0.5 , 0.25]), LogPoint(step=20, metrics={'train/loss': 0.25}))
    """

    def __init__(self, steps: np.ndarray, metrics: dict[str, np.ndarray]) -> None:
        self.steps, self.metrics = steps, metrics

    @classmethod
    def of(cls, points: Iterable[LogPoint]) -> "History":
        """The same from log points that measure the same."""
        points = list(points)
        names = points[0].metrics if points else ()
        return cls(
            np.array([point.step for point in points], int),
            {name: np.array([point.metrics[name] for point in points]) for name in names},
        )

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, key: Any) -> Any:
        """A metric's array by its name, or the log points of an index or a slice."""
        if isinstance(key, str):
            return self.metrics[key]
        if isinstance(key, slice):
            return [self[index] for index in range(*key.indices(len(self)))]
        values = {name: value_of(values[key]) for name, values in self.metrics.items()}
        return LogPoint(int(self.steps[key]), values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def value_of(value: Any) -> Any:
    """A Python number of an array without axes; another array, which a study may log, as it is."""
    return np.asarray(value) if np.ndim(value) else value.item()


def mean_history(histories: Sequence[History]) -> History:
    """At each log point the mean of each metric; a training that has ended keeps its last values.

    Else the mean would jump where one of them ends, which has another loss than the others.
    """
    longest = max(histories, key=len)
    begun = [history for history in histories if len(history)] or [longest]

    def mean(name: str) -> np.ndarray:
        rows = [
            np.pad(history[name], (0, len(longest) - len(history)), mode="edge")
            for history in begun
        ]
        return np.mean(rows, axis=0)

    return History(longest.steps, {name: mean(name) for name in longest.metrics})


class Progress(NamedTuple):
    """How far a population is; `best` is that of its objective at the last log points."""

    share: float
    """Of the way of all networks, from 0 to 1."""
    num_done: int
    num_networks: int
    network_steps: int
    best: float
    higher_is_better: bool


_OF_EACH = ("is_done", "num_points", "diverged_at", "halved_at")


class Histories:
    """The log points of many networks, and where each of them ended.

    `steps` are the steps of the log points; an array of `metrics` has a row for each network, NaN
    beyond its end. `objective` is the metric by which networks are ranked; so many `repeats` in a
    row are one trial, which is judged by their mean.
    """

    def __init__(
        self,
        num_networks: int,
        steps: np.ndarray,
        objective: str,
        patience: int | None,
        repeats: int = 1,
    ) -> None:
        self.steps, self.objective, self.patience = steps, objective, patience
        self.repeats = repeats
        self.sign = -1 if lower_is_better(objective) else 1
        self.is_done = np.zeros(num_networks, bool)
        self.num_points = np.zeros(num_networks, np.int64)
        self.diverged_at = np.zeros(num_networks, np.int64)
        self.halved_at = np.zeros(num_networks, np.int64)
        """0 where it did not happen."""
        self.metrics: dict[str, np.ndarray] = {}

    def record(
        self, networks: Int[np.ndarray, " k"], start: int, logged: Mapping[str, np.ndarray]
    ) -> None:
        """Takes what some networks logged at the log points from number `start` on.

        The arrays of `logged` have shape (networks, log points). What a network that is done
        already has logged is left out.
        """
        count = logged["num_finite"].shape[1]
        previous = np.concatenate([[0], self.steps])[start : start + count]
        is_bad = logged["num_finite"] < self.steps[start : start + count] - previous
        is_last = is_bad.copy()
        if self.patience is not None:
            is_last |= logged["num_worse"] >= self.patience
        has_ended, last = is_last.any(axis=1), is_last.argmax(axis=1)
        row = np.arange(len(networks))
        diverged = has_ended & is_bad[row, last]
        num_points = np.where(has_ended, last + ~is_bad[row, last], count)

        runs = ~self.is_done[networks]
        self.num_points[networks[runs]] = start + num_points[runs]
        lost = runs & diverged
        self.diverged_at[networks[lost]] = (previous[last] + logged["num_finite"][row, last] + 1)[
            lost
        ]
        self.is_done[networks[runs & has_ended]] = True
        if start + count == len(self.steps):
            self.is_done[networks] = True
        for name, values in logged.items():
            if name not in ("num_finite", "num_worse"):
                shape = (len(self.is_done), len(self.steps), *values.shape[2:])
                rows = self.metrics.setdefault(
                    name, np.full(shape, np.nan, np.result_type(values, np.float32))
                )
                # Of the log points up to its end only: what follows is no number of its training.
                is_its = runs[:, None] & (np.arange(count) < num_points[:, None])
                at, point = np.nonzero(is_its)
                rows[networks[at], start + point] = values[at, point]

    def scores(self, networks: Int[np.ndarray, " k"]) -> np.ndarray:
        """The objective at each network's last log point, the higher the better; −∞ if lost."""
        last = np.maximum(self.num_points[networks] - 1, 0)
        scores = self.sign * self.metrics[self.objective][networks, last]
        lost = self.is_lost(networks) | np.isnan(scores)
        return np.where(lost, -np.inf, scores)

    def is_lost(self, networks: Int[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
        return self.diverged_at[networks] > 0

    def trials_of(self, networks: Int[np.ndarray, " k"]) -> Int[np.ndarray, "trials repeats"]:
        """All networks of the trials that some networks are of."""
        trials = np.unique(networks // self.repeats)
        return trials[:, None] * self.repeats + np.arange(self.repeats)

    def trial_scores(
        self, trials: Int[np.ndarray, "trials repeats"]
    ) -> Float[np.ndarray, " trials"]:
        """The mean of each trial's scores: −∞ where one of its networks is lost."""
        return self.scores(trials.ravel()).reshape(trials.shape).mean(axis=1)

    def halve(self, networks: Int[np.ndarray, " k"]) -> np.ndarray:
        """Ends the worse half of the trials that are not done, and returns their networks."""
        running = self.trials_of(networks[~self.is_done[networks]])
        order = np.argsort(self.trial_scores(running), kind="stable")
        worse = running[order[: len(running) // 2]].ravel()
        worse = worse[~self.is_done[worse]]
        self.is_done[worse] = True
        self.halved_at[worse] = self.steps[self.num_points[worse] - 1]
        return worse

    def arrays(self) -> dict[str, np.ndarray]:
        """Copies of all that `restore` needs."""
        own = {name: getattr(self, name).copy() for name in _OF_EACH}
        return own | {f"metrics/{name}": rows.copy() for name, rows in self.metrics.items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        for name, rows in arrays.items():
            if name in _OF_EACH:
                setattr(self, name, rows.copy())
            else:
                self.metrics[name.removeprefix("metrics/")] = rows.copy()

    def progress(self) -> Progress:
        taken = np.concatenate([[0], self.steps])[self.num_points]
        trials = np.arange(len(taken)).reshape(-1, self.repeats)
        goes_on = (self.num_points > 0) & (self.halved_at == 0)
        trained = trials[goes_on[trials].all(axis=1)]
        scores = self.trial_scores(trained) if len(trained) else np.array([-np.inf])
        shares = np.where(self.is_done, 1, taken / self.steps[-1])
        return Progress(
            share=float(shares.mean()),
            num_done=int(self.is_done.sum()),
            num_networks=len(self.is_done),
            network_steps=int(taken.sum()),
            best=float(self.sign * scores.max()),
            higher_is_better=self.sign > 0,
        )

    def __getitem__(self, key: Any) -> Any:
        """A metric of all networks, (networks, log points), or the history of one to its end."""
        if isinstance(key, str):
            return self.metrics[key]
        count = self.num_points[key]
        return History(
            self.steps[:count], {name: rows[key, :count] for name, rows in self.metrics.items()}
        )
