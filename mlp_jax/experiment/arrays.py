"""The arrays of a checkpoint: a training's tree as npz knows it, and back."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mlp_jax.durable.checkpoint import Checkpoint
from mlp_jax.errors import RunError

T = TypeVar("T")


def to_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Copies of a tree's leaves by their place and dtype, as npz knows them.

    A dtype that is not NumPy's own, as bfloat16, becomes integers of its width.
    """
    arrays = {name: np.array(leaf) for name, leaf in _leaves(tree).items()}
    return {
        name: array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array
        for name, array in arrays.items()
    }


def from_arrays(template: T, checkpoint: Checkpoint) -> T:
    """The tree of a checkpoint, built as `template`; `RunError` if it is another."""
    wanted, arrays = _leaves(template), checkpoint.arrays
    if odd := sorted(arrays.keys() ^ wanted.keys()):
        raise RunError(
            f"{checkpoint.file}: is of another kind of training; {odd[0]} is in only one of them."
        )
    for name, leaf in wanted.items():
        if arrays[name].shape != leaf.shape:
            raise RunError(
                f"{checkpoint.file}: {name} has shape {arrays[name].shape}, this run {leaf.shape}."
            )
    leaves = [jnp.array(arrays[name].view(leaf.dtype)) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _leaves(tree: Any) -> dict[str, Any]:
    return {
        f"{jax.tree_util.keystr(path)}:{leaf.dtype}": leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
