"""An ensemble: its members are the networks alone, and its output is their mean."""

import io
import itertools
from pathlib import Path

import jax
import mlflow
import numpy as np
import pandas as pd
import pytest
from rich.console import Console as RichConsole
from sklearn.metrics import accuracy_score, log_loss, root_mean_squared_error

from mlp_jax import data
from mlp_jax.commands import train
from mlp_jax.config.compose import compose
from mlp_jax.core import population
from mlp_jax.durable import rundir
from mlp_jax.errors import NoResultError, UserError
from mlp_jax.experiment import describe
from mlp_jax.experiment import run as experiment
from mlp_jax.experiment.console import Console

SHORT = ["num_epochs=10", "log_every=4", "dtype=float64", "data.validation_size=0.2"]
MOONS = ["+exp=moons", *SHORT, "ensemble.size=3", "early_stopping.patience=3"]
PLAIN = ["tracking.figures=false", "tracking.model=false", "tracking=none"]


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def run(*overrides, **options):
    output = io.StringIO()
    console = Console(RichConsole(file=output, width=200))
    result = experiment.run(compose(list(overrides)), console, "the command", **options)
    return result, output.getvalue()


def test_each_member_is_the_network_alone_and_the_result_their_mean(make_store, tmp_path):
    uri = make_store(tmp_path)
    result, output = run(*MOONS, f"tracking.uri={uri}")
    part = result.problem.test
    outputs = []
    for member in result.members:
        seed = member.problem.config.seed
        alone, _ = run(*MOONS, *PLAIN, "ensemble.size=1", f"seed={seed}")
        assert alone.fitted.step == member.fitted.step
        for one, other in zip(
            jax.tree.leaves(alone.fitted.params), jax.tree.leaves(member.fitted.params), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
        outputs.append(describe.outputs(alone, np.asarray(part.x)))
    mean = np.mean(outputs, axis=0)
    np.testing.assert_allclose(describe.outputs(result, np.asarray(part.x)), mean, rtol=1e-9)
    y = np.asarray(part.y)[:, 0]
    np.testing.assert_allclose(result.metrics["test"]["log_loss"], log_loss(y, mean[:, 0]))
    assert result.metrics["test"]["accuracy"] == accuracy_score(y, mean[:, 0] >= 0.5)
    assert "mean ± standard deviation over 3 networks" in output

    client = mlflow.MlflowClient(uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(experiments)
    [parent] = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
    children = [each for each in runs if each is not parent]
    assert {each.data.params["seed"] for each in children} == {"0", "1", "2"}
    assert {each.data.tags["mlflow.parentRunId"] for each in children} == {parent.info.run_id}
    accuracies = [each.data.metrics["test_accuracy"] for each in children]
    np.testing.assert_allclose(
        [parent.data.metrics[f"members_test_accuracy_{name}"] for name in ("mean", "std")],
        [np.mean(accuracies), np.std(accuracies, ddof=1)],
    )
    assert parent.data.metrics["test_accuracy"] == result.metrics["test"]["accuracy"]
    objective = parent.data.tags["objective"]  # by which it stands among single networks
    part, name = objective.split("/")
    assert parent.data.metrics[objective] == result.metrics[part][name]

    [model] = client.search_logged_models(experiments)
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    raw = data.raw_inputs(result.problem.dataset, 7)
    predicted = loaded.predict(raw, params={"spread": True})
    of_each = [describe.outputs(member, result.problem.dataset.train.x[:7])[:, 0]
               for member in result.members]  # fmt: skip
    np.testing.assert_allclose(predicted["probability_1"], np.mean(of_each, axis=0))
    np.testing.assert_allclose(predicted["spread_probability_1"], np.std(of_each, axis=0))
    assert "spread_probability_1" not in loaded.predict(raw)


def test_of_a_regression_the_predictions_are_averaged():
    result, _ = run("+exp=sine", *SHORT, *PLAIN, "ensemble.size=2")
    dataset = result.problem.dataset
    decode = dataset.preprocessing.decode_targets
    mean = np.mean([decode(describe.outputs(m, dataset.test.x)) for m in result.members], axis=0)
    raw = dataset.test.x * dataset.preprocessing.x_scale + dataset.preprocessing.x_shift
    predicted = describe.to_model(result).predict(raw, {"spread": True})
    np.testing.assert_allclose(predicted["prediction"], mean[:, 0])
    assert (predicted["spread_prediction"] > 0).all()
    rmse = root_mean_squared_error(decode(dataset.test.y), mean)
    np.testing.assert_allclose(result.metrics["test"]["rmse"], rmse)


def test_of_labels_that_are_texts_the_most_probable_is_predicted(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 2))
    kinds = np.array(["low", "middle", "high"])[np.digitize(x[:, 0], [-0.5, 0.5])]
    pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "kind": kinds}).to_csv("t.csv", index=False)
    result, _ = run("+exp=table", "data.path=t.csv", "data.target=kind", *SHORT, *PLAIN,
                    "ensemble.size=2", "model.hidden_sizes=[4]")  # fmt: skip
    predicted = describe.to_model(result).predict(pd.DataFrame({"a": [-3.0, 3.0], "b": [0.0, 0.0]}))
    assert set(predicted["prediction"]) <= {"low", "middle", "high"}
    np.testing.assert_allclose(predicted.filter(like="probability").sum(axis=1), 1)


def test_one_that_was_stopped_goes_on_to_the_same_bits(monkeypatch):
    overrides = [*MOONS, *PLAIN]
    whole, _ = run(*overrides)
    advance, calls = population.Trainer._round, []

    def stop(self, chunk, end):
        calls.append(chunk.num_points)
        if len(calls) == 4:
            raise KeyboardInterrupt
        advance(self, chunk, end)

    monkeypatch.setattr(population.Trainer, "_round", stop)
    with pytest.raises(KeyboardInterrupt):
        run(*overrides, "checkpoint.root=stopped", "checkpoint.every_minutes=1e-9")
    [directory] = Path("stopped").iterdir()
    result = train.resume(str(directory), [], quiet=True)
    assert calls[4] >= calls[1]
    assert calls[4] > 0
    assert_as_whole(result, directory, whole)


def assert_as_whole(result, directory, whole):
    assert rundir.result(directory)["params_sha256"] == describe.params_sha256(whole.fitted.params)
    assert result.metrics == whole.metrics
    assert list(result.fitted.history) == list(whole.fitted.history)


def test_one_whose_time_is_up_is_the_mean_of_the_best_so_far(monkeypatch):
    """It ends after its second round, each member with the parameters of its best log point."""
    whole, _ = run(*MOONS, *PLAIN)
    clock = itertools.count(1.0)
    with monkeypatch.context() as patch:
        patch.setattr(Console, "seconds", lambda console: next(clock))
        result, output = run(*MOONS, *PLAIN, "checkpoint.root=short", "budget=1.5s")
    [directory] = Path("short").iterdir()
    step = result.out_of_time_at
    assert f"budget=1.5s: the time was up at step {step}" in output
    assert result.fitted.history.steps[-1] == step < whole.fitted.history.steps[-1]
    for member in result.members:
        losses = member.fitted.history["validation/loss"]
        assert member.fitted.step == member.fitted.history.steps[np.argmin(losses)]
    assert_as_whole(train.resume(str(directory), ["budget=null"], quiet=True), directory, whole)


@pytest.mark.parametrize(("overrides", "line"), [
    (["optimizer=lbfgs", "batch_size=null"], "the line search of lbfgs"),
    (["ensemble.size=10000", "model.hidden_sizes=[4000,4000]"], "of these networks fit"),
])  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_written(overrides, line):
    with pytest.raises(UserError, match=line):
        run("+exp=moons", "ensemble.size=2", *PLAIN, *overrides)
    assert not Path("runs").exists()


def test_a_member_that_diverges_is_named():
    with pytest.raises(NoResultError, match=r"member 1 \(seed 0\): training diverged at step"):
        run("+exp=sine", *SHORT, *PLAIN, "ensemble.size=2", "optimizer=gradient_descent",
            "optimizer.learning_rate=1e6")  # fmt: skip


def test_a_sweep_says_how_its_jobs_may_be_ensembles():
    with pytest.raises(UserError, match="hydra/launcher=basic"):
        train.run("-m", "+exp=moons", "ensemble.size=2", "seed=0,1", *PLAIN)
