"""A terminal that shows a job's output, byte for byte, above a footer that changes.

The footer is drawn below the cursor, and the cursor is put back exactly where the job left it. So progress bars that
return to the start of their line, half lines and colours pass unharmed. A job that moves the cursor up itself (several
progress bars) uses the lines that the footer would: from then on there is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from headrace.cli import text
from headrace.cli.printer import Stream, columns

_SAVE, _RESTORE, _DOWN, _ERASE_BELOW = "\x1b7", "\x1b8", "\x1b[1B", "\r\x1b[J"
_MOVES = re.compile(rb"\x1b(\[\d*(;\d*)?[AFHfJdsu]|[78M]|\[\?1049h)")
_HALF_SEQUENCE = re.compile(rb"\x1b(\[[0-?]*[ -/]*)?\Z")
_PAINT = re.compile(r"\x1b\[[0-9;]*m")


class Live:
    """Output to both streams, notes and a footer on the second. Without a terminal there is no footer."""

    def __init__(self, out: Stream, err: Stream) -> None:
        self._streams = {"stdout": out, "stderr": err}
        self._err = err
        self._enabled = err.tty
        self._footer: list[str] = []
        self._drawn_below: int | None = None
        """None: not drawn; else how many lines below the cursor it begins: 1 if the cursor stands in a line."""
        self._in_line = False
        self._held: dict[str, bytes] = {}

    def output(self, stream: str, data: bytes) -> None:
        """The job's bytes, as they are."""
        target = self._streams[stream]
        if target.tty:
            data = self._held.pop(stream, b"") + data
            data, held = _whole_characters(data)
            if held:
                self._held[stream] = held
            if _MOVES.search(data):
                self._erase()
                self._enabled = False
        if not data:
            return
        if target.tty:
            self._erase()
            self._in_line = not data.endswith(b"\n")
        target.bytes(data)
        self._draw()

    def note(self, line: str) -> None:
        """A line of our own on stderr, which stays."""
        self._erase()
        self._end_line()
        self._err.line(line)
        self._draw()

    def show(self, footer: Sequence[str]) -> None:
        """Another footer; no lines: none."""
        if list(footer) == self._footer and self._drawn_below is not None:
            return
        self._erase()
        self._footer = list(footer)
        self._draw()

    def close(self) -> None:
        """The last bytes, no footer, and a cursor at the start of a line."""
        self._erase()
        self._footer = []
        for stream, held in self._held.items():
            self._streams[stream].bytes(held)
        self._held = {}
        self._end_line()

    def _end_line(self) -> None:
        if self._in_line and self._err.tty:
            self._err.line()
        self._in_line = False

    def _draw(self) -> None:
        if not self._footer or not self._enabled:
            return
        below = int(self._in_line)
        wide = columns() - 1
        lines = [_cut(line, wide) for line in self._footer]
        room = len(lines) - 1 + below
        make_room = "\x1bD" * room + (f"\x1b[{room}A" if room else "")  # scrolls at the bottom, keeps the column
        body = "\r\n".join(f"\x1b[0m{line}\x1b[K" for line in lines)
        self._err.write(make_room + _SAVE + (_DOWN if below else "") + "\r" + body + _RESTORE)
        self._drawn_below = below

    def _erase(self) -> None:
        if self._drawn_below is None:
            return
        self._err.write(_SAVE + (_DOWN if self._drawn_below else "") + _ERASE_BELOW + _RESTORE)
        self._drawn_below = None


def _whole_characters(data: bytes) -> tuple[bytes, bytes]:
    """The data without a character or an escape sequence that is only half there, and that half."""
    half = _HALF_SEQUENCE.search(data, max(0, len(data) - 32))
    if half:
        return data[: half.start()], data[half.start() :]
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:  # the first byte of a character of 2, 3 or 4
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return (data[:-back], data[-back:]) if back < needed else (data, b"")
        if byte < 0x80:
            break
    return data, b""


def _cut(line: str, wide: int) -> str:
    """A painted line in at most so many columns: one that is too long loses its paint."""
    plain = _PAINT.sub("", line)
    return line if text.width(plain) <= wide else text.cut(plain, wide)
