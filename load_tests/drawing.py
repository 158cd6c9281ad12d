"""Plots of load tests as SVG, by hand: a few lines on two axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

WIDTH: Final = 640
HEIGHT: Final = 360
LEFT: Final = 64
RIGHT: Final = 150
TOP: Final = 40
BOTTOM: Final = 48
COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#7f7f7f")
TICKS: Final = 5


class Line(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]


def chart(lines: Sequence[Line], *, title: str, x: str, y: str, logarithmic: bool = False, floor: float = 0.0) -> str:
    """An SVG of some lines. `logarithmic`: the x axis, in powers of ten. `floor`: where the y axis begins."""
    scale = (lambda value: math.log10(max(value, 1e-9))) if logarithmic else (lambda value: value)
    xs = [scale(point[0]) for line in lines for point in line.points]
    highest = max(point[1] for line in lines for point in line.points)
    step = _step(highest - floor)
    top = floor + step * max(1, math.ceil((highest - floor) / step - 1e-9))
    left, right = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def at(point: tuple[float, float]) -> tuple[float, float]:
        across = (scale(point[0]) - left) / (right - left)
        up = (point[1] - floor) / (top - floor)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-size="12"'
        ' font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14">{escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x)}</text>',
        f'<text x="14" y="{(TOP + HEIGHT - BOTTOM) / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(TOP + HEIGHT - BOTTOM) / 2:.0f})">{escape(y)}</text>',
    ]
    for index in range(round((top - floor) / step) + 1):
        value = floor + index * step
        _, height = at((10**left if logarithmic else left, value))
        out.append(f'<path d="M{LEFT} {height:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in _marks(left, right, logarithmic=logarithmic):
        across, _ = at((value, floor))
        out.append(f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_short(value)}</text>')
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in map(at, line.points))
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        height = TOP + 10 + 20 * index
        out.append(f'<path d="M{WIDTH - RIGHT + 12} {height}h18" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 36}" y="{height + 4}">{escape(line.name)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _step(span: float) -> float:
    """A round number that divides the span into about as many parts as there are ticks."""
    rough = max(span, 1e-9) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough - 1e-12)


def _marks(left: float, right: float, *, logarithmic: bool) -> list[float]:
    if logarithmic:
        return [10.0**power for power in range(math.ceil(left - 1e-9), math.floor(right + 1e-9) + 1)]
    return [left + (right - left) * index / TICKS for index in range(TICKS + 1)]


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
