"""What a command prints may have nowhere to go; what it does goes on."""

import os
import sys
from typing import Any


class _Lasting:
    """A stream that is written to as long as it takes something, and to nowhere after that."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # a full disk, a pipe that nobody reads, a closed stream
            self._leave()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._leave()

    def _leave(self) -> None:
        """From here on, and at the end of the process, what is left in buffers goes nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, self._stream.fileno())
        except (OSError, ValueError):  # it has no descriptor, or is closed
            self._stream = open(os.devnull, "w")  # noqa: PTH123, SIM115
        finally:
            os.close(nowhere)


def outlast() -> None:
    """Lets no output end this process: neither one that is gone, nor one that lacks a letter."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w")  # noqa: PTH123, SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
        if not isinstance(stream, _Lasting):
            setattr(sys, name, _Lasting(stream))
