"""Learned inputs: what stands between x and the first layer, with its own backward pass.

A number x_j becomes itself and d more, periodic or piecewise linear in it:

    z_j = ω f_j x_j + c_j        v_j = g(z_j)        e_j = V_j v_j + b_j

with g = cos and ω = 2π, or g(z) = max(0, z) and ω = 1, whose pieces meet where z_j is 0.

A category, a one-hot block x_q of x, becomes e_q = E_q x_q, the column of its level. The first
layer takes a^0 = (what is no block, every e_j, every e_q), and with δ^0 = (W¹)ᵀ δ¹, of which δ_j
and δ_q are the parts that belong to e_j and e_q,

    ∂L/∂V_j = δ_j v_jᵀ        ∂L/∂b_j = δ_j        ∂L/∂E_q = δ_q x_qᵀ
    ζ_j = V_jᵀ δ_j ⊙ g'(z_j)        ∂L/∂c_j = ζ_j        ∂L/∂f_j = ω x_j ζ_j

Gorishniy, Rubachev & Babenko 2022, "On embeddings for numerical features in tabular deep learning";
with x_j beside it and without a relu as in Holzmüller, Grinsztajn & Steinwart 2024, "Better by
default". Guo & Berkhahn 2016, "Entity embeddings of categorical variables".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, PRNGKeyArray

MAX_CATEGORY_SIZE = 8


class Shape(NamedTuple):
    """What the embedding of a number is made of: ω, g and g'."""

    omega: float
    g: Callable[[Array], Array]
    derivative: Callable[[Array], Array]


SHAPES = {
    "periodic": Shape(2 * np.pi, jnp.cos, lambda z: -jnp.sin(z)),
    "piecewise": Shape(
        1.0, lambda z: jnp.maximum(z, 0), lambda z: jnp.heaviside(z, jnp.zeros((), z.dtype))
    ),
}


class Embedded(NamedTuple):
    """Which components of x are embedded, and as what. It is hashable: a program is made for it."""

    numbers: tuple[int, ...] = ()
    blocks: tuple[tuple[int, int], ...] = ()
    """The start and the end of the one-hot block of each category."""
    size: int = 3
    """d, of a number."""
    num_frequencies: int = 16
    """k, of a number: how many f and c it has."""
    shape: str = "periodic"

    @property
    def category_sizes(self) -> tuple[int, ...]:
        """Half as many as levels, and at most 8."""
        return tuple(min(MAX_CATEGORY_SIZE, -(-(end - start) // 2)) for start, end in self.blocks)

    def num_outputs(self, num_inputs: int) -> int:
        """The length of a^0."""
        in_blocks = sum(end - start for start, end in self.blocks)
        return num_inputs - in_blocks + self.size * len(self.numbers) + sum(self.category_sizes)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["f", "c", "V", "b", "E"],
    meta_fields=["numbers", "blocks", "shape"],
)
@dataclass(frozen=True)
class Embedding:
    """The parameters of an embedding, and the components of x that they belong to."""

    f: Any  # (numbers, frequencies), as c. Any: JAX builds trees of other things than arrays, too
    c: Any
    V: Any  # (numbers, size, frequencies)
    b: Any  # (numbers, size)
    E: tuple[Any, ...]  # each (size, levels)
    numbers: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...]
    shape: str = "periodic"


def init_embedding(
    key: PRNGKeyArray, embedded: Embedded, scale: float | Array, dtype: DTypeLike = jnp.float32
) -> Embedding:
    """Periodic with f ~ N(0, scale²) and c ~ U(−π, π); V and b ~ U(±k^{−1/2}), E ~ N(0, 1).

    Piecewise with f = 1 and c ~ N(0, 1): pieces meet where numbers of mean 0 and variance 1 are.
    """
    f_key, c_key, V_key, b_key, E_key = jax.random.split(key, 5)
    n, d, k = len(embedded.numbers), embedded.size, embedded.num_frequencies
    levels = [end - start for start, end in embedded.blocks]
    shapes = list(zip(embedded.category_sizes, levels, strict=True))

    def uniform(key: PRNGKeyArray, shape: tuple[int, ...], limit: float) -> Array:
        return jax.random.uniform(key, shape, minval=-limit, maxval=limit).astype(dtype)

    if embedded.shape == "periodic":
        f = (scale * jax.random.normal(f_key, (n, k))).astype(dtype)
        c = uniform(c_key, (n, k), np.pi)
    else:
        f, c = jnp.ones((n, k), dtype), jax.random.normal(c_key, (n, k)).astype(dtype)
    return Embedding(
        f=f,
        c=c,
        V=uniform(V_key, (n, d, k), k**-0.5),
        b=uniform(b_key, (n, d), k**-0.5),
        E=tuple(
            jax.random.normal(key, shape).astype(dtype)
            for key, shape in zip(jax.random.split(E_key, len(shapes)), shapes, strict=True)
        ),
        numbers=embedded.numbers,
        blocks=embedded.blocks,
        shape=embedded.shape,
    )


def plain(num_inputs: int, blocks: Sequence[tuple[int, int]]) -> np.ndarray:
    """The components of x that the first layer takes as they are: all that are in no block."""
    in_blocks = [np.arange(start, end) for start, end in blocks]
    return np.setdiff1d(np.arange(num_inputs), np.concatenate([[], *in_blocks]))


def _x_and_z(
    embedding: Embedding, x: Float[Array, " n_0"]
) -> tuple[Float[Array, "numbers 1"], Float[Array, "numbers k"]]:
    """The embedded x_j, and z_j."""
    x_j = x[np.array(embedding.numbers, int)][:, None]
    return x_j, SHAPES[embedding.shape].omega * embedding.f * x_j + embedding.c


def embed(embedding: Embedding, x: Float[Array, " n_0"]) -> Float[Array, " n_embedded"]:
    """The a^0 of one example."""
    _, z = _x_and_z(embedding, x)
    v = SHAPES[embedding.shape].g(z)
    e_j = jnp.einsum("jdk,jk->jd", embedding.V, v) + embedding.b
    e_q = [E @ x[start:end] for E, (start, end) in zip(embedding.E, embedding.blocks, strict=True)]
    return jnp.concatenate([x[plain(len(x), embedding.blocks)], e_j.ravel(), *e_q])


def embedding_gradient(
    embedding: Embedding,
    x: Float[Array, "batch n_0"],
    delta: Float[Array, "batch n_embedded"],
) -> Embedding:
    """The gradient of the mean loss of a batch, from each example's δ^0."""
    batch_size, num_plain = len(x), len(plain(x.shape[1], embedding.blocks))
    n, d = embedding.b.shape
    ends = np.cumsum([num_plain, n * d, *(len(E) for E in embedding.E)])
    _, delta_j, *deltas_q = jnp.split(delta / batch_size, ends[:-1].tolist(), axis=1)
    delta_j = delta_j.reshape(batch_size, n, d)
    omega, g, derivative = SHAPES[embedding.shape]
    x_j, z = jax.vmap(partial(_x_and_z, embedding))(x)
    zeta = jnp.einsum("jdk,bjd->bjk", embedding.V, delta_j) * derivative(z)
    return Embedding(
        f=jnp.sum(omega * x_j * zeta, axis=0),
        c=jnp.sum(zeta, axis=0),
        V=jnp.einsum("bjd,bjk->jdk", delta_j, g(z)),
        b=jnp.sum(delta_j, axis=0),
        E=tuple(
            jnp.einsum("bd,bk->dk", delta_q, x[:, start:end])
            for delta_q, (start, end) in zip(deltas_q, embedding.blocks, strict=True)
        ),
        numbers=embedding.numbers,
        blocks=embedding.blocks,
        shape=embedding.shape,
    )
