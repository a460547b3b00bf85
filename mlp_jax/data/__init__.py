"""Datasets: arrays on the host, split, preprocessed, beside what maps raw inputs to them.

    raw (own units) -> split -> Preprocessing, fitted on the training part -> x = (encoded − μ) / σ

`load` is the only entry. A new dataset is one function from its config to a `Raw` and one line in
`DATASETS`.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlp_jax.config.schema import Data, Table
from mlp_jax.data import computed, mnist, table
from mlp_jax.data.columns import Raw, fit, fit_columns
from mlp_jax.data.dates import written
from mlp_jax.data.folds import held_out
from mlp_jax.data.preprocessing import Column, Inputs, Preprocessing
from mlp_jax.errors import UserError, reached

if TYPE_CHECKING:
    import pandas

DATASETS: dict[str, Callable[[Any], Raw]] = {
    "xor": computed.boolean,
    "boolean": computed.boolean,
    **dict.fromkeys(("circles", "moons", "gauss", "spiral", "sine"), computed.synthetic),
    **dict.fromkeys(("iris", "wine", "breast_cancer", "digits", "diabetes"), computed.scikit_learn),
    "mnist": mnist.mnist,
    "table": table.table,
}


class Part(NamedTuple):
    """The examples of one part: y holds integer labels, or one row of targets for each example."""

    x: np.ndarray
    y: np.ndarray


class Dataset(NamedTuple):
    """What `load` returns. `class_names` is empty for regression; `notes` are for the user.

    `class_values` are the labels as they stood in the data: numbers, true and false, or texts.
    `rows` are the first of a table's training part, `weights` factors of its examples' losses.
    A dataset with `folds` is the first of them.
    """

    name: str
    task: str
    train: Part
    validation: Part | None
    test: Part | None
    class_names: tuple[str, ...]
    class_values: tuple[Any, ...]
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    preprocessing: Preprocessing
    source: str
    digest: str
    notes: tuple[str, ...]
    rows: "pandas.DataFrame | None" = None
    weights: np.ndarray | None = None
    folds: "Folds | None" = None


class Folds(NamedTuple):
    """Of cross-validation: the examples of all folds as a training part, and without each fold."""

    known: Dataset
    datasets: tuple[Dataset, ...]


def load(config: Data) -> Dataset:
    """The dataset that `config` describes, split and preprocessed; raises `UserError`."""
    reached("start-up")
    raw = DATASETS[config.name](config)
    train, validation, test = _split(raw, config)
    columns, notes = fit_columns(train[0], raw, config)
    preprocessing = fit(columns, train[0], train[1], raw, config)
    weights = None if raw.weights is None else _of_mean_1(train[2], config)

    unknown: list[str] = []

    def preprocess(part: Any) -> Part | None:
        if part is None:
            return None
        x, y = part[:2]
        return Part(
            preprocessing.encode(x, unknown.append),
            y if raw.class_names else preprocessing.encode_targets(y),
        )

    parts = [preprocess(part) for part in (train, validation, test)]
    assert parts[0] is not None
    dataset = Dataset(
        name=config.name,
        task="classification" if raw.class_names else "regression",
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        class_names=raw.class_names,
        class_values=raw.class_values or raw.class_names,
        feature_names=preprocessing.feature_names,
        target_names=raw.target_names,
        preprocessing=preprocessing,
        source=raw.source,
        digest=_digest(parts, weights),
        notes=(*raw.notes, *notes, *unknown),
        rows=_rows(train[0], columns),
        weights=weights,
    )
    return dataset if config.folds is None else _in_folds(dataset, config)


def _in_folds(known: Dataset, config: Data) -> Dataset:
    """The dataset of a fold, which is its validation part, or that of the first with all of them.

    `known` has the examples of all folds for its training part.
    """

    def without(fold: np.ndarray) -> Dataset:
        is_held_out = np.zeros(len(known.train.y), bool)
        is_held_out[fold] = True
        train, validation = (Part(*(a[at] for a in known.train)) for at in (~is_held_out, fold))
        weights = None if known.weights is None else known.weights[~is_held_out]
        digest = _digest([train, validation, known.test], weights)
        return known._replace(train=train, validation=validation, weights=weights, digest=digest)

    parts = held_out(known.train.y, known.class_names, config)
    if config.fold is not None:
        return without(parts[config.fold])
    folds = Folds(known, tuple(map(without, parts)))
    return folds.datasets[0]._replace(folds=folds)


def _of_mean_1(weights: np.ndarray, config: Data) -> np.ndarray:
    """The weights of the training part as factors, which leave the learning rate's meaning."""
    assert isinstance(config, Table)
    if not weights.any():
        raise UserError(f"data.weights={config.weights}: every row of the training part has 0.")
    return weights / weights.mean()


def raw_inputs(dataset: Dataset, num_examples: int) -> Inputs:
    """The first training examples as a user has them: at most 20 rows of a table, or an array."""
    if dataset.rows is not None:
        return dataset.rows[:num_examples]
    return dataset.preprocessing.unscale(dataset.train.x[:num_examples].astype(np.float64))


def _rows(x: Inputs, columns: tuple[Column, ...]) -> "pandas.DataFrame | None":
    """The first rows of a table, its dates as its texts have them."""
    if isinstance(x, np.ndarray):
        return None
    rows = x.iloc[:20][[column.name for column in columns]].reset_index(drop=True)
    for column in columns:
        if column.parts:
            dates = rows[column.name]
            texts = dates.map(partial(written, style=column.style), na_action="ignore")
            rows[column.name] = texts.astype(object).where(dates.notna(), None)
    return rows


def _digest(parts: Sequence[Part | None], weights: np.ndarray | None) -> str:
    content = hashlib.sha256()
    arrays = [array for part in parts for array in part or ()]
    for array in arrays if weights is None else [*arrays, weights]:
        content.update(f"{array.dtype}{array.shape}".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()[:16]


def _split(raw: Raw, config: Data) -> tuple[Any, Any, Any]:
    """(x, y) for training, validation and test, or (x, y, weights); None for a part of size 0.

    The test part is taken from all examples, then the validation part from the rest, each like
    scikit-learn's `train_test_split` with `random_state=config.seed`, stratified for classes; with
    `shuffle=False` each is the end of what it is taken from. A fraction counts from all examples
    and is rounded up. Where there are folds, the validation part is left to them.
    """
    shuffle = getattr(config, "shuffle", True)
    rest: Any = (raw.x, raw.y) if raw.weights is None else (raw.x, raw.y, raw.weights)
    parts: dict[str, Any] = {"test_size": raw.test, "validation_size": None}
    for key in parts:
        size = 0 if key == "validation_size" and config.folds else getattr(config, key, 0)
        count = math.ceil(size * len(raw.y)) if size < 1 else int(size)
        if count:
            _check_size(f"data.{key}={size:g}", count, rest[1], raw.class_names, shuffle)
            from sklearn.model_selection import train_test_split

            split = train_test_split(
                *rest,
                test_size=count,
                random_state=config.seed,
                shuffle=shuffle,
                stratify=rest[1] if raw.class_names and shuffle else None,
            )
            rest, parts[key] = split[::2], split[1::2]
    return rest, parts["validation_size"], parts["test_size"]


def _check_size(
    size: str, count: int, y: np.ndarray, class_names: tuple[str, ...], shuffle: bool
) -> None:
    """Raises `UserError` where `count` of the examples `y` cannot be taken away."""
    if count >= len(y):
        raise UserError(
            f"{size}: takes {count} of {len(y)} examples and leaves none to train on; make "
            "data.test_size or data.validation_size smaller."
        )
    if not class_names:
        return
    labels, counts = np.unique(y, return_counts=True)
    if not shuffle:
        if gone := np.setdiff1d(labels, y[:-count]).tolist():
            raise UserError(
                f"{size}: the last {count} examples are all that there are of class "
                f"{class_names[gone[0]]!r}; where they are sorted by class, use data.shuffle=true."
            )
        return
    if counts.min() < 2:
        raise UserError(
            f"{size}: class {class_names[labels[counts.argmin()]]!r} has one example left, which "
            "cannot be in two parts; give it more examples, or set data.test_size=0 "
            "data.validation_size=0. If the target is a number, set data.task=regression."
        )
    if min(count, len(y) - count) < len(labels):
        raise UserError(
            f"{size}: splits {len(y)} examples into {len(y) - count} and {count}, too few for one "
            f"of each of the {len(labels)} classes; change the size, or set it to 0."
        )
