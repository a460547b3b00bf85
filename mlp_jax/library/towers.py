"""Towers of sigmoids: networks near a continuous function, constructed with a proved bound.

Their `params` are ordinary ones for a network with the activation `sigmoid` and the identity as
its output. Cybenko 1989, "Approximation by superpositions of a sigmoidal function"; Nielsen,
"Neural networks and deep learning", chapter 4.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from mlp_jax.core import network
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.network import Layer, Params
from mlp_jax.errors import UserError

Number = int | float

MAX_TOWERS = 2**14
"""The most towers of `towers`, whose error is measured at 16 points a tower."""

Function = Callable[[np.ndarray], np.ndarray]
"""Maps points to values: an array (points,), or (points, n) for n inputs, to one (points,)."""


class Approximation(NamedTuple):
    """A network near a function and the certificate: `sup_error` ≤ `bound`.

    `bound` is proved for the whole domain, `sup_error` measured on a fine grid of it. `steepness`
    is the largest weight w of an edge.
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


def certified(
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
    check_positive("eps", eps)
    check_positive("lipschitz", lipschitz)
    a, b = interval
    check_interval(a, b)
    towers_needed = lipschitz * (b - a) / (1.8 * eps)
    if not towers_needed <= MAX_TOWERS:  # nor where it is infinite
        raise UserError(
            f"eps={eps}: {towers_needed:,.0f} towers are needed, at most {MAX_TOWERS:,} are "
            f"allowed; give eps >= {lipschitz * (b - a) / (1.8 * MAX_TOWERS):.2g}."
        )
    num_towers = max(2, math.ceil(towers_needed))
    steepness = 20 * math.log(2) * lipschitz / eps
    x = np.linspace(a, b, 16 * num_towers + 1)
    y = values_of(f, x)
    check_lipschitz(x, y, lipschitz)
    params = staircase(f, interval, num_towers, steepness)
    bound = lipschitz * ((b - a) / (2 * num_towers) + 2 * math.log(2) / steepness)
    return certified(params, num_towers, steepness, bound, x[:, None], y[:, None])


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
    check_interval(a, b)
    if num_towers < 2:
        raise UserError(f"num_towers={num_towers}: at least 2 are needed, one edge between them.")
    edges = np.linspace(a, b, num_towers + 1)
    heights = values_of(f, (edges[:-1] + edges[1:]) / 2)
    t = edges[1:-1]
    w = np.full_like(t, steepness)
    return _sigmoids(w, -w * t, np.diff(heights), heights[0])


def tower(left: Number, right: Number, steepness: Number) -> Params:
    """σ(w(x − left)) − σ(w(x − right)), of height 1 − 2σ(−wΔ/2) in the middle, Δ = right − left.

    >>> outputs(tower(0, 1, steepness=100), np.array([[-0.5], [0.5], [1.5]])).round(6).tolist()
    [[0.0], [1.0], [0.0]]
    """
    check_interval(left, right)
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


def check_positive(name: str, value: Number) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{name}={value}: must be a finite number > 0.")


def check_interval(a: Number, b: Number) -> None:
    if not (a < b and math.isfinite(a) and math.isfinite(b)):
        raise UserError(f"interval ({a}, {b}): must be finite, its left end below its right.")


def values_of(f: Function, x: np.ndarray) -> np.ndarray:
    """f(x), refused where it is no finite number or of the wrong shape."""
    y = np.asarray(f(x), dtype=float)
    if y.shape != x.shape[:1]:
        raise UserError(f"f returned an array of shape {y.shape} for {len(x)} points.")
    if not np.isfinite(y).all():
        worst = np.argmin(np.isfinite(y))
        raise UserError(f"f({x[worst]}) = {y[worst]}: f must be finite on the whole domain.")
    return y


def check_lipschitz(x: np.ndarray, y: np.ndarray, lipschitz: Number) -> None:
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
