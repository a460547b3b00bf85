"""Constructed networks beside trained ones: certificates, Barron's bound, and training on."""

import numpy as np
import pytest

from experiments.trained_against_constructed import (
    X,
    barron_bound,
    compare,
    f,
    squared_error,
    sup_error,
)


@pytest.fixture(scope="module", params=[0.4, 0.2])
def comparison(request):
    return compare(request.param, num_seeds=4)


def test_errors_by_hand():
    assert squared_error(f(X) + 0.3) == pytest.approx(0.09, rel=1e-5)
    assert sup_error(f(X) - 0.3) == pytest.approx(0.3, rel=1e-5)


def test_barron_bound_is_half_the_variation_squared_over_n():
    rise = np.diff(f(np.linspace(0, 1, 20_001)))
    assert barron_bound(7) == pytest.approx(np.abs(rise).sum() ** 2 / 28, rel=1e-4)


def test_the_construction_keeps_its_certificate_and_barrons_bound(comparison):
    constructed = comparison.before[0]
    assert sup_error(constructed) <= comparison.bound
    assert squared_error(constructed) <= barron_bound(comparison.num_units)


def test_training_on_from_a_construction_improves_it(comparison):
    before, after = squared_error(comparison.before), squared_error(comparison.after)
    assert after[0] < 0.5 * before[0]
    assert after[1] < 0.2 * before[1]


def test_random_starts_stall_at_the_fast_term_that_constructions_have(comparison):
    stall = 0.05**2 / 2  # ∫(.05 cos 50x)²
    after = squared_error(comparison.after)
    assert (after[2:] > 0.7 * stall).all()
    assert after[1] < 0.5 * stall
