"""The one place that writes to the terminal: stdout is data, stderr the rest.

`error:`, `warning:` and `hint:` are complete without colour. Colour and characters beyond ASCII are used only where
the stream can show them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from headrace import errors
from headrace.cli import text

STYLES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
}

_ASCII = str.maketrans(
    "▁▂▃▄▅▆▇█▶○✕✓◼–−≈×…·┤└┬─│≥≤⏵→" + "".join(chr(0x2800 + n) for n in range(256)),
    "_.-~=+*#>oxv#--~x~.|+---><>>" + "".join(" .:*#"[(n.bit_count() + 1) // 2] for n in range(256)),
)  # one character for one, so that columns stay columns


class Stream:
    """One of the two, and what it can show."""

    def __init__(self, file: TextIO, *, colour: bool | None) -> None:
        self.file = file
        self.tty = file.isatty()
        self.colour = self.tty if colour is None else colour
        self.unicode = _shows_unicode(file, self.tty)

    def line(self, line: str = "") -> None:
        """Writes a line, in whatever alphabet the stream has."""
        self.write(line + "\n")

    def write(self, words: str) -> None:
        """Writes words without an end of line."""
        self.file.write(words if self.unicode else to_ascii(words))
        self.file.flush()

    def bytes(self, data: bytes) -> None:
        """Writes a job's bytes, as they are."""
        self.file.flush()
        buffer = getattr(self.file, "buffer", None)
        if buffer is None:  # a stand-in for the stream, which takes text only
            self.file.write(data.decode("utf-8", "replace"))
            return
        buffer.write(data)
        buffer.flush()

    def paint(self, words: str, *styles: str) -> str:
        """The words in colour, if the stream has colours."""
        if not self.colour or not styles or not words:
            return words
        return f"\x1b[{';'.join(STYLES[style] for style in styles)}m{words}\x1b[0m"


class Printer:
    """Both streams. `json`: what goes to stdout is one JSON object a line."""

    def __init__(self, *, json_lines: bool = False, colour: bool | None = None) -> None:
        self.json = json_lines
        self.out = Stream(sys.stdout, colour=colour)
        self.err = Stream(sys.stderr, colour=colour)

    def data(self, line: str) -> None:
        """A line of data for a person."""
        self.out.line(line)

    def object(self, value: Mapping[str, Any]) -> None:
        """A line of data for a program; moments as RFC 3339."""
        self.out.file.write(json.dumps(text.timed(value), ensure_ascii=not self.out.unicode, allow_nan=False) + "\n")
        self.out.file.flush()

    def note(self, line: str = "") -> None:
        """A line for a person that is no data."""
        self.err.line(line)

    def warning(self, message: str, hint: str = "") -> None:
        """Something that the person can act on."""
        self._say("warning", "yellow", message, hint)

    def error(self, error: errors.HeadraceError) -> None:
        """What went wrong, field by field where the server said so, and what to do."""
        problems: Sequence[errors.Problem] = getattr(error, "problems", ())
        if not problems or (len(problems) == 1 and problems[0].path in {"", "$"}):
            hint = error.hint or (problems[0].hint if problems else "")
            told = f": {problems[0].message}" if problems and problems[0].message not in error.message else ""
            self._say("error", "red", error.message + told, hint)
            return
        first = problems[0]  # which a server may have said in its message too
        message = error.message.removesuffix(f": {first.path}: {first.message}").removesuffix(f": {first.message}")
        self._say("error", "red", message, "" if any(error.hint == each.hint for each in problems) else error.hint)
        for problem in problems:
            where = problem.path.removeprefix("$.").removeprefix("$") or "request"
            self.note(f"  {self.err.paint(text.clean(where), 'bold')}: {text.clean(problem.message)}")
            if problem.hint:
                self.note(f"  {self.err.paint('hint:', 'cyan', 'bold')} {text.clean(problem.hint)}")

    def _say(self, word: str, style: str, message: str, hint: str) -> None:
        first, *more = message.splitlines() or [""]
        self.note(f"{self.err.paint(word + ':', style, 'bold')} {text.clean(first)}")
        for line in more:
            self.note(f"  {text.clean(line)}")
        if hint:
            self.note(f"{self.err.paint('hint:', 'cyan', 'bold')} {text.clean(hint)}")


def to_ascii(line: str) -> str:
    """The line with our own signs in ASCII, of the same width; other people's letters stay."""
    return line.translate(_ASCII)


def columns() -> int:
    """How wide the terminal is; 80 where there is none."""
    import shutil

    return max(40, shutil.get_terminal_size((80, 24)).columns)


def no_colour(environ: Mapping[str, str] = os.environ) -> bool | None:
    """False where the environment forbids colour (NO_COLOR, a dumb terminal), None where it has no opinion."""
    return False if environ.get("NO_COLOR") or environ.get("TERM") == "dumb" else None


def _shows_unicode(file: TextIO, tty: bool) -> bool:
    """By the stream's encoding; in a terminal also by its locale, because Python takes `C` for UTF-8."""
    if not (file.encoding or "ascii").lower().replace("-", "").startswith("utf"):
        return False
    named = os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE") or os.environ.get("LANG") or ""
    return not (tty and sys.platform != "win32" and named in {"C", "POSIX"})
