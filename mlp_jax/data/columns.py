"""What a loader returns, and the preprocessing that fits its training part."""

from typing import NamedTuple

import numpy as np

from mlp_jax.config.schema import Data, Table
from mlp_jax.data.preprocessing import Column, Inputs, Preprocessing
from mlp_jax.errors import UserError


class Raw(NamedTuple):
    """What a loader returns: all examples in their own units, and a test part if there is one."""

    x: Inputs
    y: np.ndarray
    source: str
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...] = ("class",)
    class_names: tuple[str, ...] = ()
    x_scale: float = 1.0  # divides x where it is not standardised
    x_dtype: type = np.float64
    test: tuple[np.ndarray, np.ndarray] | None = None
    notes: tuple[str, ...] = ()


def fit_columns(
    x: Inputs, names: tuple[str, ...], config: Data
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """The columns of the training part `x` that are not constant, and a note on the others.

    An array's columns are all kept: a pixel may well be constant.
    """
    if isinstance(x, np.ndarray):
        return tuple(Column(name) for name in names), ()
    assert isinstance(config, Table)
    columns, constant = [], []
    for name, values in x.items():
        if values.nunique() < 2:
            constant.append(str(name))
            continue
        column = Column(str(name))
        if values.dtype != np.float64:
            counts = values.value_counts().sort_index()
            if len(counts) > max(20, len(values) / 2):
                raise UserError(
                    f"column {name!r}: {len(counts)} different texts in {len(values)} rows, such "
                    f"as {counts.index[0]!r}, are no categories; leave it out with "
                    f"'data.ignore=[{name}]'."
                )
            column = column._replace(categories=tuple(counts.index))
        if config.missing == "mean":
            column = column._replace(
                fill=str(counts.idxmax()) if column.categories else float(values.mean())
            )
        columns.append(column)
    if not columns:
        raise UserError(
            f"data.path={config.path}: every column but {config.target!r} is constant in the "
            "training part, so there is nothing to learn from."
        )
    notes = (f"left out, because constant: {', '.join(constant)}",) if constant else ()
    return tuple(columns), notes


def fit(
    columns: tuple[Column, ...], train: tuple[Inputs, np.ndarray], raw: Raw, config: Data
) -> Preprocessing:
    x, y = train
    n_0 = sum(max(1, len(column.categories)) for column in columns)
    n_targets = 0 if raw.class_names else len(raw.target_names)
    preprocessing = Preprocessing(
        columns,
        x_shift=np.zeros(n_0, raw.x_dtype),
        x_scale=np.ones(n_0, raw.x_dtype),
        y_shift=np.zeros(n_targets),
        y_scale=np.ones(n_targets),
    )
    if not config.standardize:
        return preprocessing._replace(x_scale=np.full(n_0, raw.x_scale, raw.x_dtype))
    x_shift, x_scale = _mean_and_std(preprocessing.encode(x), preprocessing.feature_names)
    if raw.class_names:
        return preprocessing._replace(x_shift=x_shift, x_scale=x_scale)
    return Preprocessing(columns, x_shift, x_scale, *_mean_and_std(y, raw.target_names))


def _mean_and_std(values: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Of each column; a constant one has 1 for its standard deviation."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = values.mean(axis=0, dtype=np.float64)
        std = values.std(axis=0, dtype=np.float64)
    if not np.isfinite(std).all():
        name = names[int(np.argmin(np.isfinite(std)))]
        raise UserError(
            f"column {name!r}: its numbers are too large to standardise; give it in another unit."
        )
    # Rounding may leave a constant column a tiny deviation from its mean.
    std[(values.max(axis=0) == values.min(axis=0)) | (std == 0)] = 1
    return mean.astype(values.dtype), std.astype(values.dtype)
