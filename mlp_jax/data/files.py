"""Reading a file that the user names: whatever is wrong with it is said in a line."""

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from mlp_jax.errors import UserError

_READ_ERRORS = (
    OSError, ValueError, RuntimeError, EOFError, MemoryError, zlib.error, zipfile.BadZipFile
)  # fmt: skip


@contextmanager
def reading(key: str, path: Path) -> Iterator[None]:
    """Whatever goes wrong while reading `path` becomes a `UserError` that names it."""
    try:
        yield
    except _READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or f"cannot be read: {error}"
        raise UserError(f"{key}={path}: {' '.join(reason.split()).rstrip('.')}.") from error


def check_npz(file: IO[bytes]) -> None:
    """Raises `ValueError` for arrays that are not as large as they say, or too large together.

    NumPy would allocate what a header says before it reads.
    """
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    largest = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > largest:
            raise ValueError(
                f"it unpacks to {unpacked:,} bytes; at most {largest:,}, half of the memory here"
            )
        for member in archive.infolist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                if version not in headers:
                    raise ValueError(f"{member.filename} has the npy format {version}")
                shape, _, dtype = headers[version](stream)
                size = stream.tell() + math.prod(shape) * dtype.itemsize
            if dtype.hasobject:
                raise ValueError(f"{member.filename} holds pickled objects, which are not read")
            if size != member.file_size:
                raise ValueError(
                    f"{member.filename} declares {size:,} bytes and holds {member.file_size:,}"
                )
