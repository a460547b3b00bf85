"""Processes and disks that fail, by the code that makes the table of experiments/reliability."""

import pytest

from experiments.reliability.__main__ import can_mount, measure

IN_CI = {"kills": 50, "sweeps": 20, "signals": 1, "failing": 1, "damage": 200, "full-disk": 1}


@pytest.mark.faults
@pytest.mark.parametrize("fault", IN_CI)
def test_a_run_survives(fault: str) -> None:
    if fault == "full-disk" and not can_mount():
        pytest.skip("no disk of its own may be mounted here; `failing` fills one in effigy")
    trials = IN_CI[fault]
    for row in measure(fault, trials):
        assert row.num_trials >= trials
        assert not row.problems, f"python -m experiments.reliability {fault} {trials} 0\n" + (
            "\n".join(row.problems)
        )
