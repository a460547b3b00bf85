"""Do towers work for functions of several inputs, and is one hidden layer enough?

A tower over a cell takes two hidden layers, and a grid of them taken literally leaves holes: at the
cells' corners the network is 0. Averaging shifted grids mends it. Sums of ridge functions need one
hidden layer only, for any number of inputs and outputs (Cybenko 1989).

The mean error of one grid tends to that of f's values at the centres of the cells, which quadrature
gives: .0523 for N = 10, .0262 for N = 20. The lecture's .0505 and .0250 are 4 % too low.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments.several_inputs import Ridge, approximate_by_grids, approximate_ridges
from experiments.study import ChildRun, Results, Row, run_study, subplots
from mlp_jax.core.network import Params
from mlp_jax.library.towers import Approximation, outputs

LOWER, UPPER = (0.0, 0.0), (1.0, 1.0)
LITERAL = {10: 0.0505, 20: 0.0250}  # cells along an axis: mean error
RIDGES = {0.1: (68, 0.0589), 0.05: (138, 0.0324), 0.01: (698, 0.0060)}  # ε: (units, achieved)


def f(x: np.ndarray) -> np.ndarray:
    return np.sin(np.pi * x[:, 0]) * np.cos(np.pi * x[:, 1])


def sine(s: np.ndarray) -> np.ndarray:
    return np.sin(np.pi * s)


# sin πx · cos πy = ½ [sin π(x + y) + sin π(x − y)]
F_AS_RIDGES = (Ridge((1, 1), sine, np.pi, (0.5,)), Ridge((1, -1), sine, np.pi, (0.5,)))
# (sin πx · cos πy, xy) with xy = ¼ [(x + y)² − (x − y)²], from R² to R².
F_AND_PRODUCT = (
    Ridge((1, 1), sine, np.pi, (0.5, 0)),
    Ridge((1, -1), sine, np.pi, (0.5, 0)),
    Ridge((1, 1), np.square, 4, (0, 0.25)),
    Ridge((1, -1), np.square, 2, (0, -0.25)),
)


def lattice(points: int, offset: float = 0.0) -> np.ndarray:
    """A square lattice of the unit square with its boundary, or of cells' centres with offset ½."""
    u = (np.arange(points) + offset) / (points - 1 + 2 * offset)
    return np.stack(np.meshgrid(u, u, indexing="ij"), axis=-1).reshape(-1, 2)


def errors(params: Params, x: np.ndarray) -> np.ndarray:
    return np.abs(outputs(params, x)[:, 0] - f(x))


def mean_error_of_cells(num_cells: int) -> float:
    """The mean error of f's values at the centres of cells: what sharp towers tend to."""
    x = lattice(100 * num_cells, offset=0.5)
    return float(np.abs(f((np.floor(x * num_cells) + 0.5) / num_cells) - f(x)).mean())


def measure() -> Results:
    grids = {
        (num_cells, num_grids): approximate_by_grids(f, LOWER, UPPER, np.pi, num_cells, num_grids)
        for num_cells, num_grids in ((10, 1), (20, 1), (20, 4), (20, 16))
    }
    ridges = {eps: approximate_ridges(F_AS_RIDGES, LOWER, UPPER, eps) for eps in RIDGES}
    both = approximate_ridges(F_AND_PRODUCT, LOWER, UPPER, 0.05)
    rows = rows_of_one_grid(grids) + rows_of_shifted_grids(grids) + rows_of_ridges(ridges)
    rows.append(_row("sup error of (f, xy), two outputs, ε = 0.05", both.sup_error, both.bound, "≤",
                     "bound ≤ ε"))  # fmt: skip
    finest = ridges[0.01]
    return Results(
        headline=f"One grid of towers never gets below a sup error of "
        f"{grids[20, 1].sup_error:.2f}, 16 shifted grids reach {grids[20, 16].sup_error:.3f}; one "
        f"hidden layer of {finest.params[0].b.size} units, a sum of two ridge functions, reaches "
        f"{finest.sup_error:.4f} for ε = 0.01.",
        rows=rows,
        arrays={"grids": grids, "ridges": ridges},
        children=[
            ChildRun({"cells": cells, "grids": num_grids}, certificate_of(g))
            for (cells, num_grids), g in grids.items()
        ]
        + [ChildRun({"ridges": 2, "eps": eps}, certificate_of(g)) for eps, g in ridges.items()],
    )


def certificate_of(g: Approximation) -> dict[str, float]:
    return {"sup_error": g.sup_error, "bound": g.bound, "num_towers": g.num_towers}


def _row(quantity: str, measured: float, theory: float, relation: str, source: str) -> Row:
    return Row(quantity, measured, theory, source, relation, digits=4)


def rows_of_one_grid(grids: Mapping[tuple[int, int], Approximation]) -> list[Row]:
    rows, x = [], lattice(400, offset=0.5)
    for num_cells, lecture in LITERAL.items():
        g, what = grids[num_cells, 1], f"one grid, N = {num_cells}"
        mean, constant = errors(g.params, x).mean(), mean_error_of_cells(num_cells)
        rows += [
            _row(f"sup error, {what}", g.sup_error, 1, "≈", "lecture §1"),
            _row(f"mean error, {what}", mean, constant, "≈", "quadrature, sharp towers"),
            _row(f"mean error, {what}, the lecture's", mean, lecture, "beside", "lecture §1"),
        ]
    return rows


def rows_of_shifted_grids(grids: Mapping[tuple[int, int], Approximation]) -> list[Row]:
    rows = [
        _row(f"sup error, {num_grids} grids, N = {num_cells}", g.sup_error, g.bound, "≤",
             "L√n·D/2 + (n/M)·max|f|")
        for (num_cells, num_grids), g in grids.items() if num_grids > 1
    ]  # fmt: skip
    best = grids[20, 16].sup_error
    return [
        *rows,
        _row("sup error, 16 grids, N = 20, beside the lecture's", best, 0.064, "≈", "lecture §1"),
    ]


def rows_of_ridges(ridges: Mapping[float, Approximation]) -> list[Row]:
    rows = []
    for eps, (num_units, lecture) in RIDGES.items():
        g = ridges[eps]
        on_lattice = errors(g.params, lattice(401)).max()
        rows += [
            Row(f"hidden units of ridges, ε = {eps}", g.params[0].b.size, num_units, "lecture §1"),
            _row(f"sup error, ridges, ε = {eps}, 401² points", on_lattice, lecture, "≈",
                 "lecture §1"),
            _row(f"sup error, ridges, ε = {eps}", g.sup_error, g.bound, "≤", "bound ≤ ε"),
        ]  # fmt: skip
    return rows


def draw(results: Results) -> Figure:
    grids, ridges = results.arrays["grids"], results.arrays["ridges"]
    shown = (
        (grids[10, 1], "one grid, N = 10\n100 towers"),
        (grids[20, 16], "16 shifted grids, N = 20\n7,056 towers"),
        (ridges[0.1], "two ridges, ε = 0.1\n68 hidden units, one layer"),
    )
    fig, axes = subplots(2, 3, height=6.4)
    x = lattice(121)
    X, Y = x.T.reshape(2, 121, 121)
    for column, (g, title) in enumerate(shown):
        axes[0, column].remove()
        surface = fig.add_subplot(2, 3, column + 1, projection="3d")
        values = outputs(g.params, x)[:, 0]
        surface.plot_surface(X, Y, values.reshape(X.shape), cmap="cividis", rcount=121, ccount=121)
        ticks = {"xticks": (0, 1), "yticks": (0, 1), "zticks": (-1, 0, 1)}
        surface.set(**ticks, xlabel="x", ylabel="y", zlabel="network", zlim=(-1, 1))
        surface.set_title(title, loc="center")
        surface.tick_params(pad=-2)
        for axis in (surface.xaxis, surface.yaxis, surface.zaxis):
            axis.labelpad = -8
        surface.set_box_aspect((1, 1, 0.8), zoom=0.97)
        ax, error = axes[1, column], np.abs(values - f(x)).reshape(X.shape)
        image = ax.pcolormesh(X, Y, np.maximum(error, 1e-3), norm=LogNorm(1e-3, 1))
        ax.set(xlabel="x", ylabel="y", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
        ax.set_title(f"sup error {g.sup_error:.3f}")
        ax.grid(False)
    fig.colorbar(image, ax=axes[1, :], label="|network − f|", orientation="horizontal", aspect=60)
    return fig


if __name__ == "__main__":
    run_study(measure, draw)
