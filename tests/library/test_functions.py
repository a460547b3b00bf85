"""`import mlp_jax as mlp` on arrays: the same training as a run's, and clear mistakes."""

from contextlib import nullcontext
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mlp_jax as mlp
from mlp_jax import data
from mlp_jax.config.compose import compose
from mlp_jax.core import fit as fitting
from mlp_jax.core.losses import LOSSES
from mlp_jax.experiment.setup import prepare
from mlp_jax.library import functions

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
Y = np.array([[0], [1], [1], [0]])
NET = mlp.Network((2, 3, 1), activation="tanh", output="sigmoid")


@cache
def start() -> tuple:
    return NET.init(jax.random.key(1), "glorot_normal")


def same_bits(a, b) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def gradient_descent(params, rows, learning_rate, l2=0.0):
    """A loop in Python over `jax.grad` of a loss written out."""

    def loss(params, x, y):
        (W1, b1), (W2, b2) = params
        z = jnp.tanh(x @ W1.T + b1[None]) @ W2.T + b2[None]
        penalty = l2 / 2 * (jnp.sum(W1**2) + jnp.sum(W2**2))
        return (
            jnp.mean(jnp.sum(y * jax.nn.softplus(-z) + (1 - y) * jax.nn.softplus(z), 1)) + penalty
        )

    grad = jax.jit(jax.grad(loss))
    for row in rows:
        grads = grad(params, jnp.float32(X[row]), jnp.float32(Y[row]))
        params = jax.tree.map(lambda p, g: p - learning_rate * g, params, grads)
    return params


def test_an_order_that_is_given_is_followed_step_by_step():
    order = np.random.default_rng(0).integers(0, 4, (30, 3))
    result = mlp.fit(NET, start(), X, Y, learning_rate=0.5, order=order, l2=0.01)
    for ours, plain in zip(
        jax.tree.leaves(result.params),
        jax.tree.leaves(gradient_descent(start(), order, 0.5, l2=0.01)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-6)
    backwards = mlp.fit(NET, start(), X, Y, learning_rate=0.5, order=order[::-1], l2=0.01)
    assert not same_bits(result.params, backwards.params)


def test_fit_is_the_training_of_a_run_to_the_bit():
    config = compose([
        "data=moons", "data.num_examples=64", "data.validation_size=16", "batch_size=16",
        "num_epochs=null", "num_steps=20", "log_every=7", "optimizer=adam", "schedule=cosine",
        "optimizer.learning_rate=0.1", "seed=3", "tracking=none",
    ])  # fmt: skip
    run = prepare(config, data.load(config.data))
    expected = fitting.fit(run, fitting.compile_programs(run))
    model = run.config.model
    net = mlp.Network(run.sizes, model.activation, model.output, model.loss)
    result = mlp.fit(
        net,
        run.params,
        *run.train,
        validation=tuple(run.validation),
        optimizer="adam",
        schedule={
            "name": "cosine",
            **{k: v for k, v in vars(config.schedule).items() if k != "name"},
        },
        learning_rate=0.1,
        batch_size=16,
        num_steps=20,
        log_every=7,
        seed=3,
    )
    assert same_bits(result.params, expected.params)
    for name, values in result.history.metrics.items():
        np.testing.assert_array_equal(values, expected.history[name])
    assert result.history.steps.tolist() == [7, 14, 20]
    measured = mlp.evaluate(net, result.params, *run.validation)
    assert measured["accuracy"] == result.history["validation/accuracy"][-1]


def test_a_training_is_compiled_where_jit_is_disabled_too():
    trained = {"learning_rate": 0.5, "num_steps": 7, "batch_size": 3, "optimizer": "momentum"}
    expected = mlp.fit(NET, start(), X, Y, **trained)
    functions._programs.clear()
    with jax.disable_jit():
        assert same_bits(mlp.fit(NET, start(), X, Y, **trained).params, expected.params)


def test_many_are_each_what_fit_makes_of_it_alone():
    rates, scales = np.array([0.3, 1.0, 0.1]), np.array([1.0, 0.5, 2.0])
    shared = {"num_steps": 60, "batch_size": 2, "log_every": 20}
    many = mlp.fit_many(
        NET, X, Y, seeds=[5, 6, 7], learning_rate=rates, scale=scales, initializer="he_normal",
        optimizer={"name": "momentum", "momentum": np.array([0.9, 0.5, 0.0])}, **shared,
    )  # fmt: skip
    assert many.history["train/loss"].shape == (3, 3)
    for i, momentum in enumerate((0.9, 0.5, 0.0)):
        alone = mlp.fit(
            NET,
            jax.tree.map(lambda leaf, i=i: leaf[i], many.initial),
            X,
            Y,
            learning_rate=float(rates[i]),
            optimizer={"name": "momentum", "momentum": momentum},
            seed=5 + i,
            **shared,
        )
        for ours, theirs in zip(
            jax.tree.leaves(many[i].params), jax.tree.leaves(alone.params), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            many[i].history["train/loss"], alone.history["train/loss"], rtol=1e-4
        )
    again = mlp.fit_many(
        NET, X, Y, seeds=[5, 6, 7], params=many.initial, learning_rate=rates,
        optimizer={"name": "momentum", "momentum": np.array([0.9, 0.5, 0.0])}, **shared,
    )  # fmt: skip
    assert same_bits(again.params, many.params)


def test_data_of_their_own_and_what_is_observed():
    targets = np.stack([Y, 1 - Y])
    many = mlp.fit_many(
        NET, np.stack([X, X]), targets, params=jax.tree.map(lambda a: jnp.stack([a, a]), start()),
        learning_rate=1.0, num_steps=40, log_every=10,
        observe=lambda params: {"answers": NET.predict(params, jnp.float32(X))[:, 0]},
    )  # fmt: skip
    assert many.history["answers"].shape == (2, 4, 4)
    for i in range(2):
        y_hat = NET.predict(many[i].params, X)[:, 0]
        np.testing.assert_allclose(many.history["answers"][i, -1], y_hat, rtol=1e-5)
        loss = mlp.evaluate(NET, many[i].params, X, targets[i])["loss"]
        np.testing.assert_allclose(many.history["train/loss"][i, -1], loss, rtol=1e-5)


def test_one_network_of_many_diverges_and_the_others_do_not():
    line = mlp.Network((1, 1))
    many = mlp.fit_many(
        line, [[1.0], [2.0]], [[1.0], [3.0]], seeds=range(2), learning_rate=np.array([0.01, 1e20]),
        num_steps=50, log_every=1,
    )  # fmt: skip
    assert many.history.diverged_at[0] == 0 < many.history.diverged_at[1] < 10
    assert np.isfinite(many.history["train/loss"][0]).all()
    assert np.isnan(many.history["train/loss"][1, -1])
    with pytest.raises(fitting.DivergedError, match="Try a smaller learning_rate") as error:
        mlp.fit(line, many[1].params, [[1.0]], [[1.0]], learning_rate=1e20, num_steps=50)
    assert error.value.last_finite.step < 50


def test_stopping_early_keeps_the_best():
    result = mlp.fit(
        NET, start(), X, Y, validation=(X, 1 - Y), learning_rate=1.0, num_steps=1000, log_every=1,
        patience=3,
    )  # fmt: skip
    losses = result.history["validation/loss"]
    assert len(losses) < 1000 and result.step == losses.argmin() + 1


def test_the_functions_of_one_batch_are_those_of_the_core():
    zs, activations = mlp.forward(NET, start(), X)
    assert [z.shape for z in zs] == [(4, 3), (4, 1)]
    np.testing.assert_allclose(jnp.tanh(zs[0]), activations[1], rtol=1e-6)
    value, grads = mlp.backprop(NET, start(), X, Y, l2=0.1)
    step = gradient_descent(start(), [slice(None)], 1.0, l2=0.1)
    for g, before, after in zip(*map(jax.tree.leaves, (grads, start(), step)), strict=True):
        np.testing.assert_allclose(g, before - after, rtol=1e-4, atol=1e-6)
    assert value > mlp.evaluate(NET, start(), X, Y)["loss"]
    assert mlp.check_gradient(NET, start(), X, Y, l2=0.1).passed
    explained = mlp.explain(NET, start(), X[1], Y[1])
    _, of_one = mlp.backprop(NET, start(), X[1:2], Y[1:2])
    assert explained.weights[1, 2, 1].value == pytest.approx(float(of_one[0].W[1, 0]), rel=1e-5)


OPTIONS = {"learning_rate": 0.1, "num_steps": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": X[:, :1]}, r"x has shape \(4, 1\): it must be \(num_examples, 2\)"),
        ({"y": Y[:3]}, r"x has shape \(4, 2\) and y \(3, 1\): their examples differ"),
        ({"y": Y[:, 0]}, r"y has shape \(4,\): it must be \(num_examples, 1\)"),
        ({"x": X * np.nan}, "x has a number that is not finite"),
        ({"params": ()}, r"params: the shapes of W and b are \[\]; Network.* needs"),
        ({"optimizer": "adm"}, "no optimizer 'adm': must be one of gradient_descent"),
        ({"optimizer": {"name": "adam", "b3": 1.0}}, "adam takes no b3: its numbers are b1"),
        ({"schedule": "step"}, "no schedule 'step': must be one of constant"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0: must be finite and not negative"),
        (
            {"optimizer": {"name": "momentum", "momentum": np.ones(3)}},
            r"optimizer\.momentum has shape \(3,\): fit takes one number",
        ),
        ({"num_steps": None}, "num_steps=None: must be a whole number, 1 or more"),
        ({"num_steps": 2.5}, "num_steps=2.5: must be a whole number, 1 or more"),
        ({"num_steps": "5"}, "num_steps='5': must be a whole number, 1 or more"),
        ({"num_steps": 2**31}, "num_steps=2147483648: must be a whole number"),
        ({"batch_size": 2.5}, "batch_size=2.5: must be a whole number, 1 or more"),
        ({"batch_size": 0}, "batch_size=0: must be a whole number, 1 or more"),
        ({"log_every": 0}, "log_every=0: must be a whole number, 1 or more"),
        ({"log_every": -1}, "log_every=-1: must be a whole number, 1 or more"),
        ({"log_every": 1.5}, "log_every=1.5: must be a whole number, 1 or more"),
        ({"patience": 0, "validation": (X, Y)}, "patience=0: must be a whole number, 1 or more"),
        ({"patience": -1, "validation": (X, Y)}, "patience=-1: must be a whole number"),
        ({"patience": True, "validation": (X, Y)}, "patience=True: must be a whole number"),
        ({"validation": (X, Y, Y)}, r"validation=\(array(?s:.*)\): must be two arrays, \(x, y\)"),
        ({"validation": 0.2}, r"validation=0.2: must be two arrays, \(x, y\)"),
        ({"optimizer": {"b1": 0.9}}, r"optimizer={'b1': 0.9}: must be a name, .* {'name': 'adam'"),
        ({"schedule": None}, "schedule=None: must be a name, .* {'name': 'cosine'"),
        ({"l2": None}, "l2=None: must be finite and not negative"),
        ({"l1": "x"}, "l1='x': must be finite and not negative"),
        ({"seed": 0.5}, r"seed=0.5: must be a whole number from 0 to 4,294,967,295"),
        ({"seed": -1}, "seed=-1: must be a whole number from 0"),
        ({"seed": 2**32}, "seed=4294967296: must be a whole number from 0"),
        ({"seed": [1, 2]}, r"seed=\[1, 2\]: must be a whole number from 0"),
        ({"y": 2 * Y - 1}, "y reaches from -1 to 1: .*Give classes −1 and 1 as 0 and 1"),
        ({"validation": (X, 3 * Y)}, "y reaches from 0 to 3: .* one-hot, np.eye"),
        ({"batch_size": 5}, "batch_size=5: there are 4 training examples"),
        ({"patience": 3}, r"patience=3: stopping early needs validation=\(x, y\)"),
        ({"patience": 3, "validation": (X, Y), "monitor": "r2"}, "measures loss, accuracy, "),
        ({"order": np.zeros((2, 2, 2), int)}, r"order has shape \(2, 2, 2\) and dtype int64"),
        ({"order": np.zeros((2, 2))}, r"dtype float64: it must be \(num_steps, batch_size\)"),
        ({"order": np.full((2, 2), 4)}, "order reaches from 4 to 4: .* examples 0 to 3"),
        ({"order": np.zeros((3, 2), int)}, r"num_steps=2: order has shape \(3, 2\); leave num_st"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_named(changes, message):
    given = {"params": start(), "x": X, "y": Y, **OPTIONS} | changes
    with pytest.raises(ValueError, match=message):
        mlp.fit(NET, **given)


def stacked(num_networks: int) -> tuple:
    return jax.tree.map(lambda a: jnp.tile(a, (num_networks,) + a.ndim * (1,)), start())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 5}, "seeds=5: must be whole numbers in one dimension, at least one, from 0"),
        ({"seeds": []}, r"seeds=\[\]: must be whole numbers"),
        ({"seeds": [0.5, 0.7]}, r"seeds=\[0.5, 0.7\]: must be whole numbers"),
        ({"seeds": [-1]}, r"seeds=\[-1\]: must be whole numbers .* from 0 to 4,294,967,295"),
        ({"seeds": [2**32]}, r"seeds=\[4294967296\]: must be whole numbers"),
        ({"seeds": [2**64]}, r"seeds=\[18446744073709551616\]: must be whole numbers"),
        ({"seeds": range(8), "params": stacked(4)}, "8 seeds, and params of 4 networks"),
        ({"params": start()}, "needs .*all behind a leading axis of the networks"),
        ({"params": [*stacked(2)[:1], *stacked(3)[1:]]}, "the shapes of W and b are"),
        ({"params": [stacked(2)[0], (stacked(2)[1].W, stacked(3)[1].b)]}, "shapes of W and b"),
        ({"params": stacked(0), "seeds": None}, r"seeds=.*: must be whole numbers"),
        ({"log_every": 0}, "log_every=0: must be a whole number, 1 or more"),
        ({"y": 2 * Y - 1}, "y reaches from -1 to 1"),
        ({"seeds": None}, r"give seeds=range\(n\) for n networks, or their params"),
        ({"learning_rate": np.ones(3)}, r"learning_rate has shape \(3,\): .* the 2 networks"),
        ({"x": np.stack([X] * 3), "y": np.stack([Y] * 3)}, "leading axis of the 2 networks"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes_of_many_are_named(changes, message):
    given = {"x": X, "y": Y, "seeds": range(2), **OPTIONS} | changes
    with pytest.raises(ValueError, match=message):
        mlp.fit_many(NET, **given)


@pytest.mark.parametrize("seed", [0, 2**32 - 1, np.int64(7), np.array(7), jnp.uint32(7)])
@pytest.mark.usefixtures("unchecked")
def test_seeds_of_any_whole_type(seed):
    options = OPTIONS | {"batch_size": 2}
    one = mlp.fit(NET, start(), X, Y, seed=seed, **options)
    many = mlp.fit_many(NET, X, Y, seeds=[seed], params=stacked(1), **options)
    for ours, theirs in zip(*map(jax.tree.leaves, (one.params, many[0].params)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.eye(3)[[0, 1, 2, 0]], None),
        (np.full((4, 3), 0.333), None),
        (np.array([[1, 2, 3]] * 4), "y reaches from 1 to 3: .* one-hot"),
        (np.array([[1, 1, 0]] * 4), "rows whose sums reach from 2 to 2: behind a softmax"),
        (np.zeros((4, 3)), "rows whose sums reach from 0 to 0"),
        (np.full((4, 3), np.nan), "y has a number that is not finite"),
    ],
)
@pytest.mark.parametrize("loss", [None, LOSSES["softmax", "cross_entropy"]])
def test_targets_of_a_softmax_are_distributions(y, message, loss):
    net = mlp.Network((2, 3), output=None if loss else "softmax", loss=loss)
    refused = pytest.raises(ValueError, match=message) if message else nullcontext()
    with refused:
        mlp.fit(net, net.init(jax.random.key(0)), X, y, **OPTIONS)


def test_a_squared_error_takes_any_target():
    net = mlp.Network((2, 1), output="tanh")
    mlp.fit(net, net.init(jax.random.key(0)), X, 2 * Y - 1, **OPTIONS)


WHOLE = [(np.array([[1, 2]]), np.array([0]))]


@pytest.mark.parametrize(
    "computed",
    [
        lambda net, params, x, y: mlp.forward(net, params, x)[0],
        lambda net, params, x, y: mlp.backprop(net, params, x, y),
        lambda net, params, x, y: mlp.evaluate(net, params, x, y),
        lambda net, params, x, y: mlp.fit(net, params, x, y, **OPTIONS).params,
        lambda net, params, x, y: (
            mlp.fit_many(
                net, x, y, params=jax.tree.map(lambda a: np.stack([a, a]), params), **OPTIONS
            ).params
        ),
    ],
    ids=["forward", "backprop", "evaluate", "fit", "fit_many"],
)
def test_whole_numbers_are_weights_like_others(computed):
    floats = jax.tree.map(np.float64, WHOLE)
    net, x, y = mlp.Network((2, 1)), np.array([[3.7, 4.6]]), np.array([[12.3]])
    assert same_bits(computed(net, WHOLE, x, y), computed(net, floats, x, y))
    assert mlp.check_gradient(net, WHOLE, x, y).passed


@pytest.mark.parametrize("function", [mlp.backprop, mlp.check_gradient])
@pytest.mark.parametrize("name", ["l2", "l1"])
@pytest.mark.parametrize("value", [-1, np.nan, "x"])
@pytest.mark.usefixtures("unchecked")
def test_penalties_are_not_negative(function, name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}: must be finite and not negative"):
        function(NET, start(), X, Y, **{name: value})


@pytest.mark.usefixtures("unchecked")
def test_a_penalty_may_be_traced():
    value, _ = jax.jit(lambda l2: mlp.backprop(NET, start(), X, Y, l2=l2))(0.1)
    assert float(value) == pytest.approx(float(mlp.backprop(NET, start(), X, Y, l2=0.1)[0]))


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: mlp.explain(NET, start(), X, Y),
        lambda: mlp.boolean([0, 2]),
        lambda: mlp.towers(np.sin, (1.0, 0.0), 0.1, 1.0),
    ],
)
def test_every_mistake_is_a_value_error(mistake):
    with pytest.raises(ValueError, match=r"give a flat list|one example of|its left end below"):
        mistake()
