"""The policy: which waiting job gets which node. Pure.

1. Of several queues, the one that holds the least for its weight is served first (the largest of its shares of CPUs,
   memory and GPUs counts).
2. In a queue: priority, what was moved to the front, then the queue's policy (`order`).
3. The first `depth` jobs that do not fit now have a reservation (`backfill`); later ones go where they delay none.
4. A job that its queue's limit on GPUs holds back holds back the later GPU jobs of that queue, unless the limit would
   never let it run.
5. A job that is larger than every node waits, and is in nobody's way.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final, NamedTuple

from controlplane.scheduling.backfill import Plan
from controlplane.scheduling.jobs import Job
from controlplane.scheduling.nodes import Fleet, Node, Totals, allocate
from controlplane.scheduling.order import shortest_of
from controlplane.scheduling.queues import Head, Moment, Queue, QueueKey
from events import messages as m

WEIGHT_MIN: Final = 1e-6


class Choice(NamedTuple):
    job: Job
    node: Node
    why: str

    def placed(self, term: int) -> m.Placed:
        """What to write about it. Goes by what is free now."""
        allocations = (allocate(self.node, self.job.shape),)
        return m.Placed(term=term, attempt=self.job.life.attempt + 1, allocations=allocations, why=self.why)


class _Contender:
    """A queue with what is left to try of it in this round."""

    def __init__(self, queue: Queue, moment: Moment) -> None:
        self.queue = queue
        self.heads: list[Head] = queue.heads(moment)
        heapq.heapify(self.heads)
        self.gpus_blocked_by: Job | None = None
        """Whom its limit on GPUs holds back: later GPU jobs wait behind it."""


def share(queue: Queue, totals: Totals) -> float:
    """The largest share of anything that the queue holds, for its weight."""
    return totals.share(queue) / max(queue.settings.weight, WEIGHT_MIN)


class Placing:
    """One pass over the queues. The caller takes what each choice says before it asks for the next one.

    With `whole` it goes on when no shape has room any more, so that all reservations are known: for who asks why.
    """

    def __init__(
        self, fleet: Fleet, queues: dict[QueueKey, Queue], moment: Moment, *, depth: int, whole: bool = False
    ) -> None:
        self._fleet = fleet
        self._moment = moment
        self._depth = depth
        self._whole = whole
        self._contenders = {
            queue.key: _Contender(queue, moment)
            for queue in queues.values()
            if queue.lines and not queue.settings.paused
        }
        waiting = {key.shape for contender in self._contenders.values() for key in contender.queue.lines}
        self._room = {shape for shape in waiting if fleet.best(shape) is not None}
        """Shapes that some open node has room for."""
        self.plan = Plan(fleet, moment.now)

    def choices(self) -> Iterator[Choice]:
        """What should be placed, one after the other."""
        order = [(share(c.queue, self._moment.totals), key) for key, c in self._contenders.items()]
        heapq.heapify(order)
        while order and (self._room or self._whole):
            _, key = heapq.heappop(order)
            contender = self._contenders[key]
            choice = self._next(contender)
            if choice is None:
                continue
            yield choice
            self._placed(contender, choice)
            heapq.heappush(order, (share(contender.queue, self._moment.totals), key))

    def _next(self, contender: _Contender) -> Choice | None:
        """The first job of the queue that can be placed now; None: no other can."""
        queue = contender.queue
        while contender.heads and not queue.is_full:
            head = contender.heads[0]
            job = head.job
            if self._may_try(contender, job):
                node = self.node_for(job) if job.shape in self._room else None
                if node is not None:
                    return Choice(job, node, why(job, queue))
                if self._hold_back(head) and (behind := queue.behind(head, self._moment)) is not None:
                    heapq.heapreplace(contender.heads, behind)
                    continue
            heapq.heappop(contender.heads)
        return None

    def node_for(self, job: Job) -> Node | None:
        """Where a job can start now, delays no reservation, and ends before any maintenance."""
        admits = (lambda node: self.plan.admits(node, job)) if self.plan.restricts else None
        return self._fleet.best(job.shape, admits)

    def gpus_blocked_by(self, queue: Queue) -> Job | None:
        """The job of the queue that its limit on GPUs holds back, and behind which later ones wait."""
        contender = self._contenders.get(queue.key)
        return contender.gpus_blocked_by if contender is not None else None

    def _hold_back(self, head: Head) -> bool:
        """Reserve for a head that cannot be placed now. Gives whether the one behind it in its line is to be looked at:
        it may have a reservation as well, or be so short that it delays none.
        """
        plan, shape = self.plan, head.job.shape
        if len(plan.reservations) < self._depth:
            return plan.reserve(head.job) is not None
        return shape in self._room and shortest_of(head.line.bucket) <= plan.window_s(shape)

    def _may_try(self, contender: _Contender, job: Job) -> bool:
        if job.shape.gpus == 0:
            return True
        if not contender.queue.can_ever_take(job.shape):
            return False
        if contender.gpus_blocked_by is None and not contender.queue.has_gpus_for(job.shape):
            contender.gpus_blocked_by = job
        return contender.gpus_blocked_by is None

    def _placed(self, contender: _Contender, choice: Choice) -> None:
        """The job left its line: another one stands there now. And there may be room for less than before."""
        after = contender.queue.after_leaving(contender.heads[0], self._moment)
        if after is None:
            heapq.heappop(contender.heads)
        else:
            heapq.heapreplace(contender.heads, after)
        self.plan.changed(choice.node.name)
        if self._fleet.best(choice.job.shape) is None:
            self._room.discard(choice.job.shape)


def why(job: Job, queue: Queue) -> str:
    """Why this job, now: one line for a person."""
    rest = len(queue.waiting)
    tries = f", attempt {job.life.attempt + 1}" if job.life.attempt else ""
    return f"first that fits of {rest} in queue {queue.name}{tries}"
