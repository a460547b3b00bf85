"""Can one hidden layer come as close as wanted to any continuous function of one input?

A steep sigmoid is a step, two steps make a tower, towers side by side make a staircase along the
function. The certificate says how close it is before it is measured. Nielsen, chapter 4; Cybenko
1989. Edges at the interval's ends are a trap: there half of the function is missing, however many
towers there are.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.study import ChildRun, Results, Row, run_study, subplots
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.network import Layer, Params, apply
from mlp_jax.library.towers import outputs, sigmoid_step, staircase, tower, towers

SIGMOID = ACTIVATIONS["sigmoid"]
LIPSCHITZ = 7.0
LECTURE = {  # ε: (N, achieved)
    0.2: (20, 0.1026),
    0.1: (39, 0.0584),
    0.05: (78, 0.0298),
    0.02: (195, 0.0119),
    0.01: (389, 0.0060),
    0.005: (778, 0.0030),
}
X = np.linspace(0, 1, 4001)
STEEPNESS = np.geomspace(1, 100, 61)  # w·D


def f(x: np.ndarray) -> np.ndarray:
    return 0.2 + 0.4 * x**2 + 0.3 * x * np.sin(15 * x) + 0.05 * np.cos(50 * x)


def with_edges_at_the_ends(params: Params) -> Params:
    """The same towers with an edge at 0 and at 1, as if each tower stood alone."""
    (W, b), (W_output, h_1) = params
    w = W[:1]
    last = h_1 + W_output.sum(axis=1)
    return (
        Layer(jnp.concatenate([w, W, w]), jnp.concatenate([jnp.zeros(1), b, -w[0]])),
        Layer(jnp.concatenate([h_1[None], W_output, -last[None]], axis=1), jnp.zeros(1)),
    )


def curve(params: Params) -> np.ndarray:
    return outputs(params, X[:, None])[:, 0]


def sup_error(params: Params) -> float:
    return float(np.abs(curve(params) - f(X)).max())


def slope_and_value(w: float, b: float) -> tuple[float, float]:
    """A sigmoid step's slope and value at its centre −b/w."""
    value, gradient = jax.value_and_grad(lambda x: apply(sigmoid_step(w, b), x, SIGMOID)[0])(
        jnp.array([-b / w])
    )
    return float(gradient[0]), float(value)


def measure() -> Results:
    slope, value = slope_and_value(100.0, -40.0)
    height = float(outputs(tower(0.3, 0.5, 30.0), np.array([[0.4]]))[0, 0])
    rows = [
        Row("slope of σ(100x − 40) at x = 0.4", slope, 25.0, "w/4"),
        Row("value of σ(100x − 40) at x = 0.4", value, 0.5, "½"),
        Row(
            "height of the tower 0.3 to 0.5, w = 30",
            height,
            1 - 2 / (1 + np.exp(3.0)),
            "1 − 2σ(−wΔ/2)",
        ),
    ]
    children, built, trapped = [], [], []
    for eps, (num_towers, achieved) in LECTURE.items():
        g = towers(f, (0, 1), eps, LIPSCHITZ)
        trap = sup_error(with_edges_at_the_ends(g.params))
        rows += [
            Row(f"towers N for ε = {eps}", g.num_towers, num_towers, "⌈L(b−a)/(1.8ε)⌉"),
            Row(f"sup error for ε = {eps}", g.sup_error, achieved, "lecture §1", "≈", digits=4),
            Row(f"bound for ε = {eps}", g.bound, eps, "ε", "≤", digits=4),
        ]
        children.append(
            ChildRun(
                {"eps": eps, "num_towers": g.num_towers, "steepness": g.steepness},
                {"sup_error": g.sup_error, "bound": g.bound, "sup_error_with_end_edges": trap},
            )
        )
        built.append(g)
        trapped.append(trap)
    rows.append(
        Row(f"sup error with edges at the ends, ε = {eps}", trap, abs(f(np.ones(1)))[0] / 2,
            "|f(end)|/2", "≈", digits=4)
    )  # fmt: skip
    sweep = {N: [sup_error(staircase(f, (0, 1), N, s * N)) for s in STEEPNESS] for N in (39, 195)}
    for N, errors in sweep.items():
        best = float(STEEPNESS[np.argmin(errors)])
        rows += [
            Row(f"best w·D for N = {N}, at least", best, 4.0, "lecture §1", "≥", digits=3),
            Row(f"best w·D for N = {N}, at most", best, 7.0, "lecture §1", "≤", digits=3),
        ]
        children.append(ChildRun({"num_towers": N, "sweep": "steepness"}, {"sup_error": errors}))
    return Results(
        headline=f"Yes: for ε = {eps}, {g.num_towers} towers ({g.num_towers - 1} hidden units) "
        f"miss f by {g.sup_error:.4f} at most, and the bound proves {g.bound:.4f}; edges at the "
        f"interval's ends would leave an error of {trap:.2f} for ever.",
        rows=rows,
        arrays={"towers": built, "trapped": trapped, "sweep": sweep},
        children=children,
    )


def draw(results: Results) -> Figure:
    fig, axes = subplots(2, 3, height=6.6)
    for ax, num_towers in zip(axes[0], (5, 20, 78), strict=True):
        draw_towers(ax, num_towers)
    axes[0, 0].legend(loc="upper left", fontsize=8.5)
    draw_trap(axes[1, 0])
    draw_error(axes[1, 1], results)
    draw_steepness(axes[1, 2], results)
    return fig


def draw_towers(ax: Axes, num_towers: int) -> None:
    """The function, the network and each of its towers."""
    params = staircase(f, (0, 1), num_towers, 20 * num_towers)
    edges = np.linspace(0, 1, num_towers + 1)
    for left, right in itertools.pairwise(edges):
        height = f(np.array([(left + right) / 2]))
        one = height * outputs(tower(left, right, 20 * num_towers), X[:, None])[:, 0]
        ax.fill_between(X, one, color="#bbbbbb", ec="#777777", lw=0.6, alpha=0.6)
    ax.plot(X, f(X), "-", color="black", label="f")
    ax.plot(X, curve(params), "--", color="#D55E00", lw=1.4, label="network")
    ax.set(xlabel="x", ylim=(0, 1.05), title=f"{num_towers} towers, error {sup_error(params):.3f}")
    ax.set_ylabel("f(x), towers in grey")


def draw_trap(ax: Axes) -> None:
    for num_towers, style in ((20, "--"), (78, ":")):
        params = staircase(f, (0, 1), num_towers, 20 * num_towers)
        ax.plot(
            X,
            curve(with_edges_at_the_ends(params)),
            style,
            color="#0072B2",
            label=f"edge at 1, N = {num_towers}",
        )
    ax.plot(X, f(X), "-", color="black", label="f")
    ax.plot(X, curve(params), "-.", color="#D55E00", label="no edge at 1, N = 78")
    ax.plot(1, f(np.ones(1)) / 2, "v", color="black", ms=8, label="f(1)/2")
    ax.set(xlim=(0.9, 1.005), ylim=(0, 1.05), xlabel="x", ylabel="value")
    ax.set_title("The trap at the interval's end")
    ax.legend(loc="lower left", fontsize=8.5)


def draw_error(ax: Axes, results: Results) -> None:
    built = results.arrays["towers"]
    N = [g.num_towers for g in built]
    ax.loglog(N, results.arrays["trapped"], ":^", color="#0072B2", label="edges at the ends")
    ax.loglog(N, [g.bound for g in built], "--", color="black", label="bound")
    ax.loglog(N, [g.sup_error for g in built], "-o", color="#D55E00", label="measured")
    ax.set(xlabel="towers N", ylabel="sup |network − f|", title="Error and certificate")
    ax.set_xticks(N, map(str, N))
    ax.minorticks_off()
    ax.legend(fontsize=8.5, loc=(0.02, 0.02))


def draw_steepness(ax: Axes, results: Results) -> None:
    for (N, errors), style, color in zip(
        results.arrays["sweep"].items(), ("-", "--"), ("black", "#D55E00"), strict=True
    ):
        ax.loglog(STEEPNESS, errors, style, color=color, label=f"N = {N}")
    ax.axvspan(4, 7, color="#bbbbbb", alpha=0.6, label="best: 4 to 7")
    ax.set(xlabel="steepness × width, w·D", ylabel="sup |network − f|", ylim=(2e-3, 0.1))
    ax.minorticks_off()
    ax.set_title("Steeper is not better")
    ax.legend(fontsize=8.5)


if __name__ == "__main__":
    run_study(measure, draw)
