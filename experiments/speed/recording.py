"""What it costs to record the runs of a sweep: all at once, and one by one through the client."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from unittest.mock import patch

import numpy as np

from mlp_jax.tracking import bulk, store
from mlp_jax.tracking.facts import RunRecord

NUM_RUNS, NUM_PARAMS, NUM_POINTS, NUM_METRICS = 1_000, 20, 100, 5
NUM_THROUGH_CLIENT = 20
REPEATS = 5


def records(num_runs: int) -> list[RunRecord]:
    """Runs with `NUM_PARAMS` parameters, `NUM_POINTS` points of metrics and a config."""
    rng = np.random.default_rng(0)
    steps = 10 * np.arange(1, NUM_POINTS // NUM_METRICS + 1)
    return [
        RunRecord(
            name=f"run {number}",
            params={f"group.key_{k}": number * k for k in range(NUM_PARAMS)},
            tags={f"tag_{k}": "a value" for k in range(6)},
            note="A run.",
            metrics={f"train/{k}": (steps, rng.random(len(steps))) for k in range(NUM_METRICS)},
            status="FINISHED",
            start_time=1_700_000_000_000,
            end_time=1_700_000_010_000,
            texts={"config.yaml": f"seed: {number}\n"},
        )
        for number in range(num_runs)
    ]


def bulk_against_client() -> tuple[str, str, str, str]:
    """A row of the table: ms a run into a new store, in turn with the client's."""
    at_once, one_by_one = records(NUM_RUNS), records(NUM_THROUGH_CLIENT)
    with tempfile.TemporaryDirectory() as folder:
        client = store.open_store(f"sqlite:///{folder}/mlflow.db")
        write = partial(bulk.write, client, "speed", parent_run_id="a parent")
        fast, slow = [], []
        for _ in range(REPEATS):
            fast.append(_ms_a_run(write, at_once))
            with patch.object(store, "_KNOWN_SCHEMA", "none"):
                slow.append(_ms_a_run(write, one_by_one))
    ratios = [b / a for a, b in zip(fast, slow, strict=True)]
    return (
        f"{NUM_RUNS:,} child runs, {NUM_PARAMS} parameters, {NUM_POINTS} points, recorded at once",
        f"{statistics.median(fast):.2f} ms a run ({min(fast):.2f} to {max(fast):.2f})",
        "≤ 2 ms",
        f"through the client {statistics.median(slow):.0f} ms a run, "
        f"{statistics.median(ratios):.0f}× ({min(ratios):.0f} to {max(ratios):.0f})",
    )


def _ms_a_run(write: "partial[list[str]]", runs: Sequence[RunRecord]) -> float:
    start = time.perf_counter()
    write(records=runs)
    return 1000 * (time.perf_counter() - start) / len(runs)


if __name__ == "__main__":
    print(" | ".join(bulk_against_client()))
