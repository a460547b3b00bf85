"""How many files of ours a run walks through: what one has to read to follow it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mlp_jax

ROOT = Path(mlp_jax.__file__).parents[1]
COUNT = """
import sys, threading
entered = set()

def note(frame, event, argument):
    code = frame.f_code
    if code.co_name == "<module>" or not code.co_filename.startswith(ROOT):
        return
    caller = frame.f_back
    while caller is not None:  # what an import calls is not the run's way
        if caller.f_code.co_name == "<module>" and caller.f_code.co_filename != "<string>":
            return
        caller = caller.f_back
    entered.add(code.co_filename.removeprefix(ROOT))

ROOT, *sys.argv[1:] = sys.argv[1:]
sys.settrace(note)  # which sees calls alone, as note returns nothing to trace the lines with
threading.settrace(note)
from mlp_jax.commands import train
train.main()
sys.settrace(None)
print(*sorted(entered), sep="\\n", file=sys.stderr)
"""


@pytest.mark.parametrize(("overrides", "most"), [(["tracking=none"], 34), ([], 44)])
def test_a_run_walks_through_few_files(overrides, most, tmp_path, make_store):
    """At most as many as now; a new one has to be worth being read."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, f"{ROOT}/", "+exp=xor", *overrides],
        env=os.environ | {"MLFLOW_TRACKING_URI": make_store(tmp_path)},
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    entered = [line for line in done.stderr.splitlines() if line.endswith(".py")]
    assert 10 < len(entered) <= most, "\n".join(entered)
