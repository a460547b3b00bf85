"""The arrays that a caller gives, checked: a `ValueError` says what is wrong."""

import reprlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from mlp_jax.core.losses import LOSSES
from mlp_jax.core.network import Network
from mlp_jax.core.training import Part, Parts


def part_of(
    net: Network, dtype: DTypeLike, x: Any, y: Any, num_networks: int | None = None
) -> Part:
    """Examples of `net` as JAX's arrays; each of `num_networks` may have its own."""
    part = Part(jnp.asarray(x, dtype), jnp.asarray(y, dtype))
    own = f", or with a leading axis of the {num_networks} networks" if num_networks else ""
    for name, array, width in ("x", part.x, net.sizes[0]), ("y", part.y, net.sizes[-1]):
        is_one = array.ndim == 2 or array.shape[:-2] == (num_networks,)
        if not is_one or array.shape[-1] != width or not array.size:
            raise ValueError(
                f"{name} has shape {array.shape}: it must be (num_examples, {width}){own}"
            )
    if part.x.shape[:-1] != part.y.shape[:-1]:
        raise ValueError(
            f"x has shape {part.x.shape} and y {part.y.shape}: their examples differ in number"
        )
    return part


def parts_of(
    net: Network,
    dtype: DTypeLike,
    x: Any,
    y: Any,
    validation: Any,
    num_networks: int | None = None,
) -> Parts:
    """The data of `fit`; of `fit_many`, where each network may have its own."""
    parts = Parts(part_of(net, dtype, x, y, num_networks))
    if validation is not None:
        try:
            held_out_x, held_out_y = validation
        except (TypeError, ValueError):
            given = reprlib.repr(validation)
            raise ValueError(f"validation={given}: must be two arrays, (x, y)") from None
        held_out = part_of(net, dtype, held_out_x, held_out_y, num_networks)
        if held_out.x.ndim != parts.train.x.ndim:
            raise ValueError("validation: it has a leading axis of networks where x and y have one")
        parts = parts._replace(validation=held_out)
    for part in filter(None, parts):
        for name, values in part._asdict().items():
            if not bool(jnp.all(jnp.isfinite(values))):
                raise ValueError(f"{name} has a number that is not finite")
        _check_targets(net, part.y)
    return parts


def _check_targets(net: Network, y: Array) -> None:
    """A cross-entropy takes probabilities; those of a softmax are a distribution."""
    binary = LOSSES["sigmoid", "binary_cross_entropy"]
    of_classes = LOSSES["softmax", "cross_entropy"]
    loss, sums = net.loss_function, jnp.sum(y, axis=-1)
    if loss in (binary, of_classes) and not bool(jnp.all((y >= 0) & (y <= 1))):
        raise ValueError(
            f"y reaches from {jnp.min(y):g} to {jnp.max(y):g}: a cross-entropy takes 0 ≤ y ≤ 1. "
            "Give classes −1 and 1 as 0 and 1, and numbers of classes one-hot, "
            "np.eye(num_classes)[y]"
        )
    if loss == of_classes and not bool(jnp.all(jnp.abs(sums - 1) < 0.01)):  # it may be rounded
        raise ValueError(
            f"y has rows whose sums reach from {jnp.min(sums):g} to {jnp.max(sums):g}: behind a "
            "softmax each sums to 1. Give numbers of classes one-hot, np.eye(num_classes)[y], and "
            'where several classes may hold at once output="sigmoid"'
        )


def order_of(order: Any, num_examples: int, num_steps: int | None, batch_size: int | None) -> Array:
    rows = np.asarray(order)
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise ValueError(
            f"order has shape {rows.shape} and dtype {rows.dtype}: it must be "
            "(num_steps, batch_size) whole numbers"
        )
    given = {"num_steps": num_steps, "batch_size": batch_size}
    for (name, number), length in zip(given.items(), rows.shape, strict=True):
        if number not in (None, length):
            raise ValueError(f"{name}={number}: order has shape {rows.shape}; leave {name} out")
    if rows.size and not (rows.min() >= 0 and rows.max() < num_examples):
        raise ValueError(
            f"order reaches from {rows.min()} to {rows.max()}: it must name the examples "
            f"0 to {num_examples - 1}"
        )
    return jnp.asarray(rows, jnp.int32)


def seeds_of(name: str, given: Any, ndim: int) -> np.ndarray:
    """Seeds as JAX's keys take them: whole numbers, `ndim` 0 for one and 1 for many."""
    seeds = np.asarray(given)
    is_whole = seeds.ndim == ndim and seeds.size and seeds.dtype.kind in "iu"
    if not is_whole or not 0 <= seeds.min() <= seeds.max() < 2**32:
        what = "a whole number" if ndim == 0 else "whole numbers in one dimension, at least one,"
        raise ValueError(f"{name}={reprlib.repr(given)}: must be {what} from 0 to {2**32 - 1:,}")
    return seeds.astype(np.uint32)
