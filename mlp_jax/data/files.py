"""Reading a file that the user names: whatever is wrong with it is said in a line."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
