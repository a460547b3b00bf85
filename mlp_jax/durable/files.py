"""Files that are there whole or not at all, and whose damage is noticed: JSON, and bytes."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from mlp_jax.errors import RunError, reached

UNFINISHED = ".unfinished"
_DIGEST_LENGTH = 32


class MissingError(RunError):
    """There is no such file."""


def replace(file: Path, content: bytes) -> None:
    """Replaces what is in a file; a power cut at any time leaves the old content or the new.

    It is written beside the file and renamed, and both it and the directory are synced. Raises
    `OSError`, and then the old content is there.
    """
    reached("saving")
    beside = file.with_name(f".{file.name}{UNFINISHED}")
    try:
        with beside.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync(file.parent)


def sync(path: Path) -> None:
    """Makes what was written to a file, or renamed in a directory, survive a power cut."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_bytes(file: Path, content: bytes) -> None:
    """`replace` by the content and, behind it, its SHA-256."""
    replace(file, content + hashlib.sha256(content).digest())


def read_bytes(file: Path) -> bytes:
    """What `write_bytes` has written. Raises `RunError` where a bit of it is another."""
    try:
        both = file.read_bytes()
    except OSError as error:
        raise RunError(f"{file}: {error.strerror}") from None
    content, digest = both[:-_DIGEST_LENGTH], both[-_DIGEST_LENGTH:]
    if digest != hashlib.sha256(content).digest():
        raise RunError(f"{file}: its SHA-256 is another")
    return content


def write(file: Path, values: dict[str, Any]) -> None:
    """`replace` by a JSON object: these values and their SHA-256."""
    replace(file, (json.dumps(values | {"sha256": _sha256(values)}, indent=1) + "\n").encode())


def read(file: Path) -> dict[str, Any]:
    """What `write` has written. Raises `MissingError`, or `RunError` where it is damaged."""
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        digest = values.pop("sha256")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"{file}: {error.strerror}.") from None
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise RunError(f"{file}: cannot be read ({error}).") from error
    if digest != _sha256(values):
        raise RunError(f"{file}: is not what was written; its SHA-256 is another.")
    return values


def _sha256(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
