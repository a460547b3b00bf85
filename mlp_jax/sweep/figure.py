"""The picture of a sweep: the curves of its runs as bands, and what its hyperparameters did."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlp_jax.experiment import figures
from mlp_jax.experiment.figures import plain
from mlp_jax.sweep.compare import as_number, keys_of

if TYPE_CHECKING:  # these take half a second to import
    import matplotlib.axes
    import matplotlib.figure
    import pandas as pd

_MAX_CELLS = 80  # of a map that has its numbers written into it
_MAX_WHISKERS = 30
_MAX_TICKS = 8


@figures.styled
def draw(
    name: str,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    groups: "pd.DataFrame",
    metric: str,
) -> "matplotlib.figure.Figure":
    """Mean, median, p10, p90, best and worst of the histories of the metric `name`.

    Where one or two hyperparameters differ between the groups of `compare.groups`, a second panel
    has the line or the map of `metric`, its mean over the seeds.
    """
    from matplotlib.figure import Figure

    keys = keys_of(groups)
    has_effect = 1 <= len(keys) <= 2 and len(groups) > 1
    figure = Figure(figsize=(12.8 if has_effect else 6.4, 4.8))
    panels = figure.subplots(1, 1 + has_effect, squeeze=False)[0]
    _draw_bands(panels[0], curves)
    panels[0].set(xlabel="step", ylabel=name)
    if has_effect:
        (_draw_line if len(keys) == 1 else _draw_map)(panels[1], keys, groups, metric)
        num_seeds = set(groups["runs"].tolist())
        if num_seeds != {1}:
            counts = " to ".join(map(str, sorted({min(num_seeds), max(num_seeds)})))
            spread = ", lowest to highest" if len(keys) == 1 else ""
            panels[1].set_title(f"mean of {counts} seeds{spread}", loc="center")
    return figure


def _draw_bands(
    axes: "matplotlib.axes.Axes", curves: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    blue, orange = figures.COLORS[:2]
    (steps, low), (_, high) = curves["p10"], curves["p90"]
    axes.fill_between(
        steps, low, high, color=blue, alpha=0.25, linewidth=0, label="10 to 90 % of the runs"
    )
    axes.plot(*curves["median"], color=blue, label="median")
    axes.plot(*curves["mean"], "--", color=blue, label="mean")
    axes.plot(*curves["best"], ":", color="black", label="best run")
    axes.plot(*curves["worst"], "-.", color=orange, label="worst run")
    if _is_wide(np.concatenate([values for _, values in curves.values()])):
        axes.set_yscale("log")
    axes.legend()


def _draw_line(
    axes: "matplotlib.axes.Axes", keys: Sequence[str], groups: "pd.DataFrame", metric: str
) -> None:
    """The means, with whiskers to the lowest and the highest of the seeds."""
    values = _values(groups, keys[0])
    scale = _Scale(values)
    x = np.array([scale.place[value] for value in values])
    order = x.argsort(kind="stable")
    mean, ends = groups["mean"].to_numpy(), groups[["best", "worst"]].to_numpy()
    is_crowded = len(groups) > _MAX_WHISKERS
    axes.errorbar(
        x[order],
        mean[order],
        yerr=None if is_crowded else abs(np.sort(ends) - mean[:, None])[order].T,
        fmt="o" if is_crowded or not scale.is_numeric else "o-",
        color=figures.COLORS[0],
        capsize=4,
        elinewidth=1,
    )
    if _is_wide(ends):
        axes.set_yscale("log")
    scale.apply(axes, "x")
    axes.set(xlabel=plain(keys[0]), ylabel=metric)


def _draw_map(
    axes: "matplotlib.axes.Axes", keys: Sequence[str], groups: "pd.DataFrame", metric: str
) -> None:
    """A map where the values are a grid, else a coloured point for each group."""
    from matplotlib.colors import LogNorm, Normalize

    x, y = (_values(groups, key) for key in keys)
    x_scale, y_scale = _Scale(x), _Scale(y)
    mean = groups["mean"].to_numpy()
    norm = (LogNorm if _is_wide(mean) else Normalize)(mean.min(), mean.max())
    columns, rows = list(x_scale.place), list(y_scale.place)
    if len(columns) * len(rows) <= 2 * len(groups):
        grid = np.full((len(rows), len(columns)), np.nan)
        grid[[*map(rows.index, y)], [*map(columns.index, x)]] = mean
        axes.grid(False)
        shades: Any = axes.imshow(grid, "cividis", norm, origin="lower", aspect="auto")
        axes.set_xticks(range(len(columns)), [*map(plain, columns)])
        axes.set_yticks(range(len(rows)), [*map(plain, rows)])
        if grid.size <= _MAX_CELLS:
            for i, j in np.argwhere(np.isfinite(grid)):
                color = "black" if norm(grid[i, j]) > 0.5 else "white"
                axes.text(j, i, f"{grid[i, j]:.2g}", ha="center", va="center", color=color)
    else:
        places = [x_scale.place[value] for value in x], [y_scale.place[value] for value in y]
        shades = axes.scatter(*places, c=mean, cmap="cividis", norm=norm, edgecolors="black")
        x_scale.apply(axes, "x")
        y_scale.apply(axes, "y")
    axes.figure.colorbar(shades, ax=axes, label=metric)
    axes.set(xlabel=plain(keys[0]), ylabel=plain(keys[1]))


def _values(groups: "pd.DataFrame", key: str) -> list[str]:
    """Of each group, in words where it has none."""
    return [value or "–" for value in groups[f"params.{key}"]]


def _is_wide(values: np.ndarray) -> bool:
    """Whether values need a logarithmic axis."""
    finite = values[np.isfinite(values)]
    return bool(finite.min() > 0 and finite.max() > 30 * finite.min())


class _Scale:
    """Where the values of a hyperparameter lie on an axis, in their order on it.

    Numbers lie where they are; of anything else each value has a place of its own.
    """

    def __init__(self, values: Sequence[str]) -> None:
        numbers = {value: as_number(value) for value in values}
        places = {value: number for value, number in numbers.items() if number is not None}
        self.is_numeric = len(places) == len(numbers)
        if not self.is_numeric:
            places = {value: float(i) for i, value in enumerate(sorted(numbers, key=_natural))}
        self.place = dict(sorted(places.items(), key=lambda item: item[1]))

    def apply(self, axes: "matplotlib.axes.Axes", axis: Literal["x", "y"]) -> None:
        places = [*self.place.values()]
        if self.is_numeric and _is_geometric(np.array(places)):
            axes.set(**{f"{axis}scale": "log"})
        if len(places) <= _MAX_TICKS or not self.is_numeric:
            label = f"label{'bottom' if axis == 'x' else 'left'}"
            axes.tick_params(axis, which="minor", length=0, **{label: False})
            axes.set(**{f"{axis}ticks": places, f"{axis}ticklabels": [*map(plain, self.place)]})


def _natural(value: str) -> list[str | int]:
    """A key that sorts `[4]` before `[16]`."""
    return [int(s) if s.isdecimal() else s for s in re.split(r"(\d+)", value)]


def _is_geometric(values: np.ndarray) -> bool:
    """Whether sorted values are more evenly spaced by their ratios than by their differences."""
    if values.min() <= 0 or len(values) < 2:
        return False
    if len(values) == 2:
        return bool(values[1] >= 10 * values[0])
    ratios, gaps = np.diff(np.log(values)), np.diff(values)
    return bool(ratios.std() / ratios.mean() < gaps.std() / gaps.mean())
