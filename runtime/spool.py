"""Reads spools: the files into which `headrace.log` writes numbers. Format: docs/concepts/spool.md.

What a job can write is read as hostile: regular files only, no links followed, `pread` and never a mapping (a job that
truncates its spool would kill us by SIGBUS), every number of a header checked against a limit and against the file.

A record is taken in two looks. The first finds its marker; the second, at least `SETTLE_S` later, reads the record.
On ARM the marker may become visible before the rest of the record does, and nothing in Python is a memory barrier.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAGIC: Final = b"HRSPOOL1"
HEADER: Final = struct.Struct("<8sIIQIIIIqq")
NAME_LENGTH: Final = struct.Struct("<H")
VOID: Final = 1 << 63
SUFFIX: Final = ".spool"

NAMES_MAX: Final = 64
NAME_BYTES_MAX: Final = 256
HEADER_BYTES_MAX: Final = 32 * 1024
"""More than `NAMES_MAX` names of `NAME_BYTES_MAX`."""
SLOTS_MAX: Final = 1 << 22
"""In one file: more than the writer's largest segment holds of its smallest records."""
FILES_MAX: Final = 2048
"""In one folder: what comes after is not read, and said once."""
FILE_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,99}\.spool")
CHECKPOINTED: Final = "checkpointed"
"""Beside the spools: its time of change is when the job last said that it had saved its work."""
RANK_MAX: Final = 65_535

SETTLE_S: Final = 0.005
"""Between the two looks. A store that left a core is visible everywhere after far less than a microsecond's stall."""
HOLE_S: Final = 10.0
"""A record that stays open while later ones are complete was given up by its writer (a signal came in between)."""
HOLE_REACH: Final = 1024
"""Places behind an open one that are looked at: only other threads of the process can have got ahead."""
READ_BYTES: Final = 1 << 20

Records = NDArray[np.void]


class BadSpool(Exception):
    """This file is no spool, or a damaged one; the message says what is wrong with it."""


class Layout(NamedTuple):
    """What a header says."""

    names: tuple[str, ...]
    rank: int
    start: int
    size: int
    slots: int

    @property
    def dtype(self) -> np.dtype[np.void]:
        """One record as numpy sees it."""
        return np.dtype([("step", "<i8"), ("time", "<u8"), ("values", "<f8", (len(self.names),)), ("marker", "<u8")])


class Spool:
    """One file, read from a position on. The position counts places, from 0, those of empty records too."""

    def __init__(self, path: Path, *, position: int = 0) -> None:
        """Raises BadSpool, OSError."""
        self.path = path
        file = _open(path)
        try:
            self.layout = _layout(file)
        finally:
            os.close(file)
        self._dtype = self.layout.dtype
        self.position = min(position, self.layout.slots)
        self._seen = self.position
        self._seen_at = 0.0
        self._hole_at = 0.0

    def look(self, now: float) -> int:
        """First look: find out which records are complete. Gives how many can be taken `SETTLE_S` from now.

        Raises BadSpool if the file was cut, OSError.
        """
        if self._seen == self.layout.slots:
            return self._seen - self.position
        file = _open(self.path)
        try:
            self._seen = self._complete(file, self._seen)
        finally:
            os.close(file)
        self._seen_at = now
        return self._seen - self.position

    def take(self, places_max: int, now: float) -> Records | None:
        """Second look: read what the first one found complete, and move on. None: nothing is there, or too early.

        Places that hold nothing are left out. Raises BadSpool if the file was cut, OSError.
        """
        after = min(self._seen, self.position + places_max)
        if after == self.position or now - self._seen_at < SETTLE_S:
            return None
        records = self._read(self.position, after)
        held = records["marker"] == _markers(self.layout, self.position, after)
        self.position = after
        return records if held.all() else records[held]

    def rewind(self, position: int) -> None:
        """Read again from an earlier position on."""
        self.position = position

    def skip_hole(self, now: float, *, over: bool) -> bool:
        """Take a record that was never completed, although later ones are, for an empty one; gives whether one was.

        At once when the writer is gone (`over`), else when it has stood open for `HOLE_S`. Its `log` has not returned,
        so nothing that was acknowledged is given up. Raises BadSpool, OSError.
        """
        next_complete = self._next_complete()
        if next_complete is None:
            self._hole_at = 0.0
            return False
        self._hole_at = self._hole_at or now
        if not over and now - self._hole_at < HOLE_S:
            return False
        self._hole_at = 0.0
        self._seen = next_complete
        return True

    # -- reading -------------------------------------------------------------------------------------------------------

    def _complete(self, file: int, first: int) -> int:
        """The end of the run of complete records that begins at `first`."""
        width = max(1, READ_BYTES // self.layout.size)
        step = 1 if first + 1 < self.layout.slots else width  # mostly there is nothing new: ask for one record first
        while first < self.layout.slots:
            after = min(first + step, self.layout.slots)
            markers = self._read(first, after, file)["marker"]
            complete = (markers & ~np.uint64(VOID)) == _markers(self.layout, first, after)
            if not complete.all():
                return first + int(complete.argmin())
            first, step = after, min(width, step * 8)
        return first

    def _next_complete(self) -> int | None:
        """The first complete record behind an open one, if there is any."""
        first = self._seen + 1
        after = min(first + HOLE_REACH, self.layout.slots)
        if first >= after:
            return None
        markers = self._read(first, after)["marker"] & ~np.uint64(VOID)
        complete = markers == _markers(self.layout, first, after)
        return first + int(complete.argmax()) if complete.any() else None

    def _read(self, first: int, after: int, file: int | None = None) -> Records:
        opened = _open(self.path) if file is None else file
        try:
            length = (after - first) * self.layout.size
            content = os.pread(opened, length, self.layout.start + first * self.layout.size)
        finally:
            if file is None:
                os.close(opened)
        if len(content) < length:
            raise BadSpool(f"{self.path.name} became shorter than its header says")
        return np.frombuffer(content, self._dtype)


def files(folder: Path) -> list[str]:
    """Names of the spools in a folder, in order, at most `FILES_MAX`; an absent folder holds none."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if FILE_NAME.fullmatch(entry.name)]
    except OSError:  # absent, or replaced by something else
        return []
    return sorted(names)[:FILES_MAX]


def checkpoint_at(folder: Path) -> float | None:
    """When the job last said that it had saved its work; None: never. By the job's own word, so it may be any time."""
    try:
        found = os.lstat(folder / CHECKPOINTED)
    except OSError:
        return None
    return found.st_mtime if stat.S_ISREG(found.st_mode) else None


def _markers(layout: Layout, first: int, after: int) -> NDArray[np.uint64]:
    """The markers that complete records have: their own offsets in the file."""
    begin = layout.start + first * layout.size
    return np.arange(begin, layout.start + after * layout.size, layout.size, dtype=np.uint64)


def _open(path: Path) -> int:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise BadSpool(f"{path.name} is not a regular file")
    return file


def _layout(file: int) -> Layout:
    content = os.pread(file, HEADER_BYTES_MAX, 0)
    if len(content) < HEADER.size:
        raise BadSpool("shorter than a header")
    magic, start, size, slots, count, names_bytes, rank, _, _, _ = HEADER.unpack_from(content)
    if magic != MAGIC:
        raise BadSpool("not a spool of a version that is known here")
    if not 0 < count <= NAMES_MAX or size != 8 * (count + 3):
        raise BadSpool(f"{count} names and records of {size} bytes do not fit together")
    if not HEADER.size + names_bytes <= start <= len(content):
        raise BadSpool(f"a header of {start} bytes with {names_bytes} bytes of names")
    if not 0 < slots <= SLOTS_MAX or os.fstat(file).st_size < start + size * slots:
        raise BadSpool(f"{slots} records are more than the file holds")
    names = _names(content[HEADER.size : HEADER.size + names_bytes], count)
    return Layout(names, min(rank, RANK_MAX), start, size, slots)


def _names(block: bytes, count: int) -> tuple[str, ...]:
    names: list[str] = []
    at = 0
    for _ in range(count):
        if at + NAME_LENGTH.size > len(block):
            raise BadSpool("fewer names than promised")
        (length,) = NAME_LENGTH.unpack_from(block, at)
        at += NAME_LENGTH.size
        raw = block[at : at + length]
        at += length
        if not 0 < length <= NAME_BYTES_MAX or len(raw) != length:
            raise BadSpool(f"a name of {length} bytes")
        try:
            names.append(raw.decode())
        except UnicodeDecodeError:
            raise BadSpool("a name that is not UTF-8") from None
    if len(set(names)) != len(names):
        raise BadSpool("a name that comes twice")
    return tuple(names)
