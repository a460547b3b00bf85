"""`python -m experiments.seeds` measures what `sweep.seeds=16` costs a search, and what it gives.

A search draws 50 pairs of a learning rate and a penalty. It is timed as a command, tracked, with 16
seeds a trial and with one. Then searches are repeated with other seeds, and what each takes for the
best pair, by one seed and by the mean of all, is trained with 100 seeds that no search has seen.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console as RichConsole
from rich.markdown import Markdown

from experiments.study import machine
from mlp_jax.config.compose import compose
from mlp_jax.config.schema import Experiment, with_values
from mlp_jax.experiment import describe
from mlp_jax.sweep import groups, search
from mlp_jax.sweep.search import Dimension, Interval

RECORD = Path(__file__).parent / "results.md"
RATES = {"xor": (0.1, 100.0), "moons": (0.001, 0.1), "digits": (0.0001, 0.01)}
"""Of each problem, to where some seeds are lost: around the rate of its experiment."""
PENALTIES = (1e-6, 1e-2)
ONLY_TIMED = ("digits",)
"""Thirty searches of them would take an hour."""
FIRST_FRESH_SEED = 1_000_000
SEEDS_APART = 1_000
"""From one search to the next, so that no two share a seed."""


class Size(NamedTuple):
    """How large a measurement is."""

    trials: int
    seeds: int
    searches: int
    fresh: int
    repeats: int


# --- what it costs -----------------------------------------------------------------------------


def command(problem: str, size: Size, num_seeds: int) -> list[str]:
    low, high = RATES[problem]
    return [
        *(sys.executable, "-m", "mlp_jax.train", "-m", f"+exp={problem}", "hydra/sweeper=random"),
        *(f"hydra.sweeper.num_trials={size.trials}", f"sweep.seeds={num_seeds}"),
        f"optimizer.learning_rate=tag(log,interval({low},{high}))",
        f"model.l2=tag(log,interval({PENALTIES[0]},{PENALTIES[1]}))",
    ]


def timed(problem: str, size: Size) -> tuple[list[str], list[str]]:
    """Two rows: where the programs are yet to be compiled, and where they are in the cache."""
    with tempfile.TemporaryDirectory() as folder:

        def seconds(num_seeds: int, cache: Path) -> float:
            line = command(problem, size, num_seeds)
            start = time.perf_counter()
            environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
            subprocess.run(line, cwd=folder, check=True, capture_output=True, env=environment)
            return time.perf_counter() - start

        seconds(1, Path(folder, "no matter"))  # creates the store
        pairs = []
        for repeat in range(size.repeats):
            many, one = Path(folder, f"many {repeat}"), Path(folder, f"one {repeat}")
            first = seconds(size.seeds, many), seconds(1, one)
            again = seconds(size.seeds, many), seconds(1, one)
            pairs.append((first, again))
    when = ("the first time", "with its programs in the cache")
    rows = [_row(problem, when[i], [pair[i] for pair in pairs]) for i in (0, 1)]
    return rows[0], rows[1]


def _row(problem: str, when: str, pairs: Sequence[tuple[float, float]]) -> list[str]:
    many, one = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    ratio = f"{statistics.median(ratios):.2f} ({spread})"
    return [problem, when, f"{many:.1f} s", f"{one:.1f} s", ratio]


# --- what it gives -----------------------------------------------------------------------------


class Searches(NamedTuple):
    """By search: its trials, and what it took for the best of them."""

    trials: list[list[Experiment]]
    by_one: np.ndarray
    by_mean: np.ndarray


def trials_of(problem: str, size: Size, number: int) -> list[Experiment]:
    """As the sweeper `random` draws them with the seed `number`."""
    base = compose([f"+exp={problem}", "tracking=none", f"seed={SEEDS_APART * number}"])
    space = [
        Dimension(key, (), Interval(low, high, is_log=True, is_whole=False))
        for key, (low, high) in (
            ("optimizer.learning_rate", RATES[problem]),
            ("model.l2", PENALTIES),
        )
    ]
    pairs = (
        text.partition("=") for job in search.random(space, size.trials, number) for text in job
    )
    values = [(key, float(value)) for key, _, value in pairs]
    return [with_values(base, dict(values[i : i + 2])) for i in range(0, len(values), 2)]


def losses(trials: Sequence[Experiment], seeds: Sequence[int]) -> np.ndarray:
    """What a search would see of each trial with each of so many seeds after its own."""
    configs = [with_values(t, {"seed": t.seed + s}) for t in trials for s in seeds]
    results = groups.train(configs)
    found = [
        np.inf if one.diverged_at else describe.search_loss(*describe.standing(one))
        for one in results
    ]
    return np.array(found).reshape(len(trials), len(seeds))


def chosen(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best trial of each search by its first seed and by the mean.

    `found` has shape (searches, trials, seeds).
    """
    return found[:, :, 0].argmin(axis=1), found.mean(axis=2).argmin(axis=1)


def search_all(problem: str, size: Size) -> Searches:
    trials = [trials_of(problem, size, number) for number in range(size.searches)]
    found = losses([trial for one in trials for trial in one], range(size.seeds))
    by_one, by_mean = chosen(found.reshape(size.searches, size.trials, size.seeds))
    return Searches(trials, by_one, by_mean)


def compared(problem: str, size: Size) -> list[str]:
    """A row: how often the choice by the mean is better on the fresh seeds, the same or worse."""
    searches = search_all(problem, size)
    choices = [
        with_values(trials[index], {"seed": FIRST_FRESH_SEED})
        for trials, *both in zip(*searches, strict=True)
        for index in both
    ]
    fresh = losses(choices, range(size.fresh)).mean(axis=1).reshape(size.searches, 2)
    one, mean = fresh.T
    same = searches.by_one == searches.by_mean
    better, worse = int(((mean < one) & ~same).sum()), int(((mean >= one) & ~same).sum())
    shares = [f"{better} of {size.searches}", str(int(same.sum())), str(worse)]
    return [problem, *shares, f"{np.median(one):.4g}", f"{np.median(mean):.4g}"]


# --- the page ----------------------------------------------------------------------------------


def measure(problems: Sequence[str], size: Size) -> str:
    """Markdown."""
    costs = [row for problem in problems if size.repeats for row in timed(problem, size)]
    groups.spread_over_cores()
    searched = [p for p in problems if size.searches and p not in ONLY_TIMED]
    gains = [compared(problem, size) for problem in searched]
    against = f"{size.trials} trials × {size.seeds} seeds"
    parts = [
        "# A search that answers for the mean over seeds",
        f"Made by `python -m experiments.seeds` on {machine()}. The time is that of the whole "
        f"command, tracked, the median of {size.repeats} in turn; it must be at most 2.5 times as "
        "long on xor and moons.",
        _table(
            ["problem", "when", against, f"{size.trials} × 1", "ratio (lowest to highest)"], costs
        ),
        f"Of {size.searches} searches of {size.trials} trials, those whose choice by the mean of "
        f"{size.seeds} seeds is better than the choice by one seed, by the mean loss over "
        f"{size.fresh} fresh seeds; at least 80 % must be. It is neither better nor worse where "
        "both are the same trial.",
        _table(
            ["problem", "better", "the same", "worse", "median loss by one", "… by the mean"],
            gains,
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *rows])


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.seeds", description=__doc__)
    parser.add_argument(
        "problems", nargs="*", choices=[[], *RATES], default=[], help="default: all"
    )
    for name, default in (
        ("trials", 50), ("seeds", 16), ("searches", 30), ("fresh", 100), ("repeats", 3)
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--write", action="store_true", help=f"rewrite {RECORD.name}")
    options = parser.parse_args()
    size = Size(*(getattr(options, name) for name in Size._fields))
    text = measure(options.problems or list(RATES), size)
    if options.write:
        RECORD.write_text(text, encoding="utf-8")
    RichConsole().print(Markdown(text))


if __name__ == "__main__":
    main()
