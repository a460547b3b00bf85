"""Who is responsible for the loss of a deep network, and what keeps the first layers informed?

δ^l = ∂L/∂z^l says how much neuron l is to blame. Backwards through 1-1-…-1 each layer multiplies it
by σ'(z) w, at most ¼|w|: the ¼^l law. With 32 neurons a layer the factor is the square root of
χ = σ_w² E[g'(z)²], σ_w² being n_in Var(W) and z normal, its variance that of the layer
(Schoenholz et al. 2017, eq. 5). ReLU with He's weights has χ = 1, tanh with LeCun's nearly.
Glorot's weights are LeCun's where layers are equally wide.
"""

from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import mlp_jax as mlp
from experiments.study import ChildRun, Results, Row, networks, run_study, subplots
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import deltas_of
from mlp_jax.core.initializers import INITIALIZERS
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.network import Layer, Params, forward, init_params

DEPTH = 50
WIDTH = 32
NUM_SEEDS = 128
HIDDEN = ("sigmoid", "tanh", "relu")
SCALES = {"scaled_normal": 0.1}  # that the initializer is multiplied by, where it is not 1
VARIANCES = {  # σ_w² = n_in Var(W) of equally wide layers
    "scaled_normal": 0.01 * WIDTH,
    "lecun_normal": 1.0,
    "he_normal": 2.0,
    "standard_normal": float(WIDTH),
}
LABELS = {
    "scaled_normal": "N(0, .1²)",
    "lecun_normal": "LeCun",
    "he_normal": "He",
    "standard_normal": "N(0, 1)",
}
INNER = slice(10, 40)  # layers far from both ends

TRAINED_DEPTH, TRAINED_WIDTH, TRAINED_SEEDS = 30, 10, 8
TRAINED = {"sigmoid": "lecun_normal", "tanh": "lecun_normal", "relu": "he_normal"}
LOG_EVERY, NUM_POINTS = 10, 100
NUM_STEPS = LOG_EVERY * NUM_POINTS

LOSS = LOSSES["identity", "half_squared_error"]


def delta_norms(params: Params, x: Array, y: Array, activation: str) -> Array:
    """[‖δ^1‖, …, ‖δ^L‖] of one example."""
    g = ACTIVATIONS[activation]
    zs, _ = forward(params, x, g)
    return jnp.stack([jnp.linalg.norm(delta) for delta in deltas_of(params, zs, y, g, LOSS)])


def population(sizes: tuple[int, ...], initializer: str, num_seeds: int) -> tuple[Params, Array]:
    """Networks of the seeds 0 … `num_seeds` − 1, stacked, each with an input x ~ N(0, 1)."""

    def draw(key: Array) -> tuple[Params, Array]:
        params_key, x_key = jax.random.split(key)
        draw, scale = INITIALIZERS[initializer], SCALES.get(initializer, 1.0)
        params = init_params(params_key, sizes, draw, scale=scale, dtype=float)
        return params, jax.random.normal(x_key, (sizes[0],), jnp.float32).astype(float)

    return jax.vmap(draw)(jax.vmap(jax.random.key)(jnp.arange(num_seeds)))


def untrained(width: int, depth: int, activation: str, initializer: str) -> tuple[Params, Array]:
    """A population before training and its norms of δ, (seed, layer), for the target 1.

    Not under `jit`: fifty layers take longer to compile than to run.
    """
    params, x = population((width,) * depth + (1,), initializer, NUM_SEEDS)
    norms = jax.vmap(lambda params, x: delta_norms(params, x, jnp.ones(1), activation))(params, x)
    return params, norms


def largest_share_of_bound(params: Params, norms: Array) -> float:
    """The largest ‖δ^l‖ / (¼ ‖W^{l+1}‖₂ ‖δ^{l+1}‖), since σ' ≤ ¼."""
    spectral = jnp.stack([jnp.linalg.norm(W, 2, axis=(1, 2)) for W, _ in params[1:]], axis=1)
    return float((norms[:, :-1] / (spectral * norms[:, 1:] / 4)).max())


def factor(norms: Array) -> tuple[float, float, float]:
    """The root mean square of ‖δ^l‖/‖δ^{l+1}‖ over inner layers, and the 10 to 90 % of seeds."""
    squares = np.asarray((norms[:, :-1] / norms[:, 1:]) ** 2)[:, INNER].mean(axis=1)
    low, high = np.sqrt(np.quantile(squares, [0.1, 0.9]))
    return float(np.sqrt(squares.mean())), float(low), float(high)


def mean_field_factor(activation: str, variance: float) -> float:
    """√χ, averaged over the same layers, for infinitely wide ones; q^{l+1} = σ_w² E[g(z)²]."""
    g, dg = ACTIVATIONS[activation]
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    weights /= weights.sum()
    q, chis = variance, []
    for _ in range(DEPTH):
        z = jnp.asarray(np.sqrt(q) * nodes)
        chis.append(variance * float(weights @ np.asarray(dg(z)) ** 2))
        q = variance * float(weights @ np.asarray(g(z)) ** 2)
    return float(np.sqrt(np.mean(chis[INNER])))


def quarter_law() -> float:
    """|δ^1| / |δ^L| of 1-1-…-1 with w = 1, b = −½ and x = ½, where every z is 0 and σ' = ¼."""
    layer = Layer(jnp.ones((1, 1)), jnp.full(1, -0.5))
    norms = delta_norms((layer,) * DEPTH, jnp.full(1, 0.5), jnp.ones(1), "sigmoid")
    return float(norms[0] / norms[-1])


class Course(NamedTuple):
    """A training: the losses of each log point and seed, the median norms of each and layer."""

    losses: np.ndarray
    delta_norms: np.ndarray


def train(activation: str, initializer: str) -> Course:
    """x² learned on [−1, 1] by gradient descent, and the rms of δ over the examples."""
    x = jnp.linspace(-1, 1, 64, dtype=jnp.float32)[:, None]

    def rms(params: Params) -> dict[str, Array]:
        norms = jax.vmap(lambda x, y: delta_norms(params, x, y, activation))(x, x**2)
        return {"delta_norms": jnp.sqrt(jnp.mean(norms**2, axis=0))}

    sizes = (1, *(TRAINED_WIDTH,) * (TRAINED_DEPTH - 1), 1)
    many = mlp.fit_many(
        mlp.Network(sizes, activation, loss="half_squared_error"),
        x,
        x**2,
        params=networks(sizes, initializer, TRAINED_SEEDS),
        learning_rate=0.02,
        num_steps=NUM_STEPS,
        log_every=LOG_EVERY,
        observe=rms,
    )
    return Course(many.history["train/loss"].T, np.median(many.history["delta_norms"], axis=0))


def bands(norms: Array) -> np.ndarray:
    """10 %, 50 % and 90 % of the seeds' ‖δ^l‖/‖δ^L‖, for each layer."""
    return np.quantile(np.asarray(norms / norms[:, -1:]), [0.1, 0.5, 0.9], axis=0)


def measure() -> Results:
    rows = [
        Row("|δ¹|/|δ⁵⁰| of 1-1-…-1, every z = 0, w = 1", quarter_law(), 0.25**49, "¼^49", digits=9)
    ]
    thin, wide, children = {}, {}, []
    for activation, initializer in product(HIDDEN, ("scaled_normal", "lecun_normal", "he_normal")):
        params, norms = untrained(1, DEPTH, activation, initializer)
        thin[activation, initializer] = bands(norms)
        if (activation, initializer) == ("sigmoid", "lecun_normal"):
            share = largest_share_of_bound(params, norms)
            rows.append(Row("max |δˡ|/(¼|w||δˡ⁺¹|), thin", share, 1.0, "σ' ≤ ¼", "≤"))
        if activation == "relu":
            dead = 100 * float((norms[:, 0] == 0).mean())
            alive = "each neuron of the chain is alive with probability ½"
            rows.append(Row(f"1-1-…-1 with δ¹ = 0, relu, {LABELS[initializer]}, in %", dead,
                            100 * (1 - 0.5**49), alive, "≈"))  # fmt: skip
    for activation, (initializer, variance) in product(HIDDEN, VARIANCES.items()):
        params, norms = untrained(WIDTH, DEPTH, activation, initializer)
        wide[activation, initializer] = bands(norms)
        per_layer, low, high = factor(norms)
        theory = mean_field_factor(activation, variance)
        rows.append(
            Row(f"factor a layer, {activation}, {LABELS[initializer]}", per_layer, theory,
                "√χ, Schoenholz 2017", "≈", (low, high), digits=4)
        )  # fmt: skip
        children.append(
            ChildRun(
                {"activation": activation, "initializer": initializer, "width": WIDTH},
                {"factor a layer": per_layer, "delta norm": bands(norms)[1]},
            )
        )
        if (activation, initializer) == ("sigmoid", "lecun_normal"):
            share = largest_share_of_bound(params, norms)
            rows.append(Row("max ‖δˡ‖/(¼‖W‖₂‖δˡ⁺¹‖), wide", share, 1.0, "σ' ≤ ¼", "≤"))

    mean_only = np.var(np.linspace(-1, 1, 64) ** 2) / 2
    courses = {case: train(*case) for case in TRAINED.items()}
    for (activation, initializer), course in courses.items():
        final = course.losses[-1]
        rows.append(
            Row(f"loss after {NUM_STEPS:,} steps, {activation}, {LABELS[initializer]}",
                np.median(final), mean_only, "predicting the mean of y",
                "≈" if activation == "sigmoid" else "≤", (final.min(), final.max()), digits=4)
        )  # fmt: skip
        metrics = {"loss": np.median(course.losses, axis=1)}
        children.append(
            ChildRun({"trained": f"{TRAINED_DEPTH} layers", "activation": activation}, metrics)
        )
    lost, kept = (wide[case][1, 0] for case in (("sigmoid", "lecun_normal"), ("relu", "he_normal")))
    return Results(
        headline=(
            f"With {WIDTH} sigmoid neurons in each of {DEPTH} layers the first one gets {lost:.0e} "
            f"of the last one's δ (LeCun's weights), with ReLU and He's weights {kept:.2f} of it."
        ),
        rows=rows,
        arrays={"thin": thin, "wide": wide, "courses": courses},
        children=children,
    )


def draw(results: Results) -> Figure:
    fig, axes = subplots(3, 3, height=9.5)
    titles = ("1-1-…-1", f"{WIDTH} neurons a layer")
    for row, title in zip(axes, titles, strict=False):
        curves = results.arrays["thin" if title == titles[0] else "wide"]
        for ax, activation in zip(row, HIDDEN, strict=True):
            draw_norms(ax, curves, activation)
            ax.set_title(f"{activation}, {title}")
    axes[0, 0].legend(fontsize="x-small")
    axes[1, 0].legend(fontsize="x-small")
    for ax, (case, course) in zip(axes[2], results.arrays["courses"].items(), strict=True):
        levels = np.log10(np.maximum(course.delta_norms, 1e-30)).T
        image = ax.imshow(levels, aspect="auto", origin="lower", vmin=-12, vmax=0,
                          extent=(0, NUM_STEPS, 0.5, TRAINED_DEPTH + 0.5))  # fmt: skip
        activation, initializer = case
        ax.set(title=f"{activation}, {LABELS[initializer]}, training")
        ax.set(xlabel="training step", ylabel="layer $l$")
        ax.grid(visible=False)
    fig.colorbar(image, ax=axes[2, 2], label="log₁₀ rms ‖δˡ‖", extend="min")
    return fig


def draw_norms(ax: Axes, curves: dict[tuple[str, str], np.ndarray], activation: str) -> None:
    layers = np.arange(1, DEPTH + 1)
    for (name, initializer), quantiles in curves.items():
        if name != activation:
            continue
        low, middle, high = quantiles
        (line,) = ax.plot(layers, middle, label=LABELS[initializer])
        ax.fill_between(layers, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        if not middle[0]:
            ax.text(0.5, 0.5, "every chain is dead:\nδˡ = 0 for l < L", ha="center",
                    transform=ax.transAxes)  # fmt: skip
    if activation == "sigmoid":
        ax.plot(layers, 0.25 ** (DEPTH - layers), "-", color="grey", lw=0.8, label="¼^(L−l)")
    ax.set(yscale="log", xlabel="layer $l$", ylabel="‖δˡ‖ / ‖δᴸ‖")
    ax.set_xlim(0, DEPTH + 1)


if __name__ == "__main__":
    run_study(measure, draw)
