"""How much work there is: what waits, and what is left of what runs. Pure.

Divided by what the machines can do in a second that is how long a job that comes now would wait if everybody were served
in turn and nothing were wasted: no order of any kind serves all of them sooner. The starvation guard (`order`) goes by it.
"""

from __future__ import annotations

from controlplane.scheduling.jobs import Shape
from controlplane.scheduling.nodes import Totals

Work = tuple[float, float, float]
"""Seconds times milli-CPUs, bytes of memory, GPUs."""


class Backlog:
    """Sums that are kept as jobs come, start and end."""

    def __init__(self) -> None:
        self._waiting = [0.0, 0.0, 0.0]
        self._ends = [0.0, 0.0, 0.0]
        """Of what runs: amounts times the moment at which its estimate is over."""
        self._held = [0.0, 0.0, 0.0]

    def wait(self, shape: Shape, estimate_s: float, sign: int = 1) -> None:
        """A job waits from now on; with −1 it does not any more."""
        for index, amount in enumerate(_amounts(shape)):
            self._waiting[index] += sign * amount * estimate_s

    def run(self, shape: Shape, ends_at: float, sign: int = 1) -> None:
        """A job holds this until its estimate is over; with −1 it does not any more."""
        for index, amount in enumerate(_amounts(shape)):
            self._held[index] += sign * amount
            self._ends[index] += sign * amount * ends_at

    def seconds(self, totals: Totals, now: float) -> float:
        """How long the machines need for all of it, at the least; what outlived its estimate counts as nothing."""
        there = (totals.milli_cpus, totals.memory_bytes, totals.gpus)
        return max(
            (waiting + max(0.0, ends - held * now)) / (amount or 1)
            for waiting, ends, held, amount in zip(self._waiting, self._ends, self._held, there, strict=True)
        )


def _amounts(shape: Shape) -> tuple[int, int, int]:
    return (shape.milli_cpus, shape.memory_bytes, shape.gpus)
