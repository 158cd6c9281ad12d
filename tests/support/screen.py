"""A terminal of memory: what a screen shows after some bytes. Knows what our footer and usual jobs send, no more."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|\x1b([78DM])|([\r\n\b])|(\x1b.?)|([^\x1b\r\n\b]+)")


class Screen:
    """`lines()` is everything that was ever shown, scrolled out or not. A newline returns the carriage (ONLCR)."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self._columns, self._rows = columns, rows
        self._cells: list[list[str]] = [[]]
        self._top = 0
        self._row, self._column = 0, 0
        self._saved = (0, 0)

    def feed(self, data: bytes) -> Screen:
        for match in _TOKEN.finditer(data.decode()):
            arguments, final, escape, control, broken, characters = match.groups()
            assert not broken, f"an escape sequence that nobody knows: {match[0]!r}"
            if characters:
                for character in characters:
                    self._put(character)
            elif control:
                self._control(control)
            elif escape:
                self._escape(escape)
            else:
                self._sequence(arguments, final)
        return self

    def lines(self) -> list[str]:
        shown = ["".join(line).rstrip() for line in self._cells]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    @property
    def cursor(self) -> tuple[int, int]:
        return self._top + self._row, self._column

    def _line(self) -> list[str]:
        while len(self._cells) <= self._top + self._row:
            self._cells.append([])
        return self._cells[self._top + self._row]

    def _put(self, character: str) -> None:
        if self._column >= self._columns:
            self._control("\n")
        line = self._line()
        line.extend(" " * (self._column + 1 - len(line)))
        line[self._column] = character
        self._column += 1

    def _down(self) -> None:
        if self._row == self._rows - 1:
            self._top += 1
        else:
            self._row += 1
        self._line()

    def _control(self, control: str) -> None:
        if control == "\b":
            self._column = max(0, self._column - 1)
            return
        self._column = 0
        if control == "\n":
            self._down()

    def _escape(self, escape: str) -> None:
        if escape == "7":
            self._saved = (self._row, self._column)
        elif escape == "8":
            self._row, self._column = self._saved
        elif escape == "D":
            self._down()
        else:
            self._row = max(0, self._row - 1)

    def _sequence(self, arguments: str, final: str) -> None:
        amount = int(arguments) if arguments.isdigit() else 1
        if final == "A":
            self._row = max(0, self._row - amount)
        elif final == "B":
            self._row = min(self._rows - 1, self._row + amount)
        elif final == "J":
            del self._line()[self._column :]
            del self._cells[self._top + self._row + 1 :]
        elif final == "K":
            del self._line()[self._column :]
        else:
            assert final in "mhl", f"a control sequence that nobody knows: {final}"
