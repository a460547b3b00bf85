"""Embeddings of the inputs: their backward pass against `jax.grad`, and bugs planted into it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_backprop import error_against_autodiff, network
from test_mutants import planted

from mlp_jax.core import backprop as backpropagation
from mlp_jax.core import embedding as module
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import Objective, Penalty
from mlp_jax.core.embedding import Embedded, embed, init_embedding
from mlp_jax.core.gradcheck import check_gradient
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.network import behind, forward, layers_of
from mlp_jax.core.optimizers import make_learning_rate, make_optimizer
from mlp_jax.core.regularization import Noise, draw_masks

NUM_INPUTS = 8
KINDS = {
    "numbers": Embedded(numbers=(0, 2, 7), size=2, num_frequencies=4),
    "categories": Embedded(blocks=((1, 4), (5, 7))),
    "both": Embedded(numbers=(0, 7), blocks=((1, 4), (4, 7)), size=3, num_frequencies=2),
    "all of x": Embedded(numbers=tuple(range(NUM_INPUTS)), size=1, num_frequencies=1),
    "pieces": Embedded((0, 2, 7), size=2, num_frequencies=4, shape="piecewise"),
    "pieces and categories": Embedded((0, 7), ((1, 4), (4, 7)), 3, 2, "piecewise"),
}
LOSS = LOSSES["identity", "squared_error"]


def params_of(embedded: Embedded):
    embedding = init_embedding(jax.random.key(1), embedded, 0.5, jnp.float64)
    return behind(embedding, network((embedded.num_outputs(NUM_INPUTS), 4, 3, 2)))


def batch(batch_size=6):
    x = np.random.default_rng(0).normal(size=(batch_size, NUM_INPUTS))
    x[:, 1:7] = np.eye(6)[np.arange(batch_size) % 6]  # as categories are
    y = np.random.default_rng(1).normal(size=(batch_size, 2))
    return jnp.asarray(x), jnp.asarray(y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rates", [None, (0.3, 0.3)], ids=["plain", "dropout"])
def test_backprop_against_autodiff(kind, rates):
    params = params_of(KINDS[kind])
    masks = rates and draw_masks(Noise(*rates), jax.random.key(0), jnp.int32(0), params, 6)
    arguments = ACTIVATIONS["tanh"], LOSS, Penalty(l2=0.1, l1=0.01), masks
    assert error_against_autodiff(params, *batch(), *arguments) <= 1e-12


def test_every_entry_of_an_embedding_has_a_gradient():
    """Else an agreement with autodiff would prove little."""
    _, grads = backpropagation.backprop(
        params_of(KINDS["both"]), *batch(), ACTIVATIONS["tanh"], LOSS
    )
    assert all(jnp.all(leaf != 0) for leaf in jax.tree.leaves(grads[0]))


@pytest.mark.parametrize("kind", ["both", "pieces and categories"])
def test_what_the_first_layer_takes_is_as_defined(kind):
    embedding = params_of(KINDS[kind])[0]
    x = np.asarray(batch()[0][0])
    wanted = [x[0], x[7]]
    for j, number in enumerate((0, 7)):
        f, c = np.asarray(embedding.f[j]), np.asarray(embedding.c[j])
        v = np.cos(2 * np.pi * f * x[number] + c) if kind == "both" else f * x[number] + c
        v = v if kind == "both" else np.where(v > 0, v, 0)
        wanted += (np.asarray(embedding.V[j]) @ v + np.asarray(embedding.b[j])).tolist()
    wanted += embedding.E[0][:, int(np.argmax(x[1:4]))].tolist()
    wanted += [0.0] * 2  # a level that the other block does not have
    np.testing.assert_allclose(embed(embedding, jnp.asarray(x)), wanted, rtol=1e-12)
    _, activations = forward(params_of(KINDS[kind]), jnp.asarray(x), ACTIVATIONS["tanh"])
    np.testing.assert_allclose(activations[0], wanted, rtol=1e-12)


def test_initial_values_have_their_distributions():
    numbers = Embedded(tuple(range(200)), size=4, num_frequencies=25)
    embedding = init_embedding(jax.random.key(0), numbers, 0.3)
    assert np.std(embedding.f) == pytest.approx(0.3, rel=0.05)
    assert np.abs(embedding.c).max() == pytest.approx(np.pi, rel=0.01)
    assert np.std(embedding.c) == pytest.approx(np.pi / np.sqrt(3), rel=0.05)
    assert np.abs(embedding.V).max() == pytest.approx(0.2, rel=0.01)
    arrays = [np.ravel(leaf)[:100] for leaf in jax.tree.leaves(embedding)]
    assert len({array.tobytes() for array in arrays}) == len(arrays)


def test_pieces_meet_where_standardised_numbers_are():
    numbers = Embedded(tuple(range(200)), size=4, num_frequencies=25, shape="piecewise")
    embedding = init_embedding(jax.random.key(0), numbers, 0.3)
    assert jnp.all(embedding.f == 1)
    assert np.mean(embedding.c) == pytest.approx(0, abs=0.05)
    assert np.std(embedding.c) == pytest.approx(1, rel=0.05)


def test_a_category_has_half_as_many_numbers_as_levels_and_at_most_eight():
    embedded = Embedded(blocks=((0, 2), (2, 5), (5, 105)))
    assert embedded.category_sizes == (1, 2, 8)
    assert embedded.num_outputs(106) == 1 + 1 + 2 + 8


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_weight_decay_leaves_an_embedding_alone(name):
    params = params_of(KINDS["both"])
    optimizer = make_optimizer(name, make_learning_rate("constant", 0.1, 10), weight_decay=0.5)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(updates[0]))
    assert all(jnp.any(layer.W != 0) for layer in layers_of(updates))


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_check_takes_every_kind(kind):
    objective = Objective(ACTIVATIONS["tanh"], LOSS)
    assert check_gradient(objective, params_of(KINDS[kind]), *batch()).passed


# --- planted bugs ------------------------------------------------------------------------------

MUTANTS = {
    "sin for −sin": ("lambda z: -jnp.sin(z)", "lambda z: jnp.sin(z)"),
    "cos for −sin": ("lambda z: -jnp.sin(z)", "lambda z: jnp.cos(z)"),
    "no derivative of g": (" * derivative(z)", ""),
    "no 2π in f": ("omega * x_j * zeta", "x_j * zeta"),
    "no x in f": ("omega * x_j * zeta", "omega * zeta"),
    "x in c": ("c=jnp.sum(zeta, axis=0)", "c=jnp.sum(x_j * zeta, axis=0)"),
    "z for v in V": ("bjk->jdk\", delta_j, g(z)", "bjk->jdk\", delta_j, z"),
    "only the first example in b": ("b=jnp.sum(delta_j, axis=0)", "b=delta_j[0]"),
    "sum for mean": ("delta / batch_size", "delta"),
    "another category's x": ("x[:, start:end])", "x[:, :end - start])"),
}  # fmt: skip
OF_PIECES = {
    "max for its derivative": ("jnp.heaviside(z, jnp.zeros((), z.dtype))", "jnp.maximum(z, 0)"),
    "1 for the derivative of max": ("jnp.heaviside(z, jnp.zeros((), z.dtype))", "jnp.ones_like(z)"),
}  # fmt: skip
CASES = [
    *(("both", name) for name in (None, *MUTANTS)),
    *(("pieces and categories", name) for name in (None, *OF_PIECES)),
]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_mutant_is_caught_by_the_gradient_check(kind, name, monkeypatch):
    if name is not None:
        source = Path(module.__file__).read_text(encoding="utf-8")
        gradient = planted(*(MUTANTS | OF_PIECES)[name], source).embedding_gradient

        def mutated(embedding, x, delta):
            found = gradient(embedding, x, delta)
            return type(embedding)(**vars(found))

        monkeypatch.setattr(backpropagation, "embedding_gradient", mutated)
    check = check_gradient(Objective(ACTIVATIONS["tanh"], LOSS), params_of(KINDS[kind]), *batch())
    assert check.passed == (name is None)
    assert len(check.layers) == 4
    assert name is None or check.worst_layer == 0
