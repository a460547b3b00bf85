"""Right answers, R² and information, against hand-made cases and scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest
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


@pytest.mark.parametrize(
    ("y_hat", "y", "expected"),
    [
        ([0.1, 0.7, 0.2], [0.0, 1.0, 0.0], True),
        ([0.1, 0.2, 0.7], [0.0, 1.0, 0.0], False),
        ([0.6], [1.0], True),
        ([0.6], [0.0], False),
    ],
)
def test_is_correct(y_hat, y, expected):
    assert bool(metrics.is_correct(jnp.array(y_hat), jnp.array(y), 0.5)) is expected


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
