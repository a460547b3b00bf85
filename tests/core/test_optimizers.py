"""Every optimizer and schedule of the config, against optax, a formula or what it must achieve."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlp_jax.config import schema as config
from mlp_jax.core.optimizers import gradient_descent, make_learning_rate, make_optimizer
from mlp_jax.core.types import Layer

NUM_STEPS = 40

SCHEDULES = {
    "constant": config.Constant(),
    "exponential": config.Exponential(final_factor=0.01),
    "cosine": config.Cosine(final_factor=0.1),
    "warmup_cosine": config.WarmupCosine(warmup=0.25, final_factor=0.1),
    "piecewise": config.Piecewise(boundaries=[0.5, 0.75], factor=0.1),
}

OPTIMIZERS = {
    "gradient_descent": config.GradientDescent(learning_rate=0.1, clip_norm=None),
    "momentum": config.Momentum("momentum", learning_rate=0.1, momentum=0.9, clip_norm=None),
    "nesterov": config.Momentum("nesterov", learning_rate=0.1, momentum=0.9, clip_norm=None),
    "adagrad": config.Adagrad(
        learning_rate=0.5, initial_accumulator_value=0.1, eps=1e-7, clip_norm=None
    ),
    "rmsprop": config.RMSProp(learning_rate=0.05, decay=0.9, eps=1e-8, clip_norm=None),
    "adam": config.Adam(learning_rate=0.1, b1=0.9, b2=0.999, eps=1e-8, clip_norm=None),
    "adamw": config.AdamW(
        learning_rate=0.1, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-4, clip_norm=None
    ),
    "lion": config.Lion(learning_rate=0.1, b1=0.9, b2=0.99, weight_decay=1e-4, clip_norm=None),
    "lbfgs": config.LBFGS(learning_rate=1.0, memory_size=5, max_linesearch_steps=20),
}

PARAMS = (Layer(jnp.array([[1.0, -2.0], [0.5, 3.0]]), jnp.array([0.3, -0.2])),)


def bowl(params):
    (layer,) = params
    return jnp.sum((layer.W - 1) ** 2) + 2 * jnp.sum((layer.b - 0.5) ** 2)


def minimise(optimizer, num_steps):
    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(bowl)(params)
        updates, state = optimizer.update(
            grads, state, params, value=value, grad=grads, value_fn=bowl
        )
        return (optax.apply_updates(params, updates), state), value

    carry = (PARAMS, optimizer.init(PARAMS))
    return jax.lax.scan(step, carry, length=num_steps)


def test_every_class_of_the_schema_is_tested():
    assert {type(c) for c in OPTIMIZERS.values()} == set(config.CHOICES["optimizer"])
    assert {type(c) for c in SCHEDULES.values()} == set(config.CHOICES["schedule"])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_with_every_schedule_lowers_the_loss(optimizer, schedule):
    chosen = OPTIMIZERS[optimizer]
    eta = make_learning_rate(SCHEDULES[schedule], chosen.learning_rate, NUM_STEPS)
    (params, _), values = minimise(make_optimizer(chosen, eta), NUM_STEPS)
    assert bowl(params) < 0.6 * values[0]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_gradient_descent_is_optax_sgd_bit_for_bit(schedule):
    eta = make_learning_rate(SCHEDULES[schedule], 0.1, NUM_STEPS)
    (ours, _), _ = minimise(optax.with_extra_args_support(gradient_descent(eta)), NUM_STEPS)
    (theirs, _), _ = minimise(optax.sgd(eta), NUM_STEPS)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradient_descent_makes_the_lectures_step():
    optimizer = gradient_descent(lambda step: jnp.asarray(0.01))
    grads = (Layer(jnp.array([[-125.874]]), jnp.array([-2.0979])),)
    updates, step = optimizer.update(grads, optimizer.init(grads))
    np.testing.assert_allclose(0.1 + updates[0].W, [[1.35874]], rtol=1e-15)
    assert step == 1


@pytest.mark.parametrize(
    ("name", "steps", "factors"),
    [
        ("constant", [0, 20, 39], [1, 1, 1]),
        ("exponential", [0, 39, 19.5], [1, 0.01, 0.1]),
        ("cosine", [0, 19.5, 39], [1, 0.55, 0.1]),
        ("warmup_cosine", [0, 5, 10, 39], [0, 0.5, 1, 0.1]),
        ("piecewise", [0, 19, 21, 31, 39], [1, 1, 0.1, 0.01, 0.01]),
    ],
)
def test_schedules_take_the_values_of_their_formula(name, steps, factors):
    eta = make_learning_rate(SCHEDULES[name], 0.5, NUM_STEPS)
    values = [eta(jnp.asarray(step, jnp.float64)) for step in steps]
    np.testing.assert_allclose(values, 0.5 * np.array(factors), atol=1e-7)


def test_the_learning_rate_may_be_traced():
    def final(learning_rate):
        eta = make_learning_rate(SCHEDULES["cosine"], learning_rate, NUM_STEPS)
        (params, _), _ = minimise(make_optimizer(OPTIMIZERS["adam"], eta), NUM_STEPS)
        return params[0].W

    rates = jnp.array([0.01, 0.1])
    together = jax.vmap(final)(rates)
    for rate, W in zip(rates, together, strict=True):
        np.testing.assert_allclose(final(float(rate)), W, rtol=1e-6)


@pytest.mark.parametrize("name", [n for n, c in OPTIMIZERS.items() if n != "lbfgs"])
def test_clipping_bounds_the_gradients_norm(name):
    clipped = dataclasses.replace(OPTIMIZERS[name], clip_norm=1.0)
    grads = jax.tree.map(lambda leaf: 100 * jnp.ones_like(leaf), PARAMS)
    unit = jax.tree.map(lambda leaf: leaf / optax.tree.norm(grads), grads)
    eta = make_learning_rate(SCHEDULES["constant"], 0.1, NUM_STEPS)
    with_clip = make_optimizer(clipped, eta)
    without = make_optimizer(OPTIMIZERS[name], eta)
    updates, _ = with_clip.update(grads, with_clip.init(PARAMS), PARAMS)
    wanted, _ = without.update(unit, without.init(PARAMS), PARAMS)
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_weight_decay_leaves_the_biases(name):
    chosen = dataclasses.replace(OPTIMIZERS[name], weight_decay=0.5)
    eta = make_learning_rate(SCHEDULES["constant"], 0.1, NUM_STEPS)
    optimizer = make_optimizer(chosen, eta)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    (updates,), _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates.W, -0.1 * 0.5 * PARAMS[0].W)
    np.testing.assert_array_equal(updates.b, 0)


def test_nesterov_differs_from_momentum_and_adamw_from_adam():
    finals = {}
    for name in ("momentum", "nesterov", "adam", "adamw"):
        eta = make_learning_rate(SCHEDULES["constant"], 0.1, NUM_STEPS)
        (params, _), _ = minimise(make_optimizer(OPTIMIZERS[name], eta), 5)
        finals[name] = params[0].W
    for a, b in itertools.combinations(finals.values(), 2):
        assert not np.allclose(a, b)


def test_an_unknown_choice_is_a_programming_error():
    with pytest.raises(TypeError, match="no optimizer"):
        make_optimizer(config.Optimizer("new", 0.1), lambda step: jnp.asarray(0.1))
    with pytest.raises(TypeError, match="no schedule"):
        make_learning_rate(config.Schedule("new"), 0.1, 10)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10])
@pytest.mark.parametrize(
    "schedule",
    [
        *SCHEDULES.values(),
        config.WarmupCosine(warmup=0.99, final_factor=0.0),
        config.WarmupCosine(warmup=0.0, final_factor=0.0),
        config.Piecewise(boundaries=[0.01, 0.02, 0.99], factor=0.5),
    ],
    ids=repr,
)
def test_every_schedule_is_finite_however_short_the_training(schedule, num_steps):
    eta = make_learning_rate(schedule, 0.5, num_steps)
    values = np.array([eta(jnp.asarray(step)) for step in range(num_steps)])
    assert np.all((values >= 0) & (values <= 0.5))


def test_boundaries_at_the_same_step_all_count():
    eta = make_learning_rate(config.Piecewise(boundaries=[0.5, 0.6], factor=0.1), 1.0, 2)
    np.testing.assert_allclose([eta(jnp.asarray(0)), eta(jnp.asarray(2))], [1, 0.01], rtol=1e-6)
