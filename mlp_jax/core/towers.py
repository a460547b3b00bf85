"""Towers of sigmoids: networks near a continuous function, constructed with a proved bound.

Their `params` are ordinary ones for a network with the activation `sigmoid` and the identity as
its output. Cybenko 1989, "Approximation by superpositions of a sigmoidal function"; Nielsen,
"Neural networks and deep learning", chapter 4.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from scipy.stats import qmc

from mlp_jax.core import network
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.boolean import check_weights
from mlp_jax.core.network import Layer, Params
from mlp_jax.errors import UserError

Number = int | float

MAX_TOWERS = 2**14
"""The most towers of `towers`, whose error is measured at 16 points a tower."""

Function = Callable[[np.ndarray], np.ndarray]
"""Maps points to values: an array (points,), or (points, n) for n inputs, to one (points,)."""


class Approximation(NamedTuple):
    """A network near a function and the certificate: `sup_error` ≤ `bound`.

    `bound` is proved for the whole domain (by grids: in the limit of edges without width, and with
    max |f| as it was measured); `sup_error` is measured on a fine grid of it.
    `num_towers` counts all towers; `steepness` is the largest weight w of their edges.
    """

    params: Params
    num_towers: int
    steepness: float
    bound: float
    sup_error: float


def outputs(params: Params, x: Float[np.ndarray, "points n_0"]) -> Float[np.ndarray, "points n_L"]:
    """The `sigmoid` network at many points, a few thousand at a time.

    >>> outputs(sigmoid_step(steepness=4, bias=-2), np.array([[0.5]])).tolist()
    [[0.5]]
    """
    return np.asarray(_outputs(params, jnp.asarray(x)))


@jax.jit
def _outputs(params: Params, x: Array) -> Array:
    sigmoid = ACTIVATIONS["sigmoid"]
    return jax.lax.map(lambda x: network.apply(params, x, sigmoid), x, batch_size=4096)


def _certified(
    params: Params, num_towers: int, steepness: float, bound: float, x: np.ndarray, y: np.ndarray
) -> Approximation:
    """With the error measured at the points `x`, where the function is `y`."""
    sup_error = float(np.abs(outputs(params, x) - y).max())
    if sup_error > bound:
        raise UserError(
            f"the network misses the function by {sup_error:.3g}, more than the bound {bound:.3g}: "
            f"{params[0].W.dtype} is too coarse, or the Lipschitz constant is too small; enable "
            "float64 (JAX_ENABLE_X64=1) or give a larger one."
        )
    return Approximation(params, num_towers, steepness, bound, sup_error)


# --- functions of one input --------------------------------------------------------------------


def towers(
    f: Function, interval: tuple[Number, Number], eps: Number, lipschitz: Number
) -> Approximation:
    """A `sigmoid` network with sup |g − f| ≤ `eps` on `interval`, where |f(x) − f(y)| ≤ L|x − y|.

    N = ⌈L(b − a)/(1.8ε)⌉ towers of steepness w = 20 ln2·L/ε make the bound

        sup |g − f| ≤ L [(b − a)/(2N) + 2 ln2/w] ≤ ε

    `UserError` where f has a larger slope, where the towers are too many, and where the dtype is
    too coarse for the bound.

    >>> g = towers(np.sin, interval=(0, 3), eps=0.1, lipschitz=1)
    >>> g.num_towers, g.sup_error <= g.bound <= 0.1
    (17, True)
    """
    _check_positive("eps", eps)
    _check_positive("lipschitz", lipschitz)
    a, b = interval
    _check_box([a], [b])
    towers_needed = lipschitz * (b - a) / (1.8 * eps)
    if not towers_needed <= MAX_TOWERS:  # nor where it is infinite
        raise UserError(
            f"eps={eps}: {towers_needed:,.0f} towers are needed, at most {MAX_TOWERS:,} are "
            f"allowed; give eps >= {lipschitz * (b - a) / (1.8 * MAX_TOWERS):.2g}."
        )
    num_towers = max(2, math.ceil(towers_needed))
    steepness = 20 * math.log(2) * lipschitz / eps
    x = np.linspace(a, b, 16 * num_towers + 1)
    y = _values(f, x)
    _check_lipschitz(x, y, lipschitz)
    params = staircase(f, interval, num_towers, steepness)
    bound = lipschitz * ((b - a) / (2 * num_towers) + 2 * math.log(2) / steepness)
    return _certified(params, num_towers, steepness, bound, x[:, None], y[:, None])


def staircase(
    f: Function, interval: tuple[Number, Number], num_towers: int, steepness: Number
) -> Params:
    """The sum of N towers side by side, as high as f in the middle of each, telescoped:

        g(x) = h_1 + Σ_{i=1}^{N−1} (h_{i+1} − h_i) σ(w(x − t_i))

    Neighbours share their edge, and the first and last tower have none at the interval's ends,
    where it would halve the function; so there are N − 1 hidden units.

    >>> stairs = staircase(lambda x: x, interval=(0, 1), num_towers=4, steepness=1000)
    >>> outputs(stairs, np.array([[0.1], [0.6], [1.0]]))[:, 0].round(3).tolist()
    [0.125, 0.625, 0.875]
    """
    a, b = interval
    _check_box([a], [b])
    if num_towers < 2:
        raise UserError(f"num_towers={num_towers}: at least 2 are needed, one edge between them.")
    edges = np.linspace(a, b, num_towers + 1)
    heights = _values(f, (edges[:-1] + edges[1:]) / 2)
    t = edges[1:-1]
    w = np.full_like(t, steepness)
    return _sigmoids(w, -w * t, np.diff(heights), heights[0])


def tower(left: Number, right: Number, steepness: Number) -> Params:
    """σ(w(x − left)) − σ(w(x − right)), of height 1 − 2σ(−wΔ/2) in the middle, Δ = right − left.

    >>> outputs(tower(0, 1, steepness=100), np.array([[-0.5], [0.5], [1.5]])).round(6).tolist()
    [[0.0], [1.0], [0.0]]
    """
    _check_box([left], [right])
    w = np.full(2, steepness)
    return _sigmoids(w, -w * np.array([left, right]), np.array([1.0, -1.0]))


def sigmoid_step(steepness: Number, bias: Number) -> Params:
    """σ(wx + b), a step as w grows: at x = −b/w its value is ½ and its slope w/4.

    >>> [layer.W.shape for layer in sigmoid_step(steepness=4, bias=-2)]
    [(1, 1), (1, 1)]
    """
    return _sigmoids(np.array([steepness]), np.array([bias]), np.ones(1))


def _sigmoids(w: np.ndarray, b: np.ndarray, heights: np.ndarray, start: Number = 0.0) -> Params:
    """A network of one input: start + Σ_i heights_i σ(w_i x + b_i)."""
    return (
        Layer(jnp.asarray(w[:, None]), jnp.asarray(b)),
        Layer(jnp.asarray(heights[None, :]), jnp.asarray([start])),
    )


def _check_positive(name: str, value: Number) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{name}={value}: must be a finite number > 0.")


def _check_box(lower: Sequence[Number], upper: Sequence[Number]) -> None:
    for a, b in zip(lower, upper, strict=True):
        if not (a < b and math.isfinite(a) and math.isfinite(b)):
            raise UserError(f"interval ({a}, {b}): must be finite, its left end below its right.")


def _values(f: Function, x: np.ndarray) -> np.ndarray:
    """f(x), refused where it is no finite number or of the wrong shape."""
    y = np.asarray(f(x), dtype=float)
    if y.shape != x.shape[:1]:
        raise UserError(f"f returned an array of shape {y.shape} for {len(x)} points.")
    if not np.isfinite(y).all():
        worst = np.argmin(np.isfinite(y))
        raise UserError(f"f({x[worst]}) = {y[worst]}: f must be finite on the whole domain.")
    return y


def _check_lipschitz(x: np.ndarray, y: np.ndarray, lipschitz: Number) -> None:
    rise = np.abs(np.diff(y))
    run = np.linalg.norm(np.diff(x.reshape(len(x), -1), axis=0), axis=1)
    rounding = 8 * np.finfo(float).eps * np.abs(y).max()
    excess = rise - lipschitz * run * (1 + 1e-9) - rounding
    worst = np.argmax(excess)
    if excess[worst] > 0:
        raise UserError(
            f"lipschitz={lipschitz}: f has slope {rise[worst] / run[worst]:.4g} near x={x[worst]}; "
            "give a constant at least as large."
        )


# --- functions of several inputs ---------------------------------------------------------------


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
    _check_positive("eps", eps)
    _check_box(lower, upper)
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
    profiles = np.stack([_values(ridge.profile, x @ k) for ridge, k in zip(ridges, K, strict=True)])
    return _certified(
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
    _check_positive("lipschitz", lipschitz)
    _check_box(lower, upper)
    if num_cells < 1 or num_grids < 1:
        raise UserError(f"num_cells={num_cells} num_grids={num_grids}: at least 1 each.")
    low, high = np.asarray(lower, float), np.asarray(upper, float)
    D = (high - low) / num_cells
    params = _grids_of_towers(f, low, high, num_cells, num_grids)
    corners = low + D * np.indices((num_cells + 1,) * len(low)).reshape(len(low), -1).T
    x = np.concatenate([_spread(low, high), corners])
    y = _values(f, x)
    _check_lipschitz(x, y, lipschitz)
    return _certified(
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
    heights = _values(f, np.clip(centres, low, high))

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
