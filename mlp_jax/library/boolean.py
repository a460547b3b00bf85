"""Networks that compute a Boolean function exactly: constructed, not trained.

Their `params` are ordinary ones for a network with the activation `step`; the output is 1 where
the logit is ≥ 0. Minsky & Papert 1969, "Perceptrons".
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from mlp_jax.core.network import Layer, Params
from mlp_jax.errors import UserError

MAX_WEIGHTS = 2**24
"""The most weights that one layer of a construction may have: 128 MiB in float64."""


def check_weights(what: str, num_weights: int) -> None:
    """Raises `UserError` where one layer of a construction would have too many weights."""
    if num_weights > MAX_WEIGHTS:
        raise UserError(
            f"{what} takes a layer of {num_weights:,} weights; at most {MAX_WEIGHTS:,} are allowed."
        )


def boolean(truth_table: Sequence[bool | int] | np.ndarray) -> Params:
    """A `step` network whose logit is ≥ 0 exactly where `truth_table` is true.

    The table has 2^n values, in the order of `vertices(n)`; `ValueError` for anything else. There
    is one hidden unit for each vertex v of the smaller class, which fires at v alone:

        h_v = H((2v − 1)·x + ½ − |v|)        ŷ = H(Σ_v h_v − ½), or with a minus sign

    >>> xor = boolean([0, 1, 1, 0])
    >>> net = mlp.Network((2, 2, 1), activation="step")
    >>> (net.logits(xor, vertices(2)) >= 0).astype(int).ravel().tolist()
    [0, 1, 1, 0]
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


def boolean_padded(truth_table: Bool[Array, " vertices"]) -> Params:
    """`boolean` with 2^(n−1) hidden units for every function, for use under `jit` and `vmap`.

    The units that a function does not need come last and never fire.

    >>> jax.vmap(boolean_padded)(jnp.array([[False, True], [True, True]]))[0].W.shape
    (2, 1, 1)
    """
    num_inputs = num_inputs_of(truth_table.shape[0])
    max_units = truth_table.shape[0] // 2
    complemented = jnp.sum(truth_table) > max_units
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


def parity(num_inputs: int) -> Params:
    """A `step` network for the parity of n inputs, with n hidden units instead of 2^(n−1).

    h_k = H(Σx − (k − ½)), output H(h_1 − h_2 + h_3 − … − ½). Minsky & Papert 1969.

    >>> parity(2)[1].W.tolist()
    [[1.0, -1.0]]
    """
    if num_inputs < 1:
        raise UserError(f"parity of {num_inputs} inputs: at least 1 is needed.")
    check_weights(f"parity of n={num_inputs} inputs", num_inputs**2)
    k = np.arange(1, num_inputs + 1)
    return (
        Layer(jnp.ones((num_inputs, num_inputs)), jnp.asarray(0.5 - k)),
        Layer(jnp.asarray((-1.0) ** (k + 1))[None, :], jnp.asarray([-0.5])),
    )


def vertices(num_inputs: int) -> Float[np.ndarray, "vertices n_0"]:
    """All Boolean inputs, in the order of a truth table: 0…00, 0…01, 0…10, …

    >>> vertices(2).tolist()
    [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    numbers = np.arange(2**num_inputs)[:, None]
    return (numbers >> np.arange(num_inputs)[::-1] & 1).astype(float)


def num_inputs_of(num_vertices: int) -> int:
    num_inputs = num_vertices.bit_length() - 1
    if num_inputs < 1 or num_vertices != 2**num_inputs:
        raise UserError(
            f"a truth table of {num_vertices} values: a function of n inputs has 2**n, so give "
            "2, 4, 8, 16, …"
        )
    check_weights(f"a truth table of n={num_inputs} inputs", num_inputs * 2 ** (num_inputs - 1))
    return num_inputs
