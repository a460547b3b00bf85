"""A JSON file that is there whole or not at all, and whose damage is noticed."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from mlp_jax.errors import RunError


class MissingError(RunError):
    """There is no such file."""


def write(file: Path, values: dict[str, Any]) -> None:
    """Replaces the file by these values and their SHA-256; a power cut leaves the old or the new.

    Raises `OSError`.
    """
    unfinished = file.with_name(f".{file.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as opened:
        opened.write(json.dumps(values | {"sha256": _sha256(values)}, indent=1) + "\n")
        opened.flush()
        os.fsync(opened.fileno())
    unfinished.replace(file)


def read(file: Path) -> dict[str, Any]:
    """What was written. Raises `MissingError`, or `RunError` where it is damaged."""
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
