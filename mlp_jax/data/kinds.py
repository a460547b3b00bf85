"""What each column of a table is: numbers or categories, and what of it is left out.

What a column is follows from its entries where that is certain. Where it looks wrong, all columns
that do are refused at once, each with the keys that decide it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlp_jax.config.schema import Table
from mlp_jax.data.files import shortened
from mlp_jax.data.preprocessing import as_number, category
from mlp_jax.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas

MISSING_WORDS = (
    "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "#NA",
)  # fmt: skip
"""Texts that stand for a missing entry. `None` does so among numbers; of texts it may be one."""

_LARGEST_EXACT = 2**53
_MAX_NAMED = 5


class Typed(NamedTuple):
    """A column whose entries are all numbers (and then floats), or all texts or true and false.

    Of texts that were read, `decimal` is the mark of their numbers, and `missing` are those that
    counted as missing.
    """

    values: "pandas.Series[Any]"
    is_numeric: bool
    decimal: str = ""
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class _DoubtError(Exception):
    """What looks wrong with a column, and what to do."""


def typed(columns: Sequence[tuple[str, Any]], config: Table, decimal: str) -> dict[int, Typed]:
    """Each column by its place, without those that are empty or count the rows.

    Raises `UserError` for all columns at once that look wrong.
    """
    names = [name for name, _ in columns]
    for key in ("numeric", "categorical"):
        for name in getattr(config, key):
            if name not in names:
                raise UserError(f"data.{key}={name!r}: no such column.{nearest(name, names)}")
    for name in set(config.numeric) & set(config.categorical):
        raise UserError(f"data.numeric and data.categorical: {name!r} is in both.")
    found: dict[int, Typed] = {}
    problems = []
    for at, (name, values) in enumerate(columns):
        try:
            found[at] = _type_of(name, values, config, decimal)
        except _DoubtError as problem:
            problems.append(f"column {shortened([name])}: {problem}")
    if problems:
        more = f"\n… and {len(problems) - _MAX_NAMED} columns more" * (len(problems) > _MAX_NAMED)
        raise UserError("\n".join(problems[:_MAX_NAMED]) + more)
    return found


def _type_of(name: str, values: "pandas.Series[Any]", config: Table, decimal: str) -> Typed:
    from pandas.api.types import infer_dtype, is_bool_dtype, is_numeric_dtype

    as_category = name in config.categorical
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iuf" and not as_category:
        _insist_on_exact(name, values)
        return Typed(values, True)
    is_number = is_numeric_dtype(values.dtype) and not is_bool_dtype(values.dtype)
    if is_number and values.dtype.kind != "c" and not as_category:
        _insist_on_exact(name, values)
        return Typed(values, True)  # pandas' own numbers, which may be missing
    kind = infer_dtype(values, skipna=True)
    if kind in ("boolean", "categorical"):
        return Typed(values, False)
    if as_category and kind in ("integer", "floating", "mixed-integer-float"):
        return Typed(values if name == config.target else values.map(category), False)
    if kind == "string":
        return _type_of_texts(name, values, config, decimal)
    if kind in ("integer", "floating", "mixed-integer-float", "decimal", "empty"):
        if kind == "integer":
            _insist_on_exact(name, values)
        return Typed(values, True)
    raise _DoubtError(
        f"its entries ({kind}) are neither numbers, texts nor true and false; turn it into "
        f"numbers, or leave it out with 'data.ignore=[{name}]'."
    )


def _insist_on_exact(name: str, values: "pandas.Series[Any]") -> None:
    """Raises `_DoubtError` for whole numbers that a float would round."""
    if values.dtype.kind in "iuO" and len(values) and values.abs().max() > _LARGEST_EXACT:
        raise _DoubtError(
            f"whole numbers such as {int(values.max()):,} are beyond 2^53, where they are no "
            f"longer exact. They are ids, as a rule: leave them out with 'data.ignore=[{name}]'."
        )


def _type_of_texts(name: str, values: "pandas.Series[Any]", config: Table, decimal: str) -> Typed:
    words = set(MISSING_WORDS if config.missing_values is None else config.missing_values)
    counts = values.value_counts()
    if name in config.categorical or counts.index.str.fullmatch(r"0\d+").any():
        return _texts(name, values, words)
    also_none = words if config.missing_values is not None else words | {"None"}
    is_named = name in config.numeric
    numbers = np.array([as_number(text, decimal, signs=is_named) for text in counts.index])
    missing = np.array([text in also_none for text in counts.index])
    odd = np.isnan(numbers) & ~missing
    num_numbers = int(counts[~np.isnan(numbers)].sum())
    if num_numbers and not odd.any():
        by_text = dict(zip(counts.index, numbers, strict=True))
        found = tuple(counts.index[missing])
        values = values.map(by_text).astype(float)
        return Typed(values, True, decimal, found, _missing_note(name, found))
    if is_named or (num_numbers and num_numbers >= counts.sum() / 2):
        raise _DoubtError(_odd_entries(name, counts, odd, num_numbers))
    for mark, key in (decimal, f"data.numeric=[{name}]"), (",", "data.decimal=comma"):
        looks = np.array([not np.isnan(as_number(text, mark)) for text in counts.index])
        if counts[looks].sum() >= 0.9 * counts[~missing].sum():
            raise _DoubtError(
                f"its texts, such as {shortened([str(counts.index[0])])}, look like numbers with "
                f"separators or a sign. Read them as numbers with '{key}', or as categories with "
                f"'data.categorical=[{name}]'."
            )
    return _texts(name, values, words)


def _odd_entries(name: str, counts: "pandas.Series[Any]", odd: np.ndarray, num_numbers: int) -> str:
    """What is said of a column of numbers in which some entries are none."""
    listed = ", ".join(f"{shortened([text])} ({n})" for text, n in counts[odd][:3].items())
    more = ", …" * int(odd.sum() > 3)
    these = ",".join(f'"{text}"' for text in counts.index[odd][:3])
    return (
        f"{num_numbers:,} of its {counts.sum():,} entries are numbers, but not {listed}{more}. If "
        f"these are missing: 'data.missing_values=[{these}]'; if they are numbers with signs or "
        f"separators: 'data.numeric=[{name}]'; if all are categories: 'data.categorical=[{name}]'."
    )


def _texts(name: str, values: "pandas.Series[Any]", words: set[str]) -> Typed:
    is_word = values.isin(list(words))
    found = tuple(str(word) for word in values[is_word].unique())
    notes = _missing_note(name, found)
    if "None" not in words and (values == "None").any():
        notes += (f"column {name!r}: 'None' is one of its texts, not a missing entry",)
    return Typed(values.where(~is_word) if found else values, False, "", found, notes)


def _missing_note(name: str, words: Sequence[str]) -> tuple[str, ...]:
    if not words:
        return ()
    listed = ", ".join(map(repr, words))
    return (f"column {name!r}: {listed} counts as missing (data.missing_values=[] keeps it)",)


def counts_rows(values: "pandas.Series[Any]") -> bool:
    """Whether a column is 0, 1, 2, … or 1, 2, 3, …, as many as there are rows."""
    if values.dtype.kind not in "iuf" or len(values) < 3:
        return False
    numbers = values.to_numpy()
    return bool(numbers[0] in (0, 1) and (np.diff(numbers) == 1).all())
