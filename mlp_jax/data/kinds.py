"""What each column of a table is: numbers or categories, and what of it is left out.

What a column is follows from its entries where that is certain. Where it looks wrong, all columns
that do are refused at once, each with the keys that decide it.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlp_jax.config.schema import Table
from mlp_jax.data.files import shortened
from mlp_jax.data.preprocessing import category
from mlp_jax.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas

MISSING_WORDS = (
    "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "#NA",
)  # fmt: skip
"""Texts that stand for a missing entry. `None` does so among numbers; of texts it may be one."""

_DECORATION = re.compile(r"[\s$€£¥%_,]")
_LARGEST_EXACT = 2**53
_MAX_NAMED = 5


class Typed(NamedTuple):
    """A column whose entries are all numbers (and then floats), or all texts or true and false."""

    values: "pandas.Series[Any]"
    is_numeric: bool
    notes: tuple[str, ...] = ()


class _DoubtError(Exception):
    """What looks wrong with a column, and what to do."""


def typed(columns: Sequence[tuple[str, Any]], config: Table) -> dict[int, Typed]:
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
            found[at] = _type_of(name, values, config)
        except _DoubtError as problem:
            problems.append(f"column {shortened([name])}: {problem}")
    if problems:
        more = f"\n… and {len(problems) - _MAX_NAMED} columns more" * (len(problems) > _MAX_NAMED)
        raise UserError("\n".join(problems[:_MAX_NAMED]) + more)
    return found


def _type_of(name: str, values: "pandas.Series[Any]", config: Table) -> Typed:
    from pandas.api.types import infer_dtype, is_bool_dtype, is_numeric_dtype

    as_category = name in config.categorical
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iuf" and not as_category:
        _insist_on_exact(name, values)
        return Typed(values, True)
    is_number = is_numeric_dtype(values.dtype) and not is_bool_dtype(values.dtype)
    if is_number and values.dtype.kind != "c" and not as_category:
        return Typed(values, True)  # pandas' own numbers, which may be missing
    kind = infer_dtype(values, skipna=True)
    if kind in ("boolean", "categorical"):
        return Typed(values, False)
    if as_category and kind in ("integer", "floating", "mixed-integer-float"):
        return Typed(values.map(category), False)
    if kind == "string":
        return _type_of_texts(name, values, config)
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
            f"whole numbers such as {values.max():,} are beyond 2^53, where they are no longer "
            f"exact. They are ids, as a rule: leave them out with 'data.ignore=[{name}]'."
        )


def _type_of_texts(name: str, values: "pandas.Series[Any]", config: Table) -> Typed:
    import pandas as pd

    words = list(MISSING_WORDS if config.missing_values is None else config.missing_values)
    if name in config.categorical:
        return _texts(name, values, words)
    given = config.missing_values is not None
    counts = values.value_counts()
    texts = counts.index.astype(object)
    if name in config.numeric:
        texts = pd.Index([_DECORATION.sub("", text) for text in texts], dtype=object)
    numbers = pd.to_numeric(pd.Series(texts), errors="coerce").to_numpy(float)
    missing = texts.isin(words if given else [*words, "None"])
    odd = np.isnan(numbers) & ~missing
    num_numbers = int(counts[~np.isnan(numbers)].sum())
    if num_numbers and not odd.any():
        table = pd.Series(numbers, index=counts.index)
        found = [str(word) for word in counts.index[missing]]
        return Typed(values.map(table).astype(float), True, _missing_note(name, found))
    if name in config.numeric or (num_numbers and num_numbers >= counts.sum() / 2):
        listed = ", ".join(f"{shortened([text])} ({n})" for text, n in counts[odd][:3].items())
        more = ", …" * int(odd.sum() > 3)
        these = ",".join(f'"{text}"' for text in counts.index[odd][:3])
        raise _DoubtError(
            f"{num_numbers:,} of its {counts.sum():,} entries are numbers, but not {listed}{more}. "
            f"If these are missing: 'data.missing_values=[{these}]'; if all "
            f"are categories: 'data.categorical=[{name}]'."
        )
    bare = [_DECORATION.sub("", text) for text in texts]
    looks_numeric = [a != b and _is_number(b) for a, b in zip(texts, bare, strict=True)]
    if counts[looks_numeric].sum() >= 0.9 * counts.sum():
        raise _DoubtError(
            f"its texts, such as {shortened([str(counts.index[0])])}, look like numbers with "
            f"separators or a sign. Read them as numbers with 'data.numeric=[{name}]', or as "
            f"categories with 'data.categorical=[{name}]'."
        )
    return _texts(name, values, words)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _texts(name: str, values: "pandas.Series[Any]", words: list[str]) -> Typed:
    is_word = values.isin(words)
    found = [str(word) for word in values[is_word].unique()]
    notes = _missing_note(name, found)
    if "None" not in words and (values == "None").any():
        notes += (f"column {name!r}: 'None' is one of its texts, not a missing entry",)
    return Typed(values.where(~is_word) if found else values, False, notes)


def _missing_note(name: str, words: list[str]) -> tuple[str, ...]:
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
