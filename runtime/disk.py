"""Whether a node's disk has room for another attempt.

An attempt that fails for want of room says nothing about its program, and a node on which every attempt fails at once
would draw all jobs that wait. So the runner looks before each exchange, remembers starts that failed, and the node says
of itself that it cannot start anything (`Capacity.cannot_start`) until there is room.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final, NamedTuple

MIB: Final = 1024**2
BYTES_MIN: Final = 16 * MIB
"""Fewer are too few for an attempt's own files: spec, exit record, spools, first output."""
INODES_MIN: Final = 256
ROOM_AGAIN: Final = 2
"""So many times the least must be free before a disk that was full counts as having room: it must not flap."""
FAILED_S: Final = 60.0
"""For so long a start that failed for want of room keeps the node closed: it may need more than the least."""
_WORDS: Final = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


class Room(NamedTuple):
    """What is free where the node's folder is. `inodes`: None where the file system has no number of them."""

    bytes: int
    inodes: int | None


def room(folder: Path) -> Room:
    """Raises OSError."""
    about = os.statvfs(folder)
    return Room(about.f_bavail * about.f_frsize, about.f_favail if about.f_files else None)


def says_full(message: str) -> bool:
    """Whether an error is that of a full disk, whoever had it: we, uv, a build."""
    return any(words in message for words in _WORDS)


class Disk:
    """A disk over time. Pure: `now` is monotonic."""

    def __init__(self) -> None:
        self._problem = ""
        self._failed_until = 0.0

    def start_failed(self, now: float) -> None:
        """An attempt could not be started, and the error said that the disk is full."""
        self._failed_until = now + FAILED_S

    def problem(self, free: Room, now: float) -> str:
        """Why nothing can be started; empty: it can. The same words for as long as it is the same reason."""
        factor = ROOM_AGAIN if self._problem else 1
        if free.bytes < factor * BYTES_MIN:
            self._problem = f"its disk is full: less than {BYTES_MIN // MIB} MiB are free"
        elif free.inodes is not None and free.inodes < factor * INODES_MIN:
            self._problem = f"its disk is full: less than {INODES_MIN} inodes are free"
        else:
            self._problem = ""
        if not self._problem and now < self._failed_until:
            return "its disk is full: an attempt found no room"
        return self._problem
