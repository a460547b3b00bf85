"""The benchmark of tables."""

import numpy as np
import pytest

from experiments.tabular import __main__ as tabular
from experiments.tabular.sets import SETS


@pytest.mark.parametrize("name", ["diabetes", "digits"])
def test_every_row_is_in_one_part(name):
    table = SETS[name]()
    parts = tabular.split(table, 1)
    assert sorted(np.concatenate(parts)) == list(range(len(table.y)))
    sizes = [len(part) / len(table.y) for part in parts]
    assert sizes == pytest.approx([0.64, 0.16, 0.2], abs=0.01)


def test_a_contender_is_judged_by_the_test_part():
    """Better than the mean of the targets, and in their unit."""
    table = SETS["diabetes"]()
    rows = tabular.split(table, 0)
    loss = tabular.boosting(table, rows)
    of_mean = tabular.loss(table, rows.test, np.full(len(rows.test), table.y[rows.train].mean()))
    assert 40 < loss < of_mean == pytest.approx(np.std(table.y[rows.test]), rel=0.05)
