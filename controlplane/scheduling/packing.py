"""Which node takes a job, of those that could: so that what is left over is of use to what comes next. Pure.

- Best fit: the node with the least left over (`nodes.Fleet.best`).
- FGD, fragmentation gradient descent (Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with
  Fragmentation Gradient Descent", USENIX ATC 2023): the node whose expected fragmentation grows the least. A fragment
  is what is idle of GPUs that the next job could not use there; expected over the kinds of work that there are, by how
  popular each is. (All of them; the authors' code leaves out the rarest 5 %.)

As in the authors' code, the growth is rounded to about 40 thousandths of a GPU (so that what makes no difference is a
tie) and of equals the first is taken: unrounded, or with ties at random, it packs several per cent worse.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Final, NamedTuple

from events.messages import GPU_MILLI

MILLI: Final = GPU_MILLI
SCORES: Final = 100
"""Steps of the scores: a sigmoid of the growth in GPUs, times this, rounded down."""
MEMO_MAX: Final = 200_000
"""Answers that are remembered, about 200 bytes each; then it begins anew."""


class Want(NamedTuple):
    """What one job asks of one node, as far as packing goes by it."""

    milli_cpus: int
    gpus: int = 0
    gpu_milli: int = MILLI
    """Of each of its GPUs; less than 1,000 only for one."""
    models: tuple[str, ...] = ()
    """Of the GPUs that will do, ascending; empty: any."""


class Room(NamedTuple):
    """What is free of one node."""

    milli_cpus: int
    gpus: tuple[int, ...]
    """Thousandths of each GPU, by its index."""
    model: str = ""

    def takes(self, want: Want) -> bool:
        """Whether there is enough of it; memory is the caller's."""
        return self.milli_cpus >= want.milli_cpus and (not want.gpus or self._has(want))

    def _has(self, want: Want) -> bool:
        if want.models and self.model not in want.models:
            return False
        return sum(left >= want.gpu_milli for left in self.gpus) >= want.gpus

    def without(self, want: Want, device: int | None = None) -> Room:
        """What is left when a job has it; a part of a GPU it has of this `device`, whole ones of the first idle."""
        left, missing = list(self.gpus), want.gpus
        if device is not None:
            left[device] -= want.gpu_milli
            missing = 0
        for index, milli in enumerate(left):
            if missing and milli >= want.gpu_milli:
                left[index] -= want.gpu_milli
                missing -= 1
        return Room(self.milli_cpus - want.milli_cpus, tuple(left), self.model)


class Fit(NamedTuple):
    """How well a job would be placed on a node: a higher score is better."""

    score: int
    device: int | None = None
    """Of which GPU it gets a part; None: it wants whole ones, or none."""


class _Group(NamedTuple):
    """Kinds of work that differ by their CPUs alone."""

    gpus: int
    gpu_milli: int
    models: tuple[str, ...]
    milli_cpus: list[int]
    """Ascending."""
    counts: list[int]
    """How many there are of all of them up to this one."""


class Fragmentation:
    """What idles in vain, by the kinds of work that there are."""

    def __init__(self, kinds: Mapping[Want, int]) -> None:
        """`kinds`: how many there are of each."""
        self.kinds = kinds
        self._groups = _groups(kinds)
        self._total = sum(kinds.values()) or 1
        self._levels = sorted({kind.milli_cpus for kind in kinds})
        self._fragments: dict[tuple[object, ...], int] = {}
        self._fits: dict[tuple[object, ...], int] = {}

    def of(self, room: Room) -> float:
        """Thousandths of GPUs that idle there and that the next job cannot use, on average.

        All of it for a job without GPUs, or one that does not fit; else that of GPUs too small for it.
        """
        return self._times(room) / self._total

    def _times(self, room: Room) -> int:
        """The same, times the number of jobs: whole numbers, so that what is equal is a tie."""
        key = self._key(room)
        known = self._fragments.get(key)
        if known is None:
            known = self._fragments[key] = self._counted(room)
            if len(self._fragments) > MEMO_MAX:
                self._fragments.clear()
        return known

    def fit(self, room: Room, want: Want) -> Fit:
        """For a job that the node has enough for."""
        if want.gpus != 1 or want.gpu_milli == MILLI:
            return Fit(self._score(room, want, None))
        best: Fit | None = None
        for device, left in enumerate(room.gpus):
            if left >= want.gpu_milli:
                score = self._score(room, want, device)
                if best is None or score > best.score:
                    best = Fit(score, device)
        assert best is not None, "asked only where there is enough"
        return best

    def _score(self, room: Room, want: Want, device: int | None) -> int:
        after = self._level(room.milli_cpus - want.milli_cpus)
        key = (*self._key(room), after, want[1:], room.gpus[device] if device is not None else None)
        known = self._fits.get(key)
        if known is None:
            grows = self._times(room.without(want, device)) - self._times(room)
            known = self._fits[key] = int(SCORES / (1 + math.exp(grows / self._total / MILLI)))
            if len(self._fits) > MEMO_MAX:
                self._fits.clear()
        return known

    def _key(self, room: Room) -> tuple[object, ...]:
        """Rooms that are alike to every kind of work."""
        return (self._level(room.milli_cpus), tuple(sorted(room.gpus)), room.model)

    def _level(self, milli_cpus: int) -> int:
        return bisect_right(self._levels, milli_cpus)

    def _counted(self, room: Room) -> int:
        used = 0
        for group in self._groups:
            if group.models and room.model not in group.models:
                continue
            large = [left for left in room.gpus if left >= group.gpu_milli]
            some = bisect_right(group.milli_cpus, room.milli_cpus)
            if some and len(large) >= group.gpus:
                used += group.counts[some - 1] * sum(large)
        return self._total * sum(room.gpus) - used


def _groups(kinds: Mapping[Want, int]) -> list[_Group]:
    groups: dict[tuple[int, int, tuple[str, ...]], _Group] = {}
    for want, count in sorted(kinds.items()):
        if want.gpus:
            key = (want.gpus, want.gpu_milli, want.models)
            group = groups.setdefault(key, _Group(*key, [], []))
            group.milli_cpus.append(want.milli_cpus)
            group.counts.append((group.counts[-1] if group.counts else 0) + count)
    return list(groups.values())
