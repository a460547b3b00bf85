"""A text file of rows and columns: its encoding, separator, decimal mark and header.

Each is found out from the first lines where it is certain, and is a key of the config otherwise.
"""

import codecs
import csv
import io
import re
import warnings
from collections import Counter
from typing import IO, TYPE_CHECKING, NamedTuple

from mlp_jax.config.schema import Table
from mlp_jax.data.files import shortened
from mlp_jax.data.preprocessing import NUMBER
from mlp_jax.errors import UserError

if TYPE_CHECKING:
    import pandas

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": r"\s+"}
DECIMALS = {"point": ".", "comma": ","}

_SAMPLE_CHARACTERS = 2**18
_SAMPLE_ROWS = 200
_SIGNS = r"[\s$€£¥%]*"
_DECIMAL_COMMA = re.compile(_SIGNS + r"[+-]?\d*,\d+" + _SIGNS)
_DECIMAL_POINT = re.compile(_SIGNS + r"[+-]?\d*\.\d+" + _SIGNS)
_THOUSANDS = re.compile(_SIGNS + r"[+-]?[1-9]\d{0,2}(,\d{3})+" + _SIGNS)


class Row(NamedTuple):
    """A row's number, from 0 and with those that are blank; the line it begins on; its entries.

    It is longer than a line where an entry in quotes has a line break.
    """

    number: int
    line: int
    entries: list[str]


class Layout(NamedTuple):
    """How the rows of a text are written; `skip` rows stand before the first one of data."""

    separator: str
    decimal: str
    names: list[str]
    skip: int


def read_text(
    file: IO[bytes] | io.BytesIO, config: Table
) -> tuple[list[tuple[str, "pandas.Series[str]"]], tuple[str, ...], str]:
    """The columns and their names, what was found out for the user to see, and the decimal mark.

    All entries are texts; one of blanks only is missing.
    """
    encoding = config.encoding
    if encoding == "auto":
        is_utf_16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        encoding = "utf-16" if is_utf_16 else "utf-8-sig"
        file.seek(0)
    stream = io.TextIOWrapper(file, encoding, newline="")
    try:
        sample = stream.read(_SAMPLE_CHARACTERS)
        layout, notes = find_layout(sample, len(sample) == _SAMPLE_CHARACTERS, config)
        stream.seek(0)
        frame = _parse(stream, layout)
    except UnicodeDecodeError:
        file.seek(0)
        raise _wrong_encoding(file.read(), encoding, config) from None
    finally:
        stream.detach()  # else it would close the file
    if config.encoding == "auto" and encoding == "utf-16":
        notes += ("data.encoding=utf-16",)
    columns = [(name, frame[at].str.strip()) for at, name in enumerate(layout.names)]
    return [(name, texts.mask(texts == "")) for name, texts in columns], notes, layout.decimal


def _parse(stream: io.TextIOWrapper, layout: Layout) -> "pandas.DataFrame":
    import pandas as pd

    width = len(layout.names)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(
                stream,
                sep=layout.separator,
                header=None,
                names=range(width),
                skiprows=layout.skip,
                index_col=False,
                dtype=str,
                na_filter=False,
            )
        except pd.errors.ParserWarning:
            raise ValueError(
                f"rows have more entries than the header, which has {width}: "
                f"{shortened(layout.names)}"
            ) from None
        except pd.errors.ParserError as error:
            found = re.search(r"Expected \d+ fields in line (\d+), saw (\d+)", str(error))
            if found is None:
                raise
            raise ValueError(
                f"line {found[1]} has {found[2]} entries, the header {width}"
            ) from None


def _wrong_encoding(content: bytes, encoding: str, config: Table) -> UserError:
    """Names the first byte that does not fit, and what it would be in a common encoding."""
    try:
        content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        start = max(content.rfind(b"\n", 0, error.start), error.start - 20) + 1
        there = content[start : error.start + 12].decode("cp1252", errors="replace")
        there = there.splitlines()[0]
        return UserError(
            f"data.path={config.path}: line {line} is not {encoding.removesuffix('-sig')} (byte "
            f"{content[error.start]:#x}). Say how it is written: data.encoding=cp1252 (Western "
            f"Windows) reads {there!r}; or latin-1, mac_roman, …; or save the file as UTF-8."
        )
    return UserError(f"data.path={config.path}: cannot be decoded as {encoding}.")


def find_layout(text: str, is_cut: bool, config: Table) -> tuple[Layout, tuple[str, ...]]:
    """The layout of a text from its first lines; raises `UserError` where it is uncertain.

    The last row is no witness where the text `is_cut`.
    """
    told = re.match(r"\s*\"?sep=(.)\"?\s*\n", text, re.IGNORECASE)
    if config.separator != "auto":
        separator = SEPARATORS.get(config.separator, config.separator)
    else:
        separator = told[1] if told else _likely_separator(text)
    rows = _rows(text, separator)
    rows = [row for row in rows if not told or row.line > 1]
    if not rows:
        raise ValueError("it is empty")
    if is_cut and len(rows) > 1:
        del rows[-1]
    at = _header_row(rows, config)
    if at is None:
        skip, names = rows[0].number, [str(number) for number in range(_width(rows))]
    else:
        skip, names = rows[at].number + 1, _names(rows[at].entries)
    body = [row.entries for row in rows if row.number >= skip]
    if at is not None and config.header == "auto":
        _insist_on_names(names, body, config)
    notes = []
    if config.separator == "auto" and separator != ",":
        known = [name for name, mark in SEPARATORS.items() if mark == separator]
        notes.append(f"data.separator={(known or [separator])[0]}")
    if at:
        notes.append(f"lines before the header, left out: {rows[at].line - 1}")
    decimal = DECIMALS.get(config.decimal) or _likely_decimal(body)
    if config.decimal == "auto" and decimal == ",":
        notes.append("data.decimal=comma")
    return Layout(separator, decimal, names, skip), tuple(notes)


def _rows(text: str, separator: str) -> list[Row]:
    """The first rows, without those that are blank."""
    if separator == SEPARATORS["space"]:
        text = re.sub(r"^[ \t]+|[ \t]+$", "", text, flags=re.MULTILINE)
        text, separator = re.sub(r"[ \t]+", " ", text), " "
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows: list[Row] = []
    line = 1
    try:
        for number, entries in enumerate(reader):
            if any(entries):
                rows.append(Row(number, line, entries))
            line = reader.line_num + 1
            if len(rows) == _SAMPLE_ROWS:
                break
    except csv.Error:  # an entry larger than the reader takes, or a NUL
        return rows or [Row(0, 1, text.partition("\n")[0].split(separator))]
    return rows


def _width(rows: list[Row]) -> int:
    """The commonest number of entries."""
    return Counter(len(row.entries) for row in rows).most_common(1)[0][0] if rows else 1


def _likely_separator(text: str) -> str:
    """The one that cuts the most lines into equally many entries.

    Where two do, a comma is within numbers rather than a semicolon, and a blank within texts.
    """

    def share(separator: str) -> float:
        rows = _rows(text, separator)
        width = _width(rows)
        cut = sum(len(row.entries) == width for row in rows) / max(len(rows), 1)
        return cut if width > 1 and cut > 0.5 else 0.0

    shares = {separator: share(separator) for separator in (";", "\t", "|", ",", r"\s+")}
    return max(shares, key=lambda separator: shares[separator]) if any(shares.values()) else ","


def _header_row(rows: list[Row], config: Table) -> int | None:
    """Which of the rows has the names; None where no row has them."""
    if config.header == "none":
        return None
    if config.header != "auto":
        found = [at for at, row in enumerate(rows) if row.line == config.header]
        if not found:
            raise UserError(f"data.header={config.header}: no names stand in that line.")
        return found[0]
    width = _width(rows)
    is_comment = [row.entries[0].startswith("#") and len(row.entries) != width for row in rows]
    at = is_comment.index(False) if False in is_comment else len(rows) - 1
    _, line, entries = rows[at]
    later = [row.line for row in rows[at + 1 :] if len(row.entries) == width]
    if len(entries) < width and later:
        raise UserError(
            f"data.path={config.path}: line {line} ({shortened(entries)}) has {len(entries)} "
            f"{'entry' if len(entries) == 1 else 'entries'} where the lines below have {width}. "
            f"If it stands before the header, say in which line that is: data.header={later[0]}."
        )
    return at


def _names(entries: list[str]) -> list[str]:
    """As the header has them; a column without a name gets pandas' own for it."""
    first = entries[0] if entries[0] == "#" else entries[0].removeprefix("#")
    return [name or f"Unnamed: {at}" for at, name in enumerate([first, *entries[1:]])]


def _insist_on_names(names: list[str], body: list[list[str]], config: Table) -> None:
    """Raises `UserError` where the first row looks like data and not like names."""
    if not body:
        return
    are_numbers = [bool(NUMBER.fullmatch(name.strip())) for name in names]
    count_up = names in [[str(at + first) for at in range(len(names))] for first in (0, 1)]
    repeated = [name in {row[at] for row in body if at < len(row)} for at, name in enumerate(names)]
    texts_repeated = any(
        again and not number for again, number in zip(repeated, are_numbers, strict=True)
    )
    like_data = (
        (all(are_numbers) and not count_up)
        or (any(are_numbers) and texts_repeated)
        or sum(repeated) > len(names) / 2
    )
    if like_data:
        raise UserError(
            f"data.path={config.path}: its first line ({shortened(names)}) looks like data, not "
            "like names. Set data.header=none, which calls the columns 0, 1, 2, …; or "
            "data.header=1 if these are the names."
        )


def _likely_decimal(body: list[list[str]]) -> str:
    """A comma where some entries have one in them, none has a point, and no thousands are meant."""
    entries = [entry for row in body for entry in row]
    commas = [entry for entry in entries if _DECIMAL_COMMA.fullmatch(entry)]
    has_points = any(_DECIMAL_POINT.fullmatch(entry) for entry in entries)
    if commas and not has_points and not all(map(_THOUSANDS.fullmatch, commas)):
        return ","
    return "."
