"""From raw inputs to x and back: one-hot categories, filled gaps, scaled numbers.

This file travels with each model: it imports nothing of ours but what does, too.
"""

import math
import re
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

from mlp_jax.data.dates import as_dates, encode_dates, part_names
from mlp_jax.errors import UserError, nearest

if TYPE_CHECKING:  # imported only where needed: pandas takes half a second
    import pandas

Inputs = Union[np.ndarray, "pandas.DataFrame"]
OnUnknown = Callable[[str], object]
"""Takes a line on entries of a kind that the training part did not have."""


def ignore(message: str) -> None:
    """Says nothing of what is unknown."""


class Column(NamedTuple):
    """One raw input: a number, or one of `categories`, which becomes as many inputs (one-hot), or a
    date, of which `parts` become inputs; its texts have the `style`.

    `fill` stands in for a missing entry; where it is None, a missing entry is refused. With
    `is_indicated` that an entry is missing is an input of its own: of numbers a further one, which
    is 1 there and else 0, of categories that of `fill`. A column that `is_complete` lacked no entry
    in the training part. The texts `missing` are missing entries. A text among numbers is read by
    `as_numbers`, with `decimal` as its decimal mark.
    """

    name: str
    categories: tuple[str, ...] = ()
    fill: float | str | None = None
    decimal: str = "."
    missing: tuple[str, ...] = ()
    is_indicated: bool = False
    is_complete: bool = False
    style: str = ""
    parts: tuple[str, ...] = ()

    @property
    def num_inputs(self) -> int:
        return len(self.input_names)

    @property
    def input_names(self) -> tuple[str, ...]:
        if self.categories:
            return tuple(f"{self.name}={category}" for category in self.categories)
        of_parts = [f"{self.name} {part}" for part in part_names(self.parts)] if self.parts else []
        return (*(of_parts or [self.name]), *[f"{self.name} is missing"] * self.is_indicated)


class Preprocessing(NamedTuple):
    """From raw inputs to x and from y back to units; stored with the model.

    u = (encoded − x_shift) / x_scale, in their dtype, and target = y · y_scale + y_shift, or with
    `is_log` the exponential of that. Then x = u, or with `clip` = c > 0 x = u / √(1 + (u/c)²),
    which no outlier takes beyond ±c. With `quantiles`, a column for each number of u, that becomes
    x = Φ⁻¹(F(u)) by `to_normal`.
    """

    columns: tuple[Column, ...]
    x_shift: np.ndarray
    x_scale: np.ndarray
    y_shift: np.ndarray
    y_scale: np.ndarray
    clip: float = 0.0
    quantiles: np.ndarray | None = None
    is_log: bool = False

    @property
    def are_numbers(self) -> np.ndarray:
        """Which inputs are a column's numbers, and not a category or that a number is missing."""
        columns = (
            np.arange(c.num_inputs) < (not c.categories and not c.parts) for c in self.columns
        )
        return np.concatenate([np.zeros(0, bool), *columns])

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One name for each component of x; `column=category` for a category.

        It stands in quotes where another raw column has that name.
        """
        taken = {column.name for column in self.columns}
        return tuple(
            repr(name) if name in taken and name != column.name else name
            for column in self.columns
            for name in column.input_names
        )

    def encode(self, raw: Inputs, on_unknown: OnUnknown = ignore) -> np.ndarray:
        """The x of raw inputs: a data frame with these columns, or an array of them in this order.

        A category that the training part did not have becomes all zeros; it is told to
        `on_unknown`, and so are missing entries of a column that had none there. Raises `UserError`
        for columns that are not there, entries that are missing, infinite or no numbers.
        """
        names = [column.name for column in self.columns]
        if isinstance(raw, np.ndarray) and (raw.ndim != 2 or raw.shape[1] != len(names)):
            raise UserError(
                f"inputs of shape {raw.shape}: must be (examples, {len(names)}), one column each "
                f"for {', '.join(names[:5])}{', …' * (len(names) > 5)}."
            )
        if isinstance(raw, np.ndarray) and all(
            not (column.categories or column.parts or column.is_indicated)
            for column in self.columns
        ):
            x = finite_numbers(raw, self.columns, self.x_scale.dtype, on_unknown)
        else:
            frame = _named(raw, names)
            encoded = [_encode_column(frame[c.name], c, on_unknown) for c in self.columns]
            x = np.column_stack(encoded).astype(self.x_scale.dtype, copy=False)
        return self.scale(x)

    def scale(self, encoded: np.ndarray) -> np.ndarray:
        """From encoded inputs to x."""
        x = encoded - self.x_shift
        x /= self.x_scale  # in place: it may be large
        if self.quantiles is not None:
            at = self.are_numbers
            x[:, at] = to_normal(x[:, at], self.quantiles)
        return x / np.hypot(1, x / self.clip) if self.clip else x

    def unscale(self, x: np.ndarray) -> np.ndarray:
        """From x to encoded inputs."""
        if self.clip:
            x = x / np.sqrt(np.maximum(1 - (x / self.clip) ** 2, np.finfo(x.dtype).eps))
        if self.quantiles is not None:
            x, at = x.copy(), self.are_numbers
            x[:, at] = from_normal(x[:, at], self.quantiles)
        return x * self.x_scale + self.x_shift

    def encode_targets(self, targets: np.ndarray) -> np.ndarray:
        """The y of targets in their own units."""
        return ((np.log(targets) if self.is_log else targets) - self.y_shift) / self.y_scale

    def decode_targets(self, y: np.ndarray) -> np.ndarray:
        """Targets, or predictions of them, in their own units."""
        targets = y * self.y_scale + self.y_shift
        return np.exp(targets) if self.is_log else targets

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it, exactly."""
        arrays = {name: getattr(self, name).tolist() for name in self._fields[1:5]}
        columns = [column._asdict() for column in self.columns]
        dtype = self.x_scale.dtype.name
        quantiles = None if self.quantiles is None else self.quantiles.tolist()
        scaled = {"clip": self.clip, "quantiles": quantiles, "is_log": self.is_log}
        return {"columns": columns, "x_dtype": dtype, **arrays, **scaled}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Preprocessing":
        columns = tuple(
            Column(**column)._replace(
                categories=tuple(column["categories"]),
                missing=tuple(column.get("missing", ())),
                parts=tuple(column.get("parts", ())),
            )
            for column in stored["columns"]
        )
        dtypes = dict.fromkeys(("x_shift", "x_scale"), stored["x_dtype"])
        dtypes |= dict.fromkeys(("y_shift", "y_scale"), "float64")
        arrays = {name: np.array(stored[name], dtype) for name, dtype in dtypes.items()}
        # What follows earlier versions did not have.
        clip, quantiles = stored.get("clip", 0.0), stored.get("quantiles")
        quantiles = None if quantiles is None else np.array(quantiles, float)
        is_log = stored.get("is_log", False)
        return cls(columns, **arrays, clip=clip, quantiles=quantiles, is_log=is_log)


_SMALLEST = 1e-7 - np.spacing(1)
_inverse_cdf = np.vectorize(NormalDist().inv_cdf, otypes=[float])
_erfc = np.vectorize(math.erfc, otypes=[float])


def to_normal(x: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Φ⁻¹(F(x)) for each column, with F linear between its `quantiles`, of equally spaced shares.

    As scikit-learn's `QuantileTransformer` with `output_distribution="normal"` has it: among equal
    quantiles F is the middle of their shares, at the ends 0 and 1, and Φ⁻¹ of those is ±5.2. Of a
    constant column it is 0.
    """
    shares = np.linspace(0, 1, len(quantiles))
    p = np.empty(x.shape)
    for column, (values, points) in enumerate(zip(x.T, quantiles.T, strict=True)):
        below = np.interp(values, points, shares)
        above = -np.interp(-values, -points[::-1], -shares[::-1])
        is_first, is_last = values <= points[0], values >= points[-1]
        p[:, column] = np.where(is_first == is_last, (below + above) / 2, is_last)
    return np.asarray(_inverse_cdf(p.clip(_SMALLEST, 1 - _SMALLEST)))


def from_normal(x: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """The inverse of `to_normal`, where it has one."""
    shares = np.linspace(0, 1, len(quantiles))
    upper = _erfc(np.abs(x) / math.sqrt(2)) / 2
    upper = np.where(upper < 2 * _SMALLEST, 0, upper)
    p = np.where(x > 0, 1 - upper, upper)
    columns = [np.interp(v, shares, points) for v, points in zip(p.T, quantiles.T, strict=True)]
    return np.column_stack([np.zeros((len(x), 0)), *columns])


def _named(raw: Inputs, names: list[str]) -> "pandas.DataFrame":
    """A frame with these columns, each once; a name that is a number counts as its text."""
    import pandas as pd

    if isinstance(raw, np.ndarray):
        return pd.DataFrame(raw, columns=names)
    frame = raw.set_axis(raw.columns.map(str), axis=1).reset_index(drop=True)
    for name in names:
        count = int((frame.columns == name).sum())
        if not count:
            raise UserError(f"column {name!r} is not there.{nearest(name, frame.columns)}")
        if count > 1:
            raise UserError(f"column {name!r}: {count} columns have this name.")
    return frame


def finite_numbers(
    values: np.ndarray, columns: Sequence[Column], dtype: Any, on_unknown: OnUnknown = ignore
) -> np.ndarray:
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
        if missing.any():
            column_values[missing] = _fill(column, missing, on_unknown)
    return x


def _fill(column: Column, missing: np.ndarray, on_unknown: OnUnknown) -> float | str:
    if column.fill is None:
        raise UserError(
            f"column {column.name!r}: missing entries ({missing.sum()} of {len(missing)}); only a "
            "model trained with data.missing=mean or indicator fills them."
        )
    if column.is_complete:
        fill = column.fill if isinstance(column.fill, str) else f"{column.fill:g}"
        on_unknown(
            f"column {column.name!r}: {missing.sum()} of {len(missing)} entries are missing, and "
            f"in the training data none was; they count as {fill[:40]!r}."
        )
    return column.fill


def _encode_column(
    values: "pandas.Series[Any]", column: Column, on_unknown: OnUnknown
) -> np.ndarray:
    if column.categories:
        return _one_hot(values, column, on_unknown)
    if column.parts:
        return _parts(values, column, on_unknown)
    if values.dtype.kind == "O":
        values = _read_texts(values, column)
    numbers = without_missing_words(as_floats(values), column.missing)
    filled = finite_numbers(numbers[:, None], [column], np.float64, on_unknown)
    return np.column_stack([filled, np.isnan(numbers)]) if column.is_indicated else filled


def _parts(values: "pandas.Series[Any]", column: Column, on_unknown: OnUnknown) -> np.ndarray:
    """The parts of dates, and whether one is missing."""
    import pandas as pd

    dates = as_dates(values.mask(values.isin(column.missing)), column.style)
    missing = dates.isna().to_numpy()
    if missing.any():
        dates = dates.fillna(pd.Timestamp(str(_fill(column, missing, on_unknown))))
    parts = encode_dates(dates, column.parts)
    return np.column_stack([parts, missing]) if column.is_indicated else parts


def _read_texts(values: "pandas.Series[Any]", column: Column) -> "pandas.Series[Any]":
    """The numbers that texts among the values are."""
    texts = values[values.map(lambda entry: isinstance(entry, str))].astype("str").str.strip()
    numbers = as_numbers(texts, column.decimal)
    odd = texts[numbers.isna() & ~texts.isin(column.missing)]
    if len(odd):
        raise UserError(
            f"column {column.name!r}: must be numbers, not {str(odd.iloc[0])[:40]!r} "
            f"({len(odd)} of {len(values)} entries)."
        )
    return values.astype(object).where(~values.index.isin(texts.index), numbers)


def _one_hot(values: "pandas.Series[Any]", column: Column, on_unknown: OnUnknown) -> np.ndarray:
    texts = as_texts(values)
    missing = texts.isna() | texts.isin(column.missing)
    if missing.any():
        # pandas itself reads some texts as missing; a column may have one of them for a category.
        taken = [text for text in column.categories if text in _MISSING_TO_PANDAS]
        fill = taken[0] if len(taken) == 1 else _fill(column, missing.to_numpy(), on_unknown)
        texts = texts.mask(missing, str(fill))
    known = {category: code for code, category in enumerate(column.categories)}
    also_known = {_however_spelt(category): code for category, code in known.items()}
    if also_known.keys() == {"true", "false"}:
        also_known |= {"1": also_known["true"], "0": also_known["false"]}
    codes = {
        text: known.get(text, also_known.get(_however_spelt(text), -1)) for text in texts.unique()
    }
    new = [text for text, code in codes.items() if code < 0]
    if new and len(new) == len(codes):
        had = ", ".join(repr(category[:40]) for category in column.categories[:5])
        on_unknown(
            f"column {column.name!r}: none of the {len(texts)} entries is a category that the "
            f"training data had ({had}{', …' * (len(known) > 5)}), such as {new[0][:40]!r}; they "
            "count as none."
        )
    elif new:
        on_unknown(
            f"column {column.name!r}: {texts.isin(new).sum()} of {len(texts)} entries are "
            f"categories that the training data did not have, such as {new[0][:40]!r}; they count "
            "as none."
        )
    return np.asarray(texts.map(codes).to_numpy()[:, None] == np.arange(len(known)), np.float64)


def _however_spelt(text: str) -> str:
    """Of `1`, `1.0` and `01.00`, or of `True` and `true`, the same; of another text itself."""
    try:
        return _text(float(text))
    except (ValueError, OverflowError):
        return text.lower() if text.lower() in ("true", "false") else text


_MISSING_TO_PANDAS = {
    "None", "NA", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "<NA>", "NULL", "null", "NaN", "nan",
    "-NaN", "-nan", "",
}  # fmt: skip
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|Inf|INF)(inity|INITY)?")
_SIGNS = "[\\s\u00a0\u202f$€£¥%_]"  # of currencies and percent, and blanks
_GROUPED = {
    ".": r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?",
    ",": r"[+-]?\d{1,3}(\.\d{3})+(,\d*)?",
}


def as_numbers(
    texts: "pandas.Series[str]", decimal: str = ".", signs: bool = True
) -> "pandas.Series[float]":
    """The numbers that texts are, NaN where one is none; of `12 %`, 12.

    `decimal` is the decimal mark, the other one of point and comma separates thousands. With
    `signs` a sign of a currency or of percent, blanks and separators of thousands are left out.
    """
    import pandas as pd

    if signs:
        texts = texts.str.replace(_SIGNS, "", regex=True)
        ungrouped = texts.str.replace("." if decimal == "," else ",", "", regex=False)
        texts = texts.mask(texts.str.fullmatch(_GROUPED[decimal]), ungrouped)
    if decimal == ",":  # a point is none of its marks
        texts = texts.str.replace(".", "?", regex=False).str.replace(",", ".", regex=False)
    return pd.to_numeric(texts.where(texts.str.fullmatch(NUMBER.pattern))).astype(float)


def without_missing_words(numbers: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """NaN for the numbers that, as a text such as -999, stand for a missing entry."""
    if not words:
        return numbers
    import pandas as pd

    codes = as_numbers(pd.Series(list(words), dtype="str")).dropna()
    return np.where(np.isin(numbers, codes), np.nan, numbers)


def as_floats(values: "pandas.Series[Any]") -> np.ndarray:
    if values.dtype.kind in "mMc":
        raise UserError(f"column {values.name!r}: must be numbers, not dates or durations.")
    try:
        return values.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise UserError(f"column {values.name!r}: must be numbers ({error}).") from error


def as_texts(values: "pandas.Series[Any]") -> "pandas.Series[str]":
    """The categories of a column: that of a whole number has no point, however it was read."""
    if values.dtype == "str":
        return values.str.strip()
    return values.astype(object).map(_text, "ignore").astype("str")


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return str(int(value) if value.is_integer() else value)
    return str(value).strip()
