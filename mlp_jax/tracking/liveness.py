"""Whether the process that writes a run is still there, as far as this machine can know.

The system lets go of a lock when its process ends in any way, whatever container it was in; so on
the machine of the process its lock says it. The lock of another machine may not be seen here, and
after a restart another one may have its name: there the age of the last sign of life decides.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEARTBEAT_SECONDS = 60.0
_STALE_SECONDS = 3 * HEARTBEAT_SECONDS
"""After a restart of the machine, an older heartbeat is of no process."""
_STALE_ELSEWHERE_SECONDS = 3600.0
"""The same for another machine, which may have lost touch with its files for a while."""


def process_facts(directory: Path) -> dict[str, str]:
    """Of this process, which writes the run: facts of `run.json`, and tags `run.…` of the run."""
    return {
        "host": socket.gethostname(),
        "process": f"{os.getpid()}/{_boot()}",
        "directory": str(directory.absolute()),
    }


def is_gone(facts: Mapping[str, Any], heartbeat: float, *, is_unlocked: bool) -> bool:
    """Whether the process of a run has certainly ended.

    `facts` are its own, `heartbeat` is when it was last heard of, and `is_unlocked` says that
    nobody holds its lock as seen from here; False also where its directory is not here.
    """
    boot = str(facts.get("process", "")).rpartition("/")[2]
    if is_unlocked and boot and boot == _boot():
        return True
    is_here = facts.get("host") == socket.gethostname()
    limit = _STALE_SECONDS if is_unlocked and is_here else _STALE_ELSEWHERE_SECONDS
    return time.time() - heartbeat > limit


def _boot() -> str:
    """A name of this run of the machine; its own name where the system has none for that."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
