"""Greedy selection of an ensemble: of many trained networks those whose mean is best.

Caruana, Niculescu-Mizil, Crew & Ksikes 2004, "Ensemble selection from libraries of models".
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

ROUNDING = 1e-6
"""By which losses may differ, relatively, of means that are equal in float32."""


class Selection(NamedTuple):
    """The networks in the order in which they were taken, and the loss of their mean after each."""

    picks: tuple[int, ...]
    losses: tuple[float, ...]


def select(
    y_hats: Float[np.ndarray, "networks n n_L"],
    loss: Callable[[Float[np.ndarray, "n n_L"]], float],
    most: int,
) -> Selection:
    """Takes one network after the other, at most so many, each time the one that helps most.

        ȳ_k = ((k − 1) ȳ_{k−1} + ŷ_m) / k,  with the m for which loss(ȳ_k) is lowest

    The first is the best one alone. A network may be taken again, and then weighs more; of equal
    ones the first is taken. Of the sequence only what leads to its lowest loss is kept, which so is
    never above that of the best network but by rounding: one network taken again has no other mean.

    >>> y_hats = np.array([[[1.0]], [[-2.0]], [[9.0]]])
    >>> select(y_hats, lambda y_hat: abs(float(y_hat[0, 0])), most=6)
    Selection(picks=(0, 1, 0), losses=(1.0, 0.5, 0.0))
    """
    total = np.zeros_like(y_hats[0])
    picks: list[int] = []
    losses: list[float] = []
    for count in range(1, most + 1):
        found = [loss((total + y_hat) / count) for y_hat in y_hats]
        picks.append(int(np.argmin(found)))
        losses.append(found[picks[-1]])
        total = total + y_hats[picks[-1]]
    lowest = min(losses)
    is_lowest = np.isclose(losses, lowest, rtol=ROUNDING, atol=0)
    end = int(np.argmax(is_lowest)) + 1
    return Selection(tuple(picks[:end]), tuple(losses[:end]))
