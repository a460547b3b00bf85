"""The page of mistakes: each is made while the site is built, and the line that it gets is shown.

`python docs/mistakes.py` prints it.
"""

import gzip
import html
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mlp_jax.config.compose import compose
from mlp_jax.data import load
from mlp_jax.data.files import half_of_memory
from mlp_jax.errors import UserError

HEAD = """\
# What happens when

Mistakes and the lines that they get. None of them is typed: each was made when this page was. A
command that prints such a line has exit status 2, has written nothing, and trains as soon as what
the line asks for is done.
"""


def _csv(header: str = "a,b,y", **columns: Callable[[int], object]) -> bytes:
    """Ninety rows; a column that is not given has whole numbers."""
    rows = [
        ",".join(str(columns.get(n, lambda i: i * 7919 % 101)(i)) for n in ("a", "b", "y"))
        for i in range(90)
    ]
    return "\n".join([header, *rows, ""]).encode()


TABLES: dict[str, tuple[str, bytes, list[str]]] = {
    "the target is misspelt": ("t.csv", _csv("age,size,price"), ["data.target=prize"]),
    "a file is not there": ("t.csv", b"", ["data.path=absent.csv"]),
    "it is empty": ("t.csv", b"", []),
    "it is a web page": ("t.csv", b"<!DOCTYPE html><html>", []),
    "it is a workbook": ("t.xlsx", b"", []),
    "it is a pointer of Git LFS": ("t.csv", b"version https://git-lfs.github.com/spec/v1", []),
    "it is a pipe or a device": ("pipe.csv", b"", []),
    "it is not UTF-8": ("t.csv", _csv("a,größe,y").replace("ö".encode(), b"\xf6"), []),
    "it has no header": ("t.csv", _csv().partition(b"\n")[2], []),
    "a title stands above the header": ("t.csv", b"My table\n" + _csv(), []),
    "a row has too many entries": ("t.csv", _csv() + b"1,2,3,4\n", []),
    "two columns have one name": ("t.csv", _csv("a,a,y"), []),
    "entries are missing": ("t.csv", _csv(a=lambda i: "" if i % 9 == 0 else i), []),
    "the target is missing everywhere": ("t.csv", _csv(y=lambda i: ""), ["data.missing=indicator"]),
    "one entry is a question mark": ("t.csv", _csv(a=lambda i: "?" if i == 3 else i), []),
    "prices have signs": ("t.csv", _csv(a=lambda i: f"${i}.50"), []),
    "there are dates": ("t.csv", _csv(a=lambda i: f"2024-01-{i % 9 + 1:02}"), []),
    "dates are of two formats": (
        "t.csv",
        _csv(a=lambda i: f"2024-01-{i % 9 + 1:02}" if i % 2 else f"{i % 9 + 1:02}.01.2024"),
        ["data.dates=parts"],
    ),
    "day and month cannot be told apart": (
        "t.csv",
        _csv(a=lambda i: f"{i % 9 + 1:02}/0{i % 8 + 1}/2024"),
        ["data.dates=parts"],
    ),
    "there are names": ("t.csv", _csv(a=lambda i: f"n{i}"), []),
    "there are sentences": ("t.csv", _csv(a=lambda i: f"this is what {i} wrote"), []),
    "whole numbers are beyond 2^53": ("t.csv", _csv(a=lambda i: 2**60 + i), []),
    "a number is infinite": ("t.csv", _csv(a=lambda i: "inf" if i == 3 else i / 7), []),
    "a target is infinite": ("t.csv", _csv(y=lambda i: "inf" if i == 3 else i / 7), []),
    "a target has no logarithm": ("t.csv", _csv(), ["data.target_transform=log"]),
    "one of two targets is a class": (
        "t.csv",
        _csv(y=lambda i: "uv"[i % 2]),
        ["data.target=[b,y]"],
    ),
    "a weight is negative": ("t.csv", _csv(b=lambda i: i - 5), ["data.weights=b"]),
    "all weights are 0": ("t.csv", _csv(b=lambda i: 0), ["data.weights=b"]),
    "a number is too large": ("t.csv", _csv(a=lambda i: f"{i}e200"), []),
    "a class has one example": ("t.csv", _csv(y=lambda i: "rare" if i == 3 else "uv"[i % 2]), []),
    "an .npz is no archive": ("t.npz", b"\x93NUMPY\x01\0" + bytes(80), []),
    "a gzip ends early": ("t.csv.gz", gzip.compress(_csv())[:-9], []),
}
"""A file's name, its content, and what is given beside its path and the target y."""

COMMANDS = {
    "a key is misspelt": ["+exp=xor", "optimizer.learing_rate=1"],
    "a value is out of range": ["+exp=xor", "optimizer.learning_rate=-1"],
    "a value is of another type": ["+exp=xor", "num_epochs=many"],
    "two keys contradict each other": [
        "+exp=digits",
        "data.standardize=false",
        "data.scaling=robust",
    ],
    "a choice is unknown": ["+exp=digits", "optimizer=adamm"],
    "a choice is one that others call so": ["+exp=digits", "optimizer=sgd"],
}


def _line(overrides: list[str], folder: Path) -> str:
    """What is said of a mistake."""
    try:
        load(compose(overrides).data)
    except UserError as error:
        return str(error).replace(f"{folder}{os.sep}", "")
    raise AssertionError(f"{overrides}: no mistake")


def _table_line(name: str, content: bytes, keys: list[str], folder: Path) -> str:
    path = folder / name
    if name.startswith("pipe"):
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    defaults = ["data=table", f"data.path={path}", "data.target=y"]
    given = {key.partition("=")[0] for key in keys}
    return _line([d for d in defaults if d.partition("=")[0] not in given] + keys, folder)


def _idx_line(folder: Path) -> str:
    """Of an IDX file that is as long as its header says, and memory does not hold it."""
    shape = (10**6, 1000, 1000)
    header = bytes((0, 0, 8, 3)) + np.array(shape, ">u4").tobytes()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header))
    os.truncate(folder / "train-images-idx3-ubyte.gz", 10**9)  # takes no room on the disk
    (folder / "train-labels-idx1-ubyte").touch()
    line = _line(["data=mnist", f"data.root={folder}"], folder)
    return line.replace(f"{half_of_memory():,}", "…")


def rows() -> dict[str, str]:
    """Each mistake and its lines."""
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        of_tables = {what: _table_line(*table, folder) for what, table in TABLES.items()}
        of_commands = {what: _line(keys, folder) for what, keys in COMMANDS.items()}
        return {**of_tables, "images unpack to 1 TB": _idx_line(folder), **of_commands}


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "&#124;").replace("\n", "<br>")


def page() -> str:
    cells = [f"| {what} | {_cell(line)} |" for what, line in rows().items()]
    return "\n".join([HEAD, "| when | the line |", "|---|---|", *cells, ""])


if __name__ == "__main__":
    print(page())
