"""What each column of a table is: numbers or categories, and what of it is left out.

What a column is follows from its entries where that is certain. Where it looks wrong, all columns
that do are refused at once, each with the keys that decide it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlp_jax.config.schema import Table
from mlp_jax.data.dates import STYLES, StyleError, are_dates, as_dates, read_dates, style_of
from mlp_jax.data.files import shortened
from mlp_jax.data.preprocessing import (
    Column,
    as_floats,
    as_numbers,
    as_texts,
    without_missing_words,
)
from mlp_jax.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas

MISSING_WORDS = (
    "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "#NA",
)  # fmt: skip
"""Texts that stand for a missing entry. `None` does so among numbers; of texts it may be one."""

_LARGEST_EXACT = 2**53
_MAX_NAMED = 5
_NUMBERS = ("integer", "floating", "mixed-integer-float", "decimal", "empty")


class Typed(NamedTuple):
    """A column whose entries are all numbers (and then floats), all dates, or all texts or true and
    false.

    `column` has how its entries are spelt; its categories are those of the training part.
    """

    values: "pandas.Series[Any]"
    is_numeric: bool
    column: Column
    notes: tuple[str, ...] = ()


class _DoubtError(Exception):
    """What looks wrong with a column, and what to do."""


def typed(
    columns: Mapping[str, "pandas.Series[Any]"], config: Table, decimal: str
) -> dict[str, Typed]:
    """Each column by its name; raises `UserError` for all columns at once that look wrong."""
    for key in ("numeric", "categorical"):
        for name in getattr(config, key):
            if name not in columns:
                raise UserError(f"data.{key}={name!r}: no such column.{nearest(name, columns)}")
    for name in set(config.numeric) & set(config.categorical):
        raise UserError(f"data.numeric and data.categorical: {name!r} is in both.")
    found: dict[str, Typed] = {}
    problems = []
    for name, values in columns.items():
        try:
            found[name] = _type_of(name, values, config, decimal)
        except _DoubtError as problem:
            problems.append(f"column {shortened([name])}: {problem}")
    if problems:
        more = f"\n… and {len(problems) - _MAX_NAMED} columns more" * (len(problems) > _MAX_NAMED)
        raise UserError("\n".join(problems[:_MAX_NAMED]) + more)
    return found


def _type_of(name: str, values: "pandas.Series[Any]", config: Table, decimal: str) -> Typed:
    import pandas as pd

    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind == "string":
        return _type_of_texts(name, values.astype("str").str.strip(), config, decimal)
    is_category = name in config.categorical and kind in _NUMBERS
    if is_category or kind in ("boolean", "categorical"):
        return Typed(values, False, Column(name))
    if kind in _NUMBERS:
        numbers = pd.Series(as_floats(values), values.index)
        if kind == "integer":
            _insist_on_exact(name, values[numbers.abs() > _LARGEST_EXACT], config)
        return _numbers(numbers, config.missing_values or (), Column(name, decimal=decimal))
    if kind in ("datetime64", "datetime", "date") and name not in config.targets:
        if config.dates == "refuse":
            raise _DoubtError(
                f"its entries ({kind}) are dates: {_instead_of_dates(name, config, False)}."
            )
        return Typed(as_dates(values, STYLES[1]), False, Column(name, style=STYLES[1]))
    raise _DoubtError(
        f"its entries ({kind}) are neither numbers, texts nor true and false; turn it into "
        f"numbers{_or_ignore(name, config)}."
    )


def _or_ignore(name: str, config: Table) -> str:
    return "" if name in config.targets else f", or leave it out with 'data.ignore=[{name}]'"


def _insist_on_exact(name: str, large: "pandas.Series[Any]", config: Table) -> None:
    """Raises `_DoubtError` for whole numbers that a float would round."""
    if len(large) and name not in config.numeric:
        raise _DoubtError(
            f"whole numbers such as {int(large.iloc[0]):,} are beyond 2^53, where floats are no "
            f"longer exact; ids, as a rule. Round them with 'data.numeric=[{name}]'"
            f"{_or_ignore(name, config)}."
        )


def _type_of_texts(name: str, texts: "pandas.Series[str]", config: Table, decimal: str) -> Typed:
    words = list(MISSING_WORDS if config.missing_values is None else config.missing_values)
    none_is_missing = config.missing_values is None and bool((texts == "None").any())
    is_named = name in config.numeric
    are_codes = not is_named and bool(texts.str.fullmatch(r"0\d+").any())
    numbers = as_numbers(texts, decimal, signs=is_named)
    if not are_codes and name not in config.categorical:
        is_word = numbers.isna() & texts.isin([*words, *["None"] * none_is_missing])
        odd = texts[texts.notna() & numbers.isna() & ~is_word]
        if odd.empty and numbers.notna().any():
            large = texts[(numbers.abs() > _LARGEST_EXACT) & texts.str.fullmatch(r"[+-]?\d+")]
            _insist_on_exact(name, large, config)
            missing = tuple(texts[is_word].unique())
            return _numbers(numbers, words, Column(name, decimal=decimal, missing=missing))
        if is_named or 0 < texts.count() <= 2 * numbers.count():
            raise _DoubtError(_odd_entries(name, odd, numbers))
        known = texts.mask(texts.isin(words))
        if config.dates == "parts" and name not in config.targets and _mostly_dates(known.dropna()):
            missing = tuple(texts[texts.isin(words)].unique())
            return _dates(name, known, Column(name, missing=missing), config)
        _insist_on_categories(name, known.dropna(), config, decimal)
    column = Column(name, missing=tuple(texts[texts.isin(words)].unique()))
    notes = _missing_note(column)
    if none_is_missing:
        notes += (f"column {name!r}: 'None' is one of its texts, not a missing entry",)
    known = texts.mask(texts.isin(words))
    return Typed(known if are_codes else _as_written(known), False, column, notes)


def _as_written(texts: "pandas.Series[str]") -> "pandas.Series[Any]":
    """True and false, or whole numbers, where all texts are such."""
    lower = texts.dropna().str.lower()
    if lower.isin(["true", "false"]).all():
        return (lower == "true").reindex(texts.index)
    numbers = as_numbers(lower, signs=False)
    are_whole = ((numbers % 1 == 0) & (numbers.abs() <= _LARGEST_EXACT)).all()
    return numbers.reindex(texts.index) if are_whole else texts


def _numbers(numbers: "pandas.Series[float]", words: Sequence[str], column: Column) -> Typed:
    """A column of numbers, of which those among the `words` for missing entries are missing."""
    kept = without_missing_words(numbers.to_numpy(), words)
    codes = as_texts(numbers[np.isnan(kept) & numbers.notna()]).unique()
    column = column._replace(missing=(*column.missing, *codes))
    return Typed(numbers.where(~np.isnan(kept)), True, column, _missing_note(column))


def _insist_on_categories(
    name: str, texts: "pandas.Series[str]", config: Table, decimal: str
) -> None:
    """Raises `_DoubtError` for texts that are dates, or numbers in another spelling."""
    such = f"its texts, such as {shortened(texts[:1].tolist())},"
    if are_dates(texts).mean() > 0.9:
        raise _DoubtError(f"{such} are dates or times: {_instead_of_dates(name, config)}.")
    for mark, key in (decimal, f"data.numeric=[{name}]"), (",", "data.decimal=comma"):
        if as_numbers(texts, mark).notna().mean() > 0.9:
            raise _DoubtError(
                f"{such} look like numbers with separators or a sign. Read them as numbers with "
                f"'{key}', or as categories with 'data.categorical=[{name}]'."
            )


def _mostly_dates(texts: "pandas.Series[str]") -> bool:
    return bool(are_dates(texts).mean() > 0.5)


def _instead_of_dates(name: str, config: Table, are_texts: bool = True) -> str:
    if name in config.targets:
        return "turn them into numbers, such as the year"
    first = "take their parts with data.dates=parts" * (config.dates == "refuse")
    texts = f"take them as categories with 'data.categorical=[{name}]'" * are_texts
    leave_out = f"leave the column out with 'data.ignore=[{name}]'"
    return ", or ".join(way for way in (first, texts, leave_out) if way)


def _dates(name: str, texts: "pandas.Series[str]", column: Column, config: Table) -> Typed:
    """A column of texts that are dates of one style."""
    try:
        style = style_of(texts.dropna())
    except StyleError as error:
        raise _DoubtError(f"{error}, or {_instead_of_dates(name, config)}.") from None
    dates = read_dates(texts, style)
    return Typed(dates, False, column._replace(style=style), _missing_note(column))


def _odd_entries(name: str, odd: "pandas.Series[str]", numbers: "pandas.Series[float]") -> str:
    """What is said of a column of numbers in which some entries are none."""
    counts = odd.value_counts()
    listed = ", ".join(f"{shortened([text])} ({count})" for text, count in counts[:3].items())
    these = ",".join(f'"{text}"' for text in counts.index[:3])
    return (
        f"{numbers.count():,} of its {len(numbers):,} entries are numbers, but not {listed}"
        f"{', …' * (len(counts) > 3)}. If these are missing: 'data.missing_values=[{these}]'; if "
        f"they are numbers with signs or separators: 'data.numeric=[{name}]'; if all are "
        f"categories: 'data.categorical=[{name}]'."
    )


def _missing_note(column: Column) -> tuple[str, ...]:
    if not column.missing:
        return ()
    listed = ", ".join(map(repr, column.missing))
    return (
        f"column {column.name!r}: {listed} counts as missing (data.missing_values=[] keeps it)",
    )


def counts_rows(values: "pandas.Series[float]") -> bool:
    """Whether a column is 0, 1, 2, … or 1, 2, 3, …, as many as there are rows."""
    return len(values) > 2 and values[0] in (0, 1) and bool((values.diff()[1:] == 1).all())
