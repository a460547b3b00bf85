"""Reading a file that the user names: whatever is wrong with it is said in a line."""

import gzip
import io
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from mlp_jax.errors import UserError

_READ_ERRORS = (
    OSError, ValueError, LookupError, RuntimeError, EOFError, MemoryError, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip


@contextmanager
def reading(key: str, path: Path) -> Iterator[None]:
    """Whatever goes wrong while reading `path` becomes a `UserError` that names it."""
    try:
        yield
    except UserError:  # which is a ValueError
        raise
    except _READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or f"cannot be read: {error}"
        raise UserError(f"{key}={path}: {' '.join(reason.split()).rstrip('.')}.") from error


def shortened(texts: Sequence[object]) -> str:
    """Some texts in quotes, cut to what a line holds, so that spaces in them can be seen."""
    cut = [text if len(text) <= 40 else text[:37] + "…" for text in map(str, texts[:8])]
    return ", ".join(map(repr, cut)) + ", …" * (len(texts) > 8)


def half_of_memory() -> int:
    """The bytes that a file may take unpacked: half of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@contextmanager
def opened(key: str, path: Path) -> Iterator[IO[bytes]]:
    """The file while it is `reading`; what is no file is refused, as a pipe would be waited for."""
    with reading(key, path):
        there = path.expanduser()
        if there.exists() and not there.is_file():
            what = "directory" if there.is_dir() else "device or a pipe"
            raise UserError(f"{key}={path}: is a {what}, not a file.")
        with there.open("rb") as file:
            yield file


def insist_on_memory(size: int, what: str) -> None:
    """Raises `ValueError` where `size` bytes are more than half of this machine's memory."""
    largest = half_of_memory()
    if size > largest:
        raise ValueError(f"{what} {size:,} bytes; at most {largest:,}, half of the memory here")


_SIGNATURES = {
    b"PK\x03\x04": "a zip archive, or an Excel workbook: unpack it, or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV",
    b"PAR1": "a Parquet file: give its name the ending .parquet",
    b"%PDF": "a PDF document",
    b"SQLite format 3": "an SQLite database: export the table as CSV",
    b"\x93NUMPY": "one NumPy array: save it with numpy.savez, as .npz",
    b"version https://git-lfs": "a Git LFS pointer, not the data: fetch that with 'git lfs pull'",
    b"<!doctype html": "an HTML page, not the data: download the file that it shows",
    b"<html": "an HTML page, not the data: download the file that it shows",
    b"<?xml": "an XML document",
}


def insist_on_text(head: bytes) -> None:
    """Raises `ValueError` where the first bytes are those of something else than a text table."""
    start = head.lstrip().lower()
    for signature, what in _SIGNATURES.items():
        if head.startswith(signature) or start.startswith(signature.lower()):
            raise ValueError(f"it is {what}")


def unpacked(file: IO[bytes]) -> IO[bytes] | io.BytesIO:
    """A text file itself or, where it is packed by gzip, its content, if memory holds it.

    Its entries take as much memory again.
    """
    insist_on_memory(2 * os.fstat(file.fileno()).st_size, "it takes")
    head = file.read(2)
    file.seek(0)
    if head != b"\x1f\x8b":
        return file
    content = io.BytesIO()
    with gzip.open(file) as stream:
        while block := stream.read(2**24):
            content.write(block)
            insist_on_memory(2 * content.tell(), "it unpacks to more than")
    content.seek(0)
    return content


def check_npz(file: IO[bytes]) -> None:
    """Raises `ValueError` for arrays that are not as large as they say, or too large together.

    NumPy would allocate what a header says before it reads.
    """
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with zipfile.ZipFile(file) as archive:
        insist_on_memory(sum(member.file_size for member in archive.infolist()), "it unpacks to")
        for member in archive.infolist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                if version not in headers:
                    raise ValueError(f"{member.filename} has the npy format {version}")
                shape, _, dtype = headers[version](stream)
                size = stream.tell() + math.prod(shape) * dtype.itemsize
            if dtype.hasobject:
                raise ValueError(f"{member.filename} holds pickled objects, which are not read")
            if dtype.names:
                raise ValueError(
                    f"{member.filename} is structured, with the fields {shortened(dtype.names)}; "
                    "save an array for each"
                )
            if size != member.file_size:
                raise ValueError(
                    f"{member.filename} declares {size:,} bytes and holds {member.file_size:,}"
                )
