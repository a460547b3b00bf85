"""The directory of a run: what it leaves on this machine, besides what the tracking store holds.

<checkpoint.root>/<id>/
config.json        the config, complete, without secrets
environment.json   what else the numbers depend on
checkpoints/
result.json        how it ended, once it has
"""

import os
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlp_jax.durable import files
from mlp_jax.errors import RunError, UserError

CONFIG, ENVIRONMENT, RESULT, RUN = "config.json", "environment.json", "result.json", "run.json"
CHECKPOINTS = "checkpoints"
DEFAULT_ROOT = "runs"
"""As in conf/config.yaml."""
MAX_LEVELS = 200


def check_root(root: str) -> None:
    """Raises `UserError` where directories of runs could not be made."""
    path = Path(root).absolute()
    if len(path.parts) > MAX_LEVELS:
        raise UserError(f"checkpoint.root={root[:40]}…: at most {MAX_LEVELS} directories deep.")
    try:
        folder = next(parent for parent in (path, *path.parents) if parent.exists())
    except OSError as error:
        raise UserError(f"checkpoint.root={root}: {error.strerror}.") from None
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"checkpoint.root={root}: {folder} is not a directory one can write to.")


def create(root: str) -> Path:
    """A new directory, named by the time so that names sort."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    directory = Path(root).absolute() / name
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"checkpoint.root={root}: {error.strerror}.") from None
    return directory


def remove(directory: Path) -> None:
    """One that `create` has made, and the root where it is empty then."""
    shutil.rmtree(directory)
    with suppress(OSError):
        directory.parent.rmdir()


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the run for this process; the system lets go of it when the process ends in any way."""
    try:
        with FileLock(directory / "lock", timeout=0):
            yield
    except Timeout:
        raise RunError(f"{directory}: another process is training this run.") from None


def shown(directory: Path) -> str:
    """As one writes it on a command line in the current directory."""
    here = Path.cwd()
    short = directory.relative_to(here) if directory.is_relative_to(here) else directory
    return shlex.quote(str(short))


def resume_command(directory: Path) -> str:
    return f"python -m mlp_jax.train resume={shown(directory)}"


def how_to_resume(directory: Path) -> str:
    return f"Continue with: {resume_command(directory)}"


def write(directory: Path, name: str, values: dict[str, Any]) -> None:
    files.write(directory / name, values)


def read(directory: Path, name: str) -> dict[str, Any]:
    """What was written. Raises `RunError` where it is missing or damaged."""
    return files.read(directory / name)


def result(directory: Path) -> dict[str, Any] | None:
    """How the run ended; `None` where it has not."""
    return read(directory, RESULT) if (directory / RESULT).exists() else None


def find(name: str, root: str) -> Path | None:
    """The directory of a run, given as itself, by its name below `root`, or by its id in MLflow."""
    try:
        return next(_found(name, root), None)
    except OSError as error:  # out of reach, or longer than a name may be
        raise UserError(f"{error.filename}: {error.strerror}.") from None


def _found(name: str, root: str) -> Iterator[Path]:
    for path in (Path(name), Path(root) / name):
        if (path / CONFIG).is_file():
            yield path.absolute()
    for file in Path(root).glob(f"*/{RUN}"):
        with suppress(RunError):  # another run's damage is told of when that is asked for
            if read(file.parent, RUN).get("run_id") == name:
                yield file.parent.absolute()
