import csv
import io

import numpy as np
import pandas as pd
import pytest

from mlp_jax.commands import report
from mlp_jax.tracking import bulk, store
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking.facts import RunRecord


def record(rate, seed, status="FINISHED"):
    metrics = {
        "best_train_loss": (np.array([9]), np.array([1 / rate + seed / 8])),
        "test_accuracy": (np.array([9]), np.array([rate / 8])),
    }
    params = {"seed": seed, "optimizer": {"learning_rate": rate}, "model": {"name": "mlp"}}
    return RunRecord(f"seed {seed}", params, {}, "", metrics, status, 0, 1000)


@pytest.fixture(scope="module")
def uri(client):
    records = [record(rate, seed) for rate in (0.5, 2.0, 1.0) for seed in range(2)]
    records += [record(4.0, 0), record(8.0, 0, "FAILED")]
    records += [record(16.0, 0)._replace(tags={"halved_at": "3"})]
    with tracking.begin(client, "xor", RunRecord("sweep", {"only": "here"})) as parent:
        parent.log({"best_train_loss": 0.0}, 1)
    bulk.write(client, "xor", records, parent.run_id)
    tracking.begin(client, "xor", RunRecord("still running"))
    bulk.write(client, "without metrics", [record(1.0, 0)._replace(metrics={})])
    bulk.write(client, "failed", [record(1.0, 0, "FAILED")])
    client.create_experiment("empty")
    return client.tracking_uri


def printed(capsys, *arguments):
    report.main(arguments)
    return capsys.readouterr()


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        report.main(arguments)
    assert exit_.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


def test_leaderboard(uri, capsys):
    assert printed(capsys, "xor", "--uri", uri).out == (
        "xor: 7 finished runs, best first by best_train_loss; left out: 3 that are not finished\n"
        "optimizer.learning_rate  best_train_loss  best  runs\n"
        "4                        0.25             0.25     1\n"
        "2                        0.5625 ± 0.088    0.5     2\n"
        "1                        1.062 ± 0.088       1     2\n"
        "0.5                      2.062 ± 0.088       2     2\n"
    )


def test_other_formats_and_metrics(uri, capsys):
    shown = printed(capsys, "xor", "--uri", uri, "--format", "csv", "--metric", "test/accuracy")
    rows = list(csv.DictReader(io.StringIO(shown.out)))
    assert [row["test_accuracy"] for row in rows] == ["0.5", "0.25", "0.125", "0.0625"]
    assert [row["std"] for row in rows] == ["", "0.0", "0.0", "0.0"]
    assert "7 finished runs" in shown.err
    shown = printed(capsys, "xor", "--uri", uri, "--format", "markdown", "--top", "2")
    assert shown.out.count("\n") == 4
    assert "| 2 | 0.5625 ± 0.088 | 0.5 | 2 |\n" in shown.out
    assert "2 lines of 4" in shown.err


def test_runs_are_ranked_by_their_objective(client, capsys):
    runs = [record(rate, 0)._replace(tags={"objective": "test/accuracy"}) for rate in (1.0, 2.0)]
    bulk.write(client, "accuracy", runs)
    lines = printed(capsys, "accuracy", "--uri", client.tracking_uri).out.splitlines()
    assert lines[0] == "accuracy: 2 finished runs, best first by test_accuracy"
    assert lines[2].startswith("2 ")


def test_more_runs_than_a_page(uri, capsys, monkeypatch):
    monkeypatch.setattr(store, "_PAGE", 3)
    assert "7 finished runs" in printed(capsys, "xor", "--uri", uri).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["xr"], "xr: no such experiment. Did you mean xor? There are "),
        (["http://me:secret@h"], "http://***@h: no such experiment. There are "),
        (["empty"], "empty: has no runs."),
        (["failed"], "failed: none of its 1 runs is finished."),
        (["without metrics"], "without metrics: its runs have no metrics."),
        (["xor", "--metric", "test/accurcy"], "no run has it. Did you mean test_accuracy? There"),
        (["xor", "--top", "0"], "--top 0: must be a whole number >= 1."),
        (["xor", "--format", "html"], "invalid choice: 'html'"),
    ],
)
def test_mistakes(uri, capsys, arguments, message):
    assert message in refused(capsys, *arguments, "--uri", uri)


def test_no_store_is_created(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "there are no runs yet" in refused(capsys, "xor")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_down(capsys):
    assert "cannot be used" in refused(capsys, "xor", "--uri", "http://me:secret@127.0.0.1:1")


def test_an_ensemble_stands_for_its_members():
    runs = pd.DataFrame({
        "run_id": ["sweep", "of the sweep", "ensemble", "member", "alone", "of an old version"],
        "tags.mlflow.parentRunId": [None, "sweep", None, "ensemble", None, None],
        "params.ensemble.size": ["1", "1", "2", "1", "1", None],
        "tags.sweep": ["seed", None, None, None, None, None],
    })  # fmt: skip
    kept = report._trainings(runs)["run_id"].tolist()
    assert kept == ["of the sweep", "ensemble", "alone", "of an old version"]
