"""Where a training goes wrong is found exactly, and nothing that is not finite is recorded."""

import math
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlp_jax import data
from mlp_jax.commands import train
from mlp_jax.config.compose import compose
from mlp_jax.core import fit as fitting
from mlp_jax.core import training
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import Objective
from mlp_jax.core.divergence import first_non_finite
from mlp_jax.core.fit import DivergedError, compile_programs, fit
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.network import Layer
from mlp_jax.core.training import Part, Training, init_state
from mlp_jax.durable import rundir
from mlp_jax.durable.checkpoint import Checkpoints
from mlp_jax.experiment import run as experiment
from mlp_jax.experiment import setup as problem
from mlp_jax.tracking import store

# --- which number was the first ----------------------------------------------------------------

BIG = 1e25  # its square is not finite in float32
NUM_LAYERS = 4


def training_of(optimizer) -> Training:
    return Training(
        objective=Objective(ACTIVATIONS["identity"], LOSSES["identity", "squared_error"]),
        optimizer=optax.with_extra_args_support(optimizer),
        learning_rate=lambda step: jnp.float32(1),
        batch_size=1,
    )


def chain(W: dict[int, float] | None = None, b: dict[int, float] | None = None):
    """Layers of one unit, all zero but for these weights and biases: all that they do not reach
    is zero, too.
    """
    W, b = W or {}, b or {}
    return tuple(
        Layer(jnp.full((1, 1), W.get(number, 0), "float32"),
              jnp.full(1, b.get(number, 0), "float32"))
        for number in range(1, NUM_LAYERS + 1)
    )  # fmt: skip


def first_of(params, x=0.0, optimizer=None, opt_state=None) -> str:
    training = training_of(optimizer or optax.sgd(1.0))
    state = init_state(training, params)
    if opt_state is not None:
        state = state._replace(opt_state=opt_state)
    part = Part(jnp.full((1, 1), x, "float32"), jnp.zeros((1, 1), "float32"))
    with jax.disable_jit():  # a compiler for each would take most of the time; it is used below
        return first_non_finite(training, state, part)


@pytest.mark.parametrize("layer", range(1, NUM_LAYERS + 1))
def test_the_layer_that_overflows_forward_is_named(layer):
    """The layers after it are not finite either."""
    before = dict.fromkeys(range(1, layer), 1.0)
    params = chain(before | {layer: BIG} | dict.fromkeys(range(layer + 1, 5), 1.0))
    assert first_of(params, x=BIG) == f"z of layer {layer}"


def test_a_loss_that_overflows_is_named_though_every_layer_is_finite():
    assert first_of(chain(b={4: BIG})) == "the loss"


@pytest.mark.parametrize("layer", range(1, NUM_LAYERS))
def test_the_layer_whose_gradient_overflows_first_on_the_way_back_is_named(layer):
    """δ is 10¹⁶ at the end and is multiplied by 10²⁵ right before this layer.

    So are the gradients of the layers before it not finite, but no z, loss or later gradient is.
    """
    weights = dict.fromkeys(range(1, 5), 1.0) | {layer + 1: BIG}
    assert first_of(chain(weights, b={4: 1e16})) == f"the gradient of layer {layer}"


def test_the_gradient_of_the_last_layer():
    """Its δ is finite and so is what comes into it; their product is not."""
    assert first_of(chain(b={3: BIG, 4: 1e16})) == "the gradient of layer 4"


@pytest.mark.parametrize("layer", range(1, NUM_LAYERS + 1))
def test_the_layer_whose_parameters_overflow_is_named(layer):
    """Its bias alone has a gradient, and those of the layers behind it."""
    weights = dict.fromkeys(range(layer + 1, 5), 1.0)
    params = chain(weights, b={4: 1e16})
    assert first_of(params, optimizer=optax.sgd(BIG)) == f"the parameters of layer {layer}"


def test_a_momentum_that_was_not_finite_is_named():
    """Adam divides by the root of an infinite moment: the parameters stay as they are."""
    optimizer, params = optax.adam(0.1), chain(b={4: 1.0})
    state = optimizer.init(params)
    infinite = jax.tree.map(lambda nu: jnp.full_like(nu, jnp.inf), state[0].nu)
    state = (state[0]._replace(nu=infinite), *state[1:])
    words = "the state of the optimizer"
    assert first_of(params, optimizer=optimizer, opt_state=state) == words


# --- which step it was -------------------------------------------------------------------------

LINE = ["data=sine", "model.hidden_sizes=[]", "model.params=[{W: [[1]], b: [0]}]", "num_epochs=60",
        "tracking=none"]  # fmt: skip


def prepared_with(*overrides: str):
    config = compose([*LINE, *overrides])
    return problem.prepare(config, data.load(config.data))


def diverged(prepared, programs=None, pause_every=None) -> DivergedError:
    with pytest.raises(DivergedError) as error:
        fit(prepared, programs or compile_programs(prepared), pause_every=pause_every)
    return error.value


def by_numpy(prepared, learning_rate: float):
    """Gradient descent on a line in float64, until the sum of squares is not finite in float32."""
    x, y = (np.asarray(a, np.float64)[:, 0] for a in prepared.train)
    w, b = 1.0, 0.0
    for step in range(1, 61):
        error = w * x + b - y
        if np.sum(error**2) > np.finfo(np.float32).max:
            return step, w, b
        w -= learning_rate * 2 * np.mean(error * x)
        b -= learning_rate * 2 * np.mean(error)
    raise AssertionError("it did not diverge")


def test_the_step_and_the_last_finite_state_are_those_of_a_plain_loop(monkeypatch):
    """However many steps the host lets pass between two looks."""
    prepared = prepared_with("optimizer.learning_rate=30", "log_every=1000")
    step, w, b = by_numpy(prepared, 30.0)
    programs, found = compile_programs(prepared), []
    for seconds, pause_every in ((0.0, None), (1e9, 5)):
        monkeypatch.setattr(fitting, "CALL_SECONDS", seconds)
        found.append(error := diverged(prepared, programs, pause_every))
        assert (error.step, error.where) == (step, "the loss")
        assert error.last_finite.step == int(error.last_finite.carry.state.step) == step - 1
    (layer,) = found[0].last_finite.carry.state.params
    np.testing.assert_allclose([layer.W[0, 0], layer.b[0]], [w, b], rtol=1e-4)
    states = (jax.tree.leaves(error.last_finite.carry.state) for error in found)
    for left, right in zip(*states, strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_parameter_may_be_the_first_while_the_loss_is_finite():
    """The loss of step 1 is that before its update, which no loss follows."""
    error = diverged(
        prepared_with("optimizer.learning_rate=1e38", "model.params=[{W: [[9]], b: [9]}]")
    )
    assert (error.step, error.where) == (1, "the parameters of layer 1")
    assert error.last_finite.step == 0


def test_the_batch_is_that_of_the_step():
    """One target's square is not finite; the step that draws this example diverges."""
    prepared = prepared_with("batch_size=16", "optimizer.learning_rate=0.1")
    x, y = prepared.train
    prepared = replace(prepared, train=Part(x, y.at[7].set(BIG)))
    rows = training.draw(prepared.training, prepared.order, len(x), 0)[: len(x) // 16]
    (drawn,) = np.flatnonzero(np.any(np.asarray(rows) == 7, axis=1))
    assert drawn > 0
    error = diverged(prepared)
    assert (error.step, error.where) == (drawn + 1, "the loss")


def test_the_message_says_what_to_try():
    prepared = prepared_with("optimizer.learning_rate=0.25")
    message = fitting.divergence(12_345, prepared.advice, "z of layer 2")
    assert message == (
        "training diverged at step 12,345: z of layer 2 was the first that is not finite. Try a "
        "smaller optimizer.learning_rate (now 0.25), optimizer.clip_norm=1 or "
        "data.standardize=true."
    )
    for key in re.findall(r"[a-z_]+\.[a-z_]+=\w+", message):
        compose([*LINE, key])


# --- a whole run -------------------------------------------------------------------------------

DIVERGING = [
    "data=sine", "model.activation=relu", "num_epochs=200", "optimizer.learning_rate=1e3",
    "log_every=1", "data.validation_size=0.2",
]  # fmt: skip


def only_once(function):
    results = []

    def first_result(*args):
        if not results:
            results.append(function(*args))
        return results[0]

    return first_result


@pytest.fixture(scope="module")
def lost(tmp_path_factory, make_store):
    """A recorded run that diverged and was resumed: its directory, its store, what was said."""
    home = tmp_path_factory.mktemp("lost")
    uri, said = make_store(home), []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for name in ("compile_programs", "check"):  # what both would do alike
            patch.setattr(experiment, name, only_once(getattr(experiment, name)))
        with pytest.raises(DivergedError) as first:
            experiment.run(compose([*DIVERGING, f"tracking.uri='{uri}'"]))
        (directory,) = Path("runs").absolute().iterdir()
        content = [path.read_bytes() for path in sorted(directory.rglob("*.npz"))]
        with pytest.raises(DivergedError) as again:
            train.resume(directory.name, [])
        assert [path.read_bytes() for path in sorted(directory.rglob("*.npz"))] == content
        said += [str(first.value), str(again.value)]
    return directory, uri, said


def test_a_run_that_diverged_and_is_resumed_diverges_where_it_did(lost):
    directory, _, said = lost
    assert said[0] == said[1]
    assert said[0].startswith("training diverged at step 4: the loss was the first")
    assert rundir.result(directory) is None


def test_the_last_finite_state_is_kept(lost):
    directory, _, _ = lost
    checkpoints = Checkpoints(directory / "checkpoints", keep=2)
    assert checkpoints.steps() == [3]
    config = compose([*DIVERGING, "tracking=none"])
    prepared = problem.prepare(config, data.load(config.data))
    carry = experiment.from_arrays(fitting.template(prepared), checkpoints.restore(pytest.fail))
    state = carry.state
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_the_run_says_that_it_failed_and_where(lost):
    _, uri, said = lost
    client = store.open_store(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("sine").experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.tags["diverged_at"] == "4"
    assert run.data.tags["error"] == f"DivergedError: {said[0]}"


def test_no_number_that_is_not_finite_is_recorded(lost):
    """The validation loss after step 3 is none; MLflow would keep it as the largest float."""
    _, uri, _ = lost
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        points = database.execute("SELECT key, step, value, is_nan FROM metrics").fetchall()
        points += database.execute("SELECT key, step, value, is_nan FROM latest_metrics").fetchall()
    steps = {step for key, step, *_ in points if key == "train/loss"}
    assert steps == {1, 2, 3}
    assert not [p for p in points if p[3] or not math.isfinite(p[2]) or abs(p[2]) > 1e300]
    assert ("validation/loss", 2) in {p[:2] for p in points}
    assert ("validation/loss", 3) not in {p[:2] for p in points}
