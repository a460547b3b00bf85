"""Runs of a store as a data frame."""

import math

import pandas as pd
from mlflow.entities import LoggedModelOutput

from mlp_jax.tracking import bulk, search, store
from tests.tracking.test_bulk import END, START, XOR, record


def test_a_row_has_all_that_a_run_measured(client):
    ids = bulk.write(client, "frame", [record(seed) for seed in range(3)], "the parent")
    bulk.write(client, "frame", [record(3, metrics={}, data=None, status="FAILED")])
    frame = search.runs(client, "frame").set_index("run_id")
    assert len(frame) == 4
    row = frame.loc[ids[2]]
    assert (row["name"], row["status"]) == ("seed 2", "FINISHED")
    assert (row["start_time"], row["end_time"]) == (START, END)
    assert row["params.seed"] == "2" and row["params.model.hidden_sizes"] == "[8]"
    assert row["metrics.train/loss"] == float(record(2).metrics["train/loss"][1][-1])
    assert row["tags.mlflow.parentRunId"] == "the parent"
    assert row["data"] == XOR.digest
    (failed,) = frame[frame.status == "FAILED"].to_dict("records")
    assert math.isnan(failed["metrics.train/loss"]) and pd.isna(failed["data"])


def test_a_condition_chooses_and_pages_lose_nothing(client, monkeypatch):
    monkeypatch.setattr(store, "_PAGE", 2)
    bulk.write(client, "pages", [record(seed) for seed in range(5)])
    assert sorted(search.runs(client.tracking_uri, "pages")["params.seed"]) == list("01234")
    assert list(search.runs(client, "pages", "params.seed = '3'")["params.seed"]) == ["3"]


def test_the_tables_give_what_the_client_gives(client, monkeypatch):
    """Also of a run with two data sets, a model, and a value that is no number."""
    run_ids = bulk.write(client, "tables", [record(seed) for seed in range(3)])
    experiment = client.get_run(run_ids[0]).info.experiment_id
    model = client.create_logged_model(experiment, "model")
    client.log_outputs(run_ids[1], [LoggedModelOutput(model.model_id, step=0)])
    client.log_metric(run_ids[2], "odd", math.nan)
    client.delete_run(bulk.write(client, "tables", [record(3)])[0])
    read = search.runs(client, "tables")
    assert list(read.loc[read["run_id"] == run_ids[1], "model"]) == [model.model_id]
    monkeypatch.setattr(store, "_KNOWN_SCHEMA", "another")
    asked = search.runs(client, "tables")
    pd.testing.assert_frame_equal(read, asked.drop(columns="metrics.odd"), check_like=True)


def test_an_experiment_without_runs_is_an_empty_frame(client):
    for experiment in ("nowhere", "Default"):
        frame = search.runs(client, experiment)
        assert frame.empty and "status" in frame.columns
