"""Another policy on the same jobs: the real core, over jobs that come and take as long as is known of them. Pure.

At each distinct time first all ends are told, then all submits, then the core decides until it has nothing more to say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from controlplane.scheduling.arrays import submitted
from controlplane.scheduling.core import Core
from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.jobs import Job
from controlplane.scheduling.simulation import ALWAYS_HEARD, Change, Simulation
from events import messages as m
from events import subjects

__all__ = ["ALWAYS_HEARD", "Arrival", "Outcome", "Replay", "Told"]


class Arrival(NamedTuple):
    """A job that somebody submits, and for how long it will run."""

    at: float
    specification: m.Specification
    runs_s: float


class Told(NamedTuple):
    """Something else that happens: a fact about a node, say."""

    at: float
    subject: str
    fact: m.Fact


class Outcome(NamedTuple):
    """What became of it."""

    arrival: Arrival
    started_at: float
    ended_at: float
    nodes: tuple[str, ...]

    @property
    def wait_s(self) -> float:
        return self.started_at - self.arrival.at


class Replay:
    """One world of nodes and queues, and one policy."""

    def __init__(
        self,
        settings: Settings,
        nodes: Mapping[str, m.Capacity],
        queues: Mapping[tuple[str, str], m.QueueSet] = {},
        *,
        teams: Mapping[str, m.TeamSet] = {},
        at: float = 0.0,
    ) -> None:
        self.core = Core(settings)
        self.simulation = simulation = Simulation(self.core, self._runs_s)
        self._arrivals: dict[str, Arrival] = {}
        self._started: dict[str, tuple[float, tuple[str, ...]]] = {}
        """By subject: when its newest attempt started, and where."""
        term = simulation.tell(subjects.TERM, m.Led(leader="replay"), at).sequence
        for team, settings_ in teams.items():
            simulation.tell(subjects.team(team), settings_, at)
        for (team, name), queue in queues.items():
            simulation.tell(subjects.queue(team, name), queue, at)
        for name, capacity in nodes.items():
            simulation.tell(subjects.node(name), m.NodeJoined(boot="replay", capacity=capacity, term=term), at)
        self.core.begin_term(at)

    def run(self, arrivals: Iterable[Arrival | Told]) -> Iterator[Outcome]:
        """What becomes of the jobs, as they end. `arrivals` ascend in time. What can never start is not told of."""
        simulation = self.simulation
        coming = iter(arrivals)
        following = next(coming, None)
        while following is not None or not simulation.is_idle or simulation.next_at < math.inf:
            now = min(following.at if following is not None else math.inf, simulation.next_at)
            for change in simulation.end_until(now):
                if (outcome := self._ended(change)) is not None:
                    yield outcome
            while following is not None and following.at <= now:
                if isinstance(following, Told):
                    simulation.tell(following.subject, following.fact, following.at)
                else:
                    self._submit(following)
                following = next(coming, None)
            for change in simulation.decide(now):
                if isinstance(change.fact, m.Placed):
                    nodes = tuple(allocation.node for allocation in change.fact.allocations)
                    self._started[change.job.subject] = (now, nodes)

    def _runs_s(self, job: Job) -> float:
        return self._arrivals[submitted(job)].runs_s

    def _submit(self, arrival: Arrival) -> None:
        specification = arrival.specification
        subject = subjects.job(specification.team, specification.job)
        self._arrivals[subject] = arrival
        self.simulation.tell(subject, m.Accepted(specification=specification), arrival.at)

    def _ended(self, change: Change) -> Outcome | None:
        started_at, nodes = self._started.pop(change.job.subject)
        if isinstance(change.fact, m.Requeued):
            return None
        arrival = self._arrivals[submitted(change.job)]
        if change.job.task is None:
            del self._arrivals[change.job.subject]
        return Outcome(arrival, started_at, change.at, nodes)
