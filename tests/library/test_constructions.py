"""Constructed networks keep their certificates: exact, or within a bound that is within ε."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.special import expit

from experiments import boolean_functions
from experiments.boolean_functions import fewest_hidden_units, linearly_separable, truth_tables
from experiments.several_inputs import Ridge, approximate_by_grids, approximate_ridges
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.network import apply, forward, num_params
from mlp_jax.errors import UserError
from mlp_jax.library import boolean as logic
from mlp_jax.library import towers

STEP, SIGMOID = ACTIVATIONS["step"], ACTIVATIONS["sigmoid"]
FEW = settings(max_examples=10, deadline=None)


@jax.jit
def fires(params, x):
    """Where the network of perceptrons has the output 1."""
    return jax.vmap(lambda x: apply(params, x, STEP)[0] >= 0)(x)


# --- Boolean functions -------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_boolean_function_is_exact_in_one_compiled_call(n):
    tables = truth_tables(n)
    assert len(np.unique(tables, axis=0)) == 2**2**n

    def computed(table):
        return fires(logic.boolean_padded(table), logic.vertices(n))

    np.testing.assert_array_equal(jax.jit(jax.vmap(computed))(jnp.asarray(tables)), tables)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_hidden_units_are_the_smaller_class(n):
    for table in truth_tables(n):
        params = logic.boolean(table)
        units = params[0].b.size
        assert units == max(1, min(table.sum(), (~table).sum())) <= 2 ** (n - 1)
        np.testing.assert_array_equal(fires(params, logic.vertices(n)), table)


@pytest.mark.parametrize("true_fraction", [0.3, 0.8])
@pytest.mark.parametrize("n", [5, 8, 10])
def test_larger_boolean_functions_are_exact(n, true_fraction):
    table = np.random.default_rng(n).random(2**n) < true_fraction
    np.testing.assert_array_equal(fires(logic.boolean(table), logic.vertices(n)), table)


@pytest.mark.parametrize("n", [2, 3])
def test_every_pre_activation_is_half_away_from_the_threshold(n):
    for params in (logic.parity(n), *map(logic.boolean, truth_tables(n)[:: 2**n])):
        for x in jnp.asarray(logic.vertices(n)):
            zs, _ = forward(params, x, STEP)
            assert min(jnp.abs(z).min() for z in zs) == 0.5


def test_vertices_count_in_binary_and_bit_i_of_a_function_is_its_value_at_vertex_i():
    np.testing.assert_array_equal(logic.vertices(2), [[0, 0], [0, 1], [1, 0], [1, 1]])
    np.testing.assert_array_equal(truth_tables(2)[0b1000], [0, 0, 0, 1])  # AND


@pytest.mark.parametrize("n", range(1, 13))
def test_parity_with_n_units(n):
    params, x = logic.parity(n), logic.vertices(n)
    assert params[0].W.shape == (n, n)
    np.testing.assert_array_equal(fires(params, x), x.sum(axis=1) % 2 == 1)


@pytest.mark.parametrize(("n", "count"), [(1, 4), (2, 14), (3, 104), (4, 1882)])
def test_number_of_linearly_separable_functions(n, count):
    assert linearly_separable(truth_tables(n)).sum() == count


def one_perceptron_fits(table):
    """Whether a linear program finds w, b with ±(w·v + b) ≥ 1 at every vertex v."""
    v = logic.vertices(len(table).bit_length() - 1)
    sign = np.where(table, 1, -1)[:, None]
    constraints = -sign * np.hstack([v, np.ones((len(v), 1))])
    return linprog(
        np.zeros(v.shape[1] + 1), constraints, -np.ones(len(v)), bounds=(None, None)
    ).success


@pytest.mark.parametrize(
    ("n", "count"), [(2, 14), (3, 104), (4, 1882), (5, 94_572), (6, 15_028_134)]
)
def test_linear_separability_against_linear_programs(n, count):
    """For every function, since all but the regular ones are their variants or not separable.

    For n = 7, 44,315 functions and minutes instead of seconds, it holds as well.
    """
    tables = boolean_functions.regular_functions(n)
    expected = [one_perceptron_fits(table) for table in tables]
    np.testing.assert_array_equal(linearly_separable(tables), expected)
    assert boolean_functions.count_separable(n) == count


@pytest.mark.parametrize(
    ("n", "counts"), [(1, {1: 4}), (2, {1: 14, 2: 2}), (3, {1: 104, 2: 150, 3: 2})]
)
def test_fewest_hidden_units(n, counts):
    fewest = fewest_hidden_units(n)
    assert dict(zip(*np.unique(fewest, return_counts=True), strict=True)) == counts
    parity = logic.vertices(n).sum(axis=1) % 2
    assert fewest[int(parity @ 2 ** np.arange(2**n))] == n


# --- functions of one input --------------------------------------------------------------------


@FEW
@given(st.floats(0.5, 1e4), st.floats(-5, 5))
def test_a_step_has_slope_a_quarter_of_w_at_its_centre(w, centre):
    params = towers.sigmoid_step(w, -w * centre)
    value, gradient = jax.value_and_grad(lambda x: apply(params, x, SIGMOID)[0])(
        jnp.array([centre])
    )
    assert value == pytest.approx(0.5, abs=1e-11)
    assert gradient[0] == pytest.approx(w / 4, rel=1e-11)


@FEW
@given(st.floats(-5, 5), st.floats(0.1, 3), st.floats(0.5, 200))
def test_a_towers_height_position_and_width(left, width, w):
    params = towers.tower(left, left + width, w)
    x = left + width * np.array([[0.0], [0.5], [1.0]])
    at_left, middle, at_right = towers.outputs(params, x)[:, 0]
    assert middle == pytest.approx(1 - 2 * expit(-w * width / 2), abs=1e-12)
    edge = 0.5 - expit(-w * width)
    assert (at_left, at_right) == (pytest.approx(edge, abs=1e-12),) * 2


def f(x):
    return 0.2 + 0.4 * x**2 + 0.3 * x * np.sin(15 * x) + 0.05 * np.cos(50 * x)


@pytest.mark.parametrize(
    ("eps", "num_towers", "achieved"),
    [
        (0.2, 20, 0.1026),
        (0.1, 39, 0.0584),
        (0.05, 78, 0.0298),
        (0.02, 195, 0.0119),
        (0.01, 389, 0.0060),
        (0.005, 778, 0.0030),
    ],
)
def test_the_lectures_function(eps, num_towers, achieved):
    g = towers.towers(f, (0, 1), eps, lipschitz=7)
    assert g.num_towers == num_towers
    assert g.sup_error == pytest.approx(achieved, abs=5.1e-5)
    assert g.sup_error <= g.bound <= eps
    assert num_params(g.params) == 3 * (num_towers - 1) + 1
    assert g.steepness == pytest.approx(20 * math.log(2) * 7 / eps)
    assert g.bound == pytest.approx(7 * (1 / (2 * num_towers) + 2 * math.log(2) / g.steepness))


@FEW
@given(
    st.floats(-10, 10), st.floats(0.1, 5), st.floats(0.5, 6), st.floats(0, 6), st.floats(0.02, 0.5)
)
def test_the_bound_holds_between_the_measured_points(a, length, frequency, phase, eps):
    def wave(x):
        return np.sin(frequency * x + phase) + np.abs(x - a)

    g = towers.towers(wave, (a, a + length), eps, lipschitz=frequency + 1)
    x = a + length * np.random.default_rng(0).random((5000, 1))
    assert np.abs(towers.outputs(g.params, x)[:, 0] - wave(x[:, 0])).max() <= g.bound <= eps
    assert g.sup_error <= g.bound


def test_the_interval_ends_are_no_trap():
    g = towers.staircase(lambda x: 5 + x, (0, 1), num_towers=10, steepness=1e4)
    np.testing.assert_allclose(towers.outputs(g, np.array([[0.0], [1.0]]))[:, 0], [5.05, 5.95])


def test_float32_keeps_the_certificate_or_says_that_it_cannot():
    with jax.enable_x64(False):
        g = towers.towers(f, (0, 1), 0.05, lipschitz=7)
        assert g.params[0].W.dtype == jnp.float32
        assert g.sup_error <= g.bound <= 0.05
        with pytest.raises(UserError, match="float32 is too coarse"):
            towers.towers(lambda x: 1e3 * (x - 1e5), (1e5, 1e5 + 1), 1, lipschitz=1e3)


# --- functions of several inputs ---------------------------------------------------------------

SQUARE = {"lower": (0, 0), "upper": (1, 1)}


def product_of_waves(x):
    return np.sin(np.pi * x[:, 0]) * np.cos(np.pi * x[:, 1])


def mean_error_of_cells(num_cells):
    """∫|f(centre of the cell) − f| over the square, by Gauss's rule on 40 pieces of each cell."""
    nodes, weights = np.polynomial.legendre.leggauss(4)
    x = ((np.arange(40 * num_cells)[:, None] + (nodes + 1) / 2) / (40 * num_cells)).ravel()
    weights = np.tile(weights / 2 / (40 * num_cells), 40 * num_cells)
    centre = (np.floor(x * num_cells) + 0.5) / num_cells
    error = np.outer(np.sin(np.pi * centre), np.cos(np.pi * centre))
    error -= np.outer(np.sin(np.pi * x), np.cos(np.pi * x))
    return weights @ np.abs(error) @ weights


@pytest.mark.parametrize(("num_cells", "mean_error"), [(10, 0.05232), (20, 0.02617)])
def test_one_grid_of_towers_never_converges_in_the_sup_norm(num_cells, mean_error):
    g = approximate_by_grids(product_of_waves, **SQUARE, lipschitz=np.pi, num_cells=num_cells)
    assert g.num_towers == num_cells**2
    assert g.sup_error == pytest.approx(1, abs=1e-6)
    centres = (np.arange(200) + 0.5) / 200
    x = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    mean = np.abs(towers.outputs(g.params, x)[:, 0] - product_of_waves(x)).mean()
    assert mean_error_of_cells(num_cells) == pytest.approx(mean_error, rel=3e-4)
    assert mean == pytest.approx(mean_error, rel=5e-3)


@pytest.mark.parametrize(("num_cells", "num_grids"), [(6, 3), (10, 8), (20, 16)])
def test_the_average_of_shifted_grids_converges(num_cells, num_grids):
    g = approximate_by_grids(
        product_of_waves, **SQUARE, lipschitz=np.pi, num_cells=num_cells, num_grids=num_grids
    )
    bound = np.pi * math.sqrt(2) / (2 * num_cells) + 2 / num_grids
    assert g.sup_error <= g.bound == pytest.approx(bound, rel=1e-9)
    if (num_cells, num_grids) == (20, 16):
        assert g.sup_error == pytest.approx(0.064, abs=5e-4)


def test_grids_of_unequal_sides():
    def plane(x):
        return x[:, 0] + 0.1 * x[:, 1]

    g = approximate_by_grids(
        plane, lower=(-1, 0), upper=(1, 20), lipschitz=1.01, num_cells=8, num_grids=4
    )
    one_wrong = np.abs(plane(np.array([[1, 20]]))) * 2 / 4
    assert g.sup_error <= one_wrong + (2 + 0.1 * 20) / 8 / 2


def sine(s):
    return np.sin(np.pi * s)


WAVES = (Ridge((1, 1), sine, np.pi, (0.5,)), Ridge((1, -1), sine, np.pi, (0.5,)))


@pytest.mark.parametrize(
    ("eps", "num_hidden", "achieved"), [(0.1, 68, 0.0589), (0.05, 138, 0.0324), (0.01, 698, 0.0060)]
)
def test_ridges_with_one_hidden_layer(eps, num_hidden, achieved):
    g = approximate_ridges(WAVES, **SQUARE, eps=eps)
    assert len(g.params) == 2
    assert g.params[0].W.shape == (num_hidden, 2)
    u = np.linspace(0, 1, 401)
    x = np.stack(np.meshgrid(u, u), axis=-1).reshape(-1, 2)
    error = np.abs(towers.outputs(g.params, x)[:, 0] - product_of_waves(x)).max()
    assert error == pytest.approx(achieved, abs=5.1e-5)
    assert max(error, g.sup_error) <= g.bound <= eps


def test_ridges_from_three_inputs_to_two_outputs():
    ridges = (
        Ridge((1, 2, -1), np.tanh, 1, (1, -3)),
        Ridge((0, 1, 1), np.abs, 1, (0.5, 0)),
    )
    g = approximate_ridges(ridges, (-1, 0, 2), (1, 1, 3), eps=0.1)
    x = np.random.default_rng(0).uniform((-1, 0, 2), (1, 1, 3), size=(2000, 3))
    t, r = np.tanh(x @ [1, 2, -1]), np.abs(x @ [0, 1, 1])
    y = np.stack([t + r / 2, -3 * t], axis=1)
    assert np.abs(towers.outputs(g.params, x) - y).max() <= g.bound <= 0.1
    assert g.sup_error <= g.bound


# --- bad input ---------------------------------------------------------------------------------


def approximate(**changes):
    arguments = {"f": np.sin, "interval": (0, 1), "eps": 0.1, "lipschitz": 1} | changes
    return towers.towers(**arguments)


def by_grids(**changes):
    arguments = {"f": product_of_waves, "lipschitz": 4, "num_cells": 5} | SQUARE | changes
    return approximate_by_grids(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: approximate(eps=0), "eps=0: must be a finite number > 0"),
        (lambda: approximate(eps=-0.1), "eps=-0.1: must"),
        (lambda: approximate(eps=math.nan), "eps=nan: must"),
        (lambda: approximate(eps=1e-6), "eps=1e-06: 555,556 towers .* at most 16,384 .* eps >= "),
        (lambda: approximate(lipschitz=0), "lipschitz=0: must"),
        (lambda: approximate(interval=(1, 0)), r"interval \(1, 0\): .* left end below its right"),
        (lambda: approximate(interval=(0, math.inf)), r"interval \(0, inf\): must be finite"),
        (lambda: approximate(f=lambda x: np.where(x < 0.5, x, np.nan)), r"f\(0.5\) = nan: f must"),
        (lambda: approximate(f=lambda x: x[:, None]), r"shape \(97, 1\) for 97 points"),
        (lambda: approximate(lipschitz=0.9), "lipschitz=0.9: f has slope 1 near x=0.0"),
        (lambda: approximate(f=np.sign, interval=(-1, 1)), "lipschitz=1: f has slope"),
        (lambda: towers.staircase(np.sin, (0, 1), 1, 10), "num_towers=1: at least 2"),
        (lambda: towers.tower(1, 1, 10), r"interval \(1, 1\)"),
        (lambda: logic.boolean([0, 1, 1]), "truth table of 3 values: .* give 2, 4, 8, 16"),
        (lambda: logic.boolean([]), "truth table of 0 values"),
        (lambda: logic.boolean([1]), "truth table of 1 values"),
        (lambda: logic.boolean([0, 2]), r"truth table \[0 2\]: give a flat list of 0 and 1"),
        (lambda: logic.boolean(np.zeros(2**21)), "n=21 inputs .* 22,020,096 .* at most 16,777,216"),
        (lambda: logic.parity(0), "parity of 0 inputs: at least 1"),
        (lambda: logic.parity(5000), "n=5000 inputs takes .* 25,000,000 weights; at most"),
        (lambda: truth_tables(5), "all functions of 5 inputs: allowed are 1 to 4"),
        (lambda: fewest_hidden_units(4), "for 4 inputs: allowed are 1 to 3"),
        (lambda: linearly_separable(np.zeros((1, 256), bool)), "of 8 inputs: at most 7"),
        (lambda: by_grids(num_cells=0), "num_cells=0 num_grids=1: at least 1"),
        (lambda: by_grids(num_cells=99, num_grids=9), "num_grids=9 takes .* at most 16,777,216"),
        (lambda: by_grids(lipschitz=2), "lipschitz=2: f has slope"),
        (lambda: by_grids(upper=(1, -1)), r"interval \(0, -1\)"),
        (lambda: by_grids(f=lambda x: np.full(len(x), np.inf)), r"= inf: f must be finite"),
        (lambda: approximate_ridges((), **SQUARE, eps=0.1), "at least one"),
        (lambda: approximate_ridges(WAVES, (0,), (1,), eps=0.1), "on a box of 1 inputs"),
        (lambda: approximate_ridges(WAVES, **SQUARE, eps=-1), "eps=-1: must"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_value_and_the_limit(call, message):
    with pytest.raises(UserError, match=message):
        call()
