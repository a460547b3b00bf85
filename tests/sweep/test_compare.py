import csv
import doctest
import io

import numpy as np
import pandas as pd
import pytest

from mlp_jax.sweep import compare as comparison


def frame(*rows):
    """Runs of a loss, a status and parameters; a loss of None is that of a run without metrics."""
    return pd.DataFrame(rows)


def row(loss, status="FINISHED", **params):
    accuracy = None if loss is None else 1 - loss
    return {
        **{f"params.{key}": value for key, value in params.items()},
        "name": f"run {loss}",
        "status": status,
        "run_id": f"id {loss}",
        "metrics.train/loss": loss,
        "metrics.train/accuracy": accuracy,
    }


def test_examples():
    assert doctest.testmod(comparison).failed == 0


def test_what_differs():
    common = {"model": "mlp", "tracking.run_name": "a", "name": "xor"}
    first = common | {"seed": "0", "optimizer.name": "momentum", "optimizer.momentum": "0.9"}
    second = common | {"seed": "1", "optimizer.name": "adam", "tracking.run_name": "b"}
    runs = frame(row(0.1, **first), row(0.2, **second))
    compared = comparison.compared(runs)
    assert comparison.keys_of(compared) == ["optimizer.name", "seed"]
    assert list(compared["params.optimizer.name"]) == ["momentum", "adam"]
    assert comparison.keys_of(comparison.compared(runs[:1])) == []
    assert comparison.keys_of(comparison.compared(runs[:0])) == []


def test_a_run_that_was_halved_is_not_ranked():
    runs = frame(row(0.1), row(0.2), row(0.3, "FAILED")).assign(
        **{"tags.halved_at": ["7", None, "7"]}
    )
    assert list(comparison.compared(runs)["status"]) == ["HALVED", "FINISHED", "FAILED"]


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (["lr", "train/loss", "best_train_loss", "best_validation_loss"], "best_validation_loss"),
        (["train/loss", "best_train_loss"], "best_train_loss"),
        (["train/loss", "best/train_loss"], "best/train_loss"),  # of an earlier version
        (["train/accuracy", "other_loss"], "other_loss"),
        (["train/accuracy"], "train/accuracy"),
    ],
)
def test_default_metric(metrics, expected):
    assert comparison.default_metric(metrics) == expected


def test_best_first_has_failed_runs_last():
    runs = frame(row(0.3), row(None, "FAILED"), row(0.1), row(0.01, "FAILED"))
    losses = comparison.best_first(runs, "train/loss")["metrics.train/loss"]
    assert list(losses[:3]) == [0.1, 0.3, 0.01]
    assert np.isnan(losses.iloc[3])
    best = comparison.best_first(runs, "train/accuracy").iloc[0]
    assert best["metrics.train/accuracy"] == 0.9


def test_groups_gather_the_seeds():
    runs = frame(
        row(0.5, rate="1", seed="0"),
        row(0.1, rate="3", seed="0"),
        row(0.7, rate="1", seed="1"),
        row(0.3, rate="3", seed="1"),
        row(0.0, "FAILED", rate="3", seed="2"),
        row(0.4, **{"rate": "10", "data.seed": "0"}),
    )
    groups = comparison.groups(runs, "train/loss")
    assert comparison.keys_of(groups) == ["rate"]
    assert list(groups["params.rate"]) == ["3", "10", "1"]
    assert list(groups["runs"]) == [2, 1, 2]
    np.testing.assert_allclose(groups["mean"], [0.2, 0.4, 0.6])
    np.testing.assert_allclose(groups["std"], [0.02**0.5, np.nan, 0.02**0.5])  # of a sample
    np.testing.assert_allclose(groups[["best", "worst"]], [[0.1, 0.3], [0.4, 0.4], [0.5, 0.7]])
    first = comparison.groups(runs, "train/accuracy").iloc[0]
    assert first["params.rate"] == "3"
    assert (first["best"], first["worst"]) == (0.9, 0.7)


def test_tables():
    runs = frame(row(0.5, rate="1|2", seed="0"), row(0.123456, rate="3", seed="1"))
    table = comparison.run_table(runs, "train/accuracy")
    names = ["run", "rate", "seed", "train/accuracy", "train/loss", "status", "run_id"]
    assert list(table) == names
    first = ["run 0.123456", "3", "1", 0.876544, 0.123456, "FINISHED", "id 0.123456"]
    assert list(table.iloc[0]) == first
    read = list(csv.DictReader(io.StringIO(comparison.to_csv(table))))
    assert [float(row["train/loss"]) for row in read] == [0.123456, 0.5]
    assert read[1]["rate"] == "1|2"
    header, rule, first, second = comparison.to_markdown(table).splitlines()
    assert header == "| run | rate | seed | train/accuracy | train/loss | status | run_id |"
    assert rule == "| --- | --- | --- | --: | --: | --- | --- |"
    assert first == "| run 0.123456 | 3 | 1 | 0.8765 | 0.1235 | FINISHED | id 0.123456 |"
    assert r"1\|2" in second


def test_table_of_groups():
    runs = frame(
        row(0.5, rate="1", seed="0"), row(0.7, rate="1", seed="1"), row(0.8, rate="10", seed="1")
    )
    groups = comparison.groups(runs, "train/loss")
    table = comparison.group_table(groups, "train/loss", exact=True)
    assert list(table) == ["rate", "train/loss", "std", "best", "runs"]
    assert list(table.iloc[0]) == ["1", pytest.approx(0.6), pytest.approx(0.02**0.5), 0.5, 2]
    assert comparison.to_csv(table).splitlines()[2] == "10,0.8,,0.8,1"
    assert comparison.to_text(comparison.group_table(groups, "train/loss")) == (
        "rate  train/loss  best  runs\n1     0.6 ± 0.14   0.5     2\n10    0.8          0.8     1\n"
    )
