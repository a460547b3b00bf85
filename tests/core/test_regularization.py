"""Dropout, noise, the norm of the weights and the moving average, each against its definition."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_backprop import batch, error_against_autodiff, network
from test_training import loop, make_params, make_part, make_training

import mlp_jax as mlp
from mlp_jax.core import training
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import backprop
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.regularization import Noise, add_noise, averaged, draw_masks, within_norm

KEY, STEP = jax.random.key(3), jnp.int32(0)
SIZES = (3, 5, 4, 2)


# --- the backward pass for fixed masks ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rates"),
    [*((name, (0.3, 0.4)) for name in ACTIVATIONS), ("tanh", (0.5, 0.0)), ("tanh", (0.0, 0.5))],
)
def test_backprop_with_masks_against_autodiff(name, rates):
    params = network(SIZES)
    masks = draw_masks(Noise(*rates), KEY, STEP, params, 5)
    pair = ("softmax", "cross_entropy")
    arguments = params, *batch(SIZES, "softmax"), ACTIVATIONS[name], LOSSES[pair], None, masks
    assert error_against_autodiff(*arguments) <= 1e-12


def test_a_neuron_that_is_left_out_is_as_if_it_were_not_there():
    """Worked by hand: the network without neuron 1, whose other activations are doubled."""
    params = (W1, b1), (W2, b2) = network((3, 2, 1))
    x, y = batch((3, 2, 1), "identity", 1)
    loss = LOSSES["identity", "squared_error"]
    masks = (None, jnp.array([[0.0, 2.0]]))
    value, grads = backprop(params, x, y, ACTIVATIONS["tanh"], loss, None, masks)
    a = np.tanh(W1[1] @ x[0] + b1[1])
    delta2 = 2 * (W2[0, 1] * 2 * a + b2[0] - y[0, 0])
    delta1 = W2[0, 1] * delta2 * 2 * (1 - a**2)
    np.testing.assert_allclose(value, (delta2 / 2) ** 2, rtol=1e-12)
    np.testing.assert_allclose(grads[1].W, [[0, delta2 * 2 * a]], rtol=1e-12)
    np.testing.assert_allclose(grads[0].W, [[0, 0, 0], delta1 * x[0]], rtol=1e-12)
    np.testing.assert_allclose(grads[0].b, [0, delta1], rtol=1e-12)


# --- what is drawn -----------------------------------------------------------------------------


def test_masks_are_zero_or_one_over_the_share_that_is_kept():
    params = network((40, 50, 60, 2))
    masks = draw_masks(Noise(0.25, 0.1), KEY, STEP, params, 200)
    for mask, rate, width in zip(masks, (0.1, 0.25, 0.25), (40, 50, 60), strict=True):
        assert mask.shape == (200, width)
        assert mask.dtype == params[0].W.dtype
        is_zero = np.asarray(mask == 0)
        sigma = np.sqrt(rate * (1 - rate) / mask.size)
        assert abs(is_zero.mean() - rate) < 5 * sigma
        np.testing.assert_allclose(np.unique(mask[~is_zero]), 1 / (1 - rate), rtol=2**-15)


def test_nothing_is_drawn_for_a_layer_whose_rate_is_zero():
    masks = draw_masks(Noise(dropout=0.5), KEY, STEP, network(SIZES), 5)
    assert masks[0] is None
    assert masks[1].shape == (5, 5)


def test_the_factor_multiplies_both_rates():
    noise = Noise(0.5, 0.5, factor=lambda step: 0.5 * step)
    params = network((100, 100, 1))
    of_start = draw_masks(noise, KEY, STEP, params, 100)
    assert all(np.unique(mask).tolist() == [1.0] for mask in of_start)
    for mask in draw_masks(noise, KEY, STEP + 1, params, 100):
        assert np.asarray(mask == 0).mean() == pytest.approx(0.25, abs=0.03)


def test_noise_on_the_inputs_has_its_standard_deviation():
    x = jnp.ones((500, 20))
    noise = add_noise(Noise(input_noise=0.1), KEY, x) - x
    assert np.mean(noise) == pytest.approx(0, abs=5e-3)
    assert np.std(noise) == pytest.approx(0.1, rel=0.05)
    assert add_noise(Noise(dropout=0.5), KEY, x) is x


# --- in a training -----------------------------------------------------------------------------

NOISY = {"noise": Noise(0.3, 0.1, 0.05), "max_norm": 0.8, "ema_decay": 0.9}


@pytest.mark.parametrize("lengths", [[11], [1] * 11, [4, 7]])
def test_a_step_has_its_noise_wherever_the_host_looks(lengths):
    """So that a run that is resumed has the bits of one that was not stopped."""
    fixed, part = make_training(**NOISY), make_part()
    train, init = loop(fixed, part, log_every=11)
    found, _ = train(init(make_params()), lengths)
    wanted, _ = train(init(make_params()), [11])
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_each_step_has_noise_of_its_own():
    fixed, part = make_training(noise=NOISY["noise"]), make_part()
    state = training.init_state(fixed, make_params())
    with_noise = partial(training.with_noise, fixed, batch=part, order=KEY)
    (batch_0, of_0), (batch_1, of_1) = (
        with_noise(state), with_noise(state._replace(step=state.step + 1))
    )  # fmt: skip
    assert not np.array_equal(batch_0.x, batch_1.x)
    assert not any(map(np.array_equal, of_0.masks, of_1.masks))


@pytest.mark.parametrize(
    "regularization",
    [
        {"dropout": 0.3},
        {"input_dropout": 0.2},
        {"input_noise": 0.1},
        {"max_norm": 1.0},
        {"ema_decay": 0.9},
    ],
    ids=str,
)
def test_a_lane_of_a_population_is_as_the_network_alone(regularization):
    net, x = mlp.Network((2, 6, 1), output="sigmoid"), np.eye(2)
    y, chosen = x[:, :1], {"learning_rate": 0.5, "num_steps": 50, "log_every": 10}
    alone = mlp.fit(net, net.init(jax.random.key(0)), x, y, seed=5, **chosen, **regularization)
    plain = mlp.fit(net, net.init(jax.random.key(0)), x, y, seed=5, **chosen)
    (name, value), = regularization.items()  # fmt: skip
    params = jax.tree.map(lambda leaf: np.stack([leaf] * 2), net.init(jax.random.key(0)))
    lanes = {name: np.array([value, value / 2])}
    many = mlp.fit_many(net, x, y, params=params, seeds=[5, 5], **chosen, **lanes)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), many[0].params, alone.params)
    assert not np.allclose(alone.params[0].W, plain.params[0].W, atol=1e-4)
    assert not np.allclose(many[1].params[0].W, alone.params[0].W, atol=1e-4)


def test_a_population_may_have_networks_without_dropout():
    net, x = mlp.Network((2, 6, 1), output="sigmoid"), np.eye(2)
    y, chosen = x[:, :1], {"learning_rate": 0.5, "num_steps": 50}
    params = jax.tree.map(lambda leaf: np.stack([leaf] * 2), net.init(jax.random.key(0)))
    many = mlp.fit_many(net, x, y, params=params, dropout=np.array([0.0, 0.5]), **chosen)
    alone = mlp.fit(net, net.init(jax.random.key(0)), x, y, **chosen)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), many[0].params, alone.params)


def test_dropout_needs_a_seed():
    net, x = mlp.Network((2, 1)), np.eye(2)
    with pytest.raises(ValueError, match="seed"):
        mlp.fit(net, net.init(KEY), x, x[:, :1], learning_rate=0.1, order=[[0]], dropout=0.5)


@pytest.mark.parametrize("name", ["dropout", "input_dropout", "ema_decay"])
def test_a_share_is_below_one(name):
    net, x = mlp.Network((2, 1)), np.eye(2)
    with pytest.raises(ValueError, match=f"{name}=1.0: must be a share"):
        mlp.fit(net, net.init(KEY), x, x[:, :1], learning_rate=0.1, num_steps=1, **{name: 1.0})


# --- the weights -------------------------------------------------------------------------------


def test_only_hidden_neurons_beyond_the_norm_are_scaled():
    params = network((3, 4, 2))
    params = (params[0]._replace(W=params[0].W.at[1].set(0)), params[1])
    norms = np.linalg.norm(params[0].W, axis=1)
    limit = float(np.sort(norms)[2])
    found = within_norm(params, limit)
    wanted = params[0].W * np.minimum(1, limit / np.maximum(norms, 1e-30))[:, None]
    np.testing.assert_allclose(found[0].W, wanted, rtol=1e-12)
    np.testing.assert_array_equal(found[1].W, params[1].W)


def test_the_average_is_the_weighted_mean_of_all_parameters():
    decay, all_params = 0.8, [network(SIZES, seed) for seed in range(4)]
    average = network(SIZES, 99)  # of which nothing may be left
    for count, params in enumerate(all_params, start=1):
        average = averaged(decay, average, params, jnp.int32(count))
    weights = decay ** np.arange(3, -1, -1)
    for found, *leaves in zip(*map(jax.tree.leaves, [average, *all_params]), strict=True):
        wanted = sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)) / weights.sum()
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_what_is_measured_and_kept_is_the_average():
    fixed, part = make_training(ema_decay=0.9), make_part()
    train, init = loop(fixed, part, log_every=11)
    carry, _ = train(init(make_params()), [11])
    params, _ = training.kept(carry.state)
    assert params is carry.state.average
    _, logged = training.log_point(fixed, carry, part, None)
    assert logged["train/loss"] == training.evaluate(fixed, params, part)["loss"]
    assert logged["train/loss"] != training.evaluate(fixed, carry.state.params, part)["loss"]
