"""Weights of a table's rows, against scikit-learn's `sample_weight`."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console as RichConsole
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, r2_score, root_mean_squared_error

from mlp_jax import data
from mlp_jax.config.compose import compose
from mlp_jax.errors import UserError
from mlp_jax.experiment import baseline
from mlp_jax.experiment import run as experiment
from mlp_jax.experiment.console import Console
from mlp_jax.experiment.probabilities import temperature_of


def write(folder, **columns):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2))
    frame = pd.DataFrame({
        "a": x[:, 0],
        "b": x[:, 1],
        "n": rng.integers(0, 4, 120),
        "number": x[:, 0] ** 2 + x[:, 1] + rng.normal(size=120),
        "kind": np.where(x[:, 0] + rng.normal(size=120) > 0, "yes", "no"),
    })  # fmt: skip
    frame = frame.assign(**columns)
    frame.to_csv(folder / "t.csv", index=False)
    return frame


def config(folder, target, *overrides):
    ignored = "kind" if target == "number" else "number"
    return compose(
        ["+exp=table", f"data.path='{folder}/t.csv'", f"data.target={target}", "data.weights=n",
         f"data.ignore=[{ignored}]", "tracking=none", f"checkpoint.root='{folder}/runs'",
         "data.shuffle=false", "data.validation_size=0", "data.test_size=40",
         "early_stopping.patience=null", *overrides]
    )  # fmt: skip


LINEAR = ["model.hidden_sizes=[]", "optimizer=lbfgs", "num_epochs=200", "dtype=float64"]


@pytest.mark.parametrize("target", ["number", "kind"])
def test_a_linear_model_is_scikit_learns(target, tmp_path):
    frame = write(tmp_path)
    text = io.StringIO()
    console = Console(RichConsole(file=text, width=200))
    result = experiment.run(config(tmp_path, target, *LINEAR), console)
    assert "data.weights=n: in training a row's loss counts by it; metrics count" in text.getvalue()
    train, test, names = frame[:80], frame[80:], ["a", "b"]
    theirs = LinearRegression() if target == "number" else LogisticRegression(C=np.inf, tol=1e-10)
    theirs.fit(train[names], train[target], sample_weight=train.n)
    predicted = experiment.describe.to_model(result).predict(test[names])
    found = result.metrics["test"]
    if target == "number":
        y_hat = theirs.predict(test[names])
        np.testing.assert_allclose(predicted.prediction, y_hat, atol=1e-6)
        expected = {"rmse": root_mean_squared_error, "r2": r2_score}
        expected = {name: metric(test.number, y_hat) for name, metric in expected.items()}
    else:
        p = theirs.predict_proba(test[names])
        np.testing.assert_allclose(predicted.probability_yes, p[:, 1], atol=1e-6)
        expected = {"log_loss": log_loss(test.kind, p)}
        expected["accuracy"] = accuracy_score(test.kind, theirs.predict(test[names]))
        assert found["loss"] == pytest.approx(expected["log_loss"], rel=1e-5)
    for name, value in expected.items():  # of the test part, where all rows count alike
        assert found[name] == pytest.approx(value, rel=1e-5), name
    linear = baseline.baselines(result.problem)["linear"]
    for name, value in expected.items():  # whose penalty is small
        assert linear[name] == pytest.approx(value, rel=0.05), name


def test_the_training_loss_is_the_weighted_mean(tmp_path):
    frame = write(tmp_path)
    off = "data.standardize=false"
    dataset = data.load(config(tmp_path, "number", off).data)
    weights = frame.n[:80].to_numpy(float)
    np.testing.assert_allclose(dataset.weights, weights / weights.mean())
    assert dataset.feature_names == ("a", "b")
    problem = experiment.prepare(config(tmp_path, "number", off), dataset)
    assert problem.sizes[-1] == 1
    measured = experiment.evaluate_parts(problem, problem.params)
    y_hat = experiment.describe._model_of(problem, problem.params).predict(frame).prediction
    errors = (y_hat - frame.number) ** 2
    expected = np.average(errors[:80], weights=weights)
    assert measured["train"]["loss"] == pytest.approx(expected, rel=1e-5)
    assert measured["train"]["rmse"] == pytest.approx(errors[:80].mean() ** 0.5, rel=1e-5)
    assert measured["test"]["loss"] == pytest.approx(errors[80:].mean(), rel=1e-5)


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
def test_a_temperature_counts_all_rows_alike(output, tmp_path):
    write(tmp_path)
    keys = ["calibration=temperature", "data.validation_size=40", f"model.output={output}"]
    weighted, plain = (
        config(tmp_path, "kind", *keys, *more) for more in ([], ["data.weights=null"])
    )
    weighted, plain = (experiment.prepare(c, data.load(c.data)) for c in (weighted, plain))
    params = weighted.params
    x = plain.validation.x[:, [0, 1]]  # the third is `n`, which is an input there
    plain = dataclasses.replace(plain, validation=plain.validation._replace(x=x))
    found, wanted = (
        temperature_of(problem, [(params, problem.validation)]) for problem in (weighted, plain)
    )
    assert found == pytest.approx(wanted, rel=1e-6)


def test_weights_are_a_part_of_the_data(tmp_path):
    frame = write(tmp_path)
    first = data.load(config(tmp_path, "number").data)
    write(tmp_path, n=frame.n + 1)
    assert data.load(config(tmp_path, "number").data).digest != first.digest


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.arange(120) - 2.0, r"data\.weights=n: must be >= 0, and 2 of 120 are not, such as -2"),
        (np.zeros(120), r"data\.weights=n: every row of the training part has 0"),
        (np.where(np.arange(120) < 80, 0, 1), r"every row of the training part has 0"),
        (np.where(np.arange(120) == 7, np.inf, 1), r"'n': infinite entries \(1 of 120\)"),
        (np.full(120, np.nan), r"every row .* lacks an entry, most of them in 'n' \(120\)\.$"),
        (["much", "little"] * 60, r"data\.weights=n: must be a column of numbers >= 0, not 'much'"),
    ],
)
def test_what_are_no_weights(weights, message, tmp_path):
    write(tmp_path, n=weights)
    with pytest.raises(UserError, match=message) as error:
        data.load(config(tmp_path, "number", "data.missing=mean").data)
    assert "\n" not in str(error.value)


def test_a_row_without_a_weight_is_left_out(tmp_path):
    write(tmp_path, n=np.where(np.arange(120) == 7, np.nan, 1))
    with pytest.raises(UserError, match=r"missing in 'n' \(1\).*set data\.missing=drop, mean"):
        data.load(config(tmp_path, "number").data)
    dataset = data.load(config(tmp_path, "number", "data.missing=mean").data)
    assert "dropped 1 of 120 rows, which lack 'number' or 'n'" in dataset.notes
    assert len(dataset.weights) == len(dataset.train.x) == 79


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.weights=m", r"data\.weights=m: 'm' is no column of .*, which has"),
        ("data.weights=number", r"data\.weights=number: this column is data\.target"),
        ("data.ignore=[n]", r"data\.ignore=n: this column is data\.weights"),
    ],
)
def test_a_column_has_one_purpose(override, message, tmp_path):
    write(tmp_path)
    with pytest.raises(UserError, match=message):
        data.load(config(tmp_path, "number", override).data)
