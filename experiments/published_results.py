"""Do the same settings give the published results?

Nielsen's networks of chapters 1 and 3 and Simard's size on MNIST, and scikit-learn's own MLP on its
digits in the same run. Five seeds each; the range stands beside the mean. MNIST is read from
data/mnist, or from the directory in $MNIST_ROOT. Nielsen's figures are the best epoch of one run,
so the best epoch stands beside them; Simard's and scikit-learn's are compared with the last one.
The five seeds of a network train together, over all cores; three million steps take some minutes.
"""

import os
import warnings
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.study import ChildRun, Results, Row, run_study, subplots
from mlp_jax import data
from mlp_jax.config.compose import compose
from mlp_jax.config.schema import Data, Experiment
from mlp_jax.data import Dataset
from mlp_jax.sweep import groups
from mlp_jax.sweep.groups import spread_over_cores

NUM_SEEDS = 5
MNIST_ROOT = os.environ.get("MNIST_ROOT", "data/mnist")


class Setting(NamedTuple):
    """A published network: its overrides, the part it was judged by, and its figure in %."""

    label: str
    overrides: tuple[str, ...]
    part: str
    published: float
    source: str
    kind: str = "best epoch"


SETTINGS = (
    Setting("784-30-10, η=3", ("+exp=nielsen_1",), "test", 95.42, "Nielsen ch. 1"),
    Setting("784-100-10, η=.5, λ=5", ("+exp=nielsen_3",), "validation", 97.92, "Nielsen ch. 3"),
    Setting(
        "784-100-10, η=.1, λ=5",
        ("+exp=nielsen_3", "num_epochs=60", "optimizer.learning_rate=0.1"),
        "validation",
        98.04,
        "Nielsen ch. 3",
    ),
    Setting("784-800-10", ("+exp=mnist_800",), "test", 98.4, "Simard et al. 2003", "last epoch"),
)


def train(setting: Setting) -> np.ndarray:
    """Accuracy in % by seed and epoch, on the part that the setting is judged by."""
    config = compose([*setting.overrides, f"data.root={MNIST_ROOT}", "tracking=none"])
    load_data = with_test_for_validation if setting.part == "test" else data.load
    members = groups.train(seeds_of(config), load_data=load_data)
    return np.array(
        [[100 * p.metrics["validation/accuracy"] for p in m.fitted.history] for m in members]
    )


def seeds_of(config: Experiment) -> list[Experiment]:
    return [replace(config, seed=seed) for seed in range(NUM_SEEDS)]


def with_test_for_validation(config: Data) -> Dataset:
    """So that the test part is measured after every epoch; nothing is chosen by it."""
    dataset = data.load(config)
    return dataset._replace(validation=dataset.test)


def our_digits() -> np.ndarray:
    """Test accuracy in % of 64-100-10 by seed."""
    members = groups.train(seeds_of(compose(["+exp=digits", "tracking=none"])))
    return np.array([100 * member.metrics["test"]["accuracy"] for member in members])


def scikit_learns_digits() -> np.ndarray:
    """The same network on the same split with the same settings, trained by scikit-learn."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    config = compose(["+exp=digits", "tracking=none"])
    dataset = data.load(config.data)
    assert dataset.test is not None and config.num_epochs is not None
    peers = [
        MLPClassifier(
            hidden_layer_sizes=tuple(config.model.hidden_sizes),
            activation="relu",
            solver="adam",
            alpha=0.0,
            batch_size=config.batch_size,
            learning_rate_init=config.optimizer.learning_rate,
            max_iter=config.num_epochs,
            n_iter_no_change=config.num_epochs,
            random_state=seed,
        )
        for seed in range(NUM_SEEDS)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # after as many epochs as ours
        for peer in peers:
            peer.fit(dataset.train.x, dataset.train.y)
    return np.array([100 * peer.score(dataset.test.x, dataset.test.y) for peer in peers])


def row(quantity: str, values: np.ndarray, published: float, source: str) -> Row:
    interval = (float(values.min()), float(values.max()))
    return Row(quantity, float(values.mean()), published, source, "≈", interval, digits=4)


def measure() -> Results:
    scores = {setting: train(setting) for setting in SETTINGS}
    rows, children, found, misses = [], [], [], []
    for setting, score in scores.items():
        by_kind = {"best epoch": score.max(axis=1), "last epoch": score[:, -1]}
        for kind, values in by_kind.items():
            quantity = f"{setting.label}, {setting.part} %, {kind}"
            rows.append(row(quantity, values, setting.published, setting.source))
        mean = by_kind[setting.kind].mean()
        misses.append(abs(mean - setting.published))
        found.append(f"{setting.label} {mean:.2f} % (published {setting.published:g})")
        for seed, curve in enumerate(score):
            params = {"setting": setting.label, "seed": seed}
            children.append(ChildRun(params, {f"{setting.part}/accuracy": curve}))
    ours, theirs = our_digits(), scikit_learns_digits()
    peer = f"scikit-learn {theirs.min():.1f} to {theirs.max():.1f}, this run"
    rows.append(row("digits 64-100-10, test %", ours, float(theirs.mean()), peer))
    return Results(
        headline=f"Within {max(misses):.2f} %: {', '.join(found)}; digits {ours.mean():.2f} % "
        f"beside scikit-learn's {theirs.mean():.2f}. Means over {NUM_SEEDS} seeds.",
        rows=rows,
        arrays={"scores": scores, "digits": (ours, theirs)},
        children=children,
    )


def draw(results: Results) -> Figure:
    fig, axes = subplots(1, len(SETTINGS), height=3.4, sharey=True)
    for ax, (setting, score) in zip(axes, results.arrays["scores"].items(), strict=True):
        epochs = np.arange(1, score.shape[1] + 1)
        ax.fill_between(epochs, score.min(0), score.max(0), alpha=0.3, label="range")
        ax.plot(epochs, score.mean(0), label=f"mean of {len(score)} seeds")
        ax.axhline(setting.published, color="black", linestyle=":", label="published")
        ax.set(title=f"{setting.label}\n{setting.source}", xlabel="epoch", ylim=(92, 99))
        ax.title.set_fontsize("small")
    axes[0].set_ylabel("accuracy, %")
    axes[-1].legend(loc="lower right", fontsize="small")
    return fig


if __name__ == "__main__":
    spread_over_cores()
    run_study(measure, draw, float64=False)
