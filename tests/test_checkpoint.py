"""Which checkpoints are kept."""

import math

import pytest

from mlp_jax.checkpoint import _best


@pytest.mark.parametrize(
    ("losses", "best"),
    [([3.0, 1.0, 2.0], [2]), ([math.nan, 2.0, 1.0], [3]), ([2.0, math.inf, 3.0], [1]),
     ([math.nan] * 3, [])],
)  # fmt: skip
def test_the_best_has_the_lowest_finite_loss(losses, best):
    history = [(step, {"train/loss": loss}) for step, loss in enumerate(losses, start=1)]
    assert _best([1, 2, 3], history) == best
