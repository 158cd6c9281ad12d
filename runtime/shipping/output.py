"""The output of an attempt, as messages for LOGS."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Final

from events import ranks, subjects
from events.bus import Outgoing
from events.messages import AttemptRef
from runtime.shipping.line import Parcel
from runtime.shipping.positions import Shipped, StreamPosition

LOG: Final = logging.getLogger("headrace.shipping")

STREAMS: Final = ("stdout", "stderr")
CHUNK_BYTES: Final = 256 * 1024
LAST_LINES_MAX: Final = 5
LAST_BYTES: Final = 8 * 1024
LINE_CHARACTERS_MAX: Final = 200
"""Of one of the last lines: what follows is cut off."""


class Output:
    """One output file, from the byte on that has not arrived yet. `rank`: of a part of a gang."""

    def __init__(self, node: str, ref: AttemptRef, name: str, folder: Path, shipped: Shipped, *, rank: int = 0) -> None:
        self.position = shipped.streams.setdefault(name, StreamPosition())
        self._subject = subjects.logs(node, ref.team, ref.job, ref.attempt, ranks.stream(name, rank))
        self._path = folder / name
        self._next = self.position.bytes

    def chunks(self, chunks_max: int) -> list[Parcel]:
        """What comes next."""
        if self.position.ended:
            return []
        parcels = []
        for content in _read(self._path, self._next, chunks_max):
            headers = {"hr-offset": str(self._next)}
            self._next += len(content)
            parcels.append(Parcel(Outgoing(self._subject, content, headers, None), self, self._next, 0))
        return parcels

    def end(self) -> Parcel:
        headers = {"hr-offset": str(self._next), "hr-end": "1"}
        return Parcel(Outgoing(self._subject, b"", headers, None), self, self._next, 0, is_end=True)

    def arrived(self, parcel: Parcel) -> None:
        self.position.bytes = parcel.places
        self.position.ended = parcel.is_end

    def rewind(self) -> None:
        self._next = self.position.bytes


def last_lines(folder: Path) -> tuple[str, ...]:
    """What an attempt wrote last: to stderr, or to stdout if it wrote nothing there. Without empty lines."""
    for name in reversed(STREAMS):
        tail = b"".join(_read(folder / name, -LAST_BYTES, 1)).decode(errors="replace")
        printable = ("".join(c if c.isprintable() else " " for c in line).strip() for line in tail.splitlines())
        if lines := [line[:LINE_CHARACTERS_MAX] for line in printable if line]:
            return tuple(lines[-LAST_LINES_MAX:])
    return ()


def _read(path: Path, offset: int, chunks_max: int) -> list[bytes]:
    """Up to so many chunks of a regular file; of anything else, or of what is not there yet, none. An offset below zero
    counts from the end.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            return []
        offset = max(0, status.st_size + offset) if offset < 0 else offset
        last = min(status.st_size, offset + chunks_max * CHUNK_BYTES)
        chunks = [os.pread(file, min(CHUNK_BYTES, last - at), at) for at in range(offset, last, CHUNK_BYTES)]
    except OSError as error:
        LOG.warning("cannot read %s: %s", path, error)
        return []
    finally:
        os.close(file)
    return [chunk for chunk in chunks if chunk]
