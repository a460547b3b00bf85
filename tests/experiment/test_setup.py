"""From a config and its data to arrays: sizes, targets, losses, lengths, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlp_jax import data
from mlp_jax.config.compose import compose
from mlp_jax.core.initializers import INITIALIZERS
from mlp_jax.core.losses import LOSSES
from mlp_jax.errors import UserError
from mlp_jax.experiment import setup as problem


def prepare(*overrides):
    config = compose(list(overrides))
    with problem.numeric_settings(config):
        return problem.prepare(config, data.load(config.data))


def refused(match, *overrides):
    with pytest.raises(UserError, match=match) as caught:
        prepare(*overrides)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("overrides", "pair", "num_outputs"),
    [
        (["data=xor"], ("sigmoid", "binary_cross_entropy"), 1),
        (["data=iris"], ("softmax", "cross_entropy"), 3),
        (["data=sine"], ("identity", "squared_error"), 1),
        (["data=xor", "model.output=softmax"], ("softmax", "cross_entropy"), 2),
        (["data=iris", "model.output=sigmoid"], ("sigmoid", "binary_cross_entropy"), 3),
        (["data=xor", "model.loss=half_squared_error"], ("sigmoid", "half_squared_error"), 1),
        (["data=sine", "model.loss=half_squared_error"], ("identity", "half_squared_error"), 1),
        (["data=iris", "model.loss=binary_cross_entropy"], ("sigmoid", "binary_cross_entropy"), 3),
        (["data=xor", "model.output=tanh"], ("tanh", "squared_error"), 1),
    ],
)
def test_what_is_left_open_becomes_the_pair_for_the_data(overrides, pair, num_outputs):
    prepared = prepare(*overrides)
    assert (prepared.config.model.output, prepared.config.model.loss) == pair
    assert prepared.sizes[-1] == num_outputs == prepared.train.y.shape[1]
    assert [layer.W.shape[0] for layer in prepared.params] == list(prepared.sizes[1:])


def test_targets_are_coded_as_the_output_produces_them():
    y = [0, 1, 1, 0]
    np.testing.assert_array_equal(prepare("data=xor").train.y[:, 0], y)
    np.testing.assert_array_equal(
        prepare("data=xor", "model.output=tanh").train.y[:, 0], [-1, 1, 1, -1]
    )
    np.testing.assert_array_equal(prepare("data=xor", "model.output=softmax").train.y, np.eye(2)[y])
    three = prepare("data=iris", "model.output=tanh").train.y
    assert set(np.unique(three)) == {-1, 1}
    np.testing.assert_array_equal(three.sum(axis=1), -1)


@pytest.mark.parametrize(
    ("overrides", "steps_per_epoch", "num_steps", "log_every"),
    [
        (["data=xor", "num_epochs=1000"], 1, 1000, 10),
        (["data=xor", "num_epochs=7"], 1, 7, 1),
        (["data=iris", "batch_size=16", "num_epochs=10"], 5, 50, 5),  # 90 examples: 5 of 16
        (["data=iris", "batch_size=16", "num_epochs=250"], 5, 1250, 15),
        (["data=iris", "batch_size=16", "num_epochs=null", "num_steps=1001"], 5, 1001, 11),
        (["data=iris", "batch_size=16", "num_epochs=10", "log_every=7"], 5, 50, 7),
        (["data=iris", "num_epochs=2", "log_every=500"], 1, 2, 2),
    ],
)
def test_the_lengths_of_a_training(overrides, steps_per_epoch, num_steps, log_every):
    prepared = prepare(*overrides)
    lengths = (prepared.steps_per_epoch, prepared.num_steps, prepared.log_every)
    assert lengths == (steps_per_epoch, num_steps, log_every)


def test_the_seed_decides_the_parameters_and_the_order_and_nothing_else_does():
    a, b, c = prepare("seed=1"), prepare("seed=1", "num_epochs=3"), prepare("seed=2")
    for left, right in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(a.params[0].W, c.params[0].W)
    assert jax.random.key_data(a.order).tolist() != jax.random.key_data(c.order).tolist()


def test_float32_and_float64_start_from_the_same_draw():
    low, high = prepare("dtype=float32"), prepare("dtype=float64")
    assert (low.params[0].W.dtype, high.params[0].W.dtype) == ("float32", "float64")
    np.testing.assert_allclose(low.params[0].W, high.params[0].W, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(set(INITIALIZERS) - {"standard_normal"}))
def test_the_scale_multiplies_every_initial_weight(name):
    one = prepare(f"model.initializer={name}")
    three = prepare(f"model.initializer={name}", "model.initializer_scale=3")
    np.testing.assert_allclose(three.params[0].W, 3 * one.params[0].W, rtol=1e-6)


def test_explicit_parameters_are_taken_as_they_are():
    prepared = prepare(
        "model.hidden_sizes=[]", "model.params=[{W: [[0.6, -0.6]], b: [0.9]}]", "dtype=float64"
    )
    np.testing.assert_array_equal(prepared.params[0].W, [[0.6, -0.6]])
    np.testing.assert_array_equal(prepared.params[0].b, [0.9])


def test_balanced_weights_weigh_every_class_alike():
    prepared = prepare("data=breast_cancer", "model.class_weights=balanced", "dtype=float64")
    y, loss = prepared.train.y, prepared.training.objective.loss
    plain = LOSSES["sigmoid", "binary_cross_entropy"]
    z = jnp.array([0.3])
    weighted = np.array([
        loss.value(z, target) / plain.value(z, target) for target in jnp.array([[0.0], [1.0]])
    ])  # fmt: skip
    np.testing.assert_allclose(weighted * [np.sum(y == 0), np.sum(y == 1)], len(y) / 2)


@pytest.mark.parametrize(
    ("match", "overrides"),
    [
        ("model.output=softmax.*sine is a number", ["data=sine", "model.output=softmax"]),
        ("binary_cross_entropy", ["data=sine", "model.loss=binary_cross_entropy"]),
        (r"model.output=sigmoid.*\[0, 1\].*identity", ["data=sine", "model.output=sigmoid"]),
        (r"model.output=tanh.*\[-1, 1\]", ["data=sine", "model.output=tanh"]),
        ("batch_size=5: there are 4", ["batch_size=5"]),
        ("class_weights.*no classes", ["data=sine", "model.class_weights=balanced"]),
        ("2 weights for 3 classes", ["data=iris", "model.class_weights=[1,2]"]),
        ("label_smoothing.*no classes", ["data=sine", "model.label_smoothing=0.1"]),
        ("label_smoothing.*tanh", ["model.output=tanh", "model.label_smoothing=0.1"]),
        ("class_weights.*tanh", ["model.output=tanh", "model.class_weights=balanced"]),
        ("no validation part", ["early_stopping.patience=3"]),
        (
            "early_stopping.monitor=r2: iris",
            ["data=iris", "early_stopping.patience=3", "early_stopping.monitor=r2"],
        ),
        ("model.params: shapes", ["model.params=[{W: [[1, 2]], b: [0]}]"]),
        ("model.params: not a list", ["model.params=[{W: [[1, 2]]}]"]),
        ("model.params: not a list", ["model.params=[{W: abc, b: [1]}]"]),
        ("device=gpu.*only cpu", ["device=gpu"]),
        ("device=tpu.*only cpu", ["device=tpu"]),
    ],
)
def test_what_does_not_fit_is_refused(match, overrides):
    refused(match, *overrides)


@pytest.mark.parametrize("large", ["a", "y"])
def test_numbers_that_the_dtype_does_not_hold(large, tmp_path):
    power = {"a": "", "y": ""} | {large: "e39"}
    rows = [f"{i / 7}{power['a']},{i / 3}{power['y']}" for i in range(1, 31)]
    (tmp_path / "t.csv").write_text("\n".join(["a,y", *rows]) + "\n")
    table = ["+exp=table", f"data.path={tmp_path}/t.csv", "data.target=y", "data.standardize=false"]
    refused(rf"'{large}': .*e\+.* is too large for dtype=float32", *table)
    assert prepare(*table, "dtype=float64")


@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_weight_decay_and_dropout_follow_their_schedules(optimizer):
    """W_{t+1} = W_t − η λ_t W_t where the gradient is 0, λ_t falling along half a cosine."""
    prepared = prepare(
        "+exp=moons", f"optimizer={optimizer}", "optimizer.learning_rate=0.1", "num_steps=11",
        "num_epochs=null", "optimizer.weight_decay=0.5", "optimizer.weight_decay_schedule=cosine",
        "model.dropout=0.4", "model.dropout_schedule=cosine", "schedule=constant",
    )  # fmt: skip
    falling = 0.5 * (1 + np.cos(np.pi * np.arange(11) / 10))
    fixed, params = prepared.training, prepared.params
    zero, state = jax.tree.map(jnp.zeros_like, params), fixed.optimizer.init(params)
    for factor in falling:
        updates, state = fixed.optimizer.update(zero, state, params)
        wanted = -0.1 * 0.5 * factor * params[0].W
        np.testing.assert_allclose(updates[0].W, wanted, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(updates[0].b, 0)
    assert [float(fixed.noise.factor(step)) for step in range(11)] == pytest.approx(
        falling.tolist(), abs=1e-6
    )
