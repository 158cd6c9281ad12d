"""The queues: who waits in which order, and what each queue holds. Pure.

A queue keeps all its waiting jobs in order (that gives a position), and those that may run now once more in *lines*:
jobs of one priority and one shape, which no node can tell apart. Only the head of a line is ever looked at, so the
cost of a decision grows with the number of lines, and not with the number of jobs that wait.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec
from sortedcontainers import SortedList

from controlplane.scheduling.jobs import Job, Rank, Shape
from events import messages as m

QueueKey = tuple[str, str]
LineKey = tuple[int, Shape]
Head = tuple[int, Rank, str, Job]
"""Sorts as the queue does: by priority (negative), rank, and id as the last word."""


class Queue(msgspec.Struct, eq=False):
    """One queue of one team."""

    team: str
    name: str
    settings: m.QueueSet
    sequence: int = 0
    waiting: Any = msgspec.field(default_factory=SortedList)
    """(−priority, rank, id) of every queued job, also of those that cannot run now."""
    lines: dict[LineKey, Any] = msgspec.field(default_factory=dict)
    """(rank, id, job) of those that can, by priority and shape; no line is empty."""
    running: int = 0
    gpus: int = 0
    milli_cpus: int = 0
    memory_bytes: int = 0

    @property
    def key(self) -> QueueKey:
        return (self.team, self.name)

    # -- the order -------------------------------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        """It waits from now on."""
        self.waiting.add((-job.priority, job.rank, job.id))
        job.waits = True

    def remove(self, job: Job) -> None:
        """It does not wait any more. It must have left its line."""
        self.waiting.remove((-job.priority, job.rank, job.id))
        job.waits = False

    def position(self, job: Job) -> int:
        """Its place, from 1."""
        return int(self.waiting.bisect_left((-job.priority, job.rank, job.id))) + 1

    def rank_beside(self, other: Job | None, *, after: bool) -> Rank:
        """A rank directly before or after another waiting job of its priority; None: before all of the queue."""
        if other is None:
            return min((rank for _, rank, _ in self._firsts()), default=0) - 1
        index = self.waiting.bisect_left((-other.priority, other.rank, other.id))
        beside = index + 1 if after else index - 1
        if 0 <= beside < len(self.waiting) and self.waiting[beside][0] == -other.priority:
            return Fraction(self.waiting[beside][1] + other.rank) / 2
        return other.rank + (1 if after else -1)

    def _firsts(self) -> list[tuple[int, Rank, str]]:
        """The first of each priority."""
        firsts = []
        index = 0
        while index < len(self.waiting):
            first = self.waiting[index]
            firsts.append(first)
            index = self.waiting.bisect_left((first[0] + 1,))
        return firsts

    # -- the lines -------------------------------------------------------------------------------------------------

    def enter(self, job: Job) -> None:
        """It may run from now on."""
        key = (-job.priority, job.shape)
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = SortedList()
        line.add((job.rank, job.id, job))
        job.in_line = True

    def leave(self, job: Job) -> None:
        """It may not, for now."""
        key = (-job.priority, job.shape)
        line = self.lines[key]
        line.remove((job.rank, job.id, job))
        if not line:
            del self.lines[key]
        job.in_line = False

    def heads(self) -> list[Head]:
        """The head of each line, in the order of the queue."""
        return sorted((key[0], *line[0]) for key, line in self.lines.items())

    def head_behind(self, job: Job) -> Head | None:
        """The head of the line that this job stood in."""
        line = self.lines.get((-job.priority, job.shape))
        return (-job.priority, *line[0]) if line else None

    # -- what it holds ---------------------------------------------------------------------------------------------

    def take(self, shape: Shape) -> None:
        self.running += 1
        self.gpus += shape.gpus
        self.milli_cpus += shape.milli_cpus
        self.memory_bytes += shape.memory_bytes

    def give_back(self, shape: Shape) -> None:
        self.running -= 1
        self.gpus -= shape.gpus
        self.milli_cpus -= shape.milli_cpus
        self.memory_bytes -= shape.memory_bytes

    @property
    def is_full(self) -> bool:
        return self.settings.running_max is not None and self.running >= self.settings.running_max

    def can_ever_take(self, shape: Shape) -> bool:
        """Whether its limit on GPUs lets a job of this shape run at all."""
        return self.settings.gpus_max is None or shape.gpus <= self.settings.gpus_max

    def has_gpus_for(self, shape: Shape) -> bool:
        limit = self.settings.gpus_max
        return limit is None or shape.gpus == 0 or self.gpus + shape.gpus <= limit
