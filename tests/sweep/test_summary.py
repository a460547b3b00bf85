import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection

from mlp_jax.sweep import compare as comparison
from mlp_jax.sweep import figure as sweep_figure
from mlp_jax.sweep import summary as overview
from mlp_jax.tracking import bulk, search
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking.facts import RunRecord

STEPS = np.array([10, 20, 30])


def record(losses, steps=STEPS, status="FINISHED", **params):
    losses, steps = np.array(losses, float), np.array(steps)
    metrics = {"train/loss": (steps, losses), "learning_rate": (steps, np.ones(len(steps)))}
    if status == "FINISHED":
        metrics["best_train_loss"] = (steps[-1:], losses.min(keepdims=True))
    return RunRecord(f"run of {params}", params, {}, "", metrics, status, 0, 1000)


def curves(records, name="train/loss"):
    """Of runs that are ranked by their lowest loss."""
    runs = overview.frame({f"id {i}": record for i, record in enumerate(records)})
    ends = overview.ends(runs, "best_train_loss")
    return overview.curves([record.metrics for record in records], name, *ends)


# --- curves ------------------------------------------------------------------------------------


def test_curves_of_the_parent():
    records = [record([k, k / 2, k / 4], seed=k) for k in (4.0, 1.0, 2.0, 3.0, 5.0)]
    found = curves(records)
    assert set(found) == {"mean", "median", "p10", "p90", "best", "worst"}
    expected = {"mean": 3.0, "median": 3.0, "p10": 1.4, "p90": 4.6, "best": 1.0, "worst": 5.0}
    for name, first in expected.items():
        steps, values = found[name]
        np.testing.assert_array_equal(steps, STEPS)
        np.testing.assert_allclose(values, [first, first / 2, first / 4])


def test_a_run_that_ended_early_counts_as_long_as_it_lasted():
    records = [
        record([4.0, 2.0, 1.0], seed=0),
        record([3.0], [10], status="FAILED", seed=1),
        record([2.0, np.nan, 1.0], seed=2),
        record([8.0], [15], seed=3),  # another log interval
    ]
    steps, values = overview.aligned([record.metrics for record in records], "train/loss")
    np.testing.assert_array_equal(steps, [10, 30])
    np.testing.assert_array_equal(values[:3], [[4, 1], [3, np.nan], [2, 1]])
    found = curves(records[:2])
    np.testing.assert_array_equal(found["mean"][1], [3.5, 2.0, 1.0])
    for end in ("best", "worst"):  # the run that failed is neither
        np.testing.assert_array_equal(found[end][1], [4.0, 2.0, 1.0])


# --- the figure --------------------------------------------------------------------------------


def draw(groups):
    curve = np.array([1.0, 0.1, 0.01])
    names = ("mean", "median", "p10", "p90", "best", "worst")
    found = {name: (STEPS, scale * curve) for scale, name in enumerate(names, start=1)}
    return sweep_figure.draw("train/loss", found, groups, "best_train_loss")


def group(values, **params):
    """A row of `compare.groups`: the runs of one setting, which had these losses."""
    return {
        **{f"params.{key}": value for key, value in params.items()},
        "mean": np.mean(values),
        "best": min(values),
        "worst": max(values),
        "runs": len(values),
    }


def groups_of(key, values, seeds=2):
    return pd.DataFrame(
        group([float(k + seed) for seed in range(seeds)], **{key: value})
        for k, value in enumerate(values, start=1)
    )


def test_bands_alone_where_only_seeds_differ():
    (axes,) = draw(pd.DataFrame([group([0.1, 0.2])])).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["10 to 90 % of the runs", "median", "mean", "best run", "worst run"]
    assert len({line.get_linestyle() for line in axes.get_lines()}) == 4  # in black and white
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == (
        "step",
        "train/loss",
        "log",
    )


def test_labels_of_numbers_do_not_overlap():
    values = ["0.1139", "0.1482", "0.1538", "2.575"]
    _, axes = draw(groups_of("optimizer.learning_rate", values)).axes
    shown = [text.get_text() for text in axes.get_xticklabels()]
    assert [label for label in shown if label] == ["0.1139", "2.575"]
    assert axes.get_xticks().tolist() == [*map(float, values)]


@pytest.mark.parametrize(
    ("values", "scale", "ticks"),
    [
        (["3", "0.3", "1"], "log", ["0.3", "1", "3"]),
        (["1", "2", "3"], "linear", ["1", "2", "3"]),
        (["0.1", "1"], "log", ["0.1", "1"]),
        (["[16]", "[4]", "[8]"], "linear", ["[4]", "[8]", "[16]"]),
    ],
)
def test_line_of_one_hyperparameter(values, scale, ticks):
    _, axes = draw(groups_of("optimizer.learning_rate", values)).axes
    assert axes.get_xscale() == scale
    assert [text.get_text() for text in axes.get_xticklabels()] == ticks
    (line, _, _) = axes.containers[0]
    means = dict(zip(values, (1.5, 2.5, 3.5), strict=False))
    np.testing.assert_allclose(line.get_ydata(), [means[tick] for tick in ticks])
    assert axes.get_title() == "mean of 2 seeds, lowest to highest"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer.learning_rate", "best_train_loss")


def test_map_of_a_grid():
    groups = pd.DataFrame(
        group([float(rate) * len(sizes)], rate=rate, sizes=sizes)
        for rate in ("0.1", "1", "10")
        for sizes in ("[4]", "[16]")
    )
    _, axes, bar = draw(groups).axes
    expected = [[0.3, 3, 30], [0.4, 4, 40]]
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["[4]", "[16]"]
    assert "30" in [text.get_text() for text in axes.texts]
    assert bar.get_ylabel() == "best_train_loss"


def test_points_where_two_hyperparameters_were_sampled():
    rng = np.random.default_rng(0)
    points = 10 ** rng.random((40, 2))
    groups = pd.DataFrame(group([a + b], a=str(a), b=str(b)) for a, b in points)
    _, axes, _ = draw(groups).axes
    (points,) = [c for c in axes.collections if isinstance(c, PathCollection)]
    a, b = points.get_offsets().T
    np.testing.assert_allclose(points.get_array(), a + b)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def three_keys():
    """Of which `rate` alone makes a difference."""
    rates, sizes, seeds = ("0.1", "1", "10"), ("[4]", "[16]"), ("relu", "tanh", "sin")
    return pd.DataFrame(
        group([float(rate)], rate=rate, sizes=size, activation=activation)
        for rate in rates
        for size in sizes
        for activation in seeds
    )


def test_parallel_coordinates_of_more_hyperparameters():
    _, axes, bar = draw(three_keys()).axes
    (lines,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    assert len(lines.get_segments()) == 18
    for segment, loss in zip(lines.get_segments(), lines.get_array(), strict=True):
        heights = {0.1: 0.0, 1.0: 0.5, 10.0: 1.0}  # on a logarithmic axis
        np.testing.assert_allclose(segment[0], [0, heights[loss]], atol=1e-9)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["rate", "sizes", "activation"]
    assert bar.get_ylabel() == "best_train_loss"


def test_a_panel_for_each_hyperparameter_the_most_important_first():
    shown = sweep_figure.draw_keys(three_keys(), "train/loss").axes
    assert shown[0].get_xlabel() == "rate"
    assert shown[0].get_title() == "importance 100 %"
    assert {axes.get_xlabel() for axes in shown} == {"rate", "sizes", "activation"}
    (line,) = shown[0].get_lines()
    np.testing.assert_allclose(line.get_ydata(), [0.1, 1, 10])


def test_halvings_are_marked_and_the_winner_is_drawn_whole():
    records = [
        record([4.0], [10], seed=0), record([3.0], [10], seed=1), record([2.5], [10], seed=3),
        record([2.0, 1.0, 0.5], STEPS, seed=2),
    ]  # fmt: skip
    found = curves(records)
    np.testing.assert_array_equal(found["median"][0], [10])
    np.testing.assert_array_equal(found["best"], [STEPS, [2.0, 1.0, 0.5]])
    groups = pd.DataFrame([group([0.1])])
    (axes,) = sweep_figure.draw("train/loss", found, groups, "train/loss", [10, 20]).axes
    marks = [line.get_xdata()[0] for line in axes.get_lines() if len(set(line.get_xdata())) == 1]
    assert {10, 20} <= set(marks)
    table = comparison.run_table(
        overview.frame({str(i): record for i, record in enumerate(records)}), "train/loss"
    )
    assert list(table["steps"]) == [30, 10, 10, 10]


# --- all of it ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged(client):
    records = [
        record([rate + seed, rate], STEPS[:2], seed=seed, optimizer={"learning_rate": rate})
        for rate in (1.0, 0.3, 3.0)
        for seed in range(8)
    ]
    records += [record([9.0], [10], "FAILED", seed=9, optimizer={"learning_rate": 3.0})]
    with tracking.begin(client, "sweep", RunRecord("parent")) as parent:
        ids = bulk.write(client, "sweep", records, parent.run_id)
        url = overview.log(client, parent, dict(zip(ids, records, strict=True)), command="train -m")
    return client, parent, ids, url


def test_parent_has_curves_tables_and_a_figure(logged):
    client, parent, ids, _ = logged
    history = client.get_metric_history(parent.run_id, "train/loss/mean")
    assert [point.step for point in history] == [10, 20]
    files = {file.path for file in client.list_artifacts(parent.run_id)}
    assert files == {"sweep.png", "runs.csv", "runs.md"}
    text = Path(client.download_artifacts(parent.run_id, "runs.csv")).read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["optimizer.learning_rate"] for row in rows[::8]] == ["0.3", "1.0", "3.0", "3.0"]
    assert (rows[-1]["status"], rows[-1]["run_id"]) == ("FAILED", ids[-1])
    markdown = Path(client.download_artifacts(parent.run_id, "runs.md")).read_text()
    assert markdown.count("\n") == 27


def test_note_says_what_came_out_and_where_to_look(logged):
    client, parent, ids, url = logged
    note = client.get_run(parent.run_id).data.tags["mlflow.note.content"]
    assert note.startswith("25 runs, 24 FINISHED, 1 FAILED: [all of them, best first](./#/")
    assert "```\ntrain -m\n```" in note
    assert note.count("\n| ") == 12  # the header, its line and the ten best
    assert url.removeprefix("http://127.0.0.1:5000/") in note
    assert all(run_id in note for run_id in ids[8:16])
    assert ids[-1] not in note


def test_link_to_the_sorted_runs_shows_what_differs(logged):
    client, parent, _, url = logged
    _, _, key = url.partition("viewStateShareKey=")
    tags = client.get_experiment(parent.experiment_id).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{key}"])
    assert view == {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent.run_id}'",
        "orderByKey": "metrics.`best_train_loss`",
        "orderByAsc": True,
        "selectedColumns": [
            "params.`optimizer.learning_rate`",
            "params.`seed`",
            "metrics.`best_train_loss`",
        ],
    }
    found = client.search_runs([parent.experiment_id], view["searchFilter"])
    assert len(found) == 25


def test_runs_that_were_recorded_before_take_part_like_the_others(logged):
    client, _, ids, _ = logged
    runs = search.runs(client, "sweep").set_index("run_id", drop=False)
    found = runs.loc[[ids[0], ids[-1]]].to_dict("records")
    records = {run["run_id"]: overview.read(client, run) for run in found}
    compared = overview.frame(records)
    first = compared.iloc[0]
    assert (first["params.seed"], first["params.optimizer.learning_rate"]) == ("0", "1.0")
    assert comparison.keys_of(compared) == ["optimizer.learning_rate", "seed"]
    assert first["metrics.best_train_loss"] == 1.0
    assert compared["status"].iloc[1] == "FAILED"
    histories = [record.metrics for record in records.values()]
    steps, values = overview.aligned(histories, "train/loss")
    np.testing.assert_array_equal(steps, [10, 20])
    np.testing.assert_array_equal(values, [[1, 1], [9, np.nan]])


def test_a_figure_that_fails_costs_the_figure_only(client, monkeypatch):
    def fail(*args):
        raise ValueError("no such colour")

    monkeypatch.setattr(sweep_figure, "draw", fail)
    records, said = [record([2.0, 1.0], STEPS[:2], seed=seed) for seed in range(2)], []
    with tracking.begin(client, "no figure", RunRecord("parent")) as parent:
        ids = bulk.write(client, "no figure", records, parent.run_id)
        overview.log(client, parent, dict(zip(ids, records, strict=True)), warn=said.append)
    assert client.get_run(parent.run_id).info.status == "FINISHED"
    files = {file.path for file in client.list_artifacts(parent.run_id)}
    assert files == {"runs.csv", "runs.md"}
    assert said == ["the figure sweep could not be drawn: ValueError: no such colour"]
