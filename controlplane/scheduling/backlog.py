"""How much work there is: what waits, and what is left of what runs. Pure.

Divided by what the machines can do in a second, and with the longest job added, that is about how long a job that comes
now waits if everybody is served in turn: wherever jobs start as soon as they fit, all work is done within twice the
larger of the two (Garey and Graham, "Bounds for Multiprocessor Scheduling with Resource Constraints", SIAM J. Comput.
1975). The starvation guard (`order`) goes by it.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from controlplane.scheduling import order
from controlplane.scheduling.jobs import Shape
from controlplane.scheduling.nodes import Totals, want_of
from controlplane.scheduling.packing import MILLI, Want

PARTS: Final = 64
"""In which the popularity of kinds of work is measured."""


class Backlog:
    """Sums that are kept as jobs come, start and end: of milli-CPUs, bytes of memory, milli-GPUs.

    Whole numbers of milliseconds, so that they are the same in whatever order they were summed.
    """

    def __init__(self) -> None:
        self._waiting = [0, 0, 0]
        """Amounts times estimates."""
        self._ends = [0, 0, 0]
        """Of what runs: amounts times the moment at which its estimate is over."""
        self._held = [0, 0, 0]
        self._estimates: Counter[int] = Counter()
        """How many jobs there are in each bucket of estimates."""
        self.shapes: Counter[Shape] = Counter()
        """How many jobs there are of each."""

    def wait(self, shape: Shape, estimate_s: float, sign: int = 1) -> None:
        """A job waits from now on; with −1 it does not any more."""
        self._count(shape, estimate_s, sign)
        for index, amount in enumerate(_amounts(shape)):
            self._waiting[index] += sign * amount * round(1000 * estimate_s)

    def run(self, shape: Shape, begun_at: float, estimate_s: float, sign: int = 1) -> None:
        """A job holds this until its estimate is over; with −1 it does not any more."""
        self._count(shape, estimate_s, sign)
        ends_at = begun_at + estimate_s
        for index, amount in enumerate(_amounts(shape)):
            self._held[index] += sign * amount
            self._ends[index] += sign * amount * round(1000 * ends_at)

    def kinds(self) -> dict[Want, int]:
        """How popular each kind of work is, in so many parts of all of it: what makes no difference changes nothing."""
        counts: Counter[Want] = Counter()
        for shape, count in self.shapes.items():
            counts[want_of(shape)] += count
        total = counts.total()
        return {want: max(1, round(PARTS * count / total)) for want, count in sorted(counts.items())}

    def _count(self, shape: Shape, estimate_s: float, sign: int) -> None:
        self.shapes[shape] += sign
        if not self.shapes[shape]:
            del self.shapes[shape]
        bucket = order.bucket(estimate_s)
        self._estimates[bucket] += sign
        if not self._estimates[bucket]:
            del self._estimates[bucket]

    def turn_s(self, totals: Totals, now: float) -> float:
        """How long who comes now waits, if all are served in turn."""
        longest = order.shortest_of(max(self._estimates)) if self._estimates else 0.0
        return self.seconds(totals, now) + longest

    def seconds(self, totals: Totals, now: float) -> float:
        """How long the machines need for all of it, at the least; what outlived its estimate counts as nothing."""
        there = (totals.milli_cpus, totals.memory_bytes, totals.gpus * MILLI)
        return max(
            (waiting + max(0, ends - held * round(1000 * now))) / (1000 * (amount or 1))
            for waiting, ends, held, amount in zip(self._waiting, self._ends, self._held, there, strict=True)
        )


def _amounts(shape: Shape) -> tuple[int, int, int]:
    return (shape.milli_cpus * shape.nodes, shape.memory_bytes * shape.nodes, shape.milli_gpus * shape.nodes)
