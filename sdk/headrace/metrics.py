"""`log`: numbers from a training script into a spool, a memory-mapped file that the node ships to monitoring.

A call packs one record of fixed size into the file and returns: about a microsecond, no thread, no socket, no garbage.
The kernel has the record from then on, so it survives a `kill -9` of this process. Outside of Headrace the same files
are written below `./.headrace/`. The format is described in docs/concepts/spool.md and read by `runtime/spool.py`.

There is a series of files (segments) for each process and each set of names. A record's place is handed out by
`itertools.count`, which is atomic, so that threads need no lock; its last field, the marker, says that it is complete.
A full disk or a folder that cannot be written never harms the job: records are dropped, counted, and said once.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from _thread import RLock
from itertools import count

TYPE_CHECKING = False  # `typing`, `threading` and `collections` would take longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final, TypeAlias

    _Segment: TypeAlias = tuple[Any, mmap.mmap, count[int], int, int, int, int, int]

MAGIC: Final = b"HRSPOOL1"
HEADER: Final = struct.Struct("<8sIIQIIIIqq")
"""Magic, header bytes, record bytes, slots, names, bytes of names, rank, segment, process id, created at (ns)."""
NAME_LENGTH: Final = struct.Struct("<H")
HEADER_ALIGN: Final = 64
SUFFIX: Final = ".spool"
VOID: Final = 1 << 63
"""Set in the marker of a record that holds nothing, because its values were refused."""

NAMES_MAX: Final = 64
"""Values in one call."""
NAME_BYTES_MAX: Final = 256
SERIES_MAX: Final = 256
"""Sets of names in one process: who makes a new name in each step fills the disk with nearly empty files."""
SEGMENT_BYTES: Final = (256 * 1024, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
"""The first segment of a series, the second, …; the last size holds for all that follow."""
SPOOL_BYTES_MAX: Final = 8 << 30
"""All segments of one process."""
RETRY_S: Final = 5.0
"""After a file could not be made, before it is tried again."""


# A segment is one file. A plain tuple, because unpacking one is the fastest way to many local variables:
#   pack     puts a record into the buffer
#   buffer   the mapped file
#   places   hands out the offset of each record, which is its marker as well
#   last     offset of the last record that fits
#   start    offset of the first record
#   size     bytes of a record
#   first    how many records the segments before this one hold
#   number   of the segment in its series, from 0


def log(values: Mapping[str, Any] | None = None, /, step: Any = None, **named: Any) -> None:
    """Record some numbers at a step: `log(step=3, loss=0.25)`, or `log({"eval/loss": 0.25}, step=3)`.

    Numbers are what `float()` takes, text excepted: Python's and numpy's, and tensors of one element; `nan` and `inf`
    are kept. Without a step it counts the calls with these names in this process, from 0. Raises TypeError or
    ValueError for what is no number or no name; never raises because a disk is full.
    """
    if values is not None:
        named = values if type(values) is dict and not named else _merged(values, named)
    names = tuple(named)
    while True:
        try:
            pack, buffer, places, last, start, size, first, _ = _segments[names]
        except KeyError:
            if not _open(names, None):
                return
            continue
        place = next(places)
        if place <= last:
            break
        if not _open(names, buffer):
            return
    if step is None:
        step = first + (place - start) // size
    try:
        pack(buffer, place, step, _now_ns(), *named.values(), place)
    except BaseException as error:  # a foreign `__float__` raises what it likes, and the record must not stay open
        _give_up(buffer, place, size)
        if not isinstance(error, Exception):
            raise
        raise _explained(step, named, error) from error


def dropped() -> int:
    """How many calls of this process were not recorded, because no file could be made for them."""
    return _state.dropped


# -- what is wrong with a call -----------------------------------------------------------------------------------------


def _merged(values: Any, named: dict[str, Any]) -> dict[str, Any]:
    try:
        return {**values, **named}
    except TypeError:
        raise TypeError(
            f"headrace.log takes a dictionary of numbers, not {type(values).__name__}: "
            "write log(step=3, loss=0.25) or log({'loss': 0.25}, step=3)"
        ) from None


def _check(names: tuple[Any, ...]) -> None:
    if not 0 < len(names) <= NAMES_MAX:
        raise ValueError(f"headrace.log takes 1 to {NAMES_MAX} values in a call, not {len(names)}")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"headrace.log: the name of a metric is text, not {name!r}")
        try:
            length = len(name.encode())
        except UnicodeEncodeError:
            raise ValueError(f"headrace.log: the name {name!r} is not valid Unicode") from None
        if not 0 < length <= NAME_BYTES_MAX or not name.isprintable():
            raise ValueError(
                f"headrace.log: the name {name[:80]!r} must be 1 to {NAME_BYTES_MAX} bytes of printable text"
            )


def _explained(step: Any, named: Mapping[str, Any], error: Exception) -> Exception:
    """What to raise instead of what `struct` says."""
    try:
        struct.pack("q", step)
    except Exception as wrong:  # noqa: BLE001 - as in `log`
        kind = ValueError if isinstance(step, int) else TypeError
        return kind(f"headrace.log: step must be a whole number of 64 bits, not {_shown(step)} ({wrong})")
    for name, value in named.items():
        try:
            struct.pack("d", value)
        except Exception as wrong:  # noqa: BLE001 - as in `log`
            return TypeError(f"headrace.log: {name!r} must be one number, not {_shown(value)} ({wrong})")
    return error


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, bytes, int, float, type(None))) else "a value"
    return f"{text[:40]} of type {type(value).__name__}"


def _give_up(buffer: mmap.mmap, place: int, size: int) -> None:
    """Close a record that holds nothing: the reader would wait for it."""
    struct.pack_into("<Q", buffer, place + size - 8, place | VOID)


# -- files -------------------------------------------------------------------------------------------------------------


class _State:
    """What one process knows of its spool."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.process = f"{os.getpid()}-{time.time_ns():x}"
        self.series: dict[tuple[str, ...], int] = {}
        self.bytes = 0
        self.dropped = 0
        self.warned = False
        self.retry_at = 0.0
        self.outside = ""


_segments: dict[tuple[str, ...], _Segment] = {}
_state = _State()
_now_ns = time.time_ns


def _after_fork() -> None:
    """A child process writes files of its own. Letting go of the parent's unmaps them here and nowhere else."""
    global _state
    _segments.clear()
    _state = _State()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def _open(names: tuple[str, ...], full: mmap.mmap | None) -> bool:
    """Make the next segment of these names, unless another thread just did. False: dropped."""
    with _state.lock:
        old = _segments.get(names)
        if old is not None and old[1] is not full:
            return True
        if old is None:
            _check(names)
        if time.monotonic() < _state.retry_at:
            _state.dropped += 1
            return False
        try:
            _segments[names] = _next_segment(names, old)
        except OSError as error:
            _drop(error)
            return False
        return True


def _drop(error: OSError) -> None:
    _state.dropped += 1
    _state.retry_at = time.monotonic() + RETRY_S
    if not _state.warned:
        _state.warned = True
        print(f"warning: headrace.log drops metrics: {error}", file=sys.stderr)


def _next_segment(names: tuple[str, ...], old: _Segment | None) -> _Segment:
    number, first = 0, 0
    if old is not None:
        _, _, _, last, start, size, first, number = old
        number, first = number + 1, first + (last - start) // size + 1
    if names not in _state.series and len(_state.series) >= SERIES_MAX:
        raise OSError(f"more than {SERIES_MAX} different sets of names in one process")
    series = _state.series.setdefault(names, len(_state.series))
    header = _header(names, number, SEGMENT_BYTES[min(number, len(SEGMENT_BYTES) - 1)])
    fields = HEADER.unpack_from(header)
    start, size, slots = fields[1], fields[2], fields[3]
    length = start + size * slots
    if _state.bytes + length > SPOOL_BYTES_MAX:
        raise OSError(f"more than {SPOOL_BYTES_MAX} bytes in one process")
    buffer = _make(f"{_state.process}-{series}-{number}{SUFFIX}", header, length)
    _state.bytes += length
    last = start + size * (slots - 1)
    pack = struct.Struct(f"<qq{len(names)}dQ").pack_into
    return pack, buffer, count(start, size), last, start, size, first, number


def _header(names: tuple[str, ...], number: int, length: int) -> bytes:
    """Everything before the first record: what a reader needs to know, then the names."""
    encoded = [name.encode() for name in names]
    block = b"".join(NAME_LENGTH.pack(len(name)) + name for name in encoded)
    start = -(-(HEADER.size + len(block)) // HEADER_ALIGN) * HEADER_ALIGN
    size = 8 * (len(names) + 3)
    slots = (length - start) // size
    fixed = HEADER.pack(MAGIC, start, size, slots, len(names), len(block), _rank(), number, os.getpid(), time.time_ns())
    return (fixed + block).ljust(start, b"\0")


def _rank() -> int:
    """Which of the cooperating processes this is: what torchrun and its like say, else what the node says."""
    for variable in ("RANK", "HEADRACE_RANK"):
        text = os.environ.get(variable, "")
        if text.isdecimal() and int(text) < 65536:
            return int(text)
    return 0


def _make(name: str, header: bytes, length: int) -> mmap.mmap:
    """A file with its whole space set aside, that appears under its name complete with its header."""
    folder = os.environ.get("HEADRACE_SPOOL") or _outside()
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    file = os.open(temporary, flags | getattr(os, "O_BINARY", 0), 0o600)
    try:
        _set_aside(file, length)
        os.write(file, header)
        buffer = mmap.mmap(file, length)
    except OSError:
        os.unlink(temporary)
        raise
    finally:
        os.close(file)
    os.rename(temporary, os.path.join(folder, name))
    return buffer


def _set_aside(file: int, length: int) -> None:
    """Take the space now: a page that the disk has no room for would end the process by SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, length)
        return
    block = bytes(1 << 16)  # macOS, Windows
    for at in range(0, length, len(block)):
        os.write(file, block[: length - at])
    os.lseek(file, 0, os.SEEK_SET)


def _outside() -> str:
    """Where spools go when this is no job: a folder for this run, below the working folder."""
    if not _state.outside:
        run = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"
        _state.outside = os.path.join(os.getcwd(), ".headrace", run)
    return _state.outside
