"""The compiled training against a plain Python loop, and what it measures against NumPy."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlp_jax.core import fit as fitting
from mlp_jax.core import network, training
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import Objective, Penalty, backprop, batch_loss, penalty_value
from mlp_jax.core.initializers import INITIALIZERS
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.optimizers import gradient_descent
from mlp_jax.core.training import Part, Training

NUM_EXAMPLES, BATCH_SIZE = 22, 5  # four batches an epoch and a remainder of two
SHUFFLE_KEY = jax.random.key(7)


def make_training(**changes):
    def eta(step):
        return jnp.asarray(0.5) / (1 + step)

    fixed = Training(
        objective=Objective(ACTIVATIONS["tanh"], LOSSES["softmax", "cross_entropy"]),
        optimizer=optax.with_extra_args_support(gradient_descent(eta)),
        learning_rate=eta,
        batch_size=BATCH_SIZE,
        threshold=0.5,
    )
    of_objective = {name: changes.pop(name) for name in Objective._fields if name in changes}
    return fixed._replace(objective=fixed.objective._replace(**of_objective), **changes)


def make_params(dtype="float64"):
    return network.init_params(
        jax.random.key(0), (2, 4, 3), INITIALIZERS["glorot_normal"], dtype=dtype
    )


def make_part(num_examples=NUM_EXAMPLES, dtype="float64"):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_examples, 2))
    labels = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    return Part(jnp.asarray(x, dtype), jnp.asarray(np.eye(3)[labels], dtype))


def assert_trees_equal(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


def python_loop(fixed, params, part, num_steps):
    """The training as a reader of the lecture would write it."""
    step = jax.jit(partial(training.train_step, fixed))
    state = training.init_state(fixed, params)
    steps_per_epoch = NUM_EXAMPLES // fixed.batch_size
    losses = []
    for t in range(num_steps):
        epoch, i = divmod(t, steps_per_epoch)
        order = training.permutation(jax.random.fold_in(SHUFFLE_KEY, epoch), NUM_EXAMPLES)
        rows = order[i * fixed.batch_size : (i + 1) * fixed.batch_size]
        batch = part if fixed.batch_size == NUM_EXAMPLES else Part(part.x[rows], part.y[rows])
        state, loss = step(state, batch)
        losses.append(loss)
    return state, jnp.array(losses)


def loop(fixed, part, log_every, order=SHUFFLE_KEY):
    """The compiled loop of one network: (carry, lengths) → carry and how many were finite."""
    steps = jax.jit(partial(fitting.train_steps, fixed))
    rows = jax.eval_shape(partial(training.draw, fixed, order, len(part.x), 0))
    no_block = rows and training.Block(jnp.int32(-1), jnp.zeros(rows.shape, rows.dtype))

    def train(carry, lengths):
        start, block = 0, no_block
        for length in lengths:
            stop = start + length
            carry, block, num_finite = steps(
                carry, block, order, part, jnp.int32(start), jnp.int32(stop)
            )
            start = stop
        return carry, num_finite

    return train, lambda params: training.init_carry(fixed, params, log_every)


@pytest.mark.usefixtures("compiled_fully")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [1, BATCH_SIZE, NUM_EXAMPLES])
def test_the_loop_is_the_python_loop_bit_for_bit(batch_size, dtype):
    """But for single examples in float64 with newer XLA, which rounds a step alone otherwise."""
    fixed, part, num_steps = make_training(batch_size=batch_size), make_part(dtype=dtype), 11
    wanted = python_loop(fixed, make_params(dtype), part, num_steps)
    train, init = loop(fixed, part, log_every=num_steps)
    found, _ = train(init(make_params(dtype)), [num_steps])
    assert found.state.params[0].W.dtype == dtype
    if (batch_size, dtype) != (1, "float64") or jax.__version_info__ < (0, 11):
        assert_trees_equal(found, wanted)
        return
    one_rounding = np.finfo(dtype).eps  # of the largest number of each array, at each step
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=num_steps * one_rounding * np.abs(b).max())


@pytest.mark.usefixtures("compiled_fully")
@pytest.mark.parametrize("log_every", [1, 3, 4, 5, 12])
def test_the_log_interval_changes_no_bit(log_every):
    fixed, part = make_training(), make_part()

    def trained(log_every):
        train, init = loop(fixed, part, log_every)
        lengths = [log_every] * (12 // log_every) + [12 % log_every or log_every]
        return train(init(make_params()), lengths[: -(-12 // log_every)])[0].state

    assert_trees_equal(trained(log_every), trained(12))


@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 65_536, 65_537, 2**18, 300_000])
def test_a_permutation_holds_every_index_once(length):
    order = training.permutation(jax.random.key(0), length)
    np.testing.assert_array_equal(np.sort(order), np.arange(length))


def test_every_permutation_is_equally_likely():
    """χ² over the 24 orders of four: 95 % of fair draws lie below 35.2, 99.9 % below 49.7."""
    keys = jax.random.split(jax.random.key(0), 24_000)
    orders = jax.jit(jax.vmap(lambda key: training.permutation(key, 4)))(keys)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert np.sum((counts - 1000) ** 2 / 1000) < 49.7


@pytest.mark.parametrize("length", [65_537, 2**17, 100_000])
def test_a_long_permutation_is_a_fair_draw(length):
    """χ² over 16 × 16 cells of (place, index), and neighbours no nearer than by chance."""
    orders = [
        np.asarray(training.permutation(key, length)) for key in jax.random.split(SHUFFLE_KEY, 8)
    ]
    for order in orders:
        cells = np.histogram2d(np.arange(length), order, bins=16)[0]
        expected = length / 256
        # 225 degrees of freedom: 99.99 % of fair draws lie below 308.
        assert np.sum((cells - expected) ** 2 / expected) < 308
        correlation = np.corrcoef(order[1:], order[:-1])[0, 1]
        assert abs(correlation) < 4 / np.sqrt(length)
    firsts = [np.mean(a == b) for a, b in itertools.combinations(orders, 2)]
    assert np.max(firsts) < 12 / length  # one place in `length` agrees by chance


def test_every_epoch_takes_each_example_at_most_once_in_a_new_order():
    rows = np.asarray(training.draw(make_training(), SHUFFLE_KEY, NUM_EXAMPLES, 0))
    steps_per_epoch = NUM_EXAMPLES // BATCH_SIZE
    epochs = rows[: 3 * steps_per_epoch].reshape(3, -1).tolist()
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert all(a != b for a, b in itertools.combinations(epochs, 2))


def test_the_order_depends_on_the_step_alone():
    """Not on how many networks share a block, nor on where one begins."""
    fixed, length = make_training(), NUM_EXAMPLES // BATCH_SIZE
    alone = np.asarray(training.draw(fixed, SHUFFLE_KEY, NUM_EXAMPLES, 0))
    num_networks = training.BLOCK_LENGTH // NUM_EXAMPLES // 2  # two epochs a block
    for number in range(3):
        rows = training.draw(fixed, SHUFFLE_KEY, NUM_EXAMPLES, number, num_networks)
        assert len(rows) == 2 * length
        np.testing.assert_array_equal(rows, alone[2 * length * number :][: 2 * length])
    part = make_part()
    for step in (0, 1, length, 5 * length + 2):
        batch = training.batch_at(fixed, SHUFFLE_KEY, part, step)
        np.testing.assert_array_equal(batch.x, part.x[alone[step]])


@pytest.mark.parametrize("host_looks_after", [[40], [1] * 40, [13, 13, 14]])
def test_a_block_is_drawn_once_however_the_calls_are_cut(host_looks_after, monkeypatch):
    """A step's cost does not grow with the examples, for an epoch's order is drawn once."""
    monkeypatch.setattr(training, "BLOCK_LENGTH", 1)  # one epoch a block
    fixed, part, draws = make_training(), make_part(), []
    permutation = training.permutation

    def counted(key, length):
        jax.debug.callback(lambda: draws.append(1))
        return permutation(key, length)

    monkeypatch.setattr(training, "permutation", counted)
    train, init = loop(fixed, part, log_every=40)
    carry, _ = train(init(make_params()), host_looks_after)
    jax.block_until_ready(carry)
    jax.effects_barrier()
    assert len(draws) == 40 / (NUM_EXAMPLES // BATCH_SIZE)


def test_one_step_is_theta_minus_eta_grad():
    fixed, params, part = make_training(batch_size=NUM_EXAMPLES), make_params(), make_part()
    state, loss = training.train_step(fixed, training.init_state(fixed, params), part)
    value, grads = backprop(params, *part, *fixed.objective[:2])
    np.testing.assert_allclose(loss, value, rtol=1e-15)
    for new, old, grad in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(params), jax.tree.leaves(grads), strict=True
    ):
        np.testing.assert_allclose(new, old - 0.5 * grad, rtol=1e-14)


def test_autodiff_trains_to_the_same_parameters():
    part, finals = make_part(), []
    for fixed in (make_training(), make_training(autodiff=True)):
        train, init = loop(fixed, part, log_every=20)
        finals.append(train(init(make_params()), [20])[0].state.params)
    for a, b in zip(*map(jax.tree.leaves, finals), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("autodiff", [False, True])
def test_the_reported_loss_costs_no_product_and_an_unasked_penalty_no_sum(autodiff):
    def count(function, *arguments):
        program = str(jax.jit(function).lower(*arguments).compile().as_text())
        return program.count(" dot("), program.count(" reduce(")

    plain = make_training(autodiff=autodiff)
    penalised = make_training(autodiff=autodiff, penalty=Penalty(l2=0.3, l1=0.2))
    params, batch = make_params(), make_part(BATCH_SIZE)
    state = training.init_state(plain, params)
    num_products, _ = count(lambda *of: backprop(*of, *plain.objective), params, *batch)
    of_step = count(partial(training.train_step, plain), state, batch)
    assert of_step[0] == num_products > 0
    assert count(partial(training.train_step, penalised), state, batch) == of_step


def test_the_reported_loss_leaves_the_penalty_out_and_the_step_does_not():
    penalty = Penalty(l2=0.3, l1=0.2)
    fixed = make_training(penalty=penalty, batch_size=NUM_EXAMPLES)
    params, part = make_params(), make_part()
    state, loss = training.train_step(fixed, training.init_state(fixed, params), part)
    data_loss = batch_loss(params, *part, *fixed.objective[:2])
    np.testing.assert_allclose(loss, data_loss, rtol=1e-14)
    grads = jax.grad(batch_loss)(params, *part, *fixed.objective)
    np.testing.assert_allclose(state.params[0].W, params[0].W - 0.5 * grads[0].W, rtol=1e-12)
    assert penalty_value(params, penalty) > 0


@pytest.mark.parametrize("num_examples", [1, 7, 8, 9, 22])
def test_evaluation_counts_every_example_once(num_examples):
    fixed, params, part = make_training(), make_params(), make_part(num_examples)
    measured = training.evaluate(fixed, params, part, max_batch=4)
    logits = jax.vmap(lambda x: network.apply(params, x, fixed.objective.activation))(part.x)
    losses = jax.vmap(fixed.objective.loss.value)(logits, part.y)
    right = np.argmax(np.asarray(logits), axis=1) == np.argmax(np.asarray(part.y), axis=1)
    np.testing.assert_allclose(measured["loss"], np.mean(losses), rtol=1e-14)
    np.testing.assert_allclose(measured["accuracy"], np.mean(right), rtol=1e-14)


def test_evaluation_of_a_regression_is_scikit_learns_r2():
    from sklearn.metrics import r2_score

    fixed = make_training(loss=LOSSES["identity", "squared_error"], threshold=None)
    params = network.init_params(
        jax.random.key(1), (2, 4, 1), INITIALIZERS["glorot_normal"], dtype="float64"
    )
    part = make_part()
    part = Part(part.x, part.x[:, :1] ** 2)
    y_hat = jax.vmap(lambda x: network.apply(params, x, fixed.objective.activation))(part.x)
    measured = training.evaluate(fixed, params, part, max_batch=4)
    np.testing.assert_allclose(measured["r2"], r2_score(part.y, y_hat), rtol=1e-12)


@pytest.mark.parametrize(("output", "threshold"), [("sigmoid", 0.5), ("tanh", 0.0)])
def test_a_single_output_is_right_on_its_side_of_the_threshold(output, threshold):
    fixed = make_training(loss=LOSSES[output, "squared_error"], threshold=threshold, activation=())
    params = (network.Layer(jnp.array([[1.0]]), jnp.array([0.0])),)
    x = jnp.array([[-2.0], [-1.0], [1.0], [2.0]])
    low = -1.0 if output == "tanh" else 0.0
    y = jnp.array([[low], [1.0], [1.0], [low]])
    assert training.evaluate(fixed, params, Part(x, y))["accuracy"] == 0.5


def test_an_interval_logs_the_mean_of_its_batches_or_the_loss_after_them():
    fixed, validation = make_training(), make_part(9)
    train, init = loop(fixed, make_part(), log_every=4)
    carry, num_finite = train(init(make_params()), [4])
    assert num_finite == 4
    _, logged = training.log_point(fixed, carry, make_part(), validation)
    np.testing.assert_allclose(logged["train/loss"], np.mean(carry.losses), rtol=1e-14)
    wanted = training.evaluate(fixed, carry.state.params, validation)
    np.testing.assert_allclose(logged["validation/loss"], wanted["loss"], rtol=1e-14)
    np.testing.assert_allclose(logged["learning_rate"], 0.5 / 4)
    _, logged = training.log_point(fixed, carry, make_part(), None)
    wanted = training.evaluate(fixed, carry.state.params, make_part())
    np.testing.assert_allclose(logged["train/loss"], wanted["loss"], rtol=1e-14)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_the_first_step_that_is_not_finite_is_counted(at):
    def eta(step):
        return jnp.where(step == at, jnp.inf, 0.1)

    fixed = make_training(optimizer=optax.with_extra_args_support(gradient_descent(eta)))
    train, init = loop(fixed, make_part(), log_every=4)
    # An update makes the parameters infinite; the loss of the next step, or of none, shows it.
    assert train(init(make_params()), [4])[1] == min(at + 1, 3)


def test_early_stopping_keeps_the_best_parameters():
    scores = iter([1.0, 3.0, 2.0, 3.05, 2.0])
    best = None
    fixed = make_training(monitor=lambda logged: logged["validation/accuracy"], min_delta=0.1)
    state = training.init_state(fixed, make_params())
    best = state.best
    kept = []
    for step, score in enumerate(scores, start=1):
        params = jax.tree.map(lambda leaf, step=step: jnp.full_like(leaf, step), state.params)
        best = training._update_best(
            fixed, best, params, jnp.asarray(score), jnp.asarray(step, jnp.int32)
        )
        kept.append((int(best.step), int(best.num_worse), float(best.params[0].W[0, 0])))
    # 3.05 is not an improvement by more than min_delta = 0.1.
    assert kept == [(1, 0, 1.0), (2, 0, 2.0), (2, 1, 2.0), (2, 2, 2.0), (2, 3, 2.0)]


def test_nothing_counts_as_better_after_the_patience_is_spent():
    fixed = make_training(monitor=lambda logged: logged["validation/accuracy"], patience=2)
    best = training.init_state(fixed, make_params()).best
    for step, score in enumerate([1.0, 0.5, 0.5, 9.0], start=1):
        best = training._update_best(
            fixed, best, best.params, jnp.asarray(score), jnp.asarray(step, jnp.int32)
        )
    assert (int(best.step), float(best.score), int(best.num_worse)) == (1, 1.0, 3)


def test_early_stopping_keeps_trained_parameters_even_if_no_score_is_finite():
    fixed = make_training(monitor=lambda logged: logged["validation/r2"])
    best = training.init_state(fixed, make_params()).best
    params = jax.tree.map(jnp.ones_like, best.params)
    for step, score in [(4, -jnp.inf), (8, jnp.nan)]:
        best = training._update_best(
            fixed, best, params, jnp.asarray(score), jnp.asarray(step, jnp.int32)
        )
    assert (int(best.step), int(best.num_worse)) == (4, 1)
    np.testing.assert_array_equal(best.params[0].W, 1)


@pytest.mark.usefixtures("compiled_fully")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [1, BATCH_SIZE, NUM_EXAMPLES])
def test_where_the_host_looks_changes_no_bit(batch_size, dtype):
    fixed, part = make_training(batch_size=batch_size), make_part(dtype=dtype)
    train, init = loop(fixed, part, log_every=12)
    whole, num_finite = train(init(make_params(dtype)), [12])
    assert num_finite == 12
    for lengths in ([1] * 12, [5, 7], [8, 4], [3, 3, 3, 3]):
        assert_trees_equal(train(init(make_params(dtype)), lengths)[0], whole)
    start = init(make_params(dtype))
    with jax.no_tracing():  # one program for any length
        train(start, [1, 11])


def test_steps_before_the_first_that_is_not_finite_are_counted_wherever_the_call_began():
    def eta(step):
        return jnp.where(step == 2, jnp.inf, 0.1)

    fixed = make_training(optimizer=optax.with_extra_args_support(gradient_descent(eta)))
    train, init = loop(fixed, make_part(), log_every=5)

    def num_finite(*lengths):
        return int(train(init(make_params()), lengths)[1])

    # The third update makes the parameters infinite; the next loss, or none any more, shows it.
    assert [num_finite(length) for length in (2, 3, 4, 5)] == [2, 2, 3, 3]
    assert [num_finite(2, length) for length in (1, 2, 3)] == [0, 1, 1]


def test_the_log_point_has_the_mean_of_the_losses_since_the_last():
    fixed = make_training()
    carry = training.init_carry(fixed, make_params(), log_every=4)
    carry = carry._replace(
        losses=jnp.array([1.0, 2.0, 4.0, jnp.nan]),
        state=carry.state._replace(step=jnp.int32(7)),  # the losses of steps 4, 5 and 6
    )
    _, logged = training.log_point(fixed, carry, make_part(), make_part())
    np.testing.assert_allclose(logged["train/loss"], 7 / 3)
