"""Embedded columns of a table: trained, recorded, and predicted with by NumPy alone."""

import io

import mlflow
import numpy as np
import pandas as pd
import pytest
from rich.console import Console as RichConsole

from mlp_jax import data
from mlp_jax.config.compose import compose
from mlp_jax.errors import UserError
from mlp_jax.experiment import describe
from mlp_jax.experiment import run as experiment
from mlp_jax.experiment.console import Console
from mlp_jax.experiment.prediction import Model
from mlp_jax.sweep import groups

EMBEDDED = ["model.embedding=periodic", "model.embedding_size=2", "model.max_one_hot=3"]
TABLE = [
    "+exp=table", "data.path=t.csv", "data.target=y", "num_epochs=5", "log_every=5",
    "data.validation_size=0.2", "data.test_size=0.2",
]  # fmt: skip
PLAIN = ["tracking=none"]


@pytest.fixture(autouse=True)
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "a": random.uniform(-1, 1, 100),
            "city": random.choice([*"uvwxyz"], 100),
            "b": random.normal(size=100),
            "colour": random.choice(["red", "green"], 100),
        }
    )
    frame["y"] = np.sin(5 * frame["a"]) + frame["b"] + (frame["city"] < "w")
    frame.to_csv("t.csv", index=False)
    return frame


def run(*overrides):
    output = io.StringIO()
    config = compose([*TABLE, *overrides])
    result = experiment.run(config, Console(RichConsole(file=output, width=200)), "")
    return result, output.getvalue()


@pytest.mark.parametrize(("size", "shape"), [(1, "piecewise"), (3, "periodic")])
def test_a_model_in_numpy_has_the_outputs_of_the_network(size, shape, tmp_path):
    shaped = [f"model.embedding={shape}", f"ensemble.size={size}"]
    result, output = run(*EMBEDDED, *PLAIN, *shaped, "model.dropout=0.1")
    assert "10 inputs (embedded as 11)" in output  # 2 + 2·2 numbers, 3 of city, 2 of colour
    part = result.problem.test
    describe.to_model(result).save(tmp_path)
    model = Model.load(tmp_path)
    error = model.outputs(np.asarray(part.x)) - np.asarray(part.y)
    unit = result.problem.dataset.preprocessing.y_scale[0]
    rmse = np.sqrt((error**2).mean()) * unit
    assert rmse == pytest.approx(result.metrics["test"]["rmse"], rel=1e-5)


def test_many_rows_are_predicted_in_parts(monkeypatch):
    result, _ = run(*EMBEDDED, *PLAIN)
    model, x = describe.to_model(result), np.asarray(result.problem.train.x)
    whole = model.outputs(x)
    monkeypatch.setattr("mlp_jax.experiment.prediction._EMBEDDED_ROWS", 7)
    np.testing.assert_allclose(model.outputs(x), whole, rtol=1e-4, atol=1e-6)


def test_the_recorded_model_predicts_from_a_table(table, make_store, tmp_path):
    uri = make_store(tmp_path)
    result, _ = run(*EMBEDDED, f"tracking.uri={uri}", "tracking.figures=false")
    mlflow.set_tracking_uri(uri)
    (experiment_id,) = [found.experiment_id for found in mlflow.search_experiments()
                        if found.name == "t"]  # fmt: skip
    (recorded,) = mlflow.MlflowClient().search_logged_models([experiment_id])
    model = mlflow.pyfunc.load_model(f"models:/{recorded.model_id}")
    predicted = model.predict(table.drop(columns="y"))
    wanted = describe.to_model(result).predict(table.drop(columns="y"))
    pd.testing.assert_frame_equal(predicted, wanted)


def test_runs_of_a_sweep_are_as_alone():
    configs = [compose([*TABLE, *EMBEDDED, *PLAIN, f"seed={seed}"]) for seed in range(2)]
    found = groups.train(configs)
    for config, result in zip(configs, found, strict=True):
        alone = experiment.run(config, Console(RichConsole(file=io.StringIO())), "")
        wanted = alone.metrics["validation"]["rmse"]
        assert result.metrics["validation"]["rmse"] == pytest.approx(wanted, rel=1e-4)


def test_layers_that_are_given_have_no_embedding():
    layers = "model.params=[{W: [[1, 1]], b: [0]}, {W: [[1]], b: [0]}]"
    overrides = ["+exp=xor", "model.hidden_sizes=[1]", layers, "model.embedding=periodic"]
    with pytest.raises(UserError, match="has only layers"):
        experiment.run(compose([*overrides, *PLAIN]), Console(RichConsole(file=io.StringIO())), "")


def test_without_categories_or_numbers_to_embed_nothing_changes():
    config = compose([*TABLE, *PLAIN, "model.max_one_hot=6"])
    problem = experiment.prepare(config, data.load(config.data))
    assert problem.embedded is None
