"""XOR over seeds: the rates' intervals, and what holds the networks that are stuck."""

import itertools

import jax
import numpy as np
import pytest

from experiments.xor_seeds import (
    LECTURE_PAIR,
    at_half,
    inspect,
    left_at_half,
    networks,
    relu_bound,
    train,
    wilson,
)


@pytest.fixture(scope="module")
def two_units():
    return train(networks((2, 2, 1), "lecun_normal", 256), *LECTURE_PAIR)


def test_wilson_by_hand():
    # Wilson's formula at z = 1.959964 for 9 of 10.
    n, z, p = 10, 1.959963984540054, 0.9
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = 100 * np.array([p, centre - half, centre + half])
    np.testing.assert_allclose(wilson(np.arange(10) > 0), expected, rtol=1e-9)


def test_the_lectures_rates_lie_near_ours(two_units):
    # 73 % and 79 % of 256 seeds: two samples of 256 differ by less than 11 points (2.7 σ).
    assert wilson(two_units.solved(1000))[0] == pytest.approx(73, abs=11)
    assert wilson(two_units.solved(5000))[0] == pytest.approx(79, abs=11)


def test_eight_units_solve_xor_from_every_start_and_one_from_none():
    wide = train(networks((2, 8, 1), "lecun_normal", 256), *LECTURE_PAIR, num_points=10)
    assert wide.solved(1000).all()
    for pair in (LECTURE_PAIR, ("relu", "half_squared_error")):
        assert not train(networks((2, 1, 1), "lecun_normal", 64), *pair).solved(5000).any()


@pytest.mark.parametrize("width", [2, 3])
def test_the_share_of_starts_with_two_live_relus(width):
    signs = np.array(list(itertools.product([-1, 1], repeat=2 * width))).reshape(-1, width, 2)
    num_live = (signs > 0).any(axis=2).sum(axis=1)
    assert relu_bound(width) == 100 * np.mean(num_live >= 2)


def test_no_start_with_fewer_than_two_live_relus_is_solved():
    params = networks((2, 2, 1), "lecun_normal", 256)
    num_live = (np.asarray(params[0].W) > 0).any(axis=2).sum(axis=1)
    solved = train(params, "relu", "binary_cross_entropy", num_points=20).solved(2000)
    assert solved.mean() > 0.1
    assert not solved[num_live < 2].any()


def test_stuck_networks_cannot_tell_two_inputs_apart(two_units):
    params = jax.tree.map(lambda leaf: leaf[~two_units.solved(5000)], two_units.params)
    inside = jax.tree.map(np.asarray, inspect(params))
    typical = left_at_half(inside)
    assert typical.mean() > 0.8
    stuck = type(inside)(*(leaf[typical] for leaf in inside))
    np.testing.assert_allclose(stuck.loss, np.log(2) / 2, atol=0.005)
    hidden_a, hidden_b = np.moveaxis(at_half(stuck, stuck.hidden), 1, 0)
    np.testing.assert_allclose(hidden_a, hidden_b, atol=0.02)
    assert at_half(stuck, stuck.slope).max() < 0.02 < 0.25
    assert stuck.gradient_norm.max() < 1e-3
