"""Compiled programs are kept between processes: only the first run of a network waits for XLA.

They lie in JAX's own cache below ~/.cache/mlp_jax (or $XDG_CACHE_HOME), in one directory for each
processor and number of cores, which both go into the machine code. JAX checks what it reads, by
zlib's checksum, and compiles anew what is damaged.
"""

import hashlib
import os
import platform
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from mlp_jax.experiment import environment

MAX_BYTES = 16 * 2**20
"""A hundred networks; the least recently used programs go first."""

DIRECTORY = "JAX_COMPILATION_CACHE_DIR"
_ALL_PROGRAMS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
SETTINGS = {"JAX_COMPILATION_CACHE_MAX_SIZE": str(MAX_BYTES), **_ALL_PROGRAMS}


def keep() -> None:
    """Takes effect before JAX computes only; what the user's environment says stays.

    Where nothing can be kept, every process compiles for itself.
    """
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlp_jax"
        if not os.environ.get(DIRECTORY, str(root)).startswith(str(root)):
            _set(_ALL_PROGRAMS)  # to the user's own place, whose size is the user's
            return
        if find_spec("zstandard"):  # JAX would use it, without a checksum
            return
        directory = root / f"{_processor()}-{environment.num_cores()}"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_unfinished(directory)
    except (OSError, RuntimeError):  # the latter where there is no home
        return
    os.environ[DIRECTORY] = str(directory)
    _set(SETTINGS)
    if environment.has_jax():  # which read the environment when it was imported
        sys.modules["jax"].config.update("jax_compilation_cache_dir", str(directory))


def _set(settings: dict[str, str]) -> None:
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _processor() -> str:
    """A hash of its model and abilities, where the system tells them, else its architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    first, _, _ = text.partition("\n\n")
    told = re.findall(r"^(?:model name|flags|CPU part|Features)\s*:.*$", first, re.MULTILINE)
    return hashlib.sha256("\n".join([platform.machine(), *told]).encode()).hexdigest()[:16]


def _remove_unfinished(directory: Path) -> None:
    """Programs whose writing was interrupted: their time of use, written last, is missing."""
    with FileLock(directory / ".lockfile", timeout=10):  # JAX's own
        names = {file.name for file in directory.iterdir()}
        for name in names:
            program = name.removesuffix("-cache")
            if program != name and f"{program}-atime" not in names:
                (directory / name).unlink()
