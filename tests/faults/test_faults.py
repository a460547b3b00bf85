"""Processes and disks that fail, by the code that makes the table of experiments/reliability."""

import re
from pathlib import Path

import pytest

import mlp_jax
from hydra_plugins.mlp_jax import launcher
from tests.faults import lives
from tests.faults.__main__ import can_mount, measure

IN_CI = {"kills": 50, "sweeps": 20, "signals": 1, "failing": 1, "damage": 200, "records": 40,
         "full-disk": 1}  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize("fault", IN_CI)
def test_a_run_survives(fault: str) -> None:
    if fault == "full-disk" and not can_mount():
        pytest.skip("no disk of its own may be mounted here; `failing` fills one in effigy")
    trials = IN_CI[fault]
    for row in measure(fault, trials):
        assert row.num_trials >= trials
        assert not row.problems, f"python -m tests.faults {fault} {trials} 0\n" + (
            "\n".join(row.problems)
        )


def test_the_product_names_each_place_where_a_life_is_disturbed():
    folders = [Path(module.__file__).parent for module in (mlp_jax, launcher)]
    text = "".join(file.read_text() for folder in folders for file in folder.rglob("*.py"))
    assert {*re.findall(r'reached\("(.*)"\)', text)} == {*lives.PHASES, *lives.SWEEP_PHASES}
