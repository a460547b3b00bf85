"""Networks that are constructed, not trained: Boolean functions, towers, continuous functions.

Each is a network with ordinary `params` for the ordinary `network.apply`: with the activation
`step` where the inputs are Boolean, `sigmoid` where they are real.

Sources: Minsky & Papert 1969, "Perceptrons"; Cybenko 1989, "Approximation by superpositions of a
sigmoidal function"; Nielsen, "Neural networks and deep learning", chapter 4.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float
from scipy.stats import qmc

from mlp_jax.core import network
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.network import Layer, Params
from mlp_jax.errors import UserError

Number = int | float

MAX_WEIGHTS = 2**24
"""The most weights that one layer of a construction may have: 128 MiB in float64."""

MAX_TOWERS = 2**14
"""The most towers of `approximate`, whose error is measured at 16 points a tower."""


def _check_weights(what: str, num_weights: int) -> None:
    if num_weights > MAX_WEIGHTS:
        raise UserError(
            f"{what} takes a layer of {num_weights:,} weights; at most {MAX_WEIGHTS:,} are allowed."
        )


# --- Boolean functions -------------------------------------------------------------------------


def vertices(num_inputs: int) -> Float[np.ndarray, "vertices n_0"]:
    """All Boolean inputs, in the order of a truth table: 0…00, 0…01, 0…10, …"""
    numbers = np.arange(2**num_inputs)[:, None]
    return (numbers >> np.arange(num_inputs)[::-1] & 1).astype(float)


def truth_tables(num_inputs: int) -> Bool[np.ndarray, "functions vertices"]:
    """Every Boolean function of `num_inputs` inputs; bit i of row k's number is f at vertex i."""
    if not 1 <= num_inputs <= 4:
        raise UserError(f"all functions of {num_inputs} inputs: allowed are 1 to 4 inputs.")
    numbers = np.arange(2**2**num_inputs)[:, None]
    return (numbers >> np.arange(2**num_inputs) & 1).astype(bool)


def _num_inputs(num_vertices: int) -> int:
    num_inputs = num_vertices.bit_length() - 1
    if num_inputs < 1 or num_vertices != 2**num_inputs:
        raise UserError(
            f"a truth table of {num_vertices} values: a function of n inputs has 2**n, so give "
            "2, 4, 8, 16, …"
        )
    _check_weights(f"a truth table of n={num_inputs} inputs", num_inputs * 2 ** (num_inputs - 1))
    return num_inputs


def boolean_padded(truth_table: Bool[Array, " vertices"]) -> Params:
    """`boolean` with 2^(n−1) hidden units for every function, for use under `jit` and `vmap`.

    The units that a function does not need come last and never fire.
    """
    num_inputs = _num_inputs(truth_table.shape[0])
    max_units = truth_table.shape[0] // 2
    num_ones = jnp.sum(truth_table)
    complemented = num_ones > max_units
    in_class = truth_table ^ complemented
    v = jnp.asarray(vertices(num_inputs))[jnp.argsort(~in_class)[:max_units]]
    used = jnp.arange(max_units) < jnp.sum(in_class)
    sign = jnp.where(complemented, -1.0, 1.0).astype(v.dtype)
    return (
        Layer(
            W=jnp.where(used[:, None], 2 * v - 1, 0),  # h_v = H((2v − 1)·x + ½ − |v|)
            b=jnp.where(used, 0.5 - jnp.sum(v, axis=1), -1),
        ),
        Layer(W=jnp.full((1, max_units), sign), b=-sign[None] / 2),  # ±(Σh − ½)
    )


def boolean(truth_table: Sequence[bool | int] | np.ndarray) -> Params:
    """A `step` network whose logit is ≥ 0 exactly where `truth_table` is true.

    One hidden unit for each vertex v of the smaller class, which fires at v alone; at least one.
    """
    table = np.asarray(truth_table)
    if table.ndim != 1 or not np.isin(table, (0, 1)).all():
        raise UserError(f"truth table {table}: give a flat list of 0 and 1.")
    hidden, output = boolean_padded(jnp.asarray(table.astype(bool)))
    num_ones = int(table.sum())
    num_units = max(1, min(num_ones, len(table) - num_ones))
    return (
        Layer(hidden.W[:num_units], hidden.b[:num_units]),
        Layer(output.W[:, :num_units], output.b),
    )


def parity(num_inputs: int) -> Params:
    """A `step` network for the parity of n inputs, with n hidden units instead of 2^(n−1).

    h_k = H(Σx − (k − ½)), output H(h_1 − h_2 + h_3 − … − ½). Minsky & Papert 1969.
    """
    if num_inputs < 1:
        raise UserError(f"parity of {num_inputs} inputs: at least 1 is needed.")
    _check_weights(f"parity of n={num_inputs} inputs", num_inputs**2)
    k = np.arange(1, num_inputs + 1)
    return (
        Layer(jnp.ones((num_inputs, num_inputs)), jnp.asarray(0.5 - k)),
        Layer(jnp.asarray((-1.0) ** (k + 1))[None, :], jnp.asarray([-0.5])),
    )


def linearly_separable(
    tables: Bool[np.ndarray, "functions vertices"],
) -> Bool[np.ndarray, " functions"]:
    """Which Boolean functions one perceptron can represent.

    A function is not linearly separable if x + x' = y + y' for some x, x' where it is true and
    y, y' where it is false. For up to 7 inputs the converse holds as well: linear programs find
    weights for every other function. Muroga 1971, "Threshold logic and its applications".
    """
    num_inputs = _num_inputs(tables.shape[1])
    if num_inputs > 7:
        raise UserError(f"linear separability of functions of {num_inputs} inputs: at most 7.")
    first, second = np.triu_indices(2**num_inputs)
    v = vertices(num_inputs)
    sums = (v[first] + v[second]) @ 3 ** np.arange(num_inputs)  # x + x' as a number in base 3

    def sums_of(tables: np.ndarray) -> np.ndarray:
        found = np.zeros((len(tables), 3**num_inputs), bool)
        function, pair = np.nonzero(tables[:, first] & tables[:, second])
        found[function, sums[pair].astype(int)] = True
        return found

    return ~(sums_of(tables) & sums_of(~tables)).any(axis=1)


def fewest_hidden_units(num_inputs: int) -> np.ndarray:
    """The fewest `step` units in one hidden layer with which each function can be represented.

    By exhaustion over the linearly separable functions of the inputs for the hidden units and of
    the hidden units for the output. The order is that of `truth_tables`.
    """
    if not 1 <= num_inputs <= 3:
        raise UserError(f"fewest hidden units for {num_inputs} inputs: allowed are 1 to 3 inputs.")

    def separable(num_inputs: int) -> np.ndarray:
        tables = truth_tables(num_inputs)
        return tables[linearly_separable(tables)]

    # A unit and its complement serve alike, because the output may complement its inputs.
    units = separable(num_inputs)
    units = units[~units[:, 0]]
    place_values = 2 ** np.arange(2**num_inputs)
    fewest = np.zeros(2**2**num_inputs, int)
    num_units = 0
    while not fewest.all():
        num_units += 1
        chosen = np.array(list(itertools.combinations(range(len(units)), num_units)))
        hidden = np.moveaxis(units[chosen], 1, -1) @ 2 ** np.arange(num_units)
        for output in separable(num_units):
            functions = np.unique(output[hidden] @ place_values)
            fewest[functions[fewest[functions] == 0]] = num_units
    return fewest


# --- functions of one input --------------------------------------------------------------------

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
    """The `sigmoid` network at many points, a few thousand at a time."""
    return np.asarray(_outputs(params, jnp.asarray(x)))


@jax.jit
def _outputs(params: Params, x: Array) -> Array:
    sigmoid = ACTIVATIONS["sigmoid"]
    return jax.lax.map(lambda x: network.apply(params, x, sigmoid), x, batch_size=4096)


def sigmoid_step(steepness: Number, bias: Number) -> Params:
    """σ(wx + b), a step as w grows: at x = −b/w its value is ½ and its slope w/4."""
    return _sigmoids(np.array([steepness]), np.array([bias]), np.ones((1, 1)), np.zeros(1))


def tower(left: Number, right: Number, steepness: Number) -> Params:
    """σ(w(x − left)) − σ(w(x − right)), of height 1 − 2σ(−wΔ/2) in the middle, Δ = right − left."""
    _check_box([left], [right])
    bias = -steepness * np.array([left, right])
    return _sigmoids(np.full(2, steepness), bias, np.array([[1.0, -1.0]]), np.zeros(1))


def _sigmoids(w: np.ndarray, b: np.ndarray, W_output: np.ndarray, b_output: np.ndarray) -> Params:
    """A network of one input whose hidden units are σ(w_i x + b_i)."""
    return (
        Layer(jnp.asarray(w[:, None]), jnp.asarray(b)),
        Layer(jnp.asarray(W_output), jnp.asarray(b_output)),
    )


def staircase(
    f: Function, interval: tuple[Number, Number], num_towers: int, steepness: Number
) -> Params:
    """The sum of N towers side by side, as high as f in the middle of each, telescoped:

        g(x) = h_1 + Σ_{i=1}^{N−1} (h_{i+1} − h_i) σ(w(x − t_i))

    Neighbours share their edge, and the first and last tower have none at the interval's ends,
    where it would halve the function; so there are N − 1 hidden units.
    """
    a, b = interval
    _check_box([a], [b])
    if num_towers < 2:
        raise UserError(f"num_towers={num_towers}: at least 2 are needed, one edge between them.")
    edges = np.linspace(a, b, num_towers + 1)
    heights = _values(f, (edges[:-1] + edges[1:]) / 2)
    t = edges[1:-1]
    return _sigmoids(
        np.full_like(t, steepness), -steepness * t, np.diff(heights)[None, :], heights[:1]
    )


def approximate(
    f: Function, interval: tuple[Number, Number], eps: Number, lipschitz: Number
) -> Approximation:
    """A `sigmoid` network with sup |g − f| ≤ `eps` on `interval`, where |f(x) − f(y)| ≤ L|x − y|.

    N = ⌈L(b − a)/(1.8ε)⌉ towers of steepness w = 20 ln2·L/ε make the bound

        sup |g − f| ≤ L [(b − a)/(2N) + 2 ln2/w] ≤ ε
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
    sup_error = float(np.abs(outputs(params, x[:, None])[:, 0] - y).max())
    return _certified(Approximation(params, num_towers, steepness, bound, sup_error))


def _certified(approximation: Approximation) -> Approximation:
    if approximation.sup_error > approximation.bound:
        dtype = approximation.params[0].W.dtype
        raise UserError(
            f"the network misses the function by {approximation.sup_error:.3g}, more than the "
            f"bound {approximation.bound:.3g}: {dtype} is too coarse, or the Lipschitz constant "
            "is too small; enable float64 (JAX_ENABLE_X64=1) or give a larger one."
        )
    return approximation


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
        approximate(ridge.profile, (start, end), eps / weight, ridge.lipschitz)
        for ridge, start, end in zip(ridges, *ends, strict=True)
    ]
    params = _side_by_side([part.params for part in parts], K, A)
    x = _spread(low, high)
    y = sum(
        _values(ridge.profile, x @ k)[:, None] * a for ridge, k, a in zip(ridges, K, A, strict=True)
    )
    return _certified(
        Approximation(
            params,
            num_towers=sum(part.num_towers for part in parts),
            steepness=max(part.steepness for part in parts),
            bound=float((np.abs(A).T @ [part.bound for part in parts]).max()),
            sup_error=float(np.abs(outputs(params, x) - y).max()),
        )
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
    hidden = [part[0] for part in parts]
    W = jnp.concatenate([W * k for (W, _), k in zip(hidden, K[:, None, :], strict=True)])
    outer = [part[1] for part in parts]
    return (
        Layer(W, jnp.concatenate([b for _, b in hidden])),
        Layer(
            jnp.concatenate(
                [a * W for (W, _), a in zip(outer, A[:, :, None], strict=True)], axis=1
            ),
            jnp.asarray(sum(a * b for (_, b), a in zip(outer, A, strict=True))),
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
        Approximation(
            params,
            num_towers=params[1].b.size,
            steepness=float(params[0].W.max()),
            bound=float(lipschitz * np.linalg.norm(D) / 2 + len(low) / num_grids * np.abs(y).max()),
            sup_error=float(np.abs(outputs(params, x)[:, 0] - y).max()),
        )
    )


def _grids_of_towers(
    f: Function, low: np.ndarray, high: np.ndarray, num_cells: int, num_grids: int
) -> Params:
    """The average of M grids: one hidden layer of edges and one of towers."""
    D, num_axes = (high - low) / num_cells, len(low)
    num_edges = num_cells + 1 + (num_grids > 1)  # a shifted grid takes one cell more
    num_towers = num_grids * (num_edges - 1) ** num_axes
    _check_weights(
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
    tower_weights = W * _edges_of_cells(cells, num_edges)
    return (
        Layer(
            W=jnp.asarray(np.tile(edge_weights, (num_grids, 1))),
            b=jnp.asarray(-(w * edges).transpose(0, 2, 1).ravel()),
        ),
        Layer(
            W=jnp.asarray(np.kron(np.eye(num_grids), tower_weights)),
            b=jnp.full(num_towers, -W * (num_axes - 0.5)),
        ),
        Layer(jnp.asarray(heights[None, :] / num_grids), jnp.zeros(1)),
    )


def _edges_of_cells(cells: np.ndarray, num_edges: int) -> np.ndarray:
    """+1 at each cell's lower edge and −1 at its upper one, for every axis: (cells, axes·edges)."""
    differences = np.eye(num_edges)[:-1] - np.eye(num_edges)[1:]
    return differences[cells].reshape(len(cells), -1)
