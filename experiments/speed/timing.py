"""Ratios of timings taken in turn, and the rows of the table."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax

REPEATS = 9


class Row(NamedTuple):
    """One line of the table: a ratio, what it must be, and both timings behind it."""

    work: str
    ratio: str
    must: str
    details: str


class Paired(NamedTuple):
    """Seconds of A and of B, and A/B pair by pair."""

    a: list[float]
    b: list[float]

    def median(self, values: list[float] | None = None) -> float:
        return statistics.median(self.ratios if values is None else values)

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.a, self.b, strict=True)]

    @property
    def text(self) -> str:
        return f"{self.median():.3g}× ({min(self.ratios):.3g} to {max(self.ratios):.3g})"


def percent(shares: list[float]) -> str:
    low, middle, high = (
        f"{100 * share:.0f}" for share in (min(shares), statistics.median(shares), max(shares))
    )
    return f"{middle} % ({low} to {high})"


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def in_turn(a: Callable[[], object], b: Callable[[], object], repeats: int = REPEATS) -> Paired:
    """Times A and B alternately, after one call of each that is not counted."""
    a(), b()
    pairs = [(seconds(a), seconds(b)) for _ in range(repeats)]
    return Paired([pair[0] for pair in pairs], [pair[1] for pair in pairs])
