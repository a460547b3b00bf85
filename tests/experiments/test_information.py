"""The lecture's numbers of information, entropy and cross-entropy, and softmax at its extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import information
from mlp_jax.core import metrics

weights = st.lists(st.floats(1e-6, 1), min_size=4, max_size=4)


@pytest.fixture(scope="module")
def rows():
    return {row.quantity: row for row in information.measure().rows}


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("entropy H(p) in bits", 1.8464393446710154),
        ("entropy H(p) in nats", 1.2798542258336676),
        ("expected profit in K", 6.0),
        ("cross-entropy of the winner, H(e(2), p), in bits", 3.321928094887362),
        ("cross-entropy of the winner in nats, by the network's loss", 2.302585092994046),
        ("sum of the sigmoids of (10, 20, −30)", 1.9999546000702375),
        ("sum of their softmax", 1.0),
        ("gradient in bits over gradient in nats, smallest", 1.4426950408889634),
        ("gradient in bits over gradient in nats, largest", 1.4426950408889634),
        ("cross-entropy there of the first class in nats", 1000.0),
        ("values not finite at logits ±1e9", 0),
    ],
)
def test_number_of_the_lecture(rows, quantity, value):
    assert rows[quantity].measured == pytest.approx(value, rel=1e-13)


def test_every_measured_number_keeps_its_theory(rows):
    for row in rows.values():
        low, high = row.theory - 1e-9, row.theory + 1e-9
        assert row.relation == "≤" or row.measured >= low, row.quantity
        assert row.relation == "≥" or row.measured <= high, row.quantity


@settings(deadline=None)
@given(weights, weights)
def test_cross_entropy_minus_entropy_is_kl_and_not_negative(p, q):
    p, q = jnp.array(p) / sum(p), jnp.array(q) / sum(q)
    divergence = float(metrics.kl_divergence(p, q))
    difference = float(metrics.cross_entropy(p, q)) - float(metrics.entropy(p))
    assert difference == pytest.approx(divergence, abs=1e-12)
    assert divergence >= -1e-15


def test_gradient_descent_on_cross_entropy_ends_at_the_entropy_and_at_p():
    p = jnp.array([0.7, 0.05, 0.05, 0.2])
    losses, q = information.fit_distribution(p)
    assert float(losses[-1]) / metrics.LN2 == pytest.approx(float(metrics.entropy(p)), abs=1e-12)
    np.testing.assert_allclose(q, p, atol=1e-6)
    assert jnp.all(losses / metrics.LN2 >= metrics.entropy(p) - 1e-12)


def test_paper_form_overflows_where_the_logits_form_does_not():
    z, first = jnp.array([1000.0, 2000.0, -3000.0]), jnp.array([1.0, 0.0, 0.0])
    assert not jnp.isfinite(information.naive_cross_entropy(z, first))
    assert float(information.SOFTMAX.value(z, first)) == 1000.0
    moderate = z / 100
    expected = information.SOFTMAX.value(moderate, first)
    assert float(information.naive_cross_entropy(moderate, first)) == pytest.approx(float(expected))


def test_random_distributions_are_distributions():
    ps = information.random_distributions(0, 100)
    np.testing.assert_allclose(jnp.sum(ps, axis=1), 1, rtol=1e-12)
    assert ps.shape == (100, 4)
    assert jax.numpy.all(ps > 0)
