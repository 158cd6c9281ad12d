"""What the ledger and the archive tell of the jobs that there were: when each could have run, and for how long. Pure.

A job could have run from its acceptance on, or from when its hold, its environment, its begin time and what it waited
for let it: that is its arrival here. Jobs that never started are left out, for nobody knows how long they take.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from controlplane.scheduling.replay import Arrival, Outcome, Told
from events import messages as m
from events import subjects
from events.ledger import Entry

_ALONE: Final[dict[str, object]] = {
    "environment": "",
    "after": (),
    "begin_at": None,
    "deadline_at": None,
    "array": "",
    "array_at_once": 0,
}
"""What a job does not wait for in a replay: its arrival is when all that was over."""
_TOLD: Final = (
    *(m.NodeJoined, m.NodeCordoned, m.NodeUncordoned, m.NodeDraining, m.NodeMaintenance, m.NodeGone),
    *(m.NodeGpus, m.NodeGpusRepaired),
)


class Story(msgspec.Struct):
    """One job, as far as it counts here."""

    specification: m.Specification | None
    """None: it is a task, and that of its array counts."""
    at: float
    task: m.Task | None = None
    held: bool = False
    released_at: float = 0.0
    placed_at: float | None = None
    """Its newest attempt."""
    ended_at: float | None = None
    nodes: tuple[str, ...] = ()


class Recorded:
    """Facts in, jobs out."""

    def __init__(self) -> None:
        self.stories: dict[str, Story] = {}
        """By subject."""
        self.queues: dict[tuple[str, str], m.QueueSet] = {}
        self.teams: dict[str, m.TeamSet] = {}
        self.capacities: dict[str, m.Capacity] = {}
        """Of every node that there was, as it was last."""
        self.told: list[Told] = []
        """What happened to nodes."""
        self._ready: dict[str, float] = {}
        """When each environment was."""

    def apply(self, entry: Entry) -> None:
        """The next fact: of the ledger, or of a job of the archive."""
        fact, names = entry.fact, subjects.tokens(entry.subject)
        if isinstance(fact, m.JobFact):
            self._apply_to_job(entry, fact)
        elif isinstance(fact, m.QueueSet):
            self.queues[(names[1], names[2])] = fact
        elif isinstance(fact, m.QueueRemoved):
            self.queues.pop((names[1], names[2]), None)
        elif isinstance(fact, m.TeamSet):
            self.teams[names[1]] = fact
        elif isinstance(fact, m.EnvironmentReady):
            self._ready.setdefault(names[1], entry.at)
        elif isinstance(fact, _TOLD):
            self.told.append(Told(entry.at, entry.subject, fact))
            if isinstance(fact, m.NodeJoined):
                self.capacities[names[1]] = fact.capacity

    def _apply_to_job(self, entry: Entry, fact: m.JobFact) -> None:
        if isinstance(fact, m.Accepted):
            self.stories[entry.subject] = Story(fact.specification, entry.at, held=fact.held)
            return
        story = self.stories.get(entry.subject)
        if story is None and (task := getattr(fact, "task", None)) is not None:  # the first fact about a task
            story = self.stories[entry.subject] = Story(None, entry.at, task=task)
        if story is None:
            return
        if isinstance(fact, m.Held):
            story.held = True
        elif isinstance(fact, m.Released):
            story.held, story.released_at = False, entry.at
        elif isinstance(fact, m.Placed):
            story.placed_at = entry.at
            story.nodes = tuple(allocation.node for allocation in fact.allocations)
        elif isinstance(fact, m.Requeued | m.Lost):
            story.placed_at = None
        elif isinstance(fact, m.Finished) or (isinstance(fact, m.CancelRequested) and story.placed_at is None):
            story.ended_at = entry.at

    def arrivals(self, until: float) -> Iterator[Arrival]:
        """Every job that ran, in the order in which they could. One that runs still is taken to end at `until`."""
        found = []
        for subject, story in self.stories.items():
            specification = self._specification(subject, story)
            if story.placed_at is not None and specification is not None:
                of = self._array(subject, story) or story
                at = min(self._could_run_at(of, specification), story.placed_at)
                ended_at = story.ended_at if story.ended_at is not None else until
                specification = msgspec.structs.replace(specification, **_ALONE, job=subjects.tokens(subject)[2])
                found.append((at, subject, Arrival(at, specification, max(0.0, ended_at - story.placed_at))))
        return (arrival for _, _, arrival in sorted(found, key=lambda each: each[:2]))

    def outcomes(self, arrivals: list[Arrival]) -> Iterator[Outcome]:
        """What really became of them; one that runs still is taken to end when its arrival says."""
        for arrival in arrivals:
            story = self.stories[subjects.job(arrival.specification.team, arrival.specification.job)]
            if story.placed_at is not None:
                yield Outcome(arrival, story.placed_at, story.placed_at + arrival.runs_s, story.nodes)

    def has_ended(self, arrival: Arrival) -> bool:
        """Whether it is known how long it took."""
        story = self.stories[subjects.job(arrival.specification.team, arrival.specification.job)]
        return story.ended_at is not None

    def _array(self, subject: str, story: Story) -> Story | None:
        """The array that a task is of."""
        team = subjects.tokens(subject)[1]
        return self.stories.get(subjects.job(team, story.task.array)) if story.task is not None else None

    def _specification(self, subject: str, story: Story) -> m.Specification | None:
        of = self._array(subject, story)
        return of.specification if of is not None else story.specification

    def teams_and_queues(self) -> set[tuple[str, str]]:
        """Of all jobs."""
        stories = [story.specification for story in self.stories.values() if story.specification is not None]
        return {(specification.team, specification.queue) for specification in stories}

    def _could_run_at(self, story: Story, specification: m.Specification) -> float:
        times = [story.at, story.released_at, specification.begin_at or 0.0]
        times.append(self._ready.get(specification.environment.removeprefix("sha256:"), 0.0))
        for dependency in specification.after:
            other = self.stories.get(subjects.job(specification.team, dependency.job))
            times.append(other.ended_at or 0.0 if other is not None else 0.0)
        return max(times)
