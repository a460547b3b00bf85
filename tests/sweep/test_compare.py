import csv
import doctest
import io

import pytest

from mlp_jax.sweep import compare as comparison
from mlp_jax.sweep.compare import Outcome


def outcome(loss, status="FINISHED", **differs):
    metrics = {} if loss is None else {"train/loss": loss, "train/accuracy": 1 - loss}
    return Outcome(f"run {loss}", differs, metrics, status, run_id=f"id {loss}")


def test_examples():
    assert doctest.testmod(comparison).failed == 0


def test_what_differs():
    common = {"model": "mlp", "tracking.run_name": "a", "name": "xor"}
    runs = [
        common | {"seed": "0", "optimizer.name": "momentum", "optimizer.momentum": "0.9"},
        common | {"seed": "1", "optimizer.name": "adam", "tracking.run_name": "b"},
    ]
    assert comparison.differences(runs) == [
        {"seed": "0", "optimizer.name": "momentum"},
        {"seed": "1", "optimizer.name": "adam"},
    ]
    assert comparison.differences(runs[:1]) == [{}]
    assert comparison.differences([]) == []


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (["lr", "train/loss", "best/train_loss", "best/validation_loss"], "best/validation_loss"),
        (["train/loss", "best/train_loss"], "best/train_loss"),
        (["train/accuracy", "other_loss"], "other_loss"),
        (["train/accuracy"], "train/accuracy"),
    ],
)
def test_default_metric(metrics, expected):
    assert comparison.default_metric(metrics) == expected


def test_best_first_has_failed_runs_last():
    runs = [outcome(0.3), outcome(None, "FAILED"), outcome(0.1), outcome(0.01, "FAILED")]
    losses = [run.metrics.get("train/loss") for run in comparison.best_first(runs, "train/loss")]
    assert losses == [0.1, 0.3, 0.01, None]
    best, *_ = comparison.best_first(runs, "train/accuracy")
    assert best.metrics["train/accuracy"] == 0.9


def test_groups_gather_the_seeds():
    runs = [
        outcome(0.5, rate="1", seed="0"),
        outcome(0.1, rate="3", seed="0"),
        outcome(0.7, rate="1", seed="1"),
        outcome(0.3, rate="3", seed="1"),
        outcome(0.0, "FAILED", rate="3", seed="2"),
        outcome(0.4, **{"rate": "10", "data.seed": "0"}),
    ]
    first, second, third = comparison.groups(runs, "train/loss")
    assert (first.differs, first.values) == ({"rate": "3"}, (0.1, 0.3))
    assert (second.differs, second.values, second.std) == ({"rate": "10"}, (0.4,), None)
    assert third.mean == pytest.approx(0.6)
    assert third.std == pytest.approx(0.02**0.5)  # of a sample
    first, *_ = comparison.groups(runs, "train/accuracy")
    assert first.differs == {"rate": "3"}


def test_tables():
    runs = [outcome(0.5, rate="1|2", seed="0"), outcome(0.123456, rate="3", seed="1")]
    columns, rows = comparison.run_table(runs, "train/accuracy")
    assert columns == ["run", "rate", "seed", "train/accuracy", "train/loss", "status", "run_id"]
    assert rows[0] == ["run 0.123456", "3", "1", 0.876544, 0.123456, "FINISHED", "id 0.123456"]
    read = list(csv.DictReader(io.StringIO(comparison.to_csv((columns, rows)))))
    assert [float(row["train/loss"]) for row in read] == [0.123456, 0.5]
    assert read[1]["rate"] == "1|2"
    header, rule, first, second = comparison.to_markdown((columns, rows)).splitlines()
    assert header == "| run | rate | seed | train/accuracy | train/loss | status | run_id |"
    assert rule == "| --- | --- | --- | --: | --: | --- | --- |"
    assert first == "| run 0.123456 | 3 | 1 | 0.8765 | 0.1235 | FINISHED | id 0.123456 |"
    assert r"1\|2" in second


def test_table_of_groups():
    runs = [
        outcome(0.5, rate="1", seed="0"),
        outcome(0.7, rate="1", seed="1"),
        outcome(0.8, rate="10", seed="1"),
    ]
    groups = comparison.groups(runs, "train/loss")
    columns, rows = comparison.group_table(groups, "train/loss", exact=True)
    assert columns == ["rate", "train/loss", "std", "best", "runs"]
    assert rows == [
        ["1", pytest.approx(0.6), pytest.approx(0.02**0.5), 0.5, 2],
        ["10", 0.8, "", 0.8, 1],
    ]
    assert comparison.to_text(comparison.group_table(groups, "train/loss")) == (
        "rate  train/loss  best  runs\n1     0.6 ± 0.14   0.5     2\n10    0.8          0.8     1\n"
    )
