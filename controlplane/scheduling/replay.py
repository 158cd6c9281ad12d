"""Another policy on the same jobs: the real core, driven by discrete events instead of a ledger and nodes. Pure.

At each distinct time first all ends are told, then all submits, then the core decides until it has nothing more to say.
Nodes do at once what they are told, and a job runs for as long as its arrival says.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from controlplane.scheduling.core import Core
from controlplane.scheduling.decisions import Settings
from events import messages as m
from events import subjects


class Arrival(NamedTuple):
    """A job that somebody submits, and for how long it will run."""

    at: float
    specification: m.Specification
    runs_s: float


class Outcome(NamedTuple):
    """What became of it."""

    arrival: Arrival
    started_at: float
    ended_at: float
    nodes: tuple[str, ...]

    @property
    def wait_s(self) -> float:
        return self.started_at - self.arrival.at


class _Entry(NamedTuple):
    sequence: int
    subject: str
    fact: m.Fact
    at: float
    traceparent: str = ""


ALWAYS_HEARD: Final = {"suspect_s": math.inf, "lease_s": 0.0}


class Replay:
    """One world of nodes and queues, and one policy."""

    def __init__(
        self, settings: Settings, nodes: Mapping[str, m.Capacity], queues: Mapping[tuple[str, str], m.QueueSet] = {}
    ) -> None:
        self.core = Core(settings)
        self._sequence = 0
        self._running: list[tuple[float, int, str, Arrival, float, tuple[str, ...]]] = []
        self._arrivals: dict[str, Arrival] = {}
        self._tell(subjects.TERM, m.Led(leader="replay"), 0.0)
        self._term = self._sequence
        for (team, name), queue in queues.items():
            self._tell(subjects.queue(team, name), queue, 0.0)
        for name, capacity in nodes.items():
            self._tell(subjects.node(name), m.NodeJoined(boot="replay", capacity=capacity, term=self._term), 0.0)
        self.core.begin_term(0.0)

    def run(self, arrivals: Iterable[Arrival]) -> Iterator[Outcome]:
        """What becomes of the jobs, as they end. `arrivals` ascend in time. What can never start is not told of."""
        coming = iter(arrivals)
        following = next(coming, None)
        while following is not None or self._running:
            now = min(
                following.at if following is not None else math.inf, self._running[0][0] if self._running else math.inf
            )
            while self._running and self._running[0][0] <= now:
                yield self._end(*heapq.heappop(self._running))
            while following is not None and following.at <= now:
                self._submit(following)
                following = next(coming, None)
            self._decide(now)

    def _submit(self, arrival: Arrival) -> None:
        specification = arrival.specification
        subject = subjects.job(specification.team, specification.job)
        self._arrivals[subject] = arrival
        self._tell(subject, m.Accepted(specification=specification), arrival.at)

    def _end(
        self, at: float, _: int, subject: str, arrival: Arrival, started_at: float, nodes: tuple[str, ...]
    ) -> Outcome:
        self._tell(subject, m.Finished(term=self._term, attempt=1, outcome="succeeded", reason="replayed"), at)
        return Outcome(arrival, started_at, at, nodes)

    def _decide(self, now: float) -> None:
        while decisions := self.core.decide(now).decisions:
            for decision in decisions:
                entry = self._tell(decision.subject, decision.fact, now)
                if isinstance(decision.fact, m.Placed):
                    arrival = self._arrivals.pop(decision.subject)
                    nodes = tuple(allocation.node for allocation in decision.fact.allocations)
                    end = (now + arrival.runs_s, entry.sequence, decision.subject, arrival, now, nodes)
                    heapq.heappush(self._running, end)

    def _tell(self, subject: str, fact: m.Fact, at: float) -> _Entry:
        self._sequence += 1
        entry = _Entry(self._sequence, subject, fact, at)
        self.core.apply(entry, at)
        return entry
