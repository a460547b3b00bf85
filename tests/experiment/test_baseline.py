"""What stands beside a network's metrics, and the metrics in a user's own units."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console as RichConsole
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_absolute_error, r2_score, root_mean_squared_error

from mlp_jax import data
from mlp_jax.config.compose import compose
from mlp_jax.errors import UserError
from mlp_jax.experiment import baseline
from mlp_jax.experiment import run as experiment
from mlp_jax.experiment import setup as problem
from mlp_jax.experiment.console import Console
from mlp_jax.sweep import groups


def table(folder, target, *overrides):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    columns = {
        "price": 1e5 + 5e4 * x[:, 0] + 1e3 * rng.normal(size=300),
        "skewed": np.exp(10 + 2 * x[:, 0]),
        "equal": np.where(np.arange(300) < 150, x[:, 0], 7.5),
        "rare": np.where(np.arange(300) % 50 == 0, "yes", "no"),
        "kind": np.array(["a", "b", "c"])[(x[:, 0] > 0).astype(int) + (x[:, 1] > 0)],
    }
    frame = pd.DataFrame(x, columns=[*"uvw"]).assign(y=columns[target])
    frame.to_csv(folder / "table.csv", index=False)
    return compose(
        ["+exp=table", f"data.path='{folder}/table.csv'", "data.target=y", "tracking=none",
         f"checkpoint.root='{folder}/runs'", "num_epochs=3", *overrides]
    )  # fmt: skip


def trained(config):
    text = io.StringIO()
    result = experiment.run(config, Console(RichConsole(file=text, width=100)))
    return result, text.getvalue()


@pytest.mark.parametrize("transform", ["none", "log"])
def test_errors_are_in_the_targets_unit_beside_the_mean_and_a_linear_model(tmp_path, transform):
    target = "price" if transform == "none" else "skewed"
    result, said = trained(table(tmp_path, target, f"data.target_transform={transform}"))
    dataset, measured = result.problem.dataset, result.metrics["test"]
    decode = dataset.preprocessing.decode_targets
    y, y_hat = decode(dataset.test.y), decode(experiment.describe.outputs(result, dataset.test.x))
    assert measured["rmse"] == pytest.approx(root_mean_squared_error(y, y_hat), rel=1e-5)
    assert measured["mae"] == pytest.approx(mean_absolute_error(y, y_hat), rel=1e-5)
    assert measured["r2"] == pytest.approx(r2_score(y, y_hat), rel=1e-4)
    logged = result.fitted.history["validation/rmse"][-1]
    assert result.metrics["validation"]["rmse"] == pytest.approx(logged, rel=1e-4)
    others = baseline.baselines(result.problem)
    mean = decode(dataset.train.y).mean()
    assert others["mean"]["mae"] == pytest.approx(np.abs(y - mean).mean(), rel=1e-5)
    linear = Ridge().fit(dataset.train.x, dataset.train.y)
    y_hat = decode(linear.predict(dataset.test.x).reshape(y.shape))
    assert others["linear"]["rmse"] == pytest.approx(root_mean_squared_error(y, y_hat), rel=1e-4)
    assert "baseline  mean and linear, on the test part" in said


def test_networks_of_one_population_measure_each_in_the_unit_of_its_data(tmp_path):
    log = "data.target_transform=log"
    configs = [table(tmp_path, "skewed", log, f"data.seed={seed}") for seed in (0, 1)]
    first, second = groups.train(configs)
    for result in (first, second):
        dataset, measured = result.problem.dataset, result.metrics["test"]
        decode = dataset.preprocessing.decode_targets
        y_hat = decode(experiment.describe.outputs(result, dataset.test.x))
        y = decode(dataset.test.y)
        assert measured["rmse"] == pytest.approx(root_mean_squared_error(y, y_hat), rel=1e-4)
    assert first.problem.training.units != second.problem.training.units


def test_classes_stand_beside_the_majority_and_a_linear_model(tmp_path):
    result, _ = trained(table(tmp_path, "kind"))
    dataset, others = result.problem.dataset, baseline.baselines(result.problem)
    linear = LogisticRegression().fit(dataset.train.x, dataset.train.y)
    expected = log_loss(dataset.test.y, linear.predict_proba(dataset.test.x))
    assert others["linear"]["log_loss"] == pytest.approx(expected, rel=1e-3)
    majority = np.bincount(dataset.train.y).argmax()
    assert others["majority"]["accuracy"] == np.mean(dataset.test.y == majority)


def test_a_large_table_has_no_linear_model(tmp_path, monkeypatch):
    config = table(tmp_path, "price")
    monkeypatch.setattr(baseline, "MAX_ENTRIES", 10)
    assert [*baseline.baselines(problem.prepare(config, data.load(config.data)))] == ["mean"]


def test_what_is_not_held_out_has_no_baseline():
    config = compose(["+exp=xor"])
    assert baseline.baselines(problem.prepare(config, data.load(config.data))) == {}


@pytest.mark.parametrize(("target", "is_told"), [("rare", True), ("kind", False)])
def test_a_network_that_tells_no_classes_apart_is_warned_of(tmp_path, target, is_told):
    _, said = trained(table(tmp_path, target, "num_epochs=30"))
    assert ("tells no classes apart" in said) == is_told


def test_r2_is_no_monitor_of_equal_targets(tmp_path):
    config = table(tmp_path, "equal", "data.shuffle=false", "early_stopping.monitor=r2",
                   "early_stopping.patience=3")  # fmt: skip
    with pytest.raises(UserError, match=r"r2: the targets .* are all equal.*monitor=rmse"):
        trained(config)


@pytest.mark.parametrize(
    ("target", "monitor"), [("rare", "balanced_accuracy"), ("kind", "roc_auc"), ("price", "mae")]
)
def test_any_metric_can_stop_a_training(tmp_path, target, monitor):
    result, _ = trained(
        table(tmp_path, target, f"early_stopping.monitor={monitor}", "early_stopping.patience=2")
    )
    logged = result.fitted.history[f"validation/{monitor}"]
    best = min(logged) if monitor == "mae" else max(logged)
    kept = result.fitted.history.steps == result.fitted.step
    assert logged[kept] == best
    assert result.metrics["validation"][monitor] == pytest.approx(best, rel=1e-5)
