"""Pictures from arrays, in one style.

The colours are Okabe & Ito's for the colour-blind ("Color Universal Design", 2008). Line styles and
markers differ as well, and shades run from dark to light, so that black and white suffices.
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import jax.numpy as jnp
import numpy as np

from mlp_jax.core import metrics

if TYPE_CHECKING:  # takes half a second to import
    import matplotlib.axes
    import matplotlib.figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
LINE_STYLES = {"train": "-", "validation": "--", "test": ":"}

_STYLE: dict[Any, Any] = {
    "figure.dpi": 125.0,  # 800 x 600 pixels
    "figure.constrained_layout.use": True,
    "font.size": 11.0,
    "axes.titlesize": 12.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E0E0E0",
    "lines.linewidth": 2.0,
    "legend.frameon": False,
}

_FALLBACKS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Emoji", "Symbola", "Unifont")
"""Fonts for what the first one lacks, where they are installed."""

P = ParamSpec("P")
OnWarning = Callable[[str], None]


def plain(name: str) -> str:
    """A name as it is: Matplotlib takes $ for mathematics, and leaves _ out of a legend."""
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def to_png(
    name: str, draw: Callable[[], "matplotlib.figure.Figure"], warn: OnWarning
) -> bytes | None:
    """A figure as a file, or None where it cannot be drawn: that costs the figure, nothing else."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of a letter that no font has
        try:
            draw().savefig(file, format="png")
        except Exception as error:  # whatever Matplotlib and the numbers come up with
            warn(f"the figure {name} could not be drawn: {type(error).__name__}: {error}")
            return None
    return file.getvalue()


def _fonts() -> list[str]:
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _FALLBACKS if name in installed)]


def styled(
    draw: Callable[P, "matplotlib.figure.Figure"],
) -> Callable[P, "matplotlib.figure.Figure"]:
    """A function that draws in this style, and leaves the reader's own settings alone."""

    @wraps(draw)
    def draw_styled(*args: P.args, **kwargs: P.kwargs) -> "matplotlib.figure.Figure":
        from matplotlib import rc_context

        with rc_context({**_STYLE, "font.family": _fonts()}):
            return draw(*args, **kwargs)

    return draw_styled


@styled
def loss_curves(
    steps: np.ndarray,
    metrics: Mapping[str, np.ndarray],
    *,
    x_label: str = "step",
    loss_label: str = "loss",
    best_step: float | None = None,
) -> "matplotlib.figure.Figure":
    """The metrics `train/loss`, `validation/loss` and, in a panel below, accuracy or R²."""
    from matplotlib.figure import Figure

    labels = {"loss": loss_label, "accuracy": "accuracy", "r2": "R²"}
    shown = [name for name in labels if any(key.endswith(f"/{name}") for key in metrics)]
    figure = Figure(figsize=(6.4, 4.8))
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, shown, strict=True):
        for color, (part, line_style) in zip(COLORS, LINE_STYLES.items(), strict=False):
            if f"{part}/{name}" in metrics:
                axes.plot(steps, metrics[f"{part}/{name}"], line_style, color=color, label=part)
        if best_step is not None:
            axes.axvline(best_step, color="black", linewidth=1, linestyle=":")
        axes.set_ylabel(labels[name])
    losses = np.concatenate([metrics[key] for key in metrics if key.endswith("/loss")])
    if losses.min() > 0 and losses.max() > 30 * losses.min():
        panels[0].set_yscale("log")
    if best_step is not None:
        panels[0].plot([], [], color="black", linewidth=1, linestyle=":", label="best")
    panels[0].legend()
    panels[-1].set_xlabel(x_label)
    return figure


@styled
def decision_boundary(
    scores: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    feature_names: Sequence[str] = ("x1", "x2"),
    *,
    resolution: int = 200,
) -> "matplotlib.figure.Figure":
    """The classes over a plane of two inputs, with the examples.

    `scores` maps (batch, 2) inputs to (batch, classes). Two classes are shaded by the second's
    probability, with its 0.5 line; more by the class with the largest score.
    """
    from matplotlib.figure import Figure

    low, high = x.min(axis=0), x.max(axis=0)
    margin = 0.15 * np.maximum(high - low, 1e-9)
    horizontal, vertical = np.linspace(low - margin, high + margin, resolution).T
    grid = np.stack(np.meshgrid(horizontal, vertical), axis=-1)
    surface = scores(grid.reshape(-1, 2)).reshape(resolution, resolution, -1)

    figure = Figure(figsize=(6.4, 5.2))
    axes = figure.subplots()
    axes.grid(False)
    if len(class_names) == 2:
        tenths = np.linspace(0, 1, 11)
        second = surface[..., 1]
        shades = axes.contourf(
            horizontal, vertical, second.clip(0, 1), tenths, cmap="cividis", alpha=0.85
        )
        axes.contour(horizontal, vertical, second, [0.5], colors="black", linewidths=2)
        figure.colorbar(
            shades,
            ax=axes,
            label=f"probability of class {plain(class_names[1])}",
            ticks=tenths[::2],
        )
        _scatter_classes(axes, x, labels, class_names, ("white", "black"), ("black", "white"))
    else:
        winner = surface.argmax(axis=-1)
        colors = [COLORS[k % len(COLORS)] for k in range(len(class_names))]
        borders = np.arange(len(class_names) + 1) - 0.5
        axes.contourf(horizontal, vertical, winner, borders, colors=colors, alpha=0.3)
        for k in range(len(class_names)):
            axes.contour(horizontal, vertical, winner == k, [0.5], colors="black", linewidths=1)
        _scatter_classes(axes, x, labels, class_names, colors, ["white"] * len(colors))
    axes.set(xlabel=plain(feature_names[0]), ylabel=plain(feature_names[1]))
    return figure


def _scatter_classes(
    axes: "matplotlib.axes.Axes",
    x: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    colors: Sequence[str],
    edge_colors: Sequence[str],
) -> None:
    size = np.clip(6000 / len(x), 24, 130)
    for k, name in enumerate(class_names):
        axes.scatter(
            x[labels == k, 0],
            x[labels == k, 1],
            s=size,
            marker=MARKERS[k % len(MARKERS)],
            color=colors[k],
            edgecolors=edge_colors[k],
            linewidths=0.8,
            label=plain(name),
        )
    axes.legend(title="class", loc="lower left", bbox_to_anchor=(0, 1), ncols=6)


@styled
def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]
) -> "matplotlib.figure.Figure":
    """How often each true class was taken for each; shades are shares of the true class."""
    from matplotlib.figure import Figure

    num_classes = len(class_names)
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (labels, predictions), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    figure = Figure(figsize=(6.4, 5.4))
    axes = figure.subplots()
    axes.grid(False)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class")
    if num_classes <= 20:
        font_size = min(14, 110 / num_classes)
        for i, j in np.argwhere(counts):
            color = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, counts[i, j], ha="center", va="center", color=color, fontsize=font_size)
    ticks, names = np.arange(num_classes), [*map(plain, class_names)]
    long_names = max(map(len, class_names)) * num_classes > 40
    axes.set_xticks(
        ticks, names, rotation=45 if long_names else 0, ha="right" if long_names else "center"
    )
    axes.set_yticks(ticks, names)
    num_right = int(np.trace(counts))
    axes.set(
        xlabel="predicted class",
        ylabel="true class",
        title=f"{num_right} of {len(labels)} right ({num_right / len(labels):.1%})",
    )
    return figure


@styled
def reliability(
    confidence: np.ndarray, is_right: np.ndarray, *, num_bins: int = 10
) -> "matplotlib.figure.Figure":
    """How often predictions are right over how sure they are; on the diagonal the two agree.

    `confidence` is the probability of the predicted class, in groups of equally many examples. The
    expected calibration error is Σ_b n_b/n |share of right ones − mean confidence|.
    """
    from matplotlib.figure import Figure

    groups = np.array_split(np.argsort(confidence, kind="stable"), min(num_bins, len(confidence)))
    sure = np.array([confidence[group].mean() for group in groups])
    right = np.array([is_right[group].mean() for group in groups])
    share = np.array([len(group) for group in groups]) / len(confidence)
    figure = Figure(figsize=(5.6, 5.4))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color="black", linewidth=1.2, label="as sure as right")
    axes.plot(sure, right, "o-", color=COLORS[0], label="predictions")
    low = max(0.0, min(sure.min(), right.min()) - 0.05)
    axes.set(xlim=(low, 1.01), ylim=(low, 1.01))
    axes.legend(loc="upper left")
    axes.set(
        xlabel="mean probability of the predicted class",
        ylabel="share of right predictions",
        title=f"expected calibration error {(share * np.abs(right - sure)).sum():.3f}",
    )
    return figure


@styled
def regression_fit(
    predict: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    feature_name: str = "x",
    target_name: str = "y",
) -> "matplotlib.figure.Figure":
    """The fitted curve over one input, with the examples. `predict` maps (batch, 1) to (batch,)."""
    from matplotlib.figure import Figure

    x = x.ravel()
    margin = 0.05 * (x.max() - x.min())
    line = np.linspace(x.min() - margin, x.max() + margin, 500)
    figure = Figure(figsize=(6.4, 4.8))
    axes = figure.subplots()
    axes.scatter(
        x, y.ravel(), s=22, color=COLORS[4], edgecolors="black", linewidths=0.4, label="examples"
    )
    axes.plot(line, predict(line[:, None]).ravel(), color=COLORS[0], linewidth=2.5, label="network")
    axes.legend()
    axes.set(xlabel=plain(feature_name), ylabel=plain(target_name))
    return figure


@styled
def predicted_against_target(
    targets: np.ndarray, predictions: np.ndarray, target_name: str = "y"
) -> "matplotlib.figure.Figure":
    """Each example's prediction over its target; on the diagonal the two agree."""
    from matplotlib.figure import Figure

    errors = predictions - targets
    total = ((targets - targets.mean()) ** 2).sum()
    r2 = float(metrics.r2(jnp.asarray((errors**2).sum()), float(total)))
    ends = [min(targets.min(), predictions.min()), max(targets.max(), predictions.max())]
    figure = Figure(figsize=(5.6, 5.4))
    axes = figure.subplots()
    axes.scatter(targets, predictions, s=22, color=COLORS[0], alpha=0.6, linewidths=0)
    axes.plot(ends, ends, "--", color="black", linewidth=1.2, label="prediction = target")
    axes.set_aspect("equal")
    axes.legend(loc="upper left")
    axes.set(
        xlabel=f"{plain(target_name)}, target",
        ylabel=f"{plain(target_name)}, predicted",
        title=f"R² = {r2:.3f}, root mean squared error {np.sqrt((errors**2).mean()):.3g}",
    )
    return figure
