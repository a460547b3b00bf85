"""What a loader returns, and the preprocessing that fits its training part."""

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlp_jax.config.schema import Data, Table
from mlp_jax.data.dates import parts_of
from mlp_jax.data.files import insist_on_memory, shortened
from mlp_jax.data.preprocessing import Column, Inputs, Preprocessing
from mlp_jax.errors import UserError

if TYPE_CHECKING:
    import pandas

CLIP = 3.0
"""Of robust scaling."""

MAX_QUANTILES = 1000
"""Of a column; as many as there are rows, where these are fewer."""

MAX_CATEGORIES = 100
"""Of a column that the config does not name as one of categories; fewer where rows are few."""


class Raw(NamedTuple):
    """What a loader returns: all examples in their own units, and a test part if there is one."""

    x: Inputs
    y: np.ndarray
    source: str
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...] = ("class",)
    class_names: tuple[str, ...] = ()
    class_values: tuple[Any, ...] = ()  # the labels as they stood, where they are no texts
    x_scale: float = 1.0  # divides x where it is not standardised
    x_dtype: type = np.float64
    test: tuple[np.ndarray, np.ndarray] | None = None
    columns: tuple[Column, ...] = ()  # of a table, with how their entries are spelt
    notes: tuple[str, ...] = ()
    weights: np.ndarray | None = None  # how much a row counts in training


def fit_columns(x: Inputs, raw: Raw, config: Data) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """The columns of the training part `x` that are not constant, and a note on the others.

    An array's columns are all kept: a pixel may well be constant.
    """
    if isinstance(x, np.ndarray):
        return tuple(Column(name) for name in raw.feature_names), ()
    assert isinstance(config, Table)
    spelt = {column.name: column for column in raw.columns}
    columns, constant, too_many = [], [], {}
    for name, values in x.items():
        column = _varying(spelt[str(name)], values)
        if column is None:
            constant.append(str(name))
        elif name not in config.categorical and _are_too_different(column, values):
            too_many[str(name)] = (
                f"{len(column.categories):,} different texts in {len(values):,} rows, such as "
                f"{values.value_counts().index[0][:40]!r}"
            )
        else:
            columns.append(_filled(column, values, config.missing))
    if too_many and config.texts == "refuse":
        raise _too_many(too_many)
    notes = []
    if constant:
        notes.append(f"left out, because constant: {', '.join(constant)}")
    if too_many:
        listed = "; ".join(f"{name!r} ({why})" for name, why in too_many.items())
        notes.append(f"left out, because its texts are no categories: {listed}")
    if not columns:
        raise UserError(
            f"data.path={config.path}: there is nothing to learn from, since every column but "
            f"{shortened(config.targets)} is constant in the training part"
            f"{' or has texts that are no categories' * bool(too_many)}."
        )
    _check_memory(columns, len(x))
    return tuple(columns), (_inputs(columns), *notes)


def _varying(column: Column, values: "pandas.Series[Any]") -> Column | None:
    """The column with its categories or the parts of its dates; None where it is constant."""
    if column.style:
        parts = parts_of(values.dropna())
        varying = tuple(name for name, of_part in parts.items() if len(set(of_part)) > 1)
        return column._replace(parts=varying) if varying else None
    different = values.dropna().unique()
    if len(different) < 2:
        return None
    are_numbers = values.dtype == np.float64
    return column if are_numbers else column._replace(categories=tuple(sorted(different)))


def _are_too_different(column: Column, values: "pandas.Series[Any]") -> bool:
    """Whether texts are too many, or sentences, to be categories as a rule."""
    most = min(MAX_CATEGORIES, max(20, len(values) / 2))
    are_sentences = np.mean([len(text.split()) for text in column.categories or [""]]) >= 4
    return len(column.categories) > (len(values) / 2 if are_sentences else most)


def _too_many(columns: dict[str, str]) -> UserError:
    """The error for columns of texts that are no categories, each with why."""
    first, *more = columns
    listed = "; ".join(f"column {name!r}: {columns[name]}" for name in [first, *more[:4]])
    return UserError(
        f"{listed}{', …' * (len(more) > 4)}, are no categories as a rule: leave it out with "
        f"'data.ignore=[{first}]', or all such with data.texts=leave_out; or take one input for "
        f"each with 'data.categorical=[{first}]'."
    )


def _filled(column: Column, values: Any, missing: str) -> Column:
    """The column with what stands in for its missing entries."""
    if missing not in ("mean", "indicator"):
        return column
    column = column._replace(is_complete=not values.isna().any())
    is_indicated = missing == "indicator" and not column.is_complete
    if not column.categories:
        fill = values.mean() if missing == "mean" else values.median()
        fill = str(fill) if column.style else float(fill)
        return column._replace(fill=fill, is_indicated=is_indicated)
    if not is_indicated:
        return column._replace(fill=str(values.mode()[0]))
    other = next(
        f"missing{'_' * n}" for n in count() if f"missing{'_' * n}" not in column.categories
    )
    return column._replace(categories=(*column.categories, other), fill=other, is_indicated=True)


def _check_memory(columns: list[Column], num_rows: int) -> None:
    """Raises `UserError` where x would be too large, before anything of that size is made."""
    num_inputs = sum(column.num_inputs for column in columns)
    widest = max(columns, key=lambda column: len(column.categories))
    try:  # four times, with what is needed on the way
        insist_on_memory(4 * 8 * num_rows * num_inputs, f"which for {num_rows:,} rows take")
    except ValueError as error:
        raise UserError(
            f"column {widest.name!r}: makes {len(widest.categories):,} of {num_inputs:,} inputs, "
            f"{error}; leave it out with 'data.ignore=[{widest.name}]'."
        ) from None


def _inputs(columns: list[Column]) -> str:
    """What the columns have become, in a line."""
    numbers = [
        c.name + " (or missing)" * c.is_indicated for c in columns if not (c.categories or c.parts)
    ]
    of_dates = [f"{c.name} ({', '.join(c.parts)})" for c in columns if c.parts]
    of_categories = [f"{c.name} ({len(c.categories)})" for c in columns if c.categories]
    parts = []
    if numbers:
        parts.append(f"{len(numbers)} numbers: {_listed(numbers)}")
    if of_categories:
        parts.append(f"{len(of_categories)} of categories (inputs): {_listed(of_categories)}")
    if of_dates:
        parts.append(f"{len(of_dates)} of dates: {_listed(of_dates)}")
    return "columns   " + "; ".join(parts)


def _listed(names: list[str]) -> str:
    return ", ".join(name[:40] for name in names[:12]) + ", …" * (len(names) > 12)


def fit(
    columns: tuple[Column, ...], x: Inputs, y: np.ndarray, raw: Raw, config: Data
) -> Preprocessing:
    n_0 = sum(column.num_inputs for column in columns)
    n_targets = 0 if raw.class_names else len(raw.target_names)
    y_shift, y_scale = np.zeros(n_targets), np.ones(n_targets)
    is_log = isinstance(config, Table) and config.target_transform == "log"
    if config.standardize and not raw.class_names:
        y_shift, y_scale = _mean_and_std(np.log(y) if is_log else y, raw.target_names)
    unscaled = Preprocessing(
        columns, np.zeros(n_0, raw.x_dtype), np.ones(n_0, raw.x_dtype), y_shift, y_scale,
        is_log=is_log,
    )  # fmt: skip
    if not config.standardize or config.scaling == "none":
        return unscaled._replace(x_scale=np.full(n_0, raw.x_scale, raw.x_dtype))
    return SCALINGS[config.scaling](unscaled, unscaled.encode(x))


def _standard(unscaled: Preprocessing, encoded: np.ndarray) -> Preprocessing:
    shift, scale = _mean_and_std(encoded, unscaled.feature_names)
    return unscaled._replace(x_shift=shift, x_scale=scale)


def _robust(unscaled: Preprocessing, encoded: np.ndarray) -> Preprocessing:
    shift, scale = _median_and_range(encoded, unscaled.feature_names)
    return unscaled._replace(x_shift=shift, x_scale=scale, clip=CLIP)


def _quantile(unscaled: Preprocessing, encoded: np.ndarray) -> Preprocessing:
    """Numbers by their quantiles to a normal distribution, categories as standard."""
    at, standard = unscaled.are_numbers, _standard(unscaled, encoded)
    shares = np.linspace(0, 1, min(MAX_QUANTILES, len(encoded)))
    return standard._replace(
        x_shift=np.where(at, 0, standard.x_shift).astype(encoded.dtype),
        x_scale=np.where(at, 1, standard.x_scale).astype(encoded.dtype),
        quantiles=np.quantile(encoded[:, at].astype(float), shares, axis=0),
    )


SCALINGS: dict[str, Callable[[Preprocessing, np.ndarray], Preprocessing]] = {
    "standard": _standard,
    "robust": _robust,
    "quantile": _quantile,
}
"""Each fits to the encoded inputs of the training part; `none` is none of them."""


def _median_and_range(values: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Of each column the median and the range of its middle half.

    Half the whole range where the middle half is one number; 1 for a constant. Holzmüller,
    Grinsztajn & Steinwart 2024, "Better by default", appendix A.
    """
    _mean_and_std(values, names)  # refuses numbers that are too large
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
    whole = values.max(axis=0) - values.min(axis=0)
    scale = np.where(high > low, high - low, np.where(whole > 0, whole / 2, 1))
    return median.astype(values.dtype), scale.astype(values.dtype)


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
