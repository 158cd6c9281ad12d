"""The output of an attempt, as messages for LOGS."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Final

from events import subjects
from events.bus import Outgoing
from events.messages import AttemptRef
from runtime.shipping.line import Parcel
from runtime.shipping.positions import Shipped, StreamPosition

LOG: Final = logging.getLogger("headrace.shipping")

STREAMS: Final = ("stdout", "stderr")
CHUNK_BYTES: Final = 256 * 1024


class Output:
    """One output file, from the byte on that has not arrived yet."""

    def __init__(self, node: str, ref: AttemptRef, name: str, folder: Path, shipped: Shipped) -> None:
        self.position = shipped.streams.setdefault(name, StreamPosition())
        self._subject = subjects.logs(node, ref.team, ref.job, ref.attempt, name)
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


def _read(path: Path, offset: int, chunks_max: int) -> list[bytes]:
    """Up to so many chunks of a regular file; of anything else, or of what is not there yet, none."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            return []
        last = min(status.st_size, offset + chunks_max * CHUNK_BYTES)
        chunks = [os.pread(file, min(CHUNK_BYTES, last - at), at) for at in range(offset, last, CHUNK_BYTES)]
    except OSError as error:
        LOG.warning("cannot read %s: %s", path, error)
        return []
    finally:
        os.close(file)
    return [chunk for chunk in chunks if chunk]
