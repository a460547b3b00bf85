"""The log points of a run, one checksummed line each in a file that is only appended to.

A line is the CRC-32 of what follows in hexadecimal, a blank, and in JSON its number, the step, the
time and the metrics. A line that was cut short as the process died is dropped, a damaged one is
known by its checksum, one that is gone by the numbers; that the last ones are gone is known by the
length that `run.json` has noted.
"""

import hashlib
import json
import os
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple


class Point(NamedTuple):
    """What was logged at a step; `time` is in ms since 1970."""

    step: int
    time: int
    metrics: dict[str, float]


class History:
    """The points of a file, which `append` adds to. Its calls from two threads don't mix.

    `noted` is the length that it had at least, as `length` gave it.
    """

    def __init__(self, file: Path, noted: Sequence[Any] | None) -> None:
        self._path = file
        content = file.read_bytes() if file.exists() else b""
        self._size = content.rfind(b"\n") + 1
        lines = [line + b"\n" for line in content[: self._size].split(b"\n")[:-1]]
        self.points, self.num_lost = _read(lines)
        """All that is whole, and how many points are not."""
        num_noted, digest = noted or (0, "")
        self.num_lost = max(self.num_lost, num_noted - len(self.points))
        if not self.num_lost and digest:
            self.num_lost = int(hashlib.sha256(b"".join(lines[:num_noted])).hexdigest() != digest)
        self._sha256 = hashlib.sha256(content[: self._size])
        self._mutex = threading.Lock()
        self._unwritten: list[bytes] = []
        self._is_durable = True

    @property
    def length(self) -> list[Any]:
        """The number of points, and the SHA-256 of their lines."""
        with self._mutex:
            return [len(self.points), self._sha256.hexdigest()]

    def append(self, point: Point) -> None:
        """Writes a point. Where the disk is full it is kept in memory and written later."""
        with self._mutex:
            line = _line(len(self.points), point)
            self.points.append(point)
            self._sha256.update(line)
            self._unwritten.append(line)
            self._is_durable = False
            with suppress(OSError):
                self._write()

    def _write(self) -> None:
        if not self._unwritten:
            return
        with self._path.open("ab", buffering=0) as file:
            file.truncate(self._size)  # half a line would spoil the next one
            while self._unwritten:
                if file.write(self._unwritten[0]) != len(self._unwritten[0]):
                    raise OSError(0, "the line was not written whole", str(self._path))
                self._size += len(self._unwritten.pop(0))

    def secure(self) -> None:
        """Makes the points survive a power cut, too. Raises `OSError` where they don't."""
        with self._mutex:
            self._write()
            if self._is_durable:
                return
            self._is_durable = True
        try:
            for path in (self._path, self._path.parent):
                opened = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(opened)
                finally:
                    os.close(opened)
        except OSError:
            self._is_durable = False
            raise


def encode(points: Sequence[Point]) -> tuple[bytes, list[Any]]:
    """A whole history at once, and its length."""
    content = b"".join(_line(number, point) for number, point in enumerate(points))
    return content, [len(points), hashlib.sha256(content).hexdigest()]


def _line(number: int, point: Point) -> bytes:
    text = json.dumps([number, *point], allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _read(lines: Sequence[bytes]) -> tuple[list[Point], int]:
    """The points that are whole, and how many are damaged or gone between and after them."""
    points: list[Point] = []
    last = -1
    num_unreadable = 0  # after the last one that was read
    for line in lines:
        checksum, _, text = line[:-1].partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            num_unreadable += 1
            continue
        number, *point = json.loads(text)
        last, num_unreadable = number, 0
        points.append(Point(*point))
    return points, last + 1 - len(points) + num_unreadable
