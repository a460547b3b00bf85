"""Every optimizer and schedule, against a reference in NumPy, optax or what it must achieve.

A new line of a table is tested by itself but for its reference, which belongs into this file.
"""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import yaml

from mlp_jax.core.network import Layer
from mlp_jax.core.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    gradient_descent,
    make_learning_rate,
    make_optimizer,
    numbers_of,
)

CONF = Path(__file__).parents[2] / "conf"
NUM_STEPS = 40

SCHEDULE_NUMBERS = {
    "cosine": {"final_factor": 0.1},
    "warmup_cosine": {"warmup": 0.25, "final_factor": 0.1},
}

LEARNING_RATES = {"adagrad": 0.5, "rmsprop": 0.05, "lbfgs": 1.0}  # of the others 0.1

PARAMS = (Layer(jnp.array([[1.0, -2.0], [0.5, 3.0]]), jnp.array([0.3, -0.2])),)


def bowl(params):
    (layer,) = params
    return jnp.sum((layer.W - 1) ** 2) + 2 * jnp.sum((layer.b - 0.5) ** 2)


def schedule_of(name, learning_rate=0.1, num_steps=NUM_STEPS):
    return make_learning_rate(name, learning_rate, num_steps, **SCHEDULE_NUMBERS.get(name, {}))


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


@pytest.mark.parametrize(("group", "table"), [("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)])
def test_table_and_config_have_the_same_names_numbers_and_defaults(group, table):
    assert {file.stem for file in (CONF / group).glob("*.yaml")} == set(table)
    for name, entry in table.items():
        composed = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
        for key in ("defaults", "name", "learning_rate", "clip_norm", "weight_decay_schedule"):
            composed.pop(key, None)
        numbers = {key: list(v) if type(v) is tuple else v for key, v in numbers_of(entry).items()}
        assert composed == numbers


def with_each_schedule(name, learning_rate, num_steps, **numbers):
    """One program for a training with the schedule of any index.

    It returns the gradients, parameters, updates and, of lbfgs, step sizes of each step.
    """

    @jax.jit
    def train(index):
        etas = [schedule_of(schedule, learning_rate, num_steps) for schedule in SCHEDULES]
        optimizer = make_optimizer(name, lambda t: jax.lax.switch(index, etas, t), **numbers)

        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(bowl)(params)
            updates, state = optimizer.update(
                grads, state, params, value=value, grad=grads, value_fn=bowl
            )
            size = state[-1].learning_rate if name == "lbfgs" else jnp.zeros(())
            return (optax.apply_updates(params, updates), state), (grads, params, updates, size)

        return jax.lax.scan(step, (PARAMS, optimizer.init(PARAMS)), length=num_steps)[1]

    return train


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_with_every_schedule_lowers_the_loss(optimizer):
    train = with_each_schedule(optimizer, LEARNING_RATES.get(optimizer, 0.1), NUM_STEPS)
    for index, schedule in enumerate(SCHEDULES):
        _, params, updates, _ = train(index)
        first, last, update = (
            jax.tree.map(lambda leaf: leaf[i], tree)  # noqa: B023
            for tree, i in ((params, 0), (params, -1), (updates, -1))
        )
        assert bowl(optax.apply_updates(last, update)) < 0.6 * bowl(first), schedule


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_gradient_descent_is_optax_sgd_bit_for_bit(schedule):
    eta = schedule_of(schedule)
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


# --- references in float64 ---------------------------------------------------------------------


def factor_reference(name, t, n, final_factor=0.0, warmup=0.05, boundaries=(0.5, 0.75), factor=0.1):
    """The factor of step t of n in Python's own numbers."""
    last = max(n - 1, 1)

    def cosine(progress):
        return final_factor + (1 - final_factor) * (1 + np.cos(np.pi * progress)) / 2

    match name:
        case "constant":
            return 1.0
        case "exponential":
            return final_factor ** (t / last)
        case "cosine":
            return cosine(t / last)
        case "warmup_cosine":
            peak = min(round(warmup * n), last - 1)
            return t / peak if t < peak else cosine((t - peak) / (last - peak))
        case "piecewise":
            return factor ** sum(t >= max(round(at * n), 1) for at in boundaries)
    raise AssertionError(f"write down the reference of {name}")


class Reference:
    """An optimizer in NumPy, over one vector; a call is an update."""

    def __init__(self, name, size, **numbers):
        self.name, self.t = name, 0
        self.n = numbers
        self.m, self.v = (
            np.zeros(size),
            np.full(size, numbers.get("initial_accumulator_value", 0.0)),
        )
        self.pairs, self.last = [], None

    def __call__(self, eta, g, theta, step_size):
        self.t += 1
        n, t = self.n, self.t
        decayed = np.array([1, 1, 1, 1, 0, 0]) * theta  # W, not b

        def divided(x, v):
            inside = n.get("eps_inside_sqrt", self.name == "adagrad")
            return x / np.sqrt(v + n["eps"]) if inside else x / (np.sqrt(v) + n["eps"])

        match self.name:
            case "gradient_descent":
                return -eta * g
            case "momentum" | "nesterov":
                self.m = n["momentum"] * self.m + g
                return -eta * (self.m if self.name == "momentum" else g + n["momentum"] * self.m)
            case "adagrad":
                self.v = self.v + g**2
                return -eta * divided(g, self.v)
            case "rmsprop":
                self.v = n["decay"] * self.v + (1 - n["decay"]) * g**2
                return -eta * divided(g, self.v)
            case "adam" | "adamw":
                self.m = n["b1"] * self.m + (1 - n["b1"]) * g
                self.v = n["b2"] * self.v + (1 - n["b2"]) * g**2
                step = divided(self.m / (1 - n["b1"] ** t), self.v / (1 - n["b2"] ** t))
                return -eta * (step + n.get("weight_decay", 0.0) * decayed)
            case "lion":
                step = np.sign(n["b1"] * self.m + (1 - n["b1"]) * g)
                self.m = n["b2"] * self.m + (1 - n["b2"]) * g
                return -eta * (step + n["weight_decay"] * decayed)
            case "lbfgs":
                return -eta * step_size * self.quasi_newton(g, theta)
        raise AssertionError(f"write down the reference of {self.name}")

    def quasi_newton(self, g, theta):
        """H g by the two-loop recursion, Nocedal & Wright 2006, algorithm 7.4."""
        if self.last is not None:
            self.pairs.append((theta - self.last[0], g - self.last[1]))
        self.last, q, used = (theta, g), g.copy(), []
        for s, y in self.pairs[::-1][: self.n["memory_size"]]:
            rho = 1 / (s @ y) if s @ y else 0.0  # of a step that was none
            used.append((rho, rho * (s @ q), s, y))
            q = q - used[-1][1] * y
        if not used:  # optax's choice for the first step
            return q * min(1, 1 / np.linalg.norm(q))
        _, _, s, y = used[0]
        q = q * (s @ y) / (y @ y) if y @ y else q
        for rho, alpha, s, y in reversed(used):
            q = q + (alpha - rho * (y @ q)) * s
        return q


def flat(params):
    (layer,) = params
    return np.concatenate([np.ravel(layer.W), layer.b])


CASES = [
    *((name, {}) for name in OPTIMIZERS),
    *itertools.product(
        ("rmsprop", "adam", "adamw"),
        ({"eps": 0.01, "eps_inside_sqrt": is_in} for is_in in (False, True)),
    ),
    ("momentum", {"momentum": 0.5}),
    ("adam", {"b1": 0.5, "b2": 0.7}),
    ("rmsprop", {"decay": 0.5}),
    ("lion", {"b1": 0.5, "weight_decay": 0.3}),
]


@pytest.mark.parametrize(("name", "numbers"), CASES)
def test_a_float64_training_is_the_reference_to_twelve_digits(name, numbers):
    """With every schedule, and so float64 throughout."""
    num_steps, learning_rate = 12, 0.05

    train = with_each_schedule(name, learning_rate, num_steps, **numbers)
    for index, schedule in enumerate(SCHEDULES):
        reference = Reference(name, 6, **(numbers_of(OPTIMIZERS[name]) | numbers))
        of_schedule = numbers_of(SCHEDULES[schedule]) | SCHEDULE_NUMBERS.get(schedule, {})
        trained = jax.device_get(train(index))
        for t in range(num_steps):
            grads, params, updates, step_size = jax.tree.map(lambda leaf: leaf[t], trained)  # noqa: B023
            eta = learning_rate * factor_reference(schedule, t, num_steps, **of_schedule)
            wanted = reference(eta, flat(grads), flat(params), step_size)
            np.testing.assert_allclose(
                flat(updates), wanted, rtol=1e-12, atol=1e-15, err_msg=f"{schedule} {t=}"
            )


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_the_reference_to_twelve_digits(name, num_steps):
    for numbers in ({}, SCHEDULE_NUMBERS.get(name, {})):
        eta = make_learning_rate(name, 0.3, num_steps, **numbers)
        steps = np.arange(num_steps)
        wanted = [
            0.3 * factor_reference(name, t, num_steps, **(numbers_of(SCHEDULES[name]) | numbers))
            for t in steps.tolist()
        ]
        values = jax.vmap(eta)(jnp.asarray(steps, jnp.int32))
        assert values.dtype == jnp.float64
        np.testing.assert_allclose(values, wanted, rtol=1e-12, atol=1e-17)


def test_a_float32_training_has_its_learning_rate_in_float32():
    with jax.enable_x64(False):
        for name in SCHEDULES:
            assert schedule_of(name)(jnp.asarray(3)).dtype == jnp.float32


# --- what each must do -------------------------------------------------------------------------


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
    eta = schedule_of(name, 0.5)
    values = [eta(jnp.asarray(step, jnp.float64)) for step in steps]
    np.testing.assert_allclose(values, 0.5 * np.array(factors), atol=1e-7)


def test_the_learning_rate_may_be_traced():
    def final(learning_rate):
        optimizer = make_optimizer("adam", schedule_of("cosine", learning_rate))
        (params, _), _ = minimise(optimizer, NUM_STEPS)
        return params[0].W

    rates = jnp.array([0.01, 0.1])
    together = jax.vmap(final)(rates)
    for rate, W in zip(rates, together, strict=True):
        np.testing.assert_allclose(final(float(rate)), W, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "lbfgs"])
@pytest.mark.parametrize(
    ("size", "dtype"), [(100, "float64"), (1e30, "float32"), (1e-30, "float32")]
)
def test_clipping_bounds_the_gradients_norm(name, size, dtype):
    """Also where the square of the norm overflows, or vanishes."""
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, size), params)
    root = 6**-0.5 if size > 1 else size
    unit = jax.tree.map(lambda leaf: jnp.full_like(leaf, root), params)
    eta = schedule_of("constant")
    with_clip, without = make_optimizer(name, eta, clip_norm=1.0), make_optimizer(name, eta)
    updates, _ = with_clip.update(grads, with_clip.init(params), params)
    wanted, _ = without.update(unit, without.init(params), params)
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=1e-12 if dtype == "float64" else 1e-6)


@pytest.mark.parametrize("wrong", [jnp.inf, -jnp.inf, jnp.nan])
def test_clipping_does_not_hide_a_gradient_that_is_not_finite(wrong):
    optimizer = make_optimizer("gradient_descent", schedule_of("constant"), clip_norm=1.0)
    updates, _ = optimizer.update({"b": jnp.array([1.0, wrong])}, optimizer.init({}))
    assert not jnp.isfinite(updates["b"][1])


def test_clipping_leaves_a_gradient_of_zero():
    optimizer = make_optimizer("gradient_descent", schedule_of("constant"), clip_norm=1.0)
    updates, _ = optimizer.update({"b": jnp.zeros(2)}, optimizer.init({}))
    np.testing.assert_array_equal(updates["b"], 0)


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_weight_decay_leaves_the_biases(name):
    optimizer = make_optimizer(name, schedule_of("constant"), weight_decay=0.5)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    (updates,), _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates.W, -0.1 * 0.5 * PARAMS[0].W)
    np.testing.assert_array_equal(updates.b, 0)


def test_nesterov_differs_from_momentum_and_adamw_from_adam():
    finals = {}
    for name in ("momentum", "nesterov", "adam", "adamw"):
        (params, _), _ = minimise(make_optimizer(name, schedule_of("constant")), 5)
        finals[name] = params[0].W
    for a, b in itertools.combinations(finals.values(), 2):
        assert not np.allclose(a, b)


def make(name, **numbers):
    return make_optimizer(name, schedule_of("constant"), **numbers)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make("sgd"), "no optimizer 'sgd': .* gradient_descent, m"),
        (lambda: make_learning_rate("step", 0.1, 10), "no schedule 'step': .* constant, exp"),
        (lambda: make("adam", beta=1), "adam takes no beta: .* b1, b2, eps"),
        (lambda: make_learning_rate("constant", 0.1, 10, factor=1), "takes no factor.*none"),
        (lambda: make("lbfgs", clip_norm=1.0), "lbfgs takes no clip_norm"),
    ],
)
def test_a_name_or_a_number_that_is_none_is_refused_with_those_that_are(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10])
@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        *SCHEDULE_NUMBERS.items(),
        ("constant", {}),
        ("exponential", {}),
        ("piecewise", {}),
        ("warmup_cosine", {"warmup": 0.99}),
        ("warmup_cosine", {"warmup": 0.0}),
        ("piecewise", {"boundaries": [0.01, 0.02, 0.99], "factor": 0.5}),
    ],
)
def test_every_schedule_is_finite_however_short_the_training(name, numbers, num_steps):
    eta = make_learning_rate(name, 0.5, num_steps, **numbers)
    values = np.array([eta(jnp.asarray(step)) for step in range(num_steps)])
    assert np.all((values >= 0) & (values <= 0.5))


def test_boundaries_at_the_same_step_all_count():
    eta = make_learning_rate("piecewise", 1.0, 2, boundaries=[0.5, 0.6], factor=0.1)
    np.testing.assert_allclose([eta(jnp.asarray(0)), eta(jnp.asarray(2))], [1, 0.01], rtol=1e-6)


def test_the_first_step_is_before_every_boundary():
    eta = make_learning_rate("piecewise", 1.0, 10, boundaries=[0.01, 0.2], factor=0.1)
    values = [float(eta(jnp.asarray(step))) for step in range(4)]
    np.testing.assert_allclose(values, [1, 0.1, 0.01, 0.01], rtol=1e-6)
