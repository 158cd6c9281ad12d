"""The real core, driven by discrete events instead of a ledger and nodes. Pure.

Nodes do at once what they are told. Each attempt runs for as long as the caller says, or until it is stopped: then for
its grace, and what follows is what would follow in the ledger (`ends.on_end`). Decisions are written at once.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypedDict

from controlplane.scheduling import ends
from controlplane.scheduling.core import Core
from controlplane.scheduling.jobs import Job
from events import messages as m
from events.entries import Entry


class _Heard(TypedDict):
    suspect_s: float
    lease_s: float


ALWAYS_HEARD: Final[_Heard] = {"suspect_s": math.inf, "lease_s": 0.0}
"""Settings of a core whose nodes are simulated."""


class Change(NamedTuple):
    """A job was placed (`m.Placed`), or its attempt is over (`m.Finished`, `m.Requeued`)."""

    at: float
    job: Job
    fact: m.JobFact


class _Ending(NamedTuple):
    at: float
    sequence: int
    subject: str
    attempt: int
    cause: m.EndCause


class Simulation:
    """See the top of this file. `runs_s` gives how long a job runs from its placement on."""

    def __init__(self, core: Core, runs_s: Callable[[Job], float]) -> None:
        self.core = core
        self._runs_s = runs_s
        self._endings: list[_Ending] = []
        self._decided_at = -math.inf

    @property
    def next_at(self) -> float:
        """When something happens by itself; infinite: never."""
        wake_at = self.core.wake_at()
        if wake_at is None or wake_at <= self._decided_at:  # it has been decided then, and nothing came of it
            wake_at = math.inf
        return min(self._endings[0].at if self._endings else math.inf, wake_at)

    @property
    def is_idle(self) -> bool:
        """Whether no attempt runs."""
        return not self._endings

    def tell(self, subject: str, fact: m.Fact, at: float) -> Entry:
        """A fact is in the ledger."""
        entry = Entry(self.core.sequence + 1, subject, fact, at)
        self.core.apply(entry, at)
        return entry

    def ends(self, job: Job, at: float, cause: m.EndCause = "exited") -> None:
        """The newest attempt of this job will be over then."""
        heapq.heappush(self._endings, _Ending(at, self.core.sequence, job.subject, job.life.attempt, cause))

    def end_until(self, now: float) -> Iterator[Change]:
        """Let all attempts end whose time has come."""
        while self._endings and self._endings[0].at <= now:
            at, _, subject, attempt, cause = heapq.heappop(self._endings)
            job = self.core.jobs.get(subject)
            if job is None or not job.is_live or job.life.attempt != attempt:
                continue  # it has been stopped before
            end = m.AttemptEnd(cause=cause, ended_at=at, exit_code=0 if cause == "exited" else None)
            fact = ends.on_end(job, end, term=self.core.term)
            self.tell(subject, fact, at)
            yield Change(at, job, fact)

    def decide(self, now: float) -> Iterator[Change]:
        """Let the core decide until it has nothing more to say."""
        self._decided_at = now
        while decisions := self.core.decide(now).decisions:
            for decision in decisions:
                job = self.core.jobs.get(decision.subject)
                self.tell(decision.subject, decision.fact, now)
                job = self.core.jobs.get(decision.subject, job)  # a task of an array is another one by now
                if job is not None and isinstance(decision.fact, m.Placed):
                    yield Change(now, job, decision.fact)
                    self.ends(job, now + self._runs_s(job))
                elif job is not None and isinstance(decision.fact, m.StopRequested):
                    self.ends(job, now + job.specification.grace_s, "stopped")
                elif job is not None and isinstance(decision.fact, m.Finished):
                    yield Change(now, job, decision.fact)
