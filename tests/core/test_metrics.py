"""Every metric against scikit-learn, information against hand-made cases."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from mlp_jax.core import metrics

P = jnp.array([0.2, 0.1, 0.4, 0.3])
CERTAIN = jnp.array([0.0, 1.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("y_hat", "threshold", "expected"),
    [
        ([0.1, 0.7, 0.2], 0.5, 1),
        ([0.4, 0.4, 0.2], 0.5, 0),  # the first of equals
        ([0.5], 0.5, 1),
        ([0.4999], 0.5, 0),
        ([-0.1], 0.0, 0),
        ([0.0], 0.0, 1),
    ],
)
def test_predicted_class(y_hat, threshold, expected):
    assert int(metrics.predicted_class(jnp.array(y_hat), threshold)) == expected


def test_information_of_the_lecture_s_events():
    expected = [2.321928094887362, 3.321928094887362, 1.3219280948873622, 1.736965594166206]
    np.testing.assert_allclose(metrics.information(P), expected, rtol=1e-14)


def test_entropy_of_the_lecture_s_events():
    assert float(metrics.entropy(P)) == pytest.approx(1.8464393446710154, rel=1e-14)


@pytest.mark.parametrize("k", [2, 4, 8])
def test_uniform_distribution_has_log2_k_bits(k):
    assert float(metrics.entropy(jnp.full(k, 1 / k))) == pytest.approx(np.log2(k), rel=1e-14)


def test_certain_event_has_entropy_zero():
    assert float(metrics.entropy(CERTAIN)) == 0


def test_cross_entropy_of_the_lecture():
    assert float(metrics.cross_entropy(CERTAIN, P)) == pytest.approx(3.321928094887362, rel=1e-14)


def test_events_of_probability_zero_add_nothing():
    assert float(metrics.cross_entropy(CERTAIN, CERTAIN)) == 0
    assert float(metrics.kl_divergence(CERTAIN, P)) == pytest.approx(3.321928094887362, rel=1e-14)


def test_divergence_is_infinite_where_q_rules_out_what_happens():
    assert float(metrics.kl_divergence(P, CERTAIN)) == np.inf
    assert float(metrics.cross_entropy(P, CERTAIN)) == np.inf


def test_divergence_is_zero_only_at_p_and_not_symmetric():
    q = jnp.array([0.25, 0.25, 0.25, 0.25])
    assert float(metrics.kl_divergence(P, P)) == 0
    assert float(metrics.kl_divergence(P, q)) == pytest.approx(2 - 1.8464393446710154, rel=1e-12)
    assert float(metrics.kl_divergence(P, q)) != pytest.approx(float(metrics.kl_divergence(q, P)))


def test_r2_is_scikit_learn_s():
    y, y_hat = np.array([1.0, 2.0, 4.0, 7.0]), np.array([1.5, 1.8, 4.4, 6.1])
    squared_error, total = jnp.sum((y_hat - y) ** 2), np.sum((y - y.mean()) ** 2)
    assert float(metrics.r2(squared_error, total)) == pytest.approx(r2_score(y, y_hat), rel=1e-14)


@pytest.mark.parametrize(("squared_error", "score"), [(0.0, 1.0), (2.0, 0.0)])
def test_r2_of_constant_targets_is_scikit_learns(squared_error, score):
    assert metrics.r2(jnp.asarray(squared_error), jnp.asarray(0.0)) == score


# --- the tables --------------------------------------------------------------------------------


def of_scikit_learn(name, label, predicted, score):
    """Of two classes that of the second, of more the mean over those that occur."""
    num_classes = score.shape[1]
    present = np.unique(label)
    if name in ("precision", "recall", "f1"):
        function = getattr(theirs, f"{name}_score")
        if num_classes == 2:
            return function(label, predicted, zero_division=0)
        return function(label, predicted, average="macro", zero_division=0)
    if name in ("roc_auc", "average_precision"):
        function = getattr(theirs, f"{name}_score")
        of_class = [function(label == c, score[:, c]) for c in range(num_classes) if c in present]
        return of_class[-1] if num_classes == 2 else np.mean(of_class)
    if name == "log_loss":
        score = score / score.sum(axis=1, keepdims=True)
        return theirs.log_loss(label, score, labels=np.arange(num_classes))
    return getattr(theirs, f"{name}_score")(label, predicted)


def of_outputs(name, y_hat, y):
    return metrics.OF_CLASSES[name](metrics.as_classes(y_hat, y, threshold=0.5))


@pytest.mark.parametrize("name", metrics.OF_CLASSES)
@pytest.mark.parametrize("num_outputs", [1, 2, 3, 5])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_metrics_of_classes_are_scikit_learns(name, num_outputs, seed):
    """In NumPy and compiled, with equal scores and classes that do not occur."""
    rng, num_examples = np.random.default_rng(seed), 25
    num_classes = max(2, num_outputs)
    label = rng.integers(0, rng.integers(2, num_classes + 1), num_examples)
    label[:2] = 0, 1  # scikit-learn's AUC is not defined where only one class occurs
    y_hat = rng.integers(1, 10, (num_examples, num_outputs)) / 10
    if num_outputs == 1:
        y, score = (label[:, None] == 1).astype(float), np.hstack([1 - y_hat, y_hat])
        predicted = (y_hat[:, 0] >= 0.5).astype(int)
    else:
        y_hat /= y_hat.sum(axis=1, keepdims=True)
        y, score, predicted = np.eye(num_classes)[label], y_hat, y_hat.argmax(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = of_scikit_learn(name, label, predicted, score)

    for metric in (of_outputs, jax.jit(of_outputs, static_argnums=0)):
        assert float(metric(name, y_hat, y)) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_classes_of_minus_one_and_one_are_those_of_zero_and_one():
    rng = np.random.default_rng(0)
    y_hat, y = rng.random((50, 1)), rng.integers(0, 2, (50, 1)).astype(float)
    for name, metric in metrics.OF_CLASSES.items():
        halves, zero = (
            metric(metrics.as_classes(*arrays, threshold=threshold))
            for arrays, threshold in (((y_hat, y), 0.5), ((2 * y_hat - 1, 2 * y - 1), 0.0))
        )
        assert halves == pytest.approx(zero, rel=1e-12), name


@pytest.mark.parametrize("name", metrics.OF_NUMBERS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_targets=st.integers(1, 3))
def test_metrics_of_numbers_are_scikit_learns_in_the_targets_unit(name, seed, num_targets):
    rng = np.random.default_rng(seed)
    y, y_hat = rng.normal(size=(2, 20, num_targets))
    y[:, 0] *= rng.integers(0, 2)  # equal targets
    unit = rng.uniform(0.1, 1000, num_targets)
    function = {
        "r2": r2_score, "rmse": theirs.root_mean_squared_error, "mae": theirs.mean_absolute_error
    }[name]  # fmt: skip
    expected = function(unit * y, unit * y_hat)
    for metric in (metrics.OF_NUMBERS[name], jax.jit(metrics.OF_NUMBERS[name])):
        assert float(metric(y_hat, y, unit)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_targets", [1, 2])
def test_metrics_of_logarithms_are_those_of_the_numbers(num_targets):
    rng = np.random.default_rng(num_targets)
    y, y_hat = rng.normal(size=(2, 30, num_targets))
    scale, shift = rng.uniform(0.5, 2, num_targets), rng.uniform(-3, 30, num_targets)
    units = metrics.Units(tuple(scale), tuple(shift))
    own, own_hat = (np.exp(scale * values + shift) for values in (y, y_hat))
    expected = {
        "r2": r2_score(own, own_hat),
        "rmse": theirs.root_mean_squared_error(own, own_hat),
        "mae": theirs.mean_absolute_error(own, own_hat),
    }

    def measured(y_hat, y):
        losses = y[:, 0]
        return metrics.measure(losses, y_hat, y, threshold=None, units=units, names=expected)

    for function in (measured, jax.jit(measured)):
        found = function(y_hat, y)
        for name, value in expected.items():
            assert float(found[name]) == pytest.approx(value, rel=1e-10), name


def test_a_logarithm_in_float32_overflows_no_square():
    y = np.linspace(-1, 1, 9, dtype="float32")[:, None]
    units = metrics.Units((1.0,), (80.0,))  # e⁸⁰ squared is beyond float32
    found = metrics.measure(
        y[:, 0], y - np.float32(0.5), y, threshold=None, units=units, names=["rmse", "r2"]
    )
    own, own_hat = np.exp(y.astype(float) + 80), np.exp(y.astype(float) + 79.5)
    assert found["rmse"] == pytest.approx(theirs.root_mean_squared_error(own, own_hat), rel=1e-4)
    assert found["r2"] == pytest.approx(r2_score(own, own_hat), rel=1e-4)


def test_r2_is_zero_or_one_where_targets_are_equal():
    y = np.full((7, 1), 0.1)
    r2 = metrics.OF_NUMBERS["r2"]
    assert r2(y, y, np.ones(1)) == 1
    assert r2(y + 1e-3, y, np.ones(1)) == 0


def test_the_schema_offers_every_metric():
    from mlp_jax.config.schema import METRIC_NAMES

    assert {*METRIC_NAMES} == {*metrics.names_of(0.5), *metrics.names_of(None)}
