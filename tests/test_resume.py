"""A run that was interrupted and continued ends with the bits of one that was not."""

import jax
import numpy as np
import pytest

from mlp_jax import data, fitting, problem
from mlp_jax.checkpoint import Checkpoints
from mlp_jax.cli import compose
from mlp_jax.fitting import LogPoint, compile_programs, fit, template

SMALL = ["data=iris", "model.hidden_sizes=[4]", "num_epochs=null", "batch_size=16"]
FULL_BATCH = ["data=iris", "model.hidden_sizes=[4]", "num_epochs=null"]
TRAININGS = {
    "gradient_descent": [*SMALL, "num_steps=23", "log_every=5"],
    "momentum": [*SMALL, "optimizer=momentum", "num_steps=14", "log_every=7", "dtype=float64"],
    "adagrad": [*SMALL, "optimizer=adagrad", "num_steps=12", "log_every=1"],
    "rmsprop": [*SMALL, "optimizer=rmsprop", "num_steps=12", "log_every=12"],
    "adam": [*SMALL, "optimizer=adam", "schedule=cosine", "num_steps=26", "log_every=6"],
    "adamw": [*SMALL, "optimizer=adamw", "schedule=warmup_cosine", "num_steps=12", "log_every=4",
              "optimizer.clip_norm=1"],
    "lion": [*SMALL, "optimizer=lion", "schedule=piecewise", "num_steps=12", "log_every=4"],
    "lbfgs": [*FULL_BATCH, "optimizer=lbfgs", "num_steps=8", "log_every=3"],
    "early stopping": [*SMALL, "optimizer=adam", "optimizer.learning_rate=0.3", "num_steps=400",
                       "log_every=5", "early_stopping.patience=3", "data.validation_size=30"],
}  # fmt: skip


class StopError(Exception):
    """A stand-in for whatever ends a process."""


def assert_same_bits(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype


def last_pause(prepared, programs):
    """The training without interruption, as its last pause, and what was fitted."""
    pauses = []
    fitted = fit(prepared, programs, on_pause=lambda pause: pauses.append(pause._replace(
        carry=programs.copy(pause.carry), history=list(pause.history))))  # fmt: skip
    return pauses[-1], fitted


@pytest.mark.parametrize("name", TRAININGS)
def test_interrupted_at_every_step_it_ends_with_the_same_bits(name, tmp_path, monkeypatch):
    config = compose([*TRAININGS[name], "tracking=none"])
    with problem.numeric_settings(config):
        prepared = problem.prepare(config, data.load(config.data))
        programs = compile_programs(prepared)
        wanted, wanted_fitted = last_pause(prepared, programs)
        monkeypatch.setattr(fitting, "CALL_SECONDS", 0.0)  # one step a call
        checkpoints = Checkpoints(tmp_path, keep=2)

        def stop(pause):
            checkpoints.save(pause.step, pause.carry, pause.history)
            raise StopError

        carry, history, steps = None, [], []
        while not steps or steps[-1] < wanted.step:
            with pytest.raises(StopError):
                fit(prepared, programs, carry, history, on_pause=stop)
            restored = checkpoints.restore(template(prepared), pytest.fail)
            carry, history = restored.state, [LogPoint(*p) for p in restored.history]
            steps.append(int(carry.state.step))
        assert steps == list(range(1, wanted.step + 1))
        assert_same_bits(carry, wanted.carry)
        assert history == wanted.history
        fitted = fit(prepared, programs, carry, history, on_pause=stop)
        assert (fitted.step, fitted.history) == (wanted_fitted.step, wanted_fitted.history)
        assert_same_bits(fitted.params, wanted_fitted.params)
