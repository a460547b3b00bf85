"""From raw inputs to x and back: one-hot categories, filled gaps, x = (encoded − μ) / σ.

This file travels with each model: it imports nothing of ours but `errors`, which does, too.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

from mlp_jax.errors import UserError, nearest

if TYPE_CHECKING:  # imported only where needed: pandas takes half a second
    import pandas

Inputs = Union[np.ndarray, "pandas.DataFrame"]


class Column(NamedTuple):
    """One raw input: a number, or one of `categories`, which becomes as many inputs (one-hot).

    `fill` stands in for a missing entry; where it is None, a missing entry is refused. The texts
    `missing` are missing entries. Where there is a `decimal` mark, texts are read as `as_number`
    does; else they are no numbers.
    """

    name: str
    categories: tuple[str, ...] = ()
    fill: float | str | None = None
    decimal: str = ""
    missing: tuple[str, ...] = ()


def _free(name: str, taken: set[str]) -> str:
    """The name, in quotes where a raw column has it."""
    return repr(name) if name in taken else name


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
        taken = {column.name for column in self.columns}
        return tuple(
            name
            for column in self.columns
            for name in [_free(f"{column.name}={c}", taken) for c in column.categories]
            or [column.name]
        )

    def encode(
        self, raw: Inputs, on_unknown: Callable[[str], object] = lambda message: None
    ) -> np.ndarray:
        """The x of raw inputs: a data frame with these columns, or an array of them in this order.

        A category that the training part did not have becomes all zeros, and is told to
        `on_unknown`. Raises `UserError` for columns that are not there, entries that are missing,
        infinite or no numbers.
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
            x = np.column_stack(
                [_encode_column(frame[c.name], c, dtype, on_unknown) for c in self.columns]
            )
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
            Column(
                column["name"],
                tuple(column["categories"]),
                column["fill"],
                column["decimal"],
                tuple(column["missing"]),
            )
            for column in stored["columns"]
        )
        x_shift, x_scale = (np.array(stored[k], stored["x_dtype"]) for k in ("x_shift", "x_scale"))
        y_shift, y_scale = (np.array(stored[k], np.float64) for k in ("y_shift", "y_scale"))
        return cls(columns, x_shift, x_scale, y_shift, y_scale)


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


def _encode_column(
    values: "pandas.Series[Any]", column: Column, dtype: Any, on_unknown: Callable[[str], object]
) -> np.ndarray:
    if column.missing and values.dtype.kind not in "iufb":
        values = values.where(~values.isin(column.missing))
    if not column.categories:
        if column.decimal and values.dtype.kind not in "iufbmM":
            values = values.map(lambda entry: _however_written(entry, column.decimal), "ignore")
        return finite_numbers(as_floats(values)[:, None], [column], dtype)
    import pandas as pd

    missing = values.isna()
    # pandas itself reads some texts as missing; a column may have one of them for a category.
    taken = [text for text in column.categories if text in _MISSING_TO_PANDAS]
    fill = taken[0] if len(taken) == 1 else column.fill
    if missing.any() and fill is None:
        raise _missing(column, missing)
    texts = pd.Series(as_texts(values))
    texts[missing.to_numpy()] = fill
    known = {category: code for code, category in enumerate(column.categories)}
    also_known = {_however_spelt(category): code for category, code in known.items()}
    if also_known.keys() == {"true", "false"}:
        also_known |= {"1": also_known["true"], "0": also_known["false"]}
    codes = {
        text: known.get(text, also_known.get(_however_spelt(text), -1)) for text in texts.unique()
    }
    new = [text for text, code in codes.items() if code < 0]
    if new:
        on_unknown(
            f"column {column.name!r}: {texts.isin(new).sum()} of {len(texts)} entries are "
            f"categories that the training data did not have, such as {new[0][:40]!r}; they count "
            "as none."
        )
    return (texts.map(codes).to_numpy()[:, None] == np.arange(len(known))).astype(dtype)


def _however_spelt(text: str) -> str:
    """Of `1`, `1.0` and `01.00`, or of `True` and `true`, the same; of another text itself."""
    if text.lower() in ("true", "false"):
        return text.lower()
    try:
        return str(category(float(text)))
    except (ValueError, OverflowError):
        return text


_MISSING_TO_PANDAS = {
    "None", "NA", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "<NA>", "NULL", "null", "NaN", "nan",
    "-NaN", "-nan", "",
}  # fmt: skip
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
_SIGNS = re.compile(r"[\s$€£¥%_]")
_GROUPED = {
    ".": re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?"),
    ",": re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d*)?"),
}


def as_number(text: str, decimal: str = ".", signs: bool = True) -> float:
    """The number that a text is, NaN where it is none; of `12 %`, 12.

    `decimal` is its decimal mark, the other one of point and comma separates thousands. With
    `signs` a sign of a currency or of percent, blanks and separators of thousands are left out.
    """
    bare = _SIGNS.sub("", text) if signs else text.strip()
    if signs and _GROUPED[decimal].fullmatch(bare):
        bare = bare.replace("." if decimal == "," else ",", "")
    if decimal == ",":
        bare = bare.replace(".", "?").replace(",", ".")  # a point is none of its marks
    return float(bare) if _NUMBER.fullmatch(bare) else math.nan


def _however_written(entry: Any, decimal: str) -> Any:
    """The number that an entry is; itself where it is none, to be refused."""
    number = as_number(entry, decimal) if isinstance(entry, str) else math.nan
    return entry if math.isnan(number) else number


def as_floats(values: "pandas.Series[Any]") -> np.ndarray:
    if values.dtype.kind in "mM":
        raise UserError(f"column {values.name!r}: must be numbers, not dates or durations.")
    try:
        return values.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise UserError(f"column {values.name!r}: must be numbers ({error}).") from error


def category(value: Any) -> Any:
    """The text of a category: that of a whole number has no point, however it was read."""
    if isinstance(value, float | np.floating):
        return value if np.isnan(value) else str(int(value) if value == int(value) else value)
    return str(value)


def as_texts(values: "pandas.Series[Any]") -> np.ndarray:
    """The categories of a column as texts, None where one is missing."""
    texts = values.astype(object).map(category, "ignore")
    return texts.where(values.notna(), None).to_numpy(copy=True)
