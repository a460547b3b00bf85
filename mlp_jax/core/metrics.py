"""What is measured besides the loss: of classes, of numbers, and information in bits.

The tables `OF_CLASSES` and `OF_NUMBERS` have scikit-learn's metrics of the same names, as functions
of all predictions of a part: JAX's arrays in a compiled training, NumPy's on the host.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import entr, rel_entr, xlogy
from jaxtyping import Bool, Float, Int

LN2 = 0.6931471805599453
"""Nats in a bit: a loss in nats divided by it is in bits."""


def predicted_class(y_hat: Float[Any, "*n n_L"], threshold: float) -> Int[Any, "*n"]:
    """The index of the largest output; of a single output, whether it reaches the threshold."""
    if y_hat.shape[-1] == 1:
        return (y_hat[..., 0] >= threshold).astype(np.int32)
    return y_hat.argmax(-1).astype(np.int32)


def information(p: Float[Array, " k"]) -> Float[Array, " k"]:
    """The information content −log₂ p of each event, in bits. Shannon 1948."""
    return -jnp.log2(p)


def entropy(p: Float[Array, " k"]) -> Float[Array, ""]:
    """H(p) = −Σ p log₂ p, in bits."""
    return jnp.sum(entr(p)) / LN2


def cross_entropy(p: Float[Array, " k"], q: Float[Array, " k"]) -> Float[Array, ""]:
    """H(p, q) = −Σ p log₂ q, in bits; never below H(p)."""
    return -jnp.sum(xlogy(p, q)) / LN2


def kl_divergence(p: Float[Array, " k"], q: Float[Array, " k"]) -> Float[Array, ""]:
    """D(p‖q) = Σ p log₂ (p/q) = H(p, q) − H(p) ≥ 0, in bits."""
    return jnp.sum(rel_entr(p, q)) / LN2


# --- of classes --------------------------------------------------------------------------------


class Classes(NamedTuple):
    """The classes of some examples, true and predicted."""

    label: Int[Any, " n"]
    predicted: Int[Any, " n"]
    score: Float[Any, "n num_classes"]
    """The probability of each class, or what stands for it."""


def as_classes(y_hat: Float[Any, "n n_L"], y: Float[Any, "n n_L"], threshold: float) -> Classes:
    """From outputs and targets, which lie in [0, 1] around a threshold of ½, in [−1, 1] around 0.

    A single output is the score of the second of two classes.
    """
    score = y_hat if threshold else (1 + y_hat) / 2
    if score.shape[1] == 1:
        score = _numpy_of(score).concatenate([1 - score, score], axis=1)
    return Classes(predicted_class(y, threshold), predicted_class(y_hat, threshold), score)


def _numpy_of(array: Any) -> Any:
    """NumPy, or JAX's, by whose an array is."""
    return array.__array_namespace__()


class _Counts(NamedTuple):
    """Examples of each class: those labelled as it, predicted as it, and both."""

    labelled: Int[Any, " num_classes"]
    predicted: Int[Any, " num_classes"]
    right: Int[Any, " num_classes"]


def _counts(classes: Classes) -> _Counts:
    each = np.arange(classes.score.shape[1])[None]
    is_labelled, is_predicted = classes.label[:, None] == each, classes.predicted[:, None] == each
    return _Counts(is_labelled.sum(0), is_predicted.sum(0), (is_labelled & is_predicted).sum(0))


def _share(part: Any, whole: Any) -> Any:
    """0 of nothing."""
    return part / whole.clip(1)


def _mean(values: Any, counts: Bool[Any, " k"]) -> Any:
    """Over those that count; 0 of none."""
    return _share((values * counts).sum(), counts.sum())


def _positive_or_mean(values: Any, counts: _Counts) -> Any:
    """Of two classes the second's; of more the mean over those that occur."""
    if len(values) == 2:
        return values[1]
    return _mean(values, counts.labelled + counts.predicted > 0)


def accuracy(classes: Classes) -> Any:
    """The share of right answers."""
    return (classes.label == classes.predicted).astype(classes.score.dtype).mean()


def balanced_accuracy(classes: Classes) -> Any:
    """The mean of each class's share of right answers."""
    counts = _counts(classes)
    return _mean(_share(counts.right, counts.labelled), counts.labelled > 0)


def precision(classes: Classes) -> Any:
    """Of the examples that were taken for a class, the share that are of it."""
    counts = _counts(classes)
    return _positive_or_mean(_share(counts.right, counts.predicted), counts)


def recall(classes: Classes) -> Any:
    """Of the examples of a class, the share that were taken for it."""
    counts = _counts(classes)
    return _positive_or_mean(_share(counts.right, counts.labelled), counts)


def f1(classes: Classes) -> Any:
    """The harmonic mean of precision and recall."""
    counts = _counts(classes)
    values = _share(2 * counts.right, counts.labelled + counts.predicted)
    return _positive_or_mean(values, counts)


def log_loss(classes: Classes) -> Any:
    """The mean of −ln p of the true class: without weights, smoothing or penalties."""
    numpy, eps = _numpy_of(classes.score), float(jnp.finfo(classes.score.dtype).eps)
    p = classes.score.clip(eps, 1 - eps)
    p_true = numpy.take_along_axis(p, classes.label[:, None], axis=1)[:, 0]
    return -numpy.log(p_true / p.sum(axis=1)).mean()


def _at_least(scores: Any, score: Any) -> Any:
    """How many of `scores` are as high as each `score`, or higher."""
    numpy = _numpy_of(score)
    return len(scores) - numpy.searchsorted(numpy.sort(scores), score).astype(score.dtype)


def _roc_auc(is_positive: Bool[Any, " n"], score: Float[Any, " n"]) -> Any:
    """The probability that a positive example has a higher score than a negative one.

    Equal scores count half; where there are no two to compare, it is ½.
    """
    num_positive = is_positive.astype(score.dtype).sum()
    num_pairs = num_positive * (len(score) - num_positive)
    below, not_above = len(score) - _at_least(score, score), _at_least(-score, -score)
    rank = (below + not_above + 1) / 2
    num_won = (rank * is_positive).sum() - num_positive * (num_positive + 1) / 2
    return _numpy_of(score).where(num_pairs > 0, num_won / num_pairs.clip(1), 0.5)


def _average_precision(is_positive: Bool[Any, " n"], score: Float[Any, " n"]) -> Any:
    """The mean over the positive examples of the precision at their score; 0 without any."""
    positive_scores = _numpy_of(score).where(is_positive, score, -np.inf)
    return _mean(_at_least(positive_scores, score) / _at_least(score, score), is_positive)


def _of_scores(metric: Callable[[Any, Any], Any]) -> Callable[[Classes], Any]:
    """Of two classes the second against the first; of more the mean of each against the rest."""

    def of_class(c: Any, classes: Classes) -> Any:
        return metric(classes.label == c, classes.score[:, c])

    def of_classes(classes: Classes) -> Any:
        each = np.arange(classes.score.shape[1])
        if len(each) == 2:
            return of_class(1, classes)
        if isinstance(classes.score, np.ndarray):
            values: Any = np.array([of_class(c, classes) for c in each])
        else:  # one after the other, since each takes memory
            values = jax.lax.map(lambda c: of_class(c, classes), jnp.asarray(each))
        return _mean(values, _counts(classes).labelled > 0)

    return of_classes


OF_CLASSES: dict[str, Callable[[Classes], Any]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "roc_auc": _of_scores(_roc_auc),
    "average_precision": _of_scores(_average_precision),
    "log_loss": log_loss,
}


# --- of numbers --------------------------------------------------------------------------------


def r2(squared_error: Any, total: Any) -> Any:
    """R² = 1 − Σ(ŷ − y)² / Σ(y − ȳ)²; of constant targets 1 where all ŷ are exact, else 0."""
    where, is_constant = _numpy_of(squared_error).where, total == 0
    score = 1 - squared_error / where(is_constant, 1, total)
    return where(is_constant, where(squared_error > 0, 0.0, 1.0), score)


def _rmse(y_hat: Any, y: Any, unit: Any) -> Any:
    return (unit * ((y_hat - y) ** 2).mean(axis=0) ** 0.5).mean()


def _mae(y_hat: Any, y: Any, unit: Any) -> Any:
    return (unit * abs(y_hat - y).mean(axis=0)).mean()


def _r2(y_hat: Any, y: Any, unit: Any) -> Any:
    # The mean of equal numbers may differ from them in the last bit.
    is_constant = y.max(axis=0) == y.min(axis=0)
    total = ((y - y.mean(axis=0, keepdims=True)) ** 2).sum(axis=0) * ~is_constant
    return r2(((y_hat - y) ** 2).sum(axis=0), total).mean()


OF_NUMBERS: dict[
    str, Callable[[Float[Any, "n n_L"], Float[Any, "n n_L"], Float[Any, " n_L"]], Any]
] = {"r2": _r2, "rmse": _rmse, "mae": _mae}
"""Means over the targets. `unit` is what a difference of 1 in y is in each target's own unit."""


class Units(NamedTuple):
    """From y to targets in their own unit: t = scale · y + c, or t = exp(scale · y + log_shift)."""

    scale: Any
    log_shift: Any = None


def _in_own_unit(y_hat: Any, y: Any, units: Units) -> tuple[Any, Any, Any]:
    """ŷ and y up to a factor for each target, which is the last of the three."""
    numpy = _numpy_of(y)
    scale = numpy.asarray(units.scale, dtype=y.dtype)
    if units.log_shift is None:
        return y_hat, y, scale
    shift = numpy.asarray(units.log_shift, dtype=y.dtype)
    largest = (scale[None] * y + shift[None]).max(axis=0)  # a factor, so that no square overflows
    y_hat, y = (numpy.exp(scale[None] * v + (shift - largest)[None]) for v in (y_hat, y))
    return y_hat, y, numpy.exp(largest)


# --- all of a part -----------------------------------------------------------------------------


def names_of(threshold: float | None) -> tuple[str, ...]:
    """What can be measured of classes, or of numbers, which have no threshold."""
    return ("loss", *(OF_NUMBERS if threshold is None else OF_CLASSES))


def of_outputs(
    y_hat: Float[Any, "n n_L"],
    y: Float[Any, "n n_y"],
    *,
    threshold: float | None,
    units: Units | None = None,
    names: Collection[str],
) -> dict[str, Any]:
    """The metrics of these names, of numbers in their own units (None: y's).

    An example's weight, which may stand behind its targets, counts in none of them.
    """
    y = y[:, : y_hat.shape[1]]
    if threshold is None:
        of_numbers = _in_own_unit(y_hat, y, units or Units((1.0,) * y.shape[1]))
        return {name: OF_NUMBERS[name](*of_numbers) for name in names if name in OF_NUMBERS}
    classes = as_classes(y_hat, y, threshold)
    return {name: OF_CLASSES[name](classes) for name in names if name in OF_CLASSES}


def measure(
    losses: Float[Any, " n"],
    y_hat: Float[Any, "n n_L"],
    y: Float[Any, "n n_y"],
    *,
    threshold: float | None,
    units: Units | None = None,
    names: Collection[str],
) -> dict[str, Any]:
    """The mean loss and what `of_outputs` measures."""
    return {
        "loss": losses.mean(),
        **of_outputs(y_hat, y, threshold=threshold, units=units, names=names),
    }
