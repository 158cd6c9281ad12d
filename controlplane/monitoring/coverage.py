"""Which records of a spool, or bytes of an output, are stored: half-open ranges, ascending, disjoint, never touching.

Nearly always this is one range from 0. It is a set of ranges, and not one position, because what a node sends again
after a doubtful answer may come behind what it sent next: a position alone would take the late part for a repeat.
"""

from __future__ import annotations

from typing import Final

Ranges = tuple[tuple[int, int], ...]

RANGES_MAX: Final = 1000
"""Of one spool or output. More holes than that are nobody's network: the oldest one is given up."""


def add(ranges: Ranges, first: int, after: int) -> tuple[Ranges, Ranges]:
    """Take in `[first, after)`: the ranges from then on, and which parts of it are new."""
    if after <= first:
        return ranges, ()
    if ranges and ranges[-1][1] == first:  # the common case: it follows on
        return (*ranges[:-1], (ranges[-1][0], after)), ((first, after),)
    fresh: list[tuple[int, int]] = []
    merged: list[tuple[int, int]] = []
    position, low, high = first, first, after
    for start, end in ranges:
        if end < low or start > high:
            merged.append((start, end))
            continue
        if position < min(start, after):
            fresh.append((position, min(start, after)))
        position = max(position, end)
        low, high = min(low, start), max(high, end)
    if position < after:
        fresh.append((position, after))
    merged.append((low, high))
    merged.sort()
    while len(merged) > RANGES_MAX:
        merged[:2] = [(merged[0][0], merged[1][1])]
    return tuple(merged), tuple(fresh)


def holds(ranges: Ranges, first: int, after: int) -> bool:
    """Whether all of `[first, after)` is there."""
    return not add(ranges, first, after)[1]


def holes(ranges: Ranges, size: int = -1) -> Ranges:
    """What is missing between 0 and `size`; −1, not known yet: and the end of the last range."""
    found: list[tuple[int, int]] = []
    position = 0
    for start, end in ranges:
        if start > position:
            found.append((position, start))
        position = end
    if position < size:
        found.append((position, size))
    return tuple(found)


def end(ranges: Ranges) -> int:
    """Behind the last stored record or byte."""
    return ranges[-1][1] if ranges else 0
