"""The indices of an array as people write them: `0-999`, `0-15:4`, `1,3,7-9`; with `%50` behind them, 50 at once.

The form is that of Slurm's `--array`. A reader of an array's specification finds its tasks by this, and a task's id by
`identity.task_id`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Final

TASKS_MAX: Final = 100_000
INDEX_MAX: Final = 9_999_999
RANGES_MAX: Final = 1_000
CHARACTERS_MAX: Final = 20_000

_PART: Final = re.compile(r"(\d{1,7})(?:-(\d{1,7})(?::(\d{1,7}))?)?")


class BadArray(ValueError):
    """Not the indices of an array; says why."""


class Indices:
    """In the order in which they were written, each once. A position counts from 0."""

    def __init__(self, ranges: tuple[range, ...]) -> None:
        self._ranges = ranges
        self._begins: list[int] = []
        """Position of the first index of each range."""
        total = 0
        for one in ranges:
            self._begins.append(total)
            total += len(one)
        self._total = total

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, position: int) -> int:
        """The index at a position. Raises IndexError."""
        if not 0 <= position < self._total:
            raise IndexError(position)
        which = bisect_right(self._begins, position) - 1
        return self._ranges[which][position - self._begins[which]]

    def position(self, index: int) -> int | None:
        """Where an index stands; None: it is none of these."""
        for begin, one in zip(self._begins, self._ranges, strict=True):
            if index in one:
                return begin + one.index(index)
        return None

    def __str__(self) -> str:
        return ",".join(map(_text, self._ranges))


def parse(text: str) -> tuple[Indices, int]:
    """The indices, and how many may run at once (0: any number). Raises BadArray."""
    written, percent, at_once = text.partition("%")
    if percent and not (at_once.isascii() and at_once.isdigit() and 0 < int(at_once[:9]) <= TASKS_MAX):
        raise BadArray(f"`%` wants how many may run at once, from 1 to {TASKS_MAX}")
    if len(text) > CHARACTERS_MAX or written.count(",") >= RANGES_MAX:
        raise BadArray(f"at most {RANGES_MAX} ranges are possible")
    ranges = tuple(_range(part) for part in written.split(","))
    total = sum(map(len, ranges))
    if total > TASKS_MAX:
        raise BadArray(f"{total} tasks; at most {TASKS_MAX} are possible")
    if len(ranges) > 1 and len(set().union(*ranges)) < total:
        raise BadArray("an index is there twice")
    return Indices(ranges), int(at_once or 0)


def _range(part: str) -> range:
    match = _PART.fullmatch(part.strip())
    if match is None:
        raise BadArray(f"`{part[:40]}` is no range of indices")
    first, last, step = match[1], match[2] or match[1], match[3] or "1"
    if int(last) < int(first):
        raise BadArray(f"`{part[:40]}` ends before it begins")
    if not int(step):
        raise BadArray(f"`{part[:40]}` has no step")
    return range(int(first), int(last) + 1, int(step))


def _text(one: range) -> str:
    if len(one) == 1:
        return str(one[0])
    return f"{one[0]}-{one[-1]}" + (f":{one.step}" if one.step > 1 else "")
