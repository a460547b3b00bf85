"""From how many random starts does gradient descent solve XOR, and what holds the others?

The share of solved 2-n-1 over seeds, with Wilson's 95 % interval, against width, hidden activation
and loss: full batch, η = 1, zero biases, weights N(0, 1/n_in), which of the initializers come
closest to the lecture's rates at every width. A seed is solved when all four outputs are on the
right side of ½. One hidden unit never solves it, eight sigmoid units practically always do.

A ReLU with two negative weights and no bias is 0 at all four inputs and stays so. One live unit is
not enough, so a width of n solves at most 1 − (1 + 3n)/4ⁿ of its starts.

Nearly every stuck 2-2-1 has two answers right and two at ½, so its loss stays at ½ ln 2: both
hidden units are saturated for the two inputs at ½, which look the same to the output neuron. The
gradient falls as 1/t, the weights drift to infinity, and more steps free hardly any.
"""

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import binomtest

import mlp_jax as mlp
from experiments.study import ChildRun, Results, Row, networks, run_study, subplots
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import backprop
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.network import Params, forward, predict

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
Y = np.array([[0], [1], [1], [0]], np.float32)

WIDTHS = (1, 2, 3, 4, 8)
HIDDEN = ("sigmoid", "tanh", "relu")
LOSS_NAMES = ("binary_cross_entropy", "half_squared_error")
LECTURE_PAIR = ("sigmoid", "binary_cross_entropy")
LECTURE_RATES = {  # of 256 seeds: (width, steps) -> % solved
    (2, 1000): 73.0,
    (2, 5000): 79.0,
    (3, 5000): 98.0,
    (4, 5000): 99.6,
    (8, 1000): 100.0,
}
INITIALIZER = "lecun_normal"
OTHERS = ("lecun_uniform", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform")

NUM_SEEDS = 256
NUM_LECTURE_SEEDS = 1024  # where the lecture has a rate
LOG_EVERY = 100
NUM_POINTS = 50
NUM_STEPS = NUM_POINTS * LOG_EVERY


class Trained(NamedTuple):
    """A population after training, and its course: an axis of log points, then one of seeds."""

    params: Params
    y_hat: np.ndarray
    losses: np.ndarray

    def solved(self, num_steps: int) -> np.ndarray:
        """Which seeds have all four answers right after `num_steps`."""
        y_hat = np.asarray(self.y_hat[num_steps // LOG_EVERY - 1])
        return np.asarray((np.abs(y_hat - Y[:, 0]) < 0.5).all(axis=1))


class Inside(NamedTuple):
    """One network with all four inputs: `hidden` is a^1 and `slope` is g'(z^1)."""

    loss: Array
    gradient_norm: Array
    y_hat: Array
    hidden: Array
    slope: Array


def outputs(params: Params, x: Array, activation: str = "sigmoid") -> Array:
    """ŷ of one network at many inputs; both losses stand behind a sigmoid output."""
    g, loss = ACTIVATIONS[activation], LOSSES["sigmoid", LOSS_NAMES[0]]
    return jax.vmap(lambda x: predict(params, x, g, loss)[0])(x)


@cache
def answers(activation: str) -> Callable[[Params], dict[str, Array]]:
    """ŷ of the four inputs."""
    return lambda params: {"y_hat": outputs(params, jnp.asarray(X), activation)}


def train(params: Params, activation: str, loss_name: str, num_points: int = NUM_POINTS) -> Trained:
    """`num_points` × `LOG_EVERY` steps of gradient descent on a population."""
    many = mlp.fit_many(
        mlp.Network((2, len(params[0].b[0]), 1), activation, "sigmoid", loss_name),
        X,
        Y,
        params=params,
        learning_rate=1.0,
        num_steps=num_points * LOG_EVERY,
        log_every=LOG_EVERY,
        observe=answers(activation),
    )
    y_hat, losses = (np.moveaxis(many.history[name], 1, 0) for name in ("y_hat", "train/loss"))
    return Trained(many.params, y_hat, losses)


@jax.jit
def inspect(params: Params) -> Inside:
    """Every network of a sigmoid population with binary cross-entropy from inside."""
    x, y = jnp.asarray(X), jnp.asarray(Y)
    sigmoid, loss = ACTIVATIONS["sigmoid"], LOSSES["sigmoid", "binary_cross_entropy"]

    def inspect_one(params: Params) -> Inside:
        value, gradient = backprop(params, x, y, sigmoid, loss)
        zs, activations = jax.vmap(lambda x: forward(params, x, sigmoid))(x)
        norm = optax.tree.norm(gradient)
        return Inside(value, norm, outputs(params, x), activations[1], sigmoid.dg(zs[0]))

    return jax.vmap(inspect_one)(params)


def wilson(solved: np.ndarray) -> tuple[float, float, float]:
    """The share solved in % and its 95 % interval. Wilson 1927, JASA 22:209."""
    test = binomtest(int(solved.sum()), solved.size)
    low, high = test.proportion_ci(method="wilson")
    return 100 * test.statistic, 100 * low, 100 * high


def percent(solved: np.ndarray) -> str:
    return "{:.0f} % [{:.0f}, {:.0f}]".format(*wilson(solved))


def rate_row(quantity: str, solved: np.ndarray, lecture_rate: float, relation: str = "≈") -> Row:
    rate, low, high = wilson(solved)
    return Row(quantity, rate, lecture_rate, "lecture §4", relation, (low, high), digits=4)


def relu_bound(width: int) -> float:
    """The share of starts with two live ReLUs in %: each has two negative weights with chance ¼."""
    return 100 * (1 - (1 + 3 * width) / 4**width)


def other_rows(grid: dict[tuple[int, str, str], Trained]) -> list[Row]:
    """The other activations and losses, where more than one hidden unit can solve XOR."""
    rows = []
    for (width, activation, loss), trained in grid.items():
        if (activation, loss) == LECTURE_PAIR or width == 1:
            continue
        pair = f"{activation}, {loss.replace('_', ' ')}"
        quantity = f"2-{width}-1, {pair}, solved in {NUM_STEPS:,} steps, in %"
        rate, low, high = wilson(trained.solved(NUM_STEPS))
        if activation == "relu":
            theory, relation, source = relu_bound(width), "≤", "two live ReLUs"
        else:
            theory = LECTURE_RATES.get((width, NUM_STEPS), LECTURE_RATES.get((width, 1000), 0.0))
            relation, source = "beside", "lecture §4, of sigmoid, binary cross entropy"
        rows.append(Row(quantity, rate, theory, source, relation, (low, high), digits=4))
    return rows


def train_grid() -> dict[tuple[int, str, str], Trained]:
    """Every width, activation and loss."""
    grid = {}
    for activation, loss in product(HIDDEN, LOSS_NAMES):
        num_seeds = NUM_LECTURE_SEEDS if (activation, loss) == LECTURE_PAIR else NUM_SEEDS
        for width in WIDTHS:
            params = networks((2, width, 1), INITIALIZER, num_seeds)
            grid[width, activation, loss] = train(params, activation, loss)
    return grid


def left_at_half(inside: Inside) -> np.ndarray:
    """Which networks answer ½ at exactly two inputs."""
    return np.asarray((np.abs(inside.y_hat - 0.5) < 0.01).sum(axis=1) == 2)


def at_half(inside: Inside, values: Array) -> np.ndarray:
    """`values` (network, input, hidden unit) at the two inputs where ŷ is nearest to ½."""
    inputs = np.argsort(np.abs(inside.y_hat - 0.5), axis=1)[:, :2, None]
    return np.take_along_axis(np.asarray(values), inputs, axis=1)


def stuck_rows(stuck: Inside, later: Inside, num_freed: int) -> list[Row]:
    """What the stuck 2-2-1 have in common after 5,000 steps, and 95,000 steps later."""
    typical = left_at_half(stuck)
    before, after = (Inside(*(leaf[typical] for leaf in state)) for state in (stuck, later))
    h_a, h_b = np.moveaxis(at_half(before, before.hidden), 1, 0)
    fall = np.median(after.gradient_norm / before.gradient_norm)
    return [
        Row("median loss of the stuck 2-2-1", np.median(stuck.loss), np.log(2) / 2,
            "½ ln 2: two right, two at ½", "≈"),
        Row("median of max |h(x_a) − h(x_b)| for their inputs at ½",
            np.median(np.abs(h_a - h_b).max(axis=1)), 0.0, "the two inputs look the same", "≈"),
        Row("median of max σ' at these inputs",
            np.median(at_half(before, before.slope).max(axis=(1, 2))), 0.25, "peak of σ'", "≤"),
        Row("median fall of ‖∇‖ from step 5,000 to 100,000", fall, 1 / 20, "‖∇‖ ∝ 1/t", "≈"),
        Row("stuck after 5,000, solved after 100,000 steps, in %",
            100 * num_freed / len(stuck.loss), 0.0, "the minimum is at infinity", "≈"),
    ]  # fmt: skip


def measure() -> Results:
    grid = train_grid()
    lecture = {width: grid[width, *LECTURE_PAIR] for width in WIDTHS}
    rows = [
        rate_row(f"2-{width}-1 solved in {steps:,} steps, in %", lecture[width].solved(steps), rate)
        for (width, steps), rate in LECTURE_RATES.items()
    ]
    for name, steps in product(OTHERS, (1000, NUM_STEPS)):
        other = train(networks((2, 2, 1), name, NUM_LECTURE_SEEDS), *LECTURE_PAIR)
        quantity = f"2-2-1 from {name} solved in {steps:,} steps, in %"
        rows.append(rate_row(quantity, other.solved(steps), LECTURE_RATES[2, steps], "beside"))
    rows += other_rows(grid)
    ones = [trained.solved(NUM_STEPS).sum() for (n, *_), trained in grid.items() if n == 1]
    rows.append(Row("2-1-1 solved, all activations and losses", int(sum(ones)), 0, "lecture §1"))

    is_solved = lecture[2].solved(NUM_STEPS)
    params = jax.tree.map(lambda leaf: leaf[~is_solved], lecture[2].params)
    continued = train(params, *LECTURE_PAIR, num_points=19 * NUM_POINTS)
    stuck, later = (jax.tree.map(np.asarray, inspect(p)) for p in (params, continued.params))
    rows += stuck_rows(stuck, later, int(continued.solved(19 * NUM_STEPS).sum()))

    share = 100 * np.mean(left_at_half(stuck))
    early = percent(lecture[2].solved(1000))
    late = {g: percent(grid[2, g, LECTURE_PAIR[1]].solved(NUM_STEPS)) for g in HIDDEN}
    examples = [np.flatnonzero(is_solved)[0], np.flatnonzero(~is_solved)[left_at_half(stuck)][0]]
    return Results(
        headline=(
            f"2-2-1 solves XOR from {early} of its starts in 1,000 steps and {late['sigmoid']} in "
            f"5,000 (tanh: {late['tanh']}, ReLU: {late['relu']}); 2-8-1 from "
            f"{lecture[8].solved(1000).sum()} of {NUM_LECTURE_SEEDS} in 1,000. {share:.0f} % of "
            "the stuck 2-2-1 have two answers right and two at ½."
        ),
        rows=rows,
        arrays={
            "rates": {
                (*case, steps): wilson(trained.solved(steps))
                for case, trained in grid.items()
                for steps in (1000, NUM_STEPS)
            },
            "losses": np.asarray(lecture[2].losses)[:, :NUM_SEEDS],
            "is_solved": is_solved[:NUM_SEEDS],
            "examples": [
                jax.tree.map(lambda leaf, i=i: leaf[i], lecture[2].params) for i in examples
            ],
        },
        children=[
            ChildRun(
                {"width": width, "activation": activation, "loss": loss},
                {
                    "solved in %": [
                        wilson(trained.solved(step))[0]
                        for step in range(LOG_EVERY, NUM_STEPS + 1, LOG_EVERY)
                    ],
                    "mean loss": np.asarray(trained.losses.mean(axis=1)),
                },
            )
            for (width, activation, loss), trained in grid.items()
        ],
    )


def draw(results: Results) -> Figure:
    fig, axes = subplots(2, 3, height=6.2)
    for ax, loss in zip(axes[0, :2], LOSS_NAMES, strict=True):
        draw_rates(ax, results.arrays["rates"], loss)
    draw_losses(axes[0, 2], results.arrays["losses"], results.arrays["is_solved"])
    solved, stuck = results.arrays["examples"]
    draw_boundary(axes[1, 0], solved, "a solved 2-2-1")
    shades = draw_boundary(axes[1, 1], stuck, "a stuck 2-2-1")
    fig.colorbar(shades, ax=axes[1, 1], label="ŷ (line: ½)", ticks=[0, 0.5, 1])
    draw_hidden_layer(axes[1, 2], stuck)
    return fig


def draw_rates(ax: Axes, rates: dict[tuple, tuple[float, float, float]], loss: str) -> None:
    for index, (activation, marker) in enumerate(zip(HIDDEN, "os^", strict=True)):
        for steps, face, alpha in ((1000, "white", 0.5), (NUM_STEPS, f"C{index}", 1.0)):
            rate, low, high = np.array([rates[w, activation, loss, steps] for w in WIDTHS]).T
            shift = 1.06 ** (index - 1)  # so that intervals don't hide each other
            ax.errorbar(
                shift * np.array(WIDTHS), rate, [rate - low, high - rate], color=f"C{index}",
                marker=marker, markersize=5, markerfacecolor=face, alpha=alpha, elinewidth=1,
                capsize=2, linestyle="-" if steps == NUM_STEPS else ":",
                label=activation if steps == NUM_STEPS else None,
            )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_xticks(WIDTHS, [str(width) for width in WIDTHS])
    ax.set(title=loss.replace("_", " "), xlabel="hidden units", ylabel="solved / %")
    if loss == LOSS_NAMES[0]:
        ax.legend(title="5,000 steps\n(dotted: 1,000)", title_fontsize="x-small",
                  fontsize="x-small", loc="lower right", handlelength=1.5)  # fmt: skip


def draw_losses(ax: Axes, losses: np.ndarray, is_solved: np.ndarray) -> None:
    steps = LOG_EVERY * np.arange(1, len(losses) + 1)
    ax.plot(steps, losses[:, is_solved], "-", color="C6", linewidth=0.4)
    ax.plot(steps, losses[:, ~is_solved], "-", color="C0", linewidth=0.6)
    levels = {
        "ln 2: all at ½": np.log(2),
        "three at ⅓ or ⅔": np.log(3) * 3 / 4 - np.log(2) / 2,
        "½ ln 2: two at ½": np.log(2) / 2,
    }
    for text, level in levels.items():
        ax.annotate(text, (NUM_STEPS, level), (0, 2), textcoords="offset points", ha="right",
                    fontsize="small")  # fmt: skip
    ax.legend(
        [Line2D([], [], color="C6", linestyle="-"), Line2D([], [], color="C0", linestyle="-")],
        ["solved", "stuck"], fontsize="small", loc="lower left", bbox_to_anchor=(0.5, 0.05),
    )  # fmt: skip
    ax.set(title=f"{losses.shape[1]} seeds of 2-2-1", xlabel="step", ylabel="loss / nats", ylim=0)


def draw_boundary(ax: Axes, params: Params, title: str) -> ContourSet:
    ticks = np.linspace(-0.5, 1.5, 101, dtype=np.float32)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    y_hat = np.asarray(outputs(params, jnp.asarray(grid.reshape(-1, 2)))).reshape(101, 101)
    shades = ax.contourf(ticks, ticks, y_hat, np.linspace(0, 1, 11), cmap="cividis")
    ax.contour(ticks, ticks, y_hat, [0.5], colors="white", linewidths=2)
    for x, y, answer in zip(X, Y[:, 0], np.asarray(outputs(params, jnp.asarray(X))), strict=True):
        ax.plot(*x, "s" if y else "o", color="white", markeredgecolor="black", markersize=8)
        ax.annotate(f"{answer:.2f}", x, (0, 7), textcoords="offset points", ha="center",
                    color="white" if answer < 0.6 else "black", fontsize="small")  # fmt: skip
    ax.set(title=title, xlabel="$x_1$", ylabel="$x_2$")
    ax.grid(visible=False)
    return shades


def draw_hidden_layer(ax: Axes, params: Params) -> None:
    """The four inputs as the output neuron sees them."""
    hidden = np.asarray(inspect(jax.tree.map(lambda leaf: leaf[None], params)).hidden[0])
    for x, y, h in zip(X, Y[:, 0], hidden, strict=True):
        ax.plot(*h, "s" if y else "o", color="white", markeredgecolor="black", markersize=8)
        below = (h.round(2) == hidden.round(2)).all(axis=1).sum() > 1 and not y
        ax.annotate(f"x = {x[0]:.0f}{x[1]:.0f}", h, (0, -16 if below else 8), ha="center",
                    textcoords="offset points", fontsize="small")  # fmt: skip
    ax.set(title="its hidden layer", xlabel="$h_1$", ylabel="$h_2$")
    ax.margins(0.25)


if __name__ == "__main__":
    run_study(measure, draw, float64=False)
