"""The pictures of a sweep: the curves of its runs as bands, and what its hyperparameters did."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlp_jax.core.history import lower_is_better
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
_MAX_LINES = 500  # of parallel coordinates
_MAX_KEYS = 9  # of a figure


@figures.styled
def draw(
    name: str,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    groups: "pd.DataFrame",
    metric: str,
    halvings: Sequence[int] = (),
    seeds_of_run: int = 1,
) -> "matplotlib.figure.Figure":
    """Mean, median, p10, p90, best and worst of the histories of the metric `name`.

    Where hyperparameters differ between the groups of `compare.groups`, a second panel has what
    they did to `metric`, its mean over the seeds: a line for one of them, a map for two, parallel
    coordinates for more. `halvings` are the steps at which successive halving ended runs, and
    `seeds_of_run` are those that each run is the mean of.
    """
    from matplotlib.figure import Figure

    keys = keys_of(groups) if len(groups) > 1 else []
    width = 0 if not keys else 6.4 if len(keys) <= 2 else 1.7 * (1 + min(len(keys), _MAX_KEYS))
    figure = Figure(figsize=(6.4 + width, 4.8))
    widths = [6.4, width] if keys else [6.4]
    panels = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    _draw_bands(panels[0], curves, halvings)
    panels[0].set(xlabel="step", ylabel=name)
    if keys:
        kinds = {1: _draw_line, 2: _draw_map}
        kinds.get(len(keys), _draw_parallel)(panels[1], keys, groups, metric)
        num_seeds = {seeds_of_run * count for count in groups["runs"]}
        if num_seeds != {1}:
            counts = " to ".join(map(str, sorted({min(num_seeds), max(num_seeds)})))
            whiskers = "95 % interval" if "interval" in groups else "lowest to highest"
            spread = f", {whiskers}" if len(keys) == 1 else ""
            panels[1].set_title(f"mean of {counts} seeds{spread}", loc="center")
    return figure


@figures.styled
def draw_keys(groups: "pd.DataFrame", metric: str) -> "matplotlib.figure.Figure":
    """`metric` against each hyperparameter, in a panel each, the most important one first."""
    from matplotlib.figure import Figure

    shares = importance(groups, metric)
    keys = sorted(shares, key=lambda key: -shares[key])[:_MAX_KEYS]
    num_columns = min(3, len(keys))
    num_rows = math.ceil(len(keys) / num_columns)
    figure = Figure(figsize=(4.3 * num_columns, 3.4 * num_rows))
    panels = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).ravel()
    for axes, key in zip(panels, keys, strict=False):
        _draw_key(axes, key, groups)
        axes.set_title(f"importance {100 * shares[key]:.0f} %")
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    for axes in panels[::num_columns]:
        axes.set_ylabel(metric)
    if _is_wide(groups["mean"].to_numpy()):
        panels[0].set_yscale("log")
    handles = {label: handle for axes in panels for handle, label in
               zip(*axes.get_legend_handles_labels(), strict=True)}  # fmt: skip
    figure.legend(handles.values(), handles.keys(), loc="outside lower right", ncols=2)
    return figure


def importance(groups: "pd.DataFrame", metric: str) -> dict[str, float]:
    """The share of each hyperparameter in what all of them do to `metric`.

    By permutation importance (Breiman 2001): how much worse a forest that has learned `metric` from
    the hyperparameters predicts it where the values of one are shuffled.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    keys, groups = keys_of(groups), groups[:1000]
    scales = {key: _Scale(_values(groups, key)) for key in keys}
    x = np.column_stack([scales[key].places(_values(groups, key)) for key in keys])
    mean = groups["mean"].to_numpy()
    y = np.log(mean) if _is_wide(mean) else mean
    forest = RandomForestRegressor(50, random_state=0).fit(x, y)
    losses = permutation_importance(forest, x, y, n_repeats=5, random_state=0).importances_mean
    losses = losses.clip(0)
    shares = losses / (losses.sum() or 1)
    return dict(zip(keys, shares.tolist(), strict=True))


def _draw_bands(
    axes: "matplotlib.axes.Axes",
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    halvings: Sequence[int],
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
    for step in halvings:
        label = "the worse half ends" if step == halvings[0] else None
        axes.axvline(step, color="gray", linewidth=1, label=label)
    axes.legend()


def _draw_line(
    axes: "matplotlib.axes.Axes", keys: Sequence[str], groups: "pd.DataFrame", metric: str
) -> None:
    """The means, with their intervals, or whiskers to the lowest and the highest of the seeds."""
    values = _values(groups, keys[0])
    scale = _Scale(values)
    x = scale.places(values)
    order = x.argsort(kind="stable")
    mean, ends = groups["mean"].to_numpy(), groups[["best", "worst"]].to_numpy()
    if "interval" in groups:
        ends = mean[:, None] + np.outer(groups["interval"], [-1, 1])
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
    x, y = (_values(groups, key) for key in keys)
    x_scale, y_scale = _Scale(x), _Scale(y)
    mean = groups["mean"].to_numpy()
    norm = _norm(mean)
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
        shades = axes.scatter(
            x_scale.places(x), y_scale.places(y), c=mean, cmap="cividis", norm=norm,
            edgecolors="black",
        )  # fmt: skip
        x_scale.apply(axes, "x")
        y_scale.apply(axes, "y")
    axes.figure.colorbar(shades, ax=axes, label=metric)
    axes.set(xlabel=plain(keys[0]), ylabel=plain(keys[1]))


def _draw_parallel(
    axes: "matplotlib.axes.Axes", keys: Sequence[str], groups: "pd.DataFrame", metric: str
) -> None:
    """A line for each group, through its values on an axis for each hyperparameter.

    The best one is drawn thick; of very many groups some are shown, evenly from best to worst.
    """
    from matplotlib.collections import LineCollection

    keys = keys[:_MAX_KEYS]
    shown = np.linspace(0, len(groups) - 1, min(len(groups), _MAX_LINES)).astype(int)
    heights = []
    for column, key in enumerate(keys):
        scale = _Scale(_values(groups, key))
        heights.append(scale.fractions(_values(groups, key))[shown])
        _draw_axis(axes, column, scale)
    mean = groups["mean"].to_numpy()[shown]
    norm = _norm(mean)
    lines = np.stack([np.tile(np.arange(len(keys)), (len(shown), 1)), np.stack(heights, 1)], axis=2)
    colors = "cividis_r" if lower_is_better(metric) else "cividis"  # the best stand out
    collection = LineCollection(
        list(lines[::-1]), cmap=colors, norm=norm, array=mean[::-1], linewidths=1.2, alpha=0.7
    )
    axes.add_collection(collection)
    axes.plot(*lines[0].T, color=figures.COLORS[1], linewidth=3, marker="o", label="best")
    axes.figure.colorbar(collection, ax=axes, label=metric)
    axes.grid(False)
    axes.set(xlim=(-0.4, len(keys) - 0.4), ylim=(-0.06, 1.06), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks(range(len(keys)), [plain(key).replace(".", ".\n") for key in keys])
    axes.tick_params("x", length=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)


def _draw_axis(axes: "matplotlib.axes.Axes", x: int, scale: "_Scale") -> None:
    """A vertical axis of parallel coordinates, with some of its values beside it."""
    values = list(scale.place)
    at = np.linspace(0, len(values) - 1, min(len(values), 5)).round().astype(int)
    axes.axvline(x, color="black", linewidth=0.8)
    for value in {values[index]: None for index in at}:
        number = as_number(value)
        axes.annotate(
            plain(value) if number is None else f"{number:.3g}",
            (x, scale.fractions([value])[0]),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.1", "color": "white", "alpha": 0.8},
            zorder=5,
        )


def _draw_key(axes: "matplotlib.axes.Axes", key: str, groups: "pd.DataFrame") -> None:
    """A point for each group; where values repeat, a line through the medians at each."""
    values, mean = _values(groups, key), groups["mean"].to_numpy()
    scale = _Scale(values)
    axes.scatter(
        scale.places(values), mean, s=18, color=figures.COLORS[5], alpha=0.6, linewidths=0,
        label="a setting",
    )  # fmt: skip
    if len(scale.place) <= len(groups) / 2:
        medians = groups["mean"].groupby(np.array(values)).median()
        axes.plot(
            list(scale.place.values()),
            medians[list(scale.place)].to_numpy(),
            "o-" if scale.is_numeric else "o",
            color=figures.COLORS[0],
            label="median",
        )
    scale.apply(axes, "x")
    axes.margins(x=0.1)
    axes.set_xlabel(plain(key))


def _values(groups: "pd.DataFrame", key: str) -> list[str]:
    """Of each group, in words where it has none."""
    return [value or "–" for value in groups[f"params.{key}"]]


def _norm(values: np.ndarray) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    return (LogNorm if _is_wide(values) else Normalize)(values.min(), values.max())


def _is_wide(values: np.ndarray) -> bool:
    """Whether values need a logarithmic axis."""
    finite = values[np.isfinite(values)]
    return bool(finite.min() > 0 and finite.max() > 30 * finite.min())


_LABEL_WIDTH = 0.1
"""Of an axis, what the label of a number takes."""


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
        self.is_log = self.is_numeric and _is_geometric(np.array([*self.place.values()]))

    def places(self, values: Sequence[str]) -> np.ndarray:
        return np.array([self.place[value] for value in values])

    def fractions(self, values: Sequence[str]) -> np.ndarray:
        """From 0 at the lowest to 1 at the highest."""
        ends, places = np.array([*self.place.values()])[[0, -1]], self.places(values)
        if self.is_log:
            ends, places = np.log(ends), np.log(places)
        return (places - ends[0]) / ((ends[1] - ends[0]) or 1)

    def apply(self, axes: "matplotlib.axes.Axes", axis: Literal["x", "y"]) -> None:
        places = [*self.place.values()]
        if self.is_log:
            axes.set(**{f"{axis}scale": "log"})
        if len(places) <= _MAX_TICKS or not self.is_numeric:
            label = f"label{'bottom' if axis == 'x' else 'left'}"
            axes.tick_params(axis, which="minor", length=0, **{label: False})
            axes.set(**{f"{axis}ticks": places, f"{axis}ticklabels": self._labels()})

    def _labels(self) -> list[str]:
        """The values; numbers that are close together share the label of the first one."""
        labels, last = [], -np.inf
        for value, place in zip(self.place, self.fractions([*self.place]), strict=True):
            has_room = not self.is_numeric or place >= last + _LABEL_WIDTH
            last = place if has_room else last
            labels.append(plain(value) if has_room else "")
        return labels


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
