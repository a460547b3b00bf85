"""The machine that a run has: its threads, what its bits depend on, programs it keeps, signals.

Nothing here starts JAX: threads, flags and the place of the programs count before it computes only.

Compiled programs are kept between processes, so that only the first run of a network waits for
XLA. They lie in JAX's own cache below ~/.cache/mlp_jax (or $XDG_CACHE_HOME), in one directory for
each processor and number of cores, which both go into the machine code. JAX checks what it reads,
by zlib's checksum, and compiles anew what is damaged.
"""

import hashlib
import os
import platform
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from mlp_jax.errors import UserError

if TYPE_CHECKING:
    import jax

PACKAGES = ("mlp_jax", "jax", "jaxlib", "optax", "numpy")
MAX_CORES = 1024
"""Beyond it XLA would start threads for minutes, deaf to signals."""

_GPU_FLAG = "--xla_gpu_deterministic_ops=true"


def environment(device: "jax.Device", data_digest: str) -> dict[str, Any]:
    """What the bits of a run depend on besides its config: versions, the machine, the data."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "device": f"{device.device_kind} ({device.platform})",
        "cpu": "".join(re.findall(r"^model name\s*: (.*)$", _cpu(), re.M)) or platform.machine(),
        "num_cores": num_cores(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "data": data_digest,
    }


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is no longer as it was, each as `jax 0.10.1 → 0.10.2`."""
    return [
        f"{name} {then.get(name)} → {now.get(name)}"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]


@cache
def version(package: str) -> str:
    """`not installed` where the package runs from its source, or is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache
def _cpu() -> str:
    """What Linux says of the first core; empty elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return ""


# --- threads and flags -------------------------------------------------------------------------


def num_cores() -> int:
    """The threads that XLA computes with on the CPU: those of this process, or $NPROC."""
    given = os.environ.get("NPROC", "")
    if given.isdecimal() and int(given) > 0:
        if int(given) > MAX_CORES:
            raise UserError(f"NPROC={given}: at most {MAX_CORES} threads; leave it out for all.")
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """The bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def has_jax() -> bool:
    """Whether JAX is imported, after which it may compute at any time."""
    return "jax" in sys.modules


def pin_cores(cores: int) -> None:
    """Makes XLA compute with so many threads, and keep their programs, if it has not begun."""
    os.environ["NPROC"] = str(cores)
    keep_programs()


def fix_order(recorded_flags: str = _GPU_FLAG) -> None:
    """Makes XLA add in a fixed order on GPUs, if it has not begun.

    `recorded_flags`: only where they say that an earlier run did.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _GPU_FLAG in recorded_flags and _GPU_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_GPU_FLAG}".strip()


# --- compiled programs -------------------------------------------------------------------------

MAX_BYTES = 16 * 2**20
"""A hundred networks; the least recently used programs go first."""

CACHE = "JAX_COMPILATION_CACHE_DIR"
_ALL_PROGRAMS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
CACHE_SETTINGS = {"JAX_COMPILATION_CACHE_MAX_SIZE": str(MAX_BYTES), **_ALL_PROGRAMS}


def keep_programs() -> None:
    """Takes effect before JAX computes only; what the user's environment says stays.

    Where nothing can be kept, every process compiles for itself. Raises `UserError` for an
    impossible $NPROC.
    """
    cores, given = num_cores(), os.environ.get(CACHE)
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlp_jax"
    except RuntimeError:  # there is no home
        return
    ours = f"{root / _processor()}-"
    if given and not given.removeprefix(ours).isdecimal():
        _set_defaults(_ALL_PROGRAMS)  # to the user's own place, whose size is the user's
        return
    directory = f"{ours}{cores}" if _is_made(root, Path(f"{ours}{cores}")) else None
    if directory is None:
        os.environ.pop(CACHE, None)
    else:
        os.environ[CACHE] = directory
        _set_defaults(CACHE_SETTINGS)
    if has_jax():  # which read the environment when it was imported
        sys.modules["jax"].config.update("jax_compilation_cache_dir", directory)


def _is_made(root: Path, directory: Path) -> bool:
    """Whether programs can be kept there, and by nobody else: what lies there is run."""
    if find_spec("zstandard"):  # JAX would use it, without a checksum
        return False
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for place in map(Path.stat, (root, directory)):
            if place.st_uid != os.getuid() or place.st_mode & 0o002:
                _tell_unsafe(directory)
                return False
        _remove_unfinished(directory)
    except OSError:
        return False
    return True


@cache
def _tell_unsafe(directory: Path) -> None:
    """Once in a process."""
    print(
        f"note: {directory} or the directory above it is another user's, or anyone can write to "
        "it; no compiled programs are kept. Make it yours alone, or remove it.",
        file=sys.stderr,
    )


def _set_defaults(settings: dict[str, str]) -> None:
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _processor() -> str:
    """A hash of its model and abilities, where the system tells them, else its architecture."""
    told = re.findall(r"^(?:model name|flags|CPU part|Features)\s*:.*$", _cpu(), re.MULTILINE)
    return hashlib.sha256("\n".join([platform.machine(), *told]).encode()).hexdigest()[:16]


def _remove_unfinished(directory: Path) -> None:
    """Programs whose writing was interrupted: their time of use, written last, is missing."""
    with FileLock(directory / ".lockfile", timeout=10):  # JAX's own
        names = {file.name for file in directory.iterdir()}
        for name in names:
            program = name.removesuffix("-cache")
            if program != name and f"{program}-atime" not in names:
                (directory / name).unlink()


# --- Ctrl-C and SIGTERM ------------------------------------------------------------------------

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Whether the process was asked to stop."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raises `KeyboardInterrupt` if so: this is a good place."""
        if self.requested:
            raise KeyboardInterrupt


@contextmanager
def deferred() -> Iterator[Interrupt]:
    """The first signal is held back for `check`; a second one ends the process at once.

    Outside the main thread, which alone receives signals, it does nothing; a signal that is
    ignored, as in a shell's background jobs, stays so.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def remember(number: int, frame: FrameType | None) -> None:
        interrupt.requested = True
        for each in heard:
            signal.signal(each, signal.SIG_DFL)

    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, remember) for number in heard}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
