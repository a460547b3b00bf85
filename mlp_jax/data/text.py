"""A text file of rows and columns: its encoding, separator, decimal mark and header.

Each is found out from the first lines where it is certain, and is a key of the config otherwise.
"""

import codecs
import csv
import io
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

from mlp_jax.config.schema import Table
from mlp_jax.data.files import shortened
from mlp_jax.errors import UserError

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": r"\s+"}
DECIMALS = {"point": ".", "comma": ","}

_SAMPLE_BYTES = 2**18
_SAMPLE_ROWS = 200
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_CODE = re.compile(r"0\d+")
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


Rows = list[Row]


class Layout(NamedTuple):
    """How the rows of a text are written; `skip` rows stand before the first one of data."""

    separator: str
    decimal: str
    names: list[str]
    skip: int
    texts: list[int]
    """The columns in which a number begins with a 0, as in 01234: a code, not a number."""


def read_text(
    file: IO[bytes] | io.BytesIO, config: Table
) -> tuple[list[tuple[str, Any]], tuple[str, ...], str]:
    """The columns with their names, what was found out for the user to see, and the decimal mark.

    Entries stay texts in a column where one of them is no number; only the empty one is missing.
    """
    import pandas as pd

    head = file.read(_SAMPLE_BYTES)
    encoding = _encoding(head, config)
    try:
        sample = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        raise _wrong_encoding(head, encoding, config) from None
    if len(head) == _SAMPLE_BYTES:
        sample = sample.rpartition("\n")[0] or sample  # the last line may be cut
    layout, notes = find_layout(sample, config)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            frame = pd.read_csv(
                file,
                sep=layout.separator,
                decimal=layout.decimal,
                encoding=encoding,
                header=None,
                names=list(range(len(layout.names))),
                skiprows=layout.skip,
                index_col=False,
                low_memory=False,
                keep_default_na=False,
                na_values=[""],
                dtype=dict.fromkeys(layout.texts, str),
            )
        except UnicodeDecodeError:
            file.seek(0)
            raise _wrong_encoding(file.read(), encoding, config) from None
        except pd.errors.ParserWarning:
            raise ValueError(
                f"rows have more entries than the header, which has {len(layout.names)}: "
                f"{shortened(layout.names)}"
            ) from None
        except pd.errors.ParserError as error:
            raise _too_long_a_row(error, len(layout.names)) from None
    if config.encoding == "auto" and encoding == "utf-16":
        notes += ("data.encoding=utf-16",)
    columns = [(name, frame[at]) for at, name in enumerate(layout.names)]
    return columns, notes, layout.decimal


def _encoding(head: bytes, config: Table) -> str:
    if config.encoding != "auto":
        return config.encoding
    marked = [name for mark, name in _BYTE_ORDER_MARKS.items() if head.startswith(mark)]
    return marked[0] if marked else "utf-8"


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
            f"data.path={config.path}: line {line} is not {encoding} (byte "
            f"{content[error.start]:#x}). Say how it is written: data.encoding=cp1252 (Western "
            f"Windows) reads {there!r}; or latin-1, mac_roman, …; or save the file as UTF-8."
        )
    return UserError(f"data.path={config.path}: cannot be decoded as {encoding}.")


def _too_long_a_row(error: Exception, width: int) -> ValueError:
    """The parser's own words, in plain ones."""
    found = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
    if found is None:
        return ValueError(str(error))
    return ValueError(f"line {found[2]} has {found[3]} entries, the header {width}")


def find_layout(text: str, config: Table) -> tuple[Layout, tuple[str, ...]]:
    """The layout of a text from its first lines; raises `UserError` where it is uncertain."""
    told = re.match(r"\s*\"?sep=(.)\"?\s*\n", text, re.IGNORECASE)
    if config.separator != "auto":
        separator = SEPARATORS.get(config.separator, config.separator)
    else:
        separator = told[1] if told else _likely_separator(text)
    rows = _rows(text, separator)
    if told:
        rows = [row for row in rows if row.line > 1]
    if not rows:
        raise ValueError("it is empty")
    at = _header_row(rows, config)
    if at is None:
        skip, names = 0, [str(number) for number in range(_width(rows))]
    else:
        skip, names = rows[at].number + 1, _names(rows[at].entries)
        if config.header == "auto":
            _insist_on_names(names, [row.entries for row in rows[at + 1 :]], config)
    body = [row.entries for row in rows if row.number >= skip]
    notes = [f"data.separator={name}" for name, sep in SEPARATORS.items() if sep == separator][:1]
    if separator == "," or config.separator != "auto":
        notes = []
    if at:
        notes.append(f"lines before the header, left out: {rows[at].line - 1}")
    decimal = DECIMALS.get(config.decimal) or _likely_decimal(body)
    if config.decimal == "auto" and decimal == ",":
        notes.append("data.decimal=comma")
    texts = [
        at
        for at in range(len(names))
        if any(at < len(row) and _CODE.fullmatch(row[at]) for row in body)
    ]
    return Layout(separator, decimal, names, skip, texts), tuple(notes)


def _rows(text: str, separator: str) -> Rows:
    """The first rows, without those that are blank."""
    if separator == SEPARATORS["space"]:
        lines = text.splitlines()[:_SAMPLE_ROWS]
        return [Row(at, at + 1, line.split()) for at, line in enumerate(lines) if line.strip()]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows: Rows = []
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


def _width(rows: Rows) -> int:
    """The commonest number of entries."""
    return Counter(len(row.entries) for row in rows).most_common(1)[0][0]


def _likely_separator(text: str) -> str:
    """The one that cuts the most lines into equally many entries, and into the most of them."""

    def score(separator: str) -> tuple[float, int]:
        rows = _rows(text, separator)
        width = _width(rows) if rows else 1
        share = sum(len(row.entries) == width for row in rows) / max(len(rows), 1)
        return (share, width) if width > 1 and share > 0.5 else (0.0, 1)

    best = max(SEPARATORS.values(), key=score)  # the first, a comma, where none cuts
    certain = score(best)[0] > score(",")[0]
    return best if certain else ","


def _header_row(rows: Rows, config: Table) -> int | None:
    """Which of the rows has the names; None where no row has them."""
    if config.header == "none":
        return None
    if config.header != "auto":
        found = [at for at, row in enumerate(rows) if row.line == config.header]
        if not found:
            raise UserError(f"data.header={config.header}: no names stand in that line.")
        return found[0]
    width = _width(rows)
    at = 0
    while at < len(rows) - 1 and _is_comment(rows[at].entries, width):
        at += 1
    _, line, row = rows[at]
    later = [other.line for other in rows[at + 1 :] if len(other.entries) == width]
    if len(row) < width and later:
        raise UserError(
            f"data.path={config.path}: line {line} ({shortened(row)}) has {len(row)} "
            f"{'entry' if len(row) == 1 else 'entries'} where the lines below have {width}. If it "
            f"stands before the header, say in which line that is: data.header={later[0]}."
        )
    return at


def _is_comment(entries: list[str], width: int) -> bool:
    return entries[0].startswith("#") and len(entries) != width


def _names(row: Sequence[str]) -> list[str]:
    """As the header has them; a column without a name gets pandas' own for it."""
    names = list(row)
    names[0] = (
        names[0].removeprefix("#") if names[0].startswith("#") and names[0] != "#" else names[0]
    )
    return [name if name else f"Unnamed: {at}" for at, name in enumerate(names)]


def _insist_on_names(names: list[str], body: list[list[str]], config: Table) -> None:
    """Raises `UserError` where the first row looks like data and not like names."""
    if not body:
        return
    are_numbers = [bool(_NUMBER.fullmatch(name)) for name in names]
    count_up = names in [[str(at + first) for at in range(len(names))] for first in (0, 1)]
    below = [{row[at] for row in body if at < len(row)} for at in range(len(names))]
    repeated = [name in entries for name, entries in zip(names, below, strict=True)]
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
