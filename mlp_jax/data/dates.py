"""Dates and times of day: how texts write them, and the parts of them that become inputs.

This file travels with each model.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlp_jax.errors import UserError

if TYPE_CHECKING:
    import pandas

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[.,]?"
_DAY = (
    r"\d{4}[-/](?:0?[1-9]|1[0-2])(?:[-/]\d{1,2})?|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})"
    rf"|(?:\d{{1,2}}[. -]+)?{_MONTH}[ -]+(?:\d{{1,2}},? +)?\d{{2,4}}"
)
_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}(?:[.,]\d+)?))?(?: ?(?P<half>[ap]m))?"
    r"(?: ?(?:z|utc|[+-]\d{2}:?\d{2}))?"
)
_WHEN = rf"(?i)^(?P<day>{_DAY})?(?:(?:^|[t ,]+){_CLOCK})?$"

CLOCK = "time"
"""The style of texts that are a time of day alone."""

STYLES = (
    CLOCK, "%Y-%m-%d", "%Y/%m/%d", "%Y-%m", "%Y/%m", "%d.%m.%Y", "%d.%m.%y",
    "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%Y", "%m-%d-%Y", "%d-%m-%y", "%m-%d-%y",
    "%d %b %Y", "%d %b %y", "%b %d %Y", "%b %d %y", "%b %Y", "%b %y",
)  # fmt: skip
"""How a day is written, as `strptime` has it; a time of day may follow each."""

CYCLES = {"year": 0, "month": 12, "weekday": 7, "hour": 24}
"""The parts that become inputs; as many later the same comes again, or with 0 never."""


class StyleError(ValueError):
    """Why texts are not of one style."""


def are_dates(texts: "pandas.Series[str]") -> "pandas.Series[bool]":
    """Whether each text looks like a date or a time of day."""
    return texts.str.fullmatch(_WHEN) & (texts != "")


def style_of(texts: "pandas.Series[str]") -> str:
    """The style that all of these texts have; raises `StyleError` where it is none, or open."""
    texts = texts.drop_duplicates()
    apart = _taken_apart(texts)
    counts = {style: int(_as_dates(apart[:200], style).notna().sum()) for style in STYLES}
    likely = [style for style, count in counts.items() if count == max(counts.values())]
    dates = {style: _as_dates(apart, style) for style in likely}
    best = max(likely, key=lambda style: dates[style].notna().sum())
    odd = texts[dates[best].isna()]
    if len(odd):
        first = texts[dates[best].notna()].iloc[0] if len(odd) < len(texts) else texts.iloc[0]
        readable = np.any(
            [_as_dates(apart.loc[odd.index], each).notna() for each in STYLES], axis=0
        )
        kind, advice = "dates in two formats", "write all in one"
        if not readable.any():
            kind, advice = "dates and other texts", "name these in data.missing_values"
        other = odd.iloc[int(readable.argmax())]  # the first one, if none is
        raise StyleError(f"{kind}, such as {first[:40]!r} and {other[:40]!r}: {advice}")
    for style in likely:
        if not dates[style].equals(dates[best]) and dates[style].notna().all():
            raise StyleError(
                f"dates, such as {texts.iloc[0][:40]!r}, of which none says whether the day or the "
                "month comes first: write them as 2024-12-31"
            )
    return best


def read_dates(texts: "pandas.Series[str]", style: str) -> "pandas.Series[Any]":
    """The dates that texts of a style are; NaT where one is of another style.

    They are those of the clock on the wall: the offset of a time zone is left out.
    """
    return _as_dates(_taken_apart(texts), style)


def _taken_apart(texts: "pandas.Series[str]") -> "pandas.DataFrame":
    """The day as a text, its months in three letters, and the seconds since midnight."""
    found = texts.str.extract(_WHEN)
    day, hour = found["day"], found["hour"].astype(float)
    short = day.str.replace(r"([a-zA-Z]{3})[a-zA-Z]*", r"\1", regex=True)
    named = short.str.replace(r"[\s.,-]+", " ", regex=True)
    day = day.where(~day.str.contains("[a-zA-Z]", na=False), named)
    of_half = hour % 12 + 12 * (found["half"].str.lower() == "pm")
    hour = hour.where(found["half"].isna(), of_half)
    second = found["second"].str.replace(",", ".", regex=False).astype(float).fillna(0)
    seconds = 3600 * hour + 60 * found["minute"].astype(float) + second
    return found.assign(day=day, seconds=seconds)[["day", "seconds"]]


def _as_dates(apart: "pandas.DataFrame", style: str) -> "pandas.Series[Any]":
    import pandas as pd

    day, seconds = apart["day"], apart["seconds"]
    if style == CLOCK:
        epoch = pd.Series(pd.Timestamp("1970-01-01"), apart.index)
        days = epoch.where(day.isna() & seconds.notna())
    else:
        days = pd.to_datetime(day, format=style, errors="coerce")
    seconds = seconds.fillna(0)
    return (days + pd.to_timedelta(seconds, unit="s")).where(seconds < 24 * 3600)


def as_dates(values: "pandas.Series[Any]", style: str) -> "pandas.Series[Any]":
    """Dates, or texts of a style that are dates, without a time zone; `UserError` for all else."""
    import datetime

    import pandas as pd

    if values.dtype.kind == "M":
        return values.dt.tz_localize(None)
    entries = values.astype(object)
    are_texts = np.array([isinstance(entry, str) for entry in entries], bool)
    of_type = datetime.date | np.datetime64
    are_typed = np.array([isinstance(entry, of_type) for entry in entries], bool)
    texts = entries[are_texts].astype("str").str.strip()
    found = pd.Series(pd.NaT, values.index, "datetime64[us]")
    found[are_texts] = read_dates(texts, style)
    found[are_typed] = [pd.Timestamp(entry).tz_localize(None) for entry in entries[are_typed]]
    odd = entries[found.isna() & (are_texts | ~(are_typed | entries.isna()))].tolist()
    if odd:
        raise UserError(
            f"column {values.name!r}: must be dates written as in training "
            f"({written(pd.Timestamp(2031, 12, 24, 18), style)}), not {str(odd[0])[:40]!r} "
            f"({len(odd)} of {len(values)} entries)."
        )
    return found


def written(date: Any, style: str) -> str:
    """A date as texts of a style have it."""
    text = "" if style == CLOCK else date.strftime(style)
    clock = date.strftime("%H:%M:%S")
    return text if text and clock == "00:00:00" else f"{text} {clock}".strip()


def parts_of(dates: "pandas.Series[Any]") -> dict[str, np.ndarray]:
    """The parts of dates by their names in `CYCLES`, each from 0 but the year."""
    of = dates.dt
    hour = of.hour + of.minute / 60 + of.second / 3600
    parts = {"year": of.year, "month": of.month - 1, "weekday": of.day_of_week, "hour": hour}
    return {name: values.to_numpy(float) for name, values in parts.items()}


def part_names(parts: Sequence[str]) -> list[str]:
    """The inputs that parts become."""
    each = {name: [f"{name} sin", f"{name} cos"] if CYCLES[name] else [name] for name in parts}
    return [name for part in parts for name in each[part]]


def encode_dates(dates: "pandas.Series[Any]", parts: Sequence[str]) -> np.ndarray:
    """The inputs of dates: v of a year; sin and cos of 2πv/n of what comes again after n."""
    found = parts_of(dates)
    columns: list[np.ndarray] = []
    for name in parts:
        angle = 2 * np.pi * found[name] / (CYCLES[name] or 1)
        columns += [np.sin(angle), np.cos(angle)] if CYCLES[name] else [found[name]]
    return np.column_stack(columns)
