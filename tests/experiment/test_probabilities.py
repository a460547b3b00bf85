"""Averaged probabilities, and calibration against a search of the log loss on a grid."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console as RichConsole
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from mlp_jax.config.compose import compose
from mlp_jax.core.losses import LOSSES
from mlp_jax.errors import UserError
from mlp_jax.experiment import figures
from mlp_jax.experiment import run as experiment
from mlp_jax.experiment.console import Console
from mlp_jax.experiment.probabilities import mean_logits
from mlp_jax.sweep import groups

CALIBRATED = [
    "num_epochs=40", "log_every=40", "dtype=float64", "data.validation_size=0.2",
    "calibration=temperature", "tracking=none",
]  # fmt: skip
MOONS = ["+exp=moons", "data.num_examples=200", "data.noise=0.3", *CALIBRATED]


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*overrides):
    output = io.StringIO()
    result = experiment.run(compose(list(overrides)), Console(RichConsole(file=output)), "")
    return result, output.getvalue()


@pytest.mark.parametrize(("output", "loss"), LOSSES)
def test_the_logits_of_the_mean_have_the_mean_as_their_output(output, loss):
    logits = jax.random.normal(jax.random.key(0), (5, 1 if output == "sigmoid" else 3)) * 4
    found = LOSSES[output, loss].output(mean_logits(logits, output))
    wanted = jax.vmap(LOSSES[output, loss].output)(logits).mean(axis=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_a_probability_that_is_nearly_one_keeps_its_loss():
    logits = jnp.array([[80.0], [90.0]])
    mean = mean_logits(logits, "sigmoid")
    wanted = -jnp.log((jnp.exp(-80.0) + jnp.exp(-90.0)) / 2)
    np.testing.assert_allclose(mean, [wanted], rtol=1e-12)


# --- calibration -------------------------------------------------------------------------------


def logits_of(result, x):
    """Of each member, in NumPy: (members, n, n_L)."""
    a = np.asarray(x)[None]
    *hidden, (W, b) = jax.tree.map(np.asarray, result.fitted.params)
    for V, c in hidden:
        a = np.tanh(a @ np.swapaxes(np.atleast_3d(V.T).T, 1, 2) + np.atleast_2d(c)[:, None])
    return a @ np.swapaxes(np.atleast_3d(W.T).T, 1, 2) + np.atleast_2d(b)[:, None]


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("model", [["model.output=sigmoid"], ["model.output=softmax"]])
def test_the_temperature_is_the_minimum_of_the_log_loss_of_the_validation_part(size, model):
    result, output = run(*MOONS, *model, "model.activation=tanh", f"ensemble.size={size}")
    part, labels = result.problem.validation, result.problem.dataset.validation.y
    cooled = logits_of(result, part.x)  # already divided by T, so that the best factor is 1
    to_p = expit if "sigmoid" in model[0] else lambda z: softmax(z, axis=-1)

    def loss_at(factor):
        """With one example more, half of it of each class."""
        p = to_p(cooled / factor).mean(axis=0)
        p = p if p.shape[1] == 2 else np.hstack([1 - p, p])
        targets = (len(labels) * np.eye(2)[labels] + 1 / 2) / (len(labels) + 1)
        return -(targets * np.log(p)).sum(axis=1).mean()

    grid = np.geomspace(0.5, 2, 401)
    assert grid[np.argmin([loss_at(factor) for factor in grid])] == pytest.approx(1, rel=0.01)
    measured = result.metrics["validation"]["log_loss"]
    assert measured == pytest.approx(log_loss(labels, to_p(cooled).mean(axis=0).squeeze()))
    assert f"calibrated by the temperature {result.temperature:.3g}" in output


def test_calibration_changes_how_sure_a_network_is_and_not_what_it_says():
    plain, _ = run(*MOONS, "calibration=none")
    calibrated, _ = run(*MOONS)
    *hidden, last = plain.fitted.params
    wanted = (*hidden, jax.tree.map(lambda leaf: leaf / calibrated.temperature, last))
    jax.tree.map(np.testing.assert_allclose, calibrated.fitted.params, wanted)
    for part in ("train", "validation", "test"):
        assert calibrated.metrics[part]["accuracy"] == plain.metrics[part]["accuracy"]
    name = "log_loss"
    assert calibrated.metrics["validation"][name] < plain.metrics["validation"][name]
    assert plain.temperature is None


def test_a_network_that_is_always_right_is_not_infinitely_sure():
    """Not by the three examples of each of two classes that it is always right on."""
    far_apart = ["data.num_examples=30", "data.noise=0", "data.validation_size=6", "batch_size=8"]
    result, _ = run(*MOONS, *far_apart, "num_steps=2000", "num_epochs=null", "log_every=2000")
    assert result.metrics["validation"]["accuracy"] == 1
    assert result.metrics["validation"]["log_loss"] > 0.05


def test_numbers_need_no_calibration():
    result, _ = run("+exp=sine", *CALIBRATED)
    assert result.temperature is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.validation_size=0"], "moons has no validation part to fit it on"),
        (["model.output=tanh", "model.loss=squared_error"], "model.output=tanh gives no prob"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(overrides, words):
    with pytest.raises(UserError, match=words):
        run(*MOONS, *overrides)


def test_networks_of_a_sweep_are_compared_as_they_were_trained():
    with pytest.raises(UserError, match="hydra/launcher=basic"):
        groups.check(compose(MOONS))


def test_the_reliability_curve_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 1000)
    is_right = random.uniform(size=1000) < confidence**2
    axes = figures.reliability(confidence, is_right).axes[0]
    right, sure = calibration_curve(is_right, confidence, n_bins=10, strategy="quantile")
    _, predictions = axes.get_lines()
    np.testing.assert_allclose(predictions.get_xdata(), sure, atol=2e-3)
    np.testing.assert_allclose(predictions.get_ydata(), right, atol=0.02)
    error = np.abs(right - sure).mean()
    assert float(axes.get_title().split()[-1]) == pytest.approx(error, abs=2e-3)
