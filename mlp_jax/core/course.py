"""What has become of each network of a population: the host's record of it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from mlp_jax.core.fit import Fitted, LogPoint
from mlp_jax.core.gradcheck import GradientCheck
from mlp_jax.experiment.setup import Problem


class Member(NamedTuple):
    """One network of a population, after training."""

    problem: Problem
    gradient: GradientCheck
    fitted: Fitted
    metrics: dict[str, dict[str, float]]
    """Of each part; empty where the training diverged."""
    diverged_at: int | None = None
    halved_at: int | None = None
    """The step at which successive halving ended it."""


class Progress(NamedTuple):
    """How far a population is; `best` is the best value so far of its objective."""

    share: float
    """Of the way of all networks, from 0 to 1."""
    num_done: int
    num_networks: int
    network_steps: int
    best: float


class Course:
    """The log points of many networks, and where each of them ended.

    `steps` are the steps of the log points. `objective` is the metric by which networks are
    ranked; a loss is better the lower it is, anything else the higher.
    """

    def __init__(
        self, num_networks: int, steps: np.ndarray, objective: str, patience: int | None
    ) -> None:
        self.steps, self.objective, self.patience = steps, objective, patience
        self.sign = -1 if objective.endswith("/loss") else 1
        self.is_done = np.zeros(num_networks, bool)
        self.num_points = np.zeros(num_networks, np.int64)
        self.diverged_at = np.zeros(num_networks, np.int64)
        self.halved_at = np.zeros(num_networks, np.int64)
        """0 where it did not happen."""
        self.history: dict[str, np.ndarray] = {}

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
                shape = (len(self.is_done), len(self.steps))
                rows = self.history.setdefault(name, np.full(shape, np.nan, values.dtype))
                rows[networks[runs], start : start + count] = values[runs]

    def scores(self, networks: Int[np.ndarray, " k"]) -> np.ndarray:
        """The objective at each network's last log point, the higher the better; −∞ if lost."""
        last = np.maximum(self.num_points[networks] - 1, 0)
        scores = self.sign * self.history[self.objective][networks, last]
        lost = self.is_lost(networks) | np.isnan(scores)
        return np.where(lost, -np.inf, scores)

    def is_lost(self, networks: Int[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
        return self.diverged_at[networks] > 0

    def halve(self, networks: Int[np.ndarray, " k"]) -> np.ndarray:
        """Ends the worse half of the networks that are not done, and returns it."""
        running = networks[~self.is_done[networks]]
        worse = running[np.argsort(self.scores(running), kind="stable")][: len(running) // 2]
        self.is_done[worse] = True
        self.halved_at[worse] = self.steps[self.num_points[worse] - 1]
        return worse

    def progress(self) -> Progress:
        taken = np.concatenate([[0], self.steps])[self.num_points]
        trained = np.flatnonzero(self.num_points)
        scores = self.scores(trained) if len(trained) else np.array([-np.inf])
        ways = np.where(self.is_done, 1, taken / self.steps[-1])
        return Progress(
            share=float(ways.mean()),
            num_done=int(self.is_done.sum()),
            num_networks=len(self.is_done),
            network_steps=int(taken.sum()),
            best=float(self.sign * scores.max()),
        )

    def log_points(self, network: int) -> list[LogPoint]:
        """The history of one network, to where it ended."""
        count = self.num_points[network]
        columns = {name: rows[network, :count].tolist() for name, rows in self.history.items()}
        return [
            LogPoint(step, dict(zip(columns, values, strict=True)))
            for step, *values in zip(self.steps[:count].tolist(), *columns.values(), strict=True)
        ]
