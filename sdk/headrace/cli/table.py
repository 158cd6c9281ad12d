"""Tables that fit the terminal: left and right columns, the flexible ones cut where there is no room. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.cli import text

GAP = "  "
Paint = Callable[[str, str], str]


@dataclass(frozen=True)
class Column:
    """A heading and how its cells stand. `least`: may be cut down to so many columns (0: never cut)."""

    heading: str
    right: bool = False
    least: int = 0


@dataclass(frozen=True)
class Cell:
    """A text and the style it is painted in (empty: none)."""

    text: str
    style: str = ""


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], *, width: int, paint: Paint) -> list[str]:
    """The lines of a table, its headings first. Cells are cleaned: they are other people's words."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = [
        max([text.width(column.heading), *(text.width(row[i].text) for row in cells)])
        for i, column in enumerate(columns)
    ]
    _shrink(columns, widths, width - len(GAP) * (len(columns) - 1))
    lines = [_line(columns, widths, [Cell(column.heading, "dim") for column in columns], paint)]
    return lines + [_line(columns, widths, row, paint) for row in cells]


def fits(columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], *, width: int) -> bool:
    """Whether nothing of the table would be cut or reach over the edge."""
    whole = table(columns, rows, width=1 << 16, paint=lambda painted, style: painted)
    return all(text.width(line) <= width for line in whole)


def _cell(cell: Cell | str) -> Cell:
    given = Cell(cell) if isinstance(cell, str) else cell
    return Cell(text.clean(given.text), given.style)


def _shrink(columns: Sequence[Column], widths: list[int], room: int) -> None:
    """Takes from the widest flexible column, again and again, until all fit or none can give more."""
    while sum(widths) > room:
        givers = [i for i, column in enumerate(columns) if column.least and widths[i] > column.least]
        if not givers:
            return
        widths[max(givers, key=lambda i: widths[i] - columns[i].least)] -= 1


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[Cell], paint: Paint) -> str:
    parts = []
    for column, columns_wide, cell in zip(columns, widths, row, strict=True):
        cut = text.cut(cell.text, columns_wide)
        padded = text.fill(cut, columns_wide, right=column.right)
        start = padded.index(cut) if cut else 0
        painted = padded[:start] + (paint(cut, cell.style) if cell.style else cut) + padded[start + len(cut) :]
        parts.append(painted)
    return GAP.join(parts).rstrip()
