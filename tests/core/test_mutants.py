"""The tests and the gradient check catch bugs: each of these, planted into backprop's source."""

from functools import cache
from pathlib import Path
from types import ModuleType

import jax
import pytest
from jax import Array
from test_backprop import TOLERANCE, batch, network, relative_error

from mlp_jax.core import backprop
from mlp_jax.core import gradcheck as proof
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import Objective
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.network import Params
from mlp_jax.core.regularization import Noise, draw_masks

SOURCE = Path(backprop.__file__).read_text(encoding="utf-8")

MUTANTS = {
    "a lost transpose": ("layer.W.T @", "layer.W @"),
    "no g'": (" * act.dg(z)", ""),
    "g for g'": ("act.dg(z)", "act.g(z)"),
    "g' of a": ("act.dg(z)", "act.dg(act.g(z))"),
    "σ' for tanh'": ("act.dg(z)", "jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)"),
    "activations in the wrong order": (
        "reversed(hidden_activations(params, activation))",
        "hidden_activations(params, activation)",
    ),
    "z in the wrong order": ("reversed(zs[:-1])", "zs[:-1]"),
    "W of the layer before": ("reversed(layers[1:])", "reversed(layers[:-1])"),
    "always δ^L": ("deltas[-1], mask) * act", "deltas[0], mask) * act"),
    "no mask": ("masked(layer.W.T @ deltas[-1], mask)", "layer.W.T @ deltas[-1]"),
    "the mask of the layer before": ("len(layers))[1:]", "len(layers))[:-1]"),
    "masks in the wrong order": ("reversed((masks", "((masks"),
    "deltas in the wrong order": ("return deltas[::-1]", "return deltas"),
    "ŷ − y for any output": ("loss.delta(zs[-1], y)", "loss.output(zs[-1]) - y"),
    "×log 2": ("deltas = [loss.delta(zs[-1], y)]", "deltas = [0.6931 * loss.delta(zs[-1], y)]"),
    "×(1+1e-6)": (
        "deltas = [loss.delta(zs[-1], y)]",
        "deltas = [(1 + 1e-6) * loss.delta(zs[-1], y)]",
    ),
    "z for a": ("zip(deltas, activations,", "zip(deltas, [x, *zs[:-1]],"),
    "a of the layer after": (
        "zip(deltas, activations,",
        "zip(deltas, [*activations[1:], activations[0]],",
    ),
    "outer product the wrong way round": ('"bi,bj->ij"', '"bi,bj->ji"'),
    "sum for mean in W": (" / batch_size", ""),
    "sum for mean in b": ("jnp.mean(delta, axis=0)", "jnp.sum(delta, axis=0)"),
    "only the first example in b": ("jnp.mean(delta, axis=0)", "delta[0]"),
    "zero bias gradient": ("jnp.mean(delta, axis=0)", "jnp.zeros_like(delta[0])"),
    "sum for mean in the value": (
        "jnp.mean(jax.vmap(loss.value)(zs[-1], y))",
        "jnp.sum(jax.vmap(loss.value)(zs[-1], y))",
    ),
    "no penalty in the value": (
        "value = value + penalty_value(params, penalty)",
        "value = value + 0",
    ),
    "no l2": (" + penalty.l2 * W", ""),
    "twice the l2": ("penalty.l2 * W", "2 * penalty.l2 * W"),
    "no l1": (" + penalty.l1 * jnp.sign(W)", ""),
    "l1 without its sign": ("penalty.l1 * jnp.sign(W)", "penalty.l1"),
}

# Equal widths, so that no shape gives a mutant away; a mismatched pair; different activations.
SIZES = (3, 3, 3, 3)
ARGUMENTS = (
    network(SIZES),
    *batch(SIZES, "sigmoid"),
    (ACTIVATIONS["tanh"], ACTIVATIONS["softplus"]),
    LOSSES["sigmoid", "half_squared_error"],
    backprop.Penalty(l2=0.1, l1=0.03),
    draw_masks(Noise(0.4, 0.3), jax.random.key(0), jax.numpy.int32(0), network(SIZES), 5),
)


def planted(original: str, replacement: str, source: str = SOURCE) -> ModuleType:
    assert original in source, f"{original!r} is no longer there"
    module = ModuleType("mutant")
    exec(compile(source.replace(original, replacement), "mutant", "exec"), module.__dict__)
    return module


@cache
def reference() -> tuple[Array, Params]:
    return jax.value_and_grad(backprop.batch_loss)(*ARGUMENTS)


def caught_by_the_tests(module: ModuleType) -> bool:
    error = relative_error(module.backprop(*ARGUMENTS), reference())
    return not error <= TOLERANCE[jax.numpy.float64]


def caught_by_the_check(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(proof, "backprop", module.backprop)
    return not proof.check_gradient(
        Objective(*ARGUMENTS[3:]), *ARGUMENTS[:3], num_coordinates=1
    ).passed


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = planted(*MUTANTS[name])
    assert caught_by_the_tests(mutant)
    assert caught_by_the_check(mutant, monkeypatch)


def test_the_original_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not caught_by_the_tests(planted("", ""))
    assert not caught_by_the_check(planted("", ""), monkeypatch)
