"""Numbers as pictures made of characters: sparklines and braille plots. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

BLOCKS = "▁▂▃▄▅▆▇█"
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Braille: the bit of each dot, by row (of 4) and column (of 2)."""
LABELS = 6
"""Places for heights on the axis."""


class Column(NamedTuple):
    """What a series did within one bucket of steps."""

    step: int
    low: float
    high: float
    last: float


def sparkline(values: Sequence[float | None], columns: int = 10) -> str:
    """The run of a series as one line of blocks, left to right; what is no number is a blank."""
    picked = _thin(values, columns)
    known = [value for value in picked if _finite(value)]
    if not known:
        return ""
    low, high = min(known), max(known)
    span = high - low
    return "".join(
        BLOCKS[min(7, int(8 * (value - low) / span)) if span else 3] if _finite(value) else " " for value in picked
    )


def plot(points: Sequence[Column], *, columns: int, rows: int) -> list[str]:
    """Lines of a plot with both axes, at most `columns` wide. No peak is lost: a bucket is drawn from low to high."""
    known = [p for p in points if _finite(p.low) and _finite(p.high) and _finite(p.last)]
    if not known:
        return []
    low, high = min(p.low for p in known), max(p.high for p in known)
    if low == high:
        low, high = low - 0.5, high + 0.5
    labels = [_label(high - row * (high - low) / (rows - 1), high - low) for row in range(rows)]
    gutter = max(len(label) for label in labels)
    inner = max(8, columns - gutter - 3)
    cells = _raster(known, low, high, inner, rows)
    lines = [f"{label:>{gutter}} ┤{line}".rstrip("⠀ ") for label, line in zip(labels, cells, strict=True)]
    return [*lines, *_steps(known[0].step, known[-1].step, inner, gutter)]


def _raster(points: Sequence[Column], low: float, high: float, columns: int, rows: int) -> list[str]:
    """The points in braille: each column of dots filled from its lowest to its highest, joined to the one before."""
    wide, tall = 2 * columns, 4 * rows
    first, last = points[0].step, points[-1].step
    bits = [[0] * columns for _ in range(rows)]
    before: int | None = None

    def height(value: float) -> int:
        return round((tall - 1) * (high - value) / (high - low))

    for point in points:
        x = round((wide - 1) * (point.step - first) / (last - first)) if last > first else 0
        top, bottom = height(point.high), height(point.low)
        if before is not None:  # so that a steep fall is a line, and not two dots
            top, bottom = min(top, max(before, top)), max(bottom, min(before, bottom))
        for y in range(top, bottom + 1):
            bits[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
        before = height(point.last)
    return ["".join(chr(0x2800 + cell) for cell in line) for line in bits]


def _steps(first: int, last: int, columns: int, gutter: int) -> list[str]:
    """The axis of steps: a tick at each end and, where there is room, in between."""
    ticks = max(2, min(4, columns // 18 + 1)) if last > first else 1
    places = [round(i * (columns - 1) / (ticks - 1)) if ticks > 1 else 0 for i in range(ticks)]
    line = [("┬" if i in places else "─") for i in range(places[-1] + 1)]
    under = [" "] * (columns + 8)
    for i, place in enumerate(places):
        label = _steps_label(first + round(i * (last - first) / max(1, ticks - 1)))
        start = max(0, min(place - len(label) // 2, columns - len(label)))
        under[start : start + len(label)] = label
    return [" " * (gutter + 1) + "└" + "".join(line), " " * (gutter + 2) + "".join(under).rstrip()]


def _steps_label(step: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if abs(step) >= 10 * size or (abs(step) >= size and step % size == 0):
            return f"{step / size:.0f}{unit}"
    return str(step)


def _label(value: float, span: float) -> str:
    """A height on the axis, with the digits that tell it from its neighbours."""
    if not 1e-3 <= max(abs(value), span) < 1e5:
        return f"{value:.1e}"
    digits = max(0, min(4, 2 - math.floor(math.log10(span)) if span < 100 else 0))
    return f"{value:.{digits}f}"


def _thin(values: Sequence[float | None], columns: int) -> list[float | None]:
    """At most so many of the values, evenly, with the last one always among them."""
    if len(values) <= columns:
        return list(values)
    return [values[round((i + 1) * len(values) / columns) - 1] for i in range(columns)]


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
