"""Every job as the ledger tells it, in memory: what lists, single views and followers are answered from.

It decides nothing. It is rebuilt from a snapshot and the facts after it; who follows a job is woken when a fact about
it, or about its environment, comes in.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from sortedcontainers import SortedList

from controlplane.gateway.paging import Cursor, Part, place
from controlplane.gateway.views import EnvironmentRecord, JobRecord, JobView
from events import lifecycle, subjects
from events import messages as m
from events.ledger import Entry

ENDED_KEPT_MAX: Final = 100_000
"""Jobs that are over; the oldest is forgotten first. The archiver takes them out of the ledger long before, at half."""
SCANNED_MAX: Final = 200_000
"""Jobs looked at for one page of a list; a rare state may need several pages."""
PREFIX_CHARACTERS_MIN: Final = 4
"""Of the id of a job: `j-` and two more."""
FACTS_OF_JOBS: Final = (subjects.JOBS, subjects.ENVIRONMENTS, subjects.ARCHIVE)


class Ambiguous(Exception):
    """A beginning of an id that several jobs share."""

    def __init__(self, jobs: list[str]) -> None:
        super().__init__(f"{len(jobs)} jobs begin so")
        self.jobs = jobs


class _Snapshot(msgspec.Struct):
    sequence: int
    jobs: list[JobRecord]
    environments: list[EnvironmentRecord]
    archived_to_at: float


class Projection:
    """See the top of this file."""

    def __init__(self) -> None:
        self.sequence = 0
        self.outcomes: Counter[str] = Counter()
        self._teams: dict[str, dict[str, JobRecord]] = {}
        self._order: dict[str, SortedList] = {}
        """Of each team's jobs: their places in a list, the oldest first."""
        self.archived_to_at = 0.0
        """No job of the archive ended later."""
        self._names: dict[tuple[str, str], str] = {}
        self._prefixes: dict[tuple[str, str], dict[str, None]] = {}
        self._environments: dict[str, EnvironmentRecord] = {}
        self._tasks: dict[tuple[str, str], dict[int, str]] = {}
        """(team, array) → index → the task's id, of those that have a fact."""
        self._ended: dict[tuple[str, str], None] = {}
        """The oldest end first."""
        self._wanted: Counter[tuple[str, str]] = Counter()
        """(team, environment) → how many of the jobs here want it."""
        self._watches: dict[str, set[asyncio.Event]] = {}
        self._expected: list[tuple[int, int, asyncio.Event]] = []
        """A heap of (sequence, a number of its own, who waits for it)."""
        self._numbers = itertools.count()

    # -- facts ---------------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        """Take in the next fact of the ledger. Total."""
        self._take_in(entry)
        self.sequence = entry.sequence
        while self._expected and self._expected[0][0] <= entry.sequence:
            heapq.heappop(self._expected)[2].set()

    def _take_in(self, entry: Entry) -> None:
        match entry.fact:
            case m.EnvironmentWanted() | m.EnvironmentBuilding() | m.EnvironmentReady() | m.EnvironmentFailed() as fact:
                self._apply_environment(entry, fact)
            case m.Archived() as fact:
                self._apply_archived(entry, fact)
            case m.ArchiveWritten(ended_to_at=ended_to_at):
                self.archived_to_at = max(self.archived_to_at, ended_to_at)
            case fact if isinstance(fact, m.JobFact):
                self._apply_job(entry, fact)
            case _:
                return
        self._wake(entry.subject)

    def _apply_job(self, entry: Entry, fact: m.JobFact) -> None:
        _, team, job = subjects.tokens(entry.subject)
        jobs = self._teams.setdefault(team, {})
        record = jobs.get(job)
        outcome, life = lifecycle.advance(record.life if record else None, fact)
        self.outcomes[outcome.value] += 1
        if outcome is not lifecycle.Outcome.APPLIED or life is None:
            return
        was_over, is_new = record is not None and record.is_over, record is None
        was = record.life.state.value if record is not None else ""
        if record is None:
            record = jobs[job] = JobRecord(job=job, team=team, life=life)
            self._prefixes.setdefault((team, job[:PREFIX_CHARACTERS_MIN]), {})[job] = None
        if isinstance(fact, m.Accepted) and fact.specification.environment:
            self._wanted[team, fact.specification.environment] += 1
        record.tell(entry, life)
        if record.task is not None:
            self._tell_array(record, record.task, was, entry.sequence)
        elif is_new:
            self._order.setdefault(team, SortedList()).add(place(record))
        if isinstance(fact, m.Accepted | m.Rejected) and record.name:
            self._names[team, record.name] = job
        if record.is_over and not was_over:
            self._ended[team, job] = None
            if len(self._ended) > ENDED_KEPT_MAX:
                self._forget(*next(iter(self._ended)))

    def _tell_array(self, record: JobRecord, task: m.Task, was: str, sequence: int) -> None:
        """A task's record goes by that of its array, and the array counts it."""
        self._tasks.setdefault((record.team, task.array), {})[task.index] = record.job
        array = self._teams.get(record.team, {}).get(task.array)
        if array is None:
            return
        if not was:
            record.user, record.name, record.priority = array.user, array.name, array.priority
            record.submitted_at = array.submitted_at
        else:
            array.tasks[was] -= 1
        array.tasks[record.life.state.value] = array.tasks.get(record.life.state.value, 0) + 1
        array.tasks_sequence = sequence
        self._wake(subjects.job(record.team, task.array))

    def _apply_archived(self, entry: Entry, fact: m.Archived) -> None:
        """The job is over, whatever was heard of it before, and the archive is asked about it from now on."""
        _, team, job = subjects.tokens(entry.subject)
        record = self._teams.get(team, {}).get(job)
        if record is not None and not record.is_over:  # for those who follow it; the archive knows the rest
            record.life = lifecycle.Life(lifecycle.State(fact.state), fact.attempt)
            record.sequence = entry.sequence
        self._forget(team, job)

    def _apply_environment(self, entry: Entry, fact: m.EnvironmentFact) -> None:
        digest = "sha256:" + subjects.tokens(entry.subject)[1]
        record = self._environments.setdefault(digest, EnvironmentRecord(digest=digest))
        record.sequence = entry.sequence
        match fact:
            case m.EnvironmentWanted():
                record.state = "wanted"
            case m.EnvironmentBuilding():
                record.state = "building"
            case m.EnvironmentReady(lock=lock, packages=packages, took_s=took_s):
                record.state, record.lock, record.reason = "ready", lock, ""
                record.packages, record.took_s = packages, took_s
            case m.EnvironmentFailed(reason=reason):
                record.state, record.reason = "failed", reason

    def _forget(self, team: str, job: str) -> None:
        self._ended.pop((team, job), None)
        record = self._teams.get(team, {}).pop(job, None)
        if record is None:
            return
        if record.task is None:
            self._order[team].remove(place(record))
            self._tasks.pop((team, job), None)
        elif (team, record.task.array) in self._tasks:
            self._tasks[team, record.task.array].pop(record.task.index, None)
        if record.environment:
            pair = (team, record.environment)
            self._wanted[pair] -= 1
            if not self._wanted[pair]:
                del self._wanted[pair]
        self._prefixes.get((team, job[:PREFIX_CHARACTERS_MIN]), {}).pop(job, None)
        if self._names.get((team, record.name)) == job:
            del self._names[team, record.name]

    # -- reading -------------------------------------------------------------------------------------------------------

    def job(self, team: str, job: str) -> JobRecord | None:
        return self._teams.get(team, {}).get(job)

    def find(self, team: str, text: str) -> JobRecord | None:
        """A job by its id, as the newest of a name, or by the beginning of its id. Raises Ambiguous."""
        jobs = self._teams.get(team, {})
        job = text if text in jobs else self._names.get((team, text), "")
        if job in jobs:
            return jobs[job]
        if len(text) < PREFIX_CHARACTERS_MIN or not text.startswith("j-"):
            return None
        near = [each for each in self._prefixes.get((team, text[:PREFIX_CHARACTERS_MIN]), ()) if each.startswith(text)]
        if len(near) > 1:
            raise Ambiguous(near)
        return jobs.get(near[0]) if near else None

    def named(self, team: str, name: str) -> JobRecord | None:
        """The newest job of a name."""
        return self.job(team, self._names.get((team, name), ""))

    def task(self, array: JobRecord, index: int) -> JobRecord | None:
        """A task of an array; None: nobody has placed it, or the array has no such index."""
        return self.job(array.team, self._tasks.get((array.team, array.job), {}).get(index, ""))

    def tasks(self, array: JobRecord, *, states: frozenset[str], limit: int, behind: int) -> list[JobRecord]:
        """Tasks that have a fact, by index, those behind one."""
        found: list[JobRecord] = []
        for index, job in sorted(self._tasks.get((array.team, array.job), {}).items()):
            record = self.job(array.team, job)
            if index > behind and record is not None and (not states or record.life.state.value in states):
                found.append(record)
                if len(found) == limit:
                    break
        return found

    def jobs(self) -> Iterator[JobRecord]:
        """All jobs of all teams."""
        return (record for jobs in self._teams.values() for record in jobs.values())

    def names(self, team: str) -> list[str]:
        """Some names and ids of a team's jobs, the newest first, for hints."""
        near: list[str] = []
        for job, record in reversed(self._teams.get(team, {}).items()):
            near += [record.name, job]
            if len(near) >= 200:
                break
        return near

    def page(
        self, team: str, *, states: frozenset[str], user: str, limit: int, behind: Cursor | None, since: float = 0.0
    ) -> Part:
        """A page of a team's jobs, newest submit first, behind a place. `since`: of the submit, in seconds."""
        found: list[JobRecord] = []
        end: Cursor | None = None
        jobs, order = self._teams.get(team, {}), self._order.get(team, SortedList())
        for scanned, at in enumerate(order.irange(maximum=behind, inclusive=(True, False), reverse=True)):
            if len(found) == limit or scanned >= SCANNED_MAX:
                return Part(found, end)
            end, record = at, jobs[at.job]
            if at.submitted_at < since:
                break
            if (not states or record.life.state.value in states) and (not user or record.user == user):
                found.append(record)
        return Part(found)

    def view(self, record: JobRecord) -> JobView:
        of = self.job(record.team, record.task.array) if record.task is not None else None
        return record.view(self.environment(record.environment), of.specification if of is not None else None)

    def version(self, record: JobRecord) -> int:
        """Changes whenever the view does: the sequence of the newest fact that it shows."""
        environment = self._environments.get(record.environment)
        return max(record.sequence, record.tasks_sequence, environment.sequence if environment else 0)

    def environment(self, digest: str) -> EnvironmentRecord | None:
        return (self._environments.get(digest) or EnvironmentRecord(digest=digest)) if digest else None

    def wants(self, team: str, environment: str) -> bool:
        """Whether a job of this team wants this environment."""
        return self._wanted[team, environment] > 0

    def count(self) -> dict[str, int]:
        """Jobs by state, over all teams; for the status."""
        return dict(Counter(record.life.state.value for jobs in self._teams.values() for record in jobs.values()))

    async def reached(self, sequence: int, limit_s: float) -> None:
        """Until a fact was taken in, or for so long."""
        if sequence <= self.sequence:
            return
        event = asyncio.Event()
        heapq.heappush(self._expected, (sequence, next(self._numbers), event))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await event.wait()

    # -- following -----------------------------------------------------------------------------------------------------

    @contextmanager
    def watch(self, record: JobRecord) -> Iterator[asyncio.Event]:
        """An event that is set when something changes about a job or its environment."""
        event = asyncio.Event()
        watched = [subjects.job(record.team, record.job)]
        if record.environment:
            watched.append(subjects.environment(record.environment))
        for subject in watched:
            self._watches.setdefault(subject, set()).add(event)
        try:
            yield event
        finally:
            for subject in watched:
                waiting = self._watches[subject]
                waiting.discard(event)
                if not waiting:
                    del self._watches[subject]

    def wake_all(self) -> None:
        """Let every follower look around: the gateway is closing."""
        for subject in list(self._watches):
            self._wake(subject)

    def _wake(self, subject: str) -> None:
        for event in self._watches.get(subject, ()):
            event.set()

    @property
    def followers(self) -> int:
        """How many streams of events are open."""
        return len(set[asyncio.Event]().union(*(each for subject, each in self._watches.items() if subject)))

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        jobs = [record for team in self._teams.values() for record in team.values()]
        return msgspec.msgpack.encode(
            _Snapshot(self.sequence, jobs, list(self._environments.values()), self.archived_to_at)
        )

    @classmethod
    def restore(cls, snapshot: bytes) -> Projection:
        """The projection in a snapshot. Raises one of UNREADABLE for one of another version."""
        read = msgspec.msgpack.decode(snapshot, type=_Snapshot)
        projection = cls()
        projection.sequence, projection.archived_to_at = read.sequence, read.archived_to_at
        projection._environments = {record.digest: record for record in read.environments}
        for record in read.jobs:
            projection._teams.setdefault(record.team, {})[record.job] = record
            if record.task is None:
                projection._order.setdefault(record.team, SortedList()).add(place(record))
            else:
                projection._tasks.setdefault((record.team, record.task.array), {})[record.task.index] = record.job
            projection._prefixes.setdefault((record.team, record.job[:PREFIX_CHARACTERS_MIN]), {})[record.job] = None
            if record.environment:
                projection._wanted[record.team, record.environment] += 1
            if record.name and record.task is None:
                projection._names[record.team, record.name] = record.job
        ended = [record for record in read.jobs if record.is_over]
        ended.sort(key=lambda record: record.sequence)
        projection._ended = {(record.team, record.job): None for record in ended}
        return projection
