"""The policy: which waiting job gets which node. Pure.

1. Of several queues, the one that holds the least for its weight is served first (the largest of its shares of CPUs,
   memory and GPUs counts).
2. In a queue: priority, then the order of submission with its moves.
3. A job that fits nowhere now lets later ones pass, but keeps one node for itself: the one that has most of what it
   needs. Only one job at a time, the first that was met, does so; nothing that needs what it waits for is placed there.
4. A job that its queue's limit on GPUs holds back holds back the later GPU jobs of that queue, unless the limit would
   never let it run.
5. A job that is larger than every node waits, and is in nobody's way.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from controlplane.scheduling.jobs import Job, Shape
from controlplane.scheduling.nodes import Fleet, Node, Reserved, Totals
from controlplane.scheduling.queues import Head, Queue, QueueKey

WEIGHT_MIN = 1e-6


class Choice(NamedTuple):
    job: Job
    node: Node
    why: str


class _Contender:
    """A queue with what is left to try of it in this round."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.heads: list[Head] = queue.heads()
        self.gpus_blocked = False


def share(queue: Queue, totals: Totals) -> float:
    """The largest share of anything that the queue holds, for its weight."""
    shares = (
        queue.milli_cpus / (totals.milli_cpus or 1),
        queue.memory_bytes / (totals.memory_bytes or 1),
        queue.gpus / (totals.gpus or 1),
    )
    return max(shares) / max(queue.settings.weight, WEIGHT_MIN)


class Placing:
    """One pass over the queues. The caller takes what each choice says before it asks for the next one."""

    def __init__(self, fleet: Fleet, queues: dict[QueueKey, Queue], totals: Totals) -> None:
        self._fleet = fleet
        self._totals = totals
        self._contenders = {
            queue.key: _Contender(queue) for queue in queues.values() if queue.lines and not queue.settings.paused
        }
        waiting = {shape for contender in self._contenders.values() for _, shape in contender.queue.lines}
        self._room = {shape for shape in waiting if fleet.best(shape) is not None}
        """Shapes that some open node has room for."""
        self._reserved: Reserved | None = None

    def choices(self) -> Iterator[Choice]:
        """What should be placed, one after the other."""
        order = [(share(c.queue, self._totals), key) for key, c in self._contenders.items()]
        heapq.heapify(order)
        while order and self._room:
            _, key = heapq.heappop(order)
            contender = self._contenders[key]
            choice = self._next(contender)
            if choice is None:
                continue
            yield choice
            self._placed(contender, choice.job)
            heapq.heappush(order, (share(contender.queue, self._totals), key))

    def _next(self, contender: _Contender) -> Choice | None:
        """The first job of the queue that can be placed now; None: no other can."""
        queue = contender.queue
        while contender.heads and not queue.is_full:
            job = contender.heads[0][3]
            if self._may_try(contender, job.shape):
                node = self._fleet.best(job.shape, self._reserved) if job.shape in self._room else None
                if node is not None:
                    return Choice(job, node, why(job, queue))
                self._reserve(job.shape)
            heapq.heappop(contender.heads)
        return None

    def _may_try(self, contender: _Contender, shape: Shape) -> bool:
        if shape.gpus == 0:
            return True
        if not contender.queue.can_ever_take(shape):
            return False
        if not contender.queue.has_gpus_for(shape):
            contender.gpus_blocked = True
        return not contender.gpus_blocked

    def _reserve(self, shape: Shape) -> None:
        if self._reserved is None:
            node = self._fleet.nearest(shape)
            if node is not None:
                self._reserved = Reserved(node.name, shape)

    def _placed(self, contender: _Contender, job: Job) -> None:
        """The job left its line: the one behind it is a head now. And there may be room for less than before."""
        behind = contender.queue.head_behind(job)
        if behind is None:
            heapq.heappop(contender.heads)
        else:
            heapq.heapreplace(contender.heads, behind)
        if self._fleet.best(job.shape) is None:
            self._room.discard(job.shape)


def why(job: Job, queue: Queue) -> str:
    """Why this job, now: one line for a person."""
    rest = len(queue.waiting)
    tries = f", attempt {job.life.attempt + 1}" if job.life.attempt else ""
    return f"first that fits of {rest} in queue {queue.name}{tries}"
