"""From raw inputs to x and back: one-hot categories, filled gaps, x = (encoded − μ) / σ."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

from mlp_jax.config.schema import Data, Table, nearest
from mlp_jax.errors import UserError

if TYPE_CHECKING:  # imported only where needed: pandas takes half a second
    import pandas

Inputs = Union[np.ndarray, "pandas.DataFrame"]


class Column(NamedTuple):
    """One raw input: a number, or one of `categories`, which becomes as many inputs (one-hot).

    `fill` stands in for a missing entry; where it is None, a missing entry is refused.
    """

    name: str
    categories: tuple[str, ...] = ()
    fill: float | str | None = None


class Preprocessing(NamedTuple):
    """From raw inputs to x and from y back to units; stored with the model.

    x = (encoded − x_shift) / x_scale, in their dtype, and target = y · y_scale + y_shift.
    """

    columns: tuple[Column, ...]
    x_shift: np.ndarray
    x_scale: np.ndarray
    y_shift: np.ndarray
    y_scale: np.ndarray

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One name for each component of x; `column=category` for a category."""
        return tuple(
            name
            for column in self.columns
            for name in [f"{column.name}={c}" for c in column.categories] or [column.name]
        )

    def encode(self, raw: Inputs) -> np.ndarray:
        """The x of raw inputs: a data frame with these columns, or an array of them in this order.

        A category that the training part did not have becomes all zeros. Raises `UserError` for
        columns that are not there, entries that are missing, infinite or no numbers.
        """
        names = [column.name for column in self.columns]
        if not isinstance(raw, np.ndarray):
            absent = [name for name in names if name not in raw.columns]
            if absent:
                raise UserError(
                    f"column {absent[0]!r} is not there.{nearest(absent[0], map(str, raw.columns))}"
                )
        elif raw.ndim != 2 or raw.shape[1] != len(names):
            raise UserError(
                f"inputs of shape {raw.shape}: must be (examples, {len(names)}), one column each "
                f"for {', '.join(names[:5])}{', …' * (len(names) > 5)}."
            )
        dtype = self.x_scale.dtype
        if isinstance(raw, np.ndarray) and not any(column.categories for column in self.columns):
            x = finite_numbers(raw, self.columns, dtype)
        else:
            import pandas as pd

            frame = pd.DataFrame(raw, columns=names)
            x = np.column_stack([_encode_column(frame[c.name], c, dtype) for c in self.columns])
        x -= self.x_shift
        x /= self.x_scale
        return x

    def encode_targets(self, targets: np.ndarray) -> np.ndarray:
        """The y of targets in their own units."""
        return (targets - self.y_shift) / self.y_scale

    def decode_targets(self, y: np.ndarray) -> np.ndarray:
        """Targets, or predictions of them, in their own units."""
        return y * self.y_scale + self.y_shift

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it, exactly."""
        arrays = {name: getattr(self, name).tolist() for name in self._fields[1:]}
        columns = [column._asdict() for column in self.columns]
        return {"columns": columns, "x_dtype": self.x_scale.dtype.name, **arrays}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Preprocessing":
        columns = tuple(
            Column(column["name"], tuple(column["categories"]), column["fill"])
            for column in stored["columns"]
        )
        x_shift, x_scale = (np.array(stored[k], stored["x_dtype"]) for k in ("x_shift", "x_scale"))
        y_shift, y_scale = (np.array(stored[k], np.float64) for k in ("y_shift", "y_scale"))
        return cls(columns, x_shift, x_scale, y_shift, y_scale)


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


def finite_numbers(values: np.ndarray, columns: Sequence[Column], dtype: Any) -> np.ndarray:
    """A fresh array of finite numbers, with each missing one replaced by its column's `fill`."""
    try:
        x = np.array(values, dtype)
    except (TypeError, ValueError) as error:
        names = ", ".join(repr(column.name) for column in columns[:5])
        raise UserError(f"column {names}: must be numbers ({error}).") from error
    if np.isfinite(x).all():
        return x
    for column, column_values in zip(columns, x.T, strict=True):  # views: they write to x
        if np.isinf(column_values).any():
            raise UserError(
                f"column {column.name!r}: infinite entries ({np.isinf(column_values).sum()} of "
                f"{len(x)}); correct or remove those rows."
            )
        missing = np.isnan(column_values)
        if missing.any() and column.fill is None:
            raise _missing(column, missing)
        column_values[missing] = column.fill
    return x


def _missing(column: Column, missing: Any) -> UserError:
    return UserError(
        f"column {column.name!r}: missing entries ({missing.sum()} of {len(missing)}); only a "
        "model trained with data.missing=mean fills them."
    )


def _encode_column(values: "pandas.Series[Any]", column: Column, dtype: Any) -> np.ndarray:
    if not column.categories:
        return finite_numbers(as_floats(values)[:, None], [column], dtype)
    import pandas as pd

    missing = values.isna()
    if missing.any() and column.fill is None:
        raise _missing(column, missing)
    texts = as_texts(values)
    texts[missing] = column.fill
    codes = pd.Index(column.categories, dtype=object).get_indexer(pd.Index(texts, dtype=object))
    # An unknown category has code −1.
    return (codes[:, None] == np.arange(len(column.categories))).astype(dtype)


def as_floats(values: "pandas.Series[Any]") -> np.ndarray:
    try:
        return values.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise UserError(f"column {values.name!r}: must be numbers ({error}).") from error


def as_texts(values: "pandas.Series[Any]") -> np.ndarray:
    return values.astype(str).astype(object).where(values.notna(), None).to_numpy(copy=True)


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
