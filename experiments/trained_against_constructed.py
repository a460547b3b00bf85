"""Does gradient descent find networks as good as the ones that can be constructed?

The lecture's f on [0, 1] with equal width: the staircase of `towers`, the same
network trained on, one with gentler edges trained on, and random starts (LeCun), all with Adam and
a cosine schedule. Barron's bound for n units is (V/2)²/n for the squared L2 error, V being f's
total variation (f is a mean of steps ±V/2: Barron 1993, Lemma 1); in one dimension the staircase
falls as 1/n². No random start gets below the L2 norm of .05 cos 50x, which it does not learn: low
frequencies come first (Rahaman et al. 2019). A construction has that term from the beginning.
"""

from collections.abc import Callable
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
from mlp_jax.core.network import Params, apply
from mlp_jax.library.towers import staircase, towers

LIPSCHITZ = 7.0
TOLERANCES = (0.8, 0.4, 0.2, 0.1)  # ε of the constructions: 5, 10, 20, 39 towers
GENTLE = 5.0  # steepness times width of a tower; the certificate's construction has 25
NUM_SEEDS = 16
NUM_STEPS = 4000
LEARNING_RATE = 0.03  # of random starts
FINE_LEARNING_RATE = 0.003  # of constructions, whose output weights are small
SIGMOID = ACTIVATIONS["sigmoid"]
X_TRAIN = np.linspace(0, 1, 512, dtype=np.float32)
X = np.linspace(0, 1, 2001, dtype=np.float32)


class Comparison(NamedTuple):
    """One width. Populations have an axis of networks: construction, gentle one, random starts."""

    num_units: int
    bound: float
    before: np.ndarray
    after: np.ndarray
    losses: np.ndarray


def f(x: np.ndarray) -> np.ndarray:
    return 0.2 + 0.4 * x**2 + 0.3 * x * np.sin(15 * x) + 0.05 * np.cos(50 * x)


def outputs(params: Params) -> Array:
    """One network on `X`."""
    return jax.vmap(lambda x: apply(params, x, SIGMOID)[0])(jnp.asarray(X)[:, None])


def sup_error(y_hat: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(y_hat - f(X)).max(axis=-1))


def squared_error(y_hat: np.ndarray) -> np.ndarray:
    """∫(g − f)² over [0, 1], the squared L2 error."""
    return np.asarray(np.trapezoid((y_hat - f(X)) ** 2, X, axis=-1))


def barron_bound(num_units: int) -> float:
    variation = np.abs(np.diff(f(np.linspace(0, 1, 100_001)))).sum()
    return float((variation / 2) ** 2 / num_units)


def train(
    params: Params, learning_rate: float, num_steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A population on `X` before and after `num_steps` of Adam on f, and its losses."""
    many = mlp.fit_many(
        mlp.Network((1, len(params[0].b[0]), 1), "sigmoid", loss="half_squared_error"),
        X_TRAIN[:, None],
        f(X_TRAIN)[:, None],
        params=params,
        optimizer="adam",
        schedule="cosine",
        learning_rate=learning_rate,
        num_steps=num_steps,
    )
    before, after = (np.asarray(jax.vmap(outputs)(each)) for each in (params, many.params))
    return before, after, many.history["train/loss"]


def compare(eps: float, num_seeds: int = NUM_SEEDS, num_steps: int = NUM_STEPS) -> Comparison:
    approximation = towers(f, (0, 1), eps, LIPSCHITZ)
    num_towers = approximation.num_towers
    gentle = staircase(f, (0, 1), num_towers, GENTLE * num_towers)
    constructed = jax.tree.map(
        lambda *leaves: jnp.stack(leaves).astype(jnp.float32), approximation.params, gentle
    )
    random = networks((1, num_towers - 1, 1), "lecun_normal", num_seeds)
    courses = (
        train(constructed, FINE_LEARNING_RATE, num_steps),
        train(random, LEARNING_RATE, num_steps),
    )
    before, after, losses = (np.concatenate(both) for both in zip(*courses, strict=True))
    return Comparison(num_towers - 1, approximation.bound, before, after, losses)


def rows_of(comparison: Comparison) -> list[Row]:
    n, bound, before, after, _ = comparison
    sup_before, sup_after = sup_error(before), sup_error(after)
    l2_before, l2_after = (np.sqrt(squared_error(y_hat)) for y_hat in (before, after))
    random, sup_random = l2_after[2:], sup_after[2:]
    of_term = 0.05 / np.sqrt(2)
    return [
        Row(f"{n} units, constructed: sup error", sup_before[0], bound, "certificate", "≤"),
        Row(f"{n} units, constructed: squared L2 error", l2_before[0] ** 2, barron_bound(n),
            "Barron 1993, (V/2)²/n", "≤"),
        Row(f"{n} units, constructed, trained on: L2 error", l2_after[0], l2_before[0],
            "before training", "≤"),
        Row(f"{n} units, constructed, trained on: sup error", sup_after[0],
            sup_before[0], "before training", "≤"),
        Row(f"{n} units, gentle edges, trained on: L2 error", l2_after[1], l2_before[1],
            "before training", "≤"),
        Row(f"{n} units, gentle edges, trained on: sup error", sup_after[1],
            sup_before[1], "before training", "≤"),
        Row(f"{n} units, random starts: median L2 error", np.median(random), of_term,
            "L2 norm of .05 cos 50x", "≥", (random.min(), random.max())),
        Row(f"{n} units, random starts: median sup error", np.median(sup_random), 0.05,
            "sup norm of .05 cos 50x", "≥", (sup_random.min(), sup_random.max())),
    ]  # fmt: skip


def measure() -> Results:
    comparisons = [compare(eps) for eps in TOLERANCES]
    units = np.array([comparison.num_units for comparison in comparisons])
    before, after = (
        np.array([squared_error(getattr(comparison, when)) for comparison in comparisons])
        for when in ("before", "after")
    )
    slope = np.polyfit(np.log(units + 1), np.log(before[:, 0]), 1)[0]
    rows = [Row("exponent of N in the construction's squared error", slope, -2.0,
                "mean of f'² · 1/(12 N²)", "≈", digits=3)]  # fmt: skip
    last, l2 = comparisons[-1], np.sqrt(after[-1])
    children = [
        ChildRun({"units": c.num_units, "start": start}, {"loss": c.losses[rows].mean(axis=0)})
        for c in comparisons
        for start, rows in (("constructed", [0]), ("gentle", [1]), ("random", slice(2, None)))
    ]
    return Results(
        headline=(
            f"With {last.num_units} units the construction's L2 error is "
            f"{np.sqrt(before[-1, 0]):.4f}, {l2[0]:.4f} after training on and {l2[1]:.4f} from "
            f"gentler edges; {NUM_SEEDS} random starts end at {np.median(l2[2:]):.3f} "
            f"[{l2[2:].min():.3f}, {l2[2:].max():.3f}], without the term .05 cos 50x."
        ),
        rows=rows + [row for comparison in comparisons for row in rows_of(comparison)],
        arrays={"comparisons": comparisons},
        children=children,
    )


def draw(results: Results) -> Figure:
    comparisons = results.arrays["comparisons"]
    units = [comparison.num_units for comparison in comparisons]
    fig, axes = subplots(2, 2, height=6.5)
    draw_errors(axes[0, 0], comparisons, squared_error)
    axes[0, 0].plot(units, [barron_bound(n) for n in units], ":", color="grey", label="Barron")
    draw_errors(axes[0, 1], comparisons, sup_error)
    axes[0, 1].plot(units, [c.bound for c in comparisons], ":", color="grey", label="certificate")
    axes[0, 0].set_ylabel("squared L2 error")
    axes[0, 1].set_ylabel("sup error")
    for ax in axes[0]:
        ax.legend(fontsize="x-small")
    draw_fits(axes[1], comparisons[2])
    return fig


def draw_errors(
    ax: Axes, comparisons: list[Comparison], error: Callable[[np.ndarray], np.ndarray]
) -> None:
    units = [comparison.num_units for comparison in comparisons]
    before, after = (
        np.array([error(getattr(comparison, when)) for comparison in comparisons])
        for when in ("before", "after")
    )
    ax.plot(units, before[:, 0], marker="o", label="constructed")
    ax.plot(units, after[:, 0], marker="s", label="constructed, trained on")
    ax.plot(units, after[:, 1], marker="^", label="gentle edges, trained on")
    middle, low, high = (reduce(after[:, 2:], axis=1) for reduce in (np.median, np.min, np.max))
    spread = [middle - low, high - middle]
    ax.errorbar(units, middle, spread, marker="D", capsize=2, label=f"random, {NUM_SEEDS} seeds")
    ax.set(xscale="log", yscale="log", xlabel="hidden units")
    ax.set_xticks(units, [str(n) for n in units])
    ax.minorticks_off()


def draw_fits(axes: np.ndarray, comparison: Comparison) -> None:
    """The networks of one width beside f, and what they miss."""
    random = comparison.after[2:]
    median = random[np.argsort(squared_error(random))[len(random) // 2]]
    curves = {
        ("constructed", "C0", "-"): comparison.before[0],
        ("gentle edges, trained on", "C2", "-."): comparison.after[1],
        ("random, the median seed", "C3", ":"): median,
    }
    axes[0].plot(X, f(X), color="grey", linewidth=4, alpha=0.5, label="f")
    for (label, color, style), y_hat in curves.items():
        axes[0].plot(X, y_hat, style, color=color, linewidth=1.2, label=label)
        axes[1].plot(X, y_hat - f(X), style, color=color, linewidth=1.2)
    axes[0].set(title=f"{comparison.num_units} units", xlabel="$x$", ylabel="$g(x)$")
    axes[1].set(title=f"{comparison.num_units} units: error", xlabel="$x$", ylabel="$g(x) − f(x)$")
    axes[0].legend(fontsize="x-small")


if __name__ == "__main__":
    run_study(measure, draw)
