"""Networks for functions of several inputs, with a proved bound: of ridge functions and of grids.

Both are made of towers and have their `Approximation`. Of grids the bound holds in the limit of
edges without width, and with max |f| as it was measured.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from mlp_jax.core.network import Layer, Params
from mlp_jax.errors import UserError
from mlp_jax.library.boolean import check_weights
from mlp_jax.library.towers import (
    Approximation,
    Function,
    Number,
    certified,
    check_interval,
    check_lipschitz,
    check_positive,
    towers,
    values_of,
)


def check_box(lower: Sequence[Number], upper: Sequence[Number]) -> None:
    for a, b in zip(lower, upper, strict=True):
        check_interval(a, b)


class Ridge(NamedTuple):
    """A ridge function a φ(k·x) from Rⁿ to Rᵐ, where φ has the Lipschitz constant `lipschitz`."""

    direction: Sequence[Number]
    profile: Function
    lipschitz: Number
    coefficients: Sequence[Number]


def approximate_ridges(
    ridges: Sequence[Ridge], lower: Sequence[Number], upper: Sequence[Number], eps: Number
) -> Approximation:
    """A network with one hidden layer, sup |g − f| ≤ `eps` for f(x) = Σ_r a_r φ_r(k_r·x) on a box.

    Each φ_r is a staircase with error ≤ ε / max_j Σ_r |a_rj| along k_r·x; the outputs j share the
    hidden units. Every continuous function is a limit of such sums (Cybenko 1989).

    >>> waves = [Ridge((1, 1), np.sin, 1, (0.5,)), Ridge((1, -1), np.sin, 1, (0.5,))]
    >>> g = approximate_ridges(waves, lower=(0, 0), upper=(1, 1), eps=0.1)  # of sin x · cos y
    >>> len(g.params), g.sup_error <= g.bound <= 0.1
    (2, True)
    """
    check_positive("eps", eps)
    check_box(lower, upper)
    _check_ridges(ridges, len(lower))
    low, high = np.asarray(lower, float), np.asarray(upper, float)
    K = np.asarray([ridge.direction for ridge in ridges], float)
    A = np.asarray([ridge.coefficients for ridge in ridges], float)
    weight = np.abs(A).sum(axis=0).max()
    ends = np.sort(np.stack([K * low, K * high]), axis=0).sum(axis=2)
    parts = [
        towers(ridge.profile, (start, end), eps / weight, ridge.lipschitz)
        for ridge, start, end in zip(ridges, *ends, strict=True)
    ]
    x = _spread(low, high)
    profiles = np.stack(
        [values_of(ridge.profile, x @ k) for ridge, k in zip(ridges, K, strict=True)]
    )
    return certified(
        _side_by_side([part.params for part in parts], K, A),
        num_towers=sum(part.num_towers for part in parts),
        steepness=max(part.steepness for part in parts),
        bound=float((np.abs(A).T @ [part.bound for part in parts]).max()),
        x=x,
        y=profiles.T @ A,
    )


def _check_ridges(ridges: Sequence[Ridge], num_inputs: int) -> None:
    sizes = {(len(ridge.direction), len(ridge.coefficients)) for ridge in ridges}
    if len(sizes) != 1 or min(sizes)[0] != num_inputs:
        raise UserError(
            f"ridges with (inputs, outputs) {sorted(sizes)} on a box of {num_inputs} inputs: give "
            "at least one, all with the box's number of inputs and the same number of outputs."
        )


def _side_by_side(parts: Sequence[Params], K: np.ndarray, A: np.ndarray) -> Params:
    """One network for Σ_r a_r g_r(k_r·x) from those for the g_r."""
    triples = list(zip(parts, K, A, strict=True))
    return (
        Layer(
            W=jnp.concatenate([hidden.W * k[None, :] for (hidden, _), k, _ in triples]),
            b=jnp.concatenate([hidden.b for (hidden, _), _, _ in triples]),
        ),
        Layer(
            W=jnp.concatenate([a[:, None] * outer.W for (_, outer), _, a in triples], axis=1),
            b=jnp.asarray(sum(a * outer.b for (_, outer), _, a in triples)),
        ),
    )


def _spread(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """16,384 Sobol' points, the same at each call; a tenth or more of them on the box's faces."""
    points = qmc.Sobol(len(lower), scramble=False).random_base2(14)
    return np.clip(lower + (1.1 * points - 0.05) * (upper - lower), lower, upper)


def approximate_by_grids(
    f: Function,
    lower: Sequence[Number],
    upper: Sequence[Number],
    lipschitz: Number,
    num_cells: int,
    num_grids: int = 1,
) -> Approximation:
    """Towers over a grid of `num_cells` cells along each of n axes: two hidden layers.

        T = σ(W(Σ_d [σ(w(x_d − l_d)) − σ(w(x_d − u_d))] − (n − ½)))

    At the corners of the grid every T is near 0, so one grid never converges in the sup norm.
    The average of M grids, each shifted along all axes by D/M against the one before, does: at most
    n of them have an edge near x. `bound` is L √n D/2 + n/M max |f|, for edges without width; where
    the sides of the cells differ, √n D is their diagonal.

    >>> def product(x): return x[:, 0] * x[:, 1]
    >>> g = approximate_by_grids(product, (0, 0), (1, 1), lipschitz=2, num_cells=6, num_grids=3)
    >>> len(g.params), g.sup_error <= g.bound
    (3, True)
    """
    check_positive("lipschitz", lipschitz)
    check_box(lower, upper)
    if num_cells < 1 or num_grids < 1:
        raise UserError(f"num_cells={num_cells} num_grids={num_grids}: at least 1 each.")
    low, high = np.asarray(lower, float), np.asarray(upper, float)
    D = (high - low) / num_cells
    params = _grids_of_towers(f, low, high, num_cells, num_grids)
    corners = low + D * np.indices((num_cells + 1,) * len(low)).reshape(len(low), -1).T
    x = np.concatenate([_spread(low, high), corners])
    y = values_of(f, x)
    check_lipschitz(x, y, lipschitz)
    return certified(
        params,
        num_towers=params[1].b.size,
        steepness=float(params[0].W.max()),
        bound=float(lipschitz * np.linalg.norm(D) / 2 + len(low) / num_grids * np.abs(y).max()),
        x=x,
        y=y[:, None],
    )


def _grids_of_towers(
    f: Function, low: np.ndarray, high: np.ndarray, num_cells: int, num_grids: int
) -> Params:
    """The average of M grids: one hidden layer of edges and one of towers."""
    D, num_axes = (high - low) / num_cells, len(low)
    num_edges = num_cells + 1 + (num_grids > 1)  # a shifted grid takes one cell more
    num_towers = num_grids * (num_edges - 1) ** num_axes
    check_weights(
        f"num_cells={num_cells} num_grids={num_grids}",
        num_towers * num_grids * num_axes * num_edges,
    )
    shifts = np.arange(1, num_grids + 1)[:, None, None] / num_grids - 1  # −1 < shift ≤ 0, in cells
    edges = low + D * (shifts + np.arange(num_edges)[:, None])  # (M, edges, n)
    cells = np.indices((num_edges - 1,) * num_axes).reshape(num_axes, -1).T  # (cells, n)
    centres = (low + D * (shifts + cells + 0.5)).reshape(-1, num_axes)
    heights = values_of(f, np.clip(centres, low, high))

    w = 200 * num_grids / D  # an edge is narrow beside D/M
    W = 40 + 2 * math.log(num_towers)  # so that all towers elsewhere add up to nothing
    edge_weights = np.repeat(np.diag(w), num_edges, axis=0)
    # +1 at each cell's lower edge and −1 at its upper one, for every axis: (cells, axes·edges).
    sides = (np.eye(num_edges)[:-1] - np.eye(num_edges)[1:])[cells].reshape(len(cells), -1)
    return (
        Layer(
            W=jnp.asarray(np.tile(edge_weights, (num_grids, 1))),
            b=jnp.asarray(-(w * edges).transpose(0, 2, 1).ravel()),
        ),
        Layer(
            W=jnp.asarray(np.kron(np.eye(num_grids), W * sides)),
            b=jnp.full(num_towers, -W * (num_axes - 0.5)),
        ),
        Layer(jnp.asarray(heights[None, :] / num_grids), jnp.zeros(1)),
    )
