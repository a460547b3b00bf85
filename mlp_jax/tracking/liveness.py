"""Whether the process that began a run is still there, as far as this machine can know."""

import os
import socket
import time
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_STALE_SECONDS = 180.0
"""Three heartbeats of a run: after a restart of the machine, one that is older is of no process."""

HEARTBEAT_SECONDS = 60.0


class Process(NamedTuple):
    """A process as no other ever was one: a number is given again, its start time is not."""

    host: str
    pid: int
    started: str
    boot: str
    namespace: str

    def __str__(self) -> str:
        """As a tag holds it; `parse` reads it."""
        return f"{self.pid}/{self.started}/{self.boot}/{self.namespace}"


def this_process() -> Process:
    return Process(
        socket.gethostname(),
        os.getpid(),
        _started(os.getpid()) or "",
        _boot(),
        _namespace(),
    )


def parse(host: str, text: str) -> Process | None:
    """The process of two tags; None where they don't say one."""
    parts = text.split("/")
    if not host or len(parts) != 4 or not parts[0].isdigit():
        return None
    return Process(host, int(parts[0]), *parts[1:])


def is_gone(process: Process, heartbeat: float) -> bool:
    """Whether the process has certainly ended; `heartbeat` is when it was last heard of.

    One of another host, or of another container, may be alive for all that can be seen here.
    """
    if process.host != socket.gethostname() or not process.boot:
        return False
    if process.boot != _boot():
        return time.time() - heartbeat > _STALE_SECONDS  # or another machine has the same name
    if process.namespace != _namespace():
        return False
    started = _started(process.pid)
    if started is None:
        return not _is_hidden(process.pid)
    return started != process.started


def _started(pid: int) -> str | None:
    """Clock ticks from the machine's start to the process's; None where none is seen."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # a zombie has ended


def _is_hidden(pid: int) -> bool:
    """Whether there is a process of another user that /proc does not show."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return False


def _boot() -> str:
    """A name of this run of the machine; empty where the system has none."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    """The process numbers' own, as each container has one."""
    try:
        return str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return ""
