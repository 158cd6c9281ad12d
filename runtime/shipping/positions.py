"""How far an attempt's output and spools have arrived, kept in its folder so that a new runner goes on from there.

It may be behind what has really arrived (it is written about once a second), never ahead: what is sent again is told by
its offset or index and counts once. A job can write into this folder: what is read back is checked, and else ignored.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Final

import msgspec

from events.wire import UNREADABLE

NAME: Final = "shipped.json"
BYTES_MAX: Final = 1 << 20

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class StreamPosition(msgspec.Struct):
    """Bytes of one output stream that have arrived; `ended`: so has the message that says that this is all."""

    bytes: _Count = 0
    ended: bool = False


class SpoolPosition(msgspec.Struct):
    """Places of one spool that need not be read again, and how many records they held."""

    places: _Count = 0
    records: _Count = 0
    ended: bool = False


class Shipped(msgspec.Struct):
    """All positions of an attempt. Changed in place by the shipper, which alone owns it."""

    streams: dict[str, StreamPosition] = {}
    spools: dict[str, SpoolPosition] = {}

    @classmethod
    def load(cls, folder: Path) -> Shipped:
        """What was kept last, or nothing."""
        try:
            return _DECODER.decode(_read(folder / NAME))
        except (OSError, ValueError, *UNREADABLE):
            return cls()

    def save(self, folder: Path) -> None:
        """Keep it, whole or not at all. Raises OSError."""
        temporary = folder / f".{NAME}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(msgspec.json.encode(self))
        temporary.rename(folder / NAME)


_DECODER: Final = msgspec.json.Decoder(Shipped)


def _read(path: Path) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError(f"{path} is not a regular file")
        content = os.pread(file, BYTES_MAX + 1, 0)
    finally:
        os.close(file)
    if len(content) > BYTES_MAX:
        raise ValueError(f"{path} is larger than {BYTES_MAX} bytes")
    return content
