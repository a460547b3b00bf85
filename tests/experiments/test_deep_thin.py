"""Deltas in deep networks: the ¼^l law, mean field, and what a training sees."""

import numpy as np
import pytest

from experiments import deep_thin
from experiments.deep_thin import factor, largest_share_of_bound, mean_field_factor, untrained


def test_quarter_law_is_exact_where_every_z_is_0():
    assert deep_thin.quarter_law() == pytest.approx(0.25 ** (deep_thin.DEPTH - 1), rel=1e-12)


@pytest.mark.parametrize("width", [1, 5])
def test_no_sigmoid_layer_passes_on_more_than_a_quarter(width):
    params, norms = untrained(width, 8, "sigmoid", "standard_normal")
    assert 0.9 < largest_share_of_bound(params, norms) <= 1 + 1e-9


def test_thin_relu_chains_are_dead():
    _, norms = untrained(1, 16, "relu", "he_normal")
    assert (norms[:, 0] == 0).mean() > 0.97  # all but 2⁻¹⁵ of them
    assert (norms[:, -1] > 0).all()


@pytest.mark.parametrize(
    ("activation", "variance", "expected"),
    [("relu", 2.0, 1.0), ("relu", 1.0, 0.5**0.5), ("sigmoid", 1.0, 0.2361), ("tanh", 2.0, 1.0514)],
)
def test_mean_field_factor(activation, variance, expected):
    assert mean_field_factor(activation, variance) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("activation", "initializer"), deep_thin.TRAINED.items())
def test_mean_field_predicts_the_factor(activation, initializer, monkeypatch):
    monkeypatch.setattr(deep_thin, "INNER", slice(4, 12))
    _, norms = untrained(32, 16, activation, initializer)
    theory = mean_field_factor(activation, deep_thin.VARIANCES[initializer])
    assert factor(norms)[0] == pytest.approx(theory, rel=0.02)


def test_a_deep_sigmoid_network_learns_nothing_but_the_mean(monkeypatch):
    monkeypatch.setattr(deep_thin, "TRAINED_DEPTH", 16)
    course = deep_thin.train("sigmoid", "lecun_normal")
    x = np.linspace(-1, 1, 64)
    np.testing.assert_allclose(course.losses[-1], np.var(x**2) / 2, rtol=1e-3)
    assert np.asarray(course.delta_norms)[:, 0].max() < 1e-7
