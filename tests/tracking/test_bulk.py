"""Runs written at once are what `tracking.begin` and `Run` would have written one by one."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from mlp_jax.config.compose import compose
from mlp_jax.data import load
from mlp_jax.errors import RunError
from mlp_jax.experiment.describe import data_facts
from mlp_jax.tracking import bulk, store
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking.facts import RunRecord

XOR = data_facts(load(compose(["data=xor"]).data))
START, END = 1_700_000_000_000, 1_700_000_060_000


def record(seed=0, **changes):
    steps = np.array([100, 200, 300])
    made = RunRecord(
        name=f"seed {seed}",
        params={"seed": seed, "model": {"hidden_sizes": [8], "loss": None}, "long": "x" * 9000},
        tags={"command": "train", "from": "http://me:secret@host/x", "long": "y" * 9000},
        note="**hello** http://me:secret@host",
        metrics={
            "train/loss": (steps, np.array([0.9, 0.5, 0.1], np.float32) + seed),
            "best/train_loss": (steps[-1:], np.array([0.1]) + seed),
            "train/accuracy": (steps, np.array([0.5, np.inf, np.nan])),
        },
        status="FINISHED",
        start_time=START,
        end_time=END,
        texts={"config.yaml": f"seed: {seed} η\n", "notes/a.txt": "text"},
        data=XOR,
    )
    return made._replace(**changes)


def write_alone(client, experiment, record):
    """As a run that is recorded while it trains."""
    run = tracking.begin(client, experiment, record)
    for name, (steps, values) in record.metrics.items():
        for step, value in zip(steps.tolist(), values.tolist(), strict=True):
            run.log({name: value}, step)
    for file, text in record.texts.items():
        run.add(file, text)
    with run:
        pass
    client.set_terminated(run.run_id, record.status)
    return run.run_id


def through_the_client(client, experiment, records, monkeypatch, **kwargs):
    with monkeypatch.context() as patched:
        patched.setattr(store, "_KNOWN_SCHEMA", "another")
        return bulk.write(client, experiment, records, **kwargs)


def search(client, experiment, **kwargs):
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id], **kwargs) if found else []


def content(client, run_id, *, without_times=False):
    """All that the public client gives back of a run, but its ids and the process it ran in."""
    run = client.get_run(run_id)
    of_process = ("run.", "mlflow.source.name")
    tags = {name: tag for name, tag in run.data.tags.items() if not name.startswith(of_process)}
    info = {key: value for key, value in dict(run.info).items() if run_id not in str(value)}
    times = {info.pop(name) for name in ("start_time", "end_time")}
    history = {
        name: [
            (point.step, point.value, None if without_times else point.timestamp)
            for point in client.get_metric_history(run_id, name)
        ]
        for name in run.data.metrics
    }
    folder = Path(client.download_artifacts(run_id, ""))
    files = {
        str(file.relative_to(folder)): file.read_text("utf-8")
        for file in folder.rglob("*")
        if file.is_file()
    }
    inputs = [(dict(i.dataset), [dict(tag) for tag in i.tags]) for i in run.inputs.dataset_inputs]
    facts = (info, run.data.params, tags, run.data.metrics, history, files, inputs)
    return facts if without_times else (*facts, times)


def test_three_ways_to_write_a_run_give_the_same(client, monkeypatch):
    """Also where the experiment has the dataset already, and a run that failed."""
    for written in (record(), record(status="FAILED", data=None, metrics={})):
        alone = write_alone(client, "ways", written)
        (fast,) = bulk.write(client, "ways", [written])
        (slow,) = through_the_client(client, "ways", [written], monkeypatch)
        assert content(client, fast) == content(client, slow)
        expected = content(client, alone, without_times=True)
        assert content(client, fast, without_times=True) == expected
    tags = client.get_run(fast).data.tags
    assert tags["from"] == "http://***@host/x" and len(tags["long"]) == 5000
    assert client.get_run(fast).info.status == "FAILED"


def test_what_the_three_ways_give_is_all_there(client):
    (run_id,) = bulk.write(client, "complete", [record(seed=3)], "the parent")
    run = client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("seed 3", "FINISHED")
    assert (run.info.start_time, run.info.end_time) == (START, END)
    assert run.data.params["model.hidden_sizes"] == "[8]"
    assert run.data.tags["mlflow.parentRunId"] == "the parent"
    assert run.data.tags["mlflow.runName"] == "seed 3"
    assert run.data.tags["not_finite.train/accuracy"] == "inf at step 200"
    points = client.get_metric_history(run_id, "train/loss")
    third = (END - START) // 3
    assert [(p.step, p.timestamp) for p in points] == [
        (100, START + third), (200, START + 2 * third), (300, END)
    ]  # fmt: skip
    assert run.data.metrics["train/loss"] == float(np.float32(0.1) + 3)
    assert [p.value for p in client.get_metric_history(run_id, "train/accuracy")] == [0.5]
    assert {file.path for file in client.list_artifacts(run_id)} == {"config.yaml", "notes"}
    (read,) = run.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("xor", XOR.digest)


@pytest.mark.parametrize("is_fast", [True, False])
def test_runs_are_sorted_and_found_by_what_they_measured(client, monkeypatch, is_fast):
    seeds = [2, 0, 1]
    records, progress = [record(seed) for seed in seeds], []
    monkeypatch.setattr(bulk, "_CHUNK", 2)
    experiment = f"sorted {is_fast}"
    if is_fast:
        ids = bulk.write(client, experiment, records, on_progress=progress.append)
    else:
        ids = through_the_client(
            client, experiment, records, monkeypatch, on_progress=progress.append
        )
    assert [client.get_run(run_id).data.params["seed"] for run_id in ids] == ["2", "0", "1"]
    assert progress == ([2, 3] if is_fast else [1, 2, 3])
    found = search(client, experiment, order_by=["metrics.`train/loss` ASC"])
    assert [run.data.params["seed"] for run in found] == ["0", "1", "2"]
    (best,) = search(
        client, experiment, filter_string="metrics.`train/loss` < 1 and params.seed = '0'"
    )
    assert best.info.run_id == ids[1]
    datasets = [run.inputs.dataset_inputs[0].dataset for run in found]
    assert len({dataset.digest for dataset in datasets}) == 1


def test_long_histories_and_many_parameters_go_in_batches(client, monkeypatch):
    steps = np.arange(2500)
    written = record(
        params={f"key{i}": i for i in range(250)}, metrics={"train/loss": (steps, steps / 4)}
    )
    (run_id,) = through_the_client(client, "batches", [written], monkeypatch)
    run = client.get_run(run_id)
    assert run.data.params == {f"key{i}": str(i) for i in range(250)}
    points = client.get_metric_history(run_id, "train/loss")
    assert [(p.step, p.value) for p in points] == [(step, step / 4) for step in range(2500)]


def test_steps_that_do_not_increase_are_refused_and_nothing_stays(client):
    bad = record(metrics={"train/loss": (np.array([2, 2]), np.zeros(2))})
    with pytest.raises(ValueError, match="seed 0: the steps of train/loss do not increase"):
        bulk.write(client, "refused", [record(), bad])
    assert search(client, "refused") == []
    artifacts = Path(client.tracking_uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    ids = {run.info.run_id for e in client.search_experiments() for run in search(client, e.name)}
    assert {folder.name for folder in artifacts.iterdir()} <= ids


def test_a_locked_database_is_an_error_in_a_line(client, monkeypatch):
    bulk.write(client, "complete", [record()])
    monkeypatch.setattr(bulk, "_LOCKED_SECONDS", 0.0)
    file = client.tracking_uri.removeprefix("sqlite:///")
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RunError, match=r"could not be recorded: .*locked"):
            bulk.write(client, "complete", [record()])


# Kills itself when all rows of the second chunk are written and nothing of it is committed.
KILLED = """
import os, signal, sys
from mlp_jax.tracking import bulk, store
from tests.tracking.test_bulk import record

insert_rows = bulk._insert_rows

def insert_then_die(database, rows):
    insert_rows(database, rows)
    if any("seed 2" in row for row in rows.get("runs", [])):
        os.kill(os.getpid(), signal.SIGKILL)

written = [record(seed) for seed in range(4)]
bulk._CHUNK, bulk._insert_rows = 2, insert_then_die
bulk.write(store.open_store(sys.argv[1]), "killed", written)
"""


def test_a_kill_leaves_neither_doubles_nor_holes(client):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, client.tracking_uri],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    fresh = MlflowClient(client.tracking_uri)
    assert fresh.get_experiment_by_name("killed") is not None
    left = {run.data.params["seed"]: run.info.run_id for run in search(fresh, "killed")}
    assert left.keys() == {"0", "1"}
    (again,) = bulk.write(fresh, "killed", [record(1)])
    assert content(fresh, left["1"]) == content(fresh, again)
    fresh.delete_run(again)
    bulk.write(fresh, "killed", [record(seed) for seed in range(2, 4)])
    seeds = [run.data.params["seed"] for run in search(fresh, "killed")]
    assert sorted(seeds) == ["0", "1", "2", "3"]


def test_a_database_knows_how_much_it_holds(client):
    """Without statistics SQLite sorts a sweep's runs by a metric in the square of their number."""
    bulk.write(client, "statistics", [record(seed) for seed in range(3)])
    with closing(sqlite3.connect(client.tracking_uri.removeprefix("sqlite:///"))) as database:
        tables = {row[0] for row in database.execute("SELECT tbl FROM sqlite_stat1")}
    assert {"runs", "tags", "latest_metrics"} <= tables


def test_many_runs_do_not_lock_others_out(client, monkeypatch):
    """Between two chunks another process comes in, at once."""
    monkeypatch.setattr(bulk, "_CHUNK", 1)
    file, seen = client.tracking_uri.removeprefix("sqlite:///"), []

    def come_in(num_written):
        with closing(sqlite3.connect(file, timeout=0)) as other, other:
            other.execute("BEGIN IMMEDIATE")
            seen.append(num_written)

    bulk.write(client, "chunks", [record(seed) for seed in range(3)], on_progress=come_in)
    assert seen == [1, 2, 3]


def test_children_that_a_killed_process_wrote_are_not_written_again(client, tmp_path):
    """Those that came to their end stay; one that did not is replaced."""
    records = [record(seed, tags={"config_hash": str(seed)}) for seed in range(4)]
    parent = tracking.begin(client, "killed", record(tags={}), root=tmp_path)
    with parent:
        written = bulk.write(client, "killed", records[:2], parent.run_id)
        half = bulk.write(client, "killed", [records[2]._replace(status="RUNNING")], parent.run_id)
        failure = bulk.write_or_keep(client.tracking_uri, "killed", records, parent, tmp_path)
    assert failure is None
    children = search(client, "killed", filter_string="params.seed != '9'")
    children = [run for run in children if "mlflow.parentRunId" in run.data.tags]
    assert sorted(run.data.tags["config_hash"] for run in children) == ["0", "1", "2", "3"]
    run_ids = {run.info.run_id for run in children}
    assert run_ids >= set(written)
    assert run_ids.isdisjoint(half)
    assert {run.info.status for run in children} == {"FINISHED"}
