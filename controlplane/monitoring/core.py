"""When a job's numbers and output are complete, and when they are sealed. Pure: no I/O, no clock.

A job is *over* when the ledger says so. It is *complete* when, besides, everything its attempts reported has arrived:
each spool that was heard of has said its end and has no hole, and so have both output streams; there is one spool at
least, since an attempt that logged nothing says just that. What a lost node kept to itself never arrives; so there are
limits to waiting, and a job that ran into one is complete with what there is.

A complete job is sealed. Points that still come after that open it again, and it is sealed once more.
"""

from __future__ import annotations

import heapq
from typing import Final, NamedTuple

import msgspec

from events import messages as m
from events import ranks
from events.lifecycle import ENDS, Life, Outcome, State, advance

JobKey = tuple[str, str]
"""Team and job."""
WAIT_S_MAX: Final = 300.0
"""For the rest of an attempt that is over: its node is cut off, or gone."""
RESEAL_S: Final = 30.0
"""Between two seals of one job: what comes late comes in pieces."""
STREAMS: Final = frozenset({"stdout", "stderr"})


class Attempt(msgspec.Struct):
    """What is known of one attempt. The last two are not in the record: their tables hold them."""

    nodes: int = 1
    """Each of them has output and spools of its own."""
    over_at: float | None = None
    silent: bool = False
    """It never ran, or its node is lost: nothing more is expected."""
    output_bytes: dict[str, int] = {}
    """How long each output stream became, as its node said in the ledger: what never came can be told by it."""
    spools: dict[str, bool] = {}
    """Each spool that was heard of → whether all of it is stored."""
    outputs: dict[str, bool] = {}
    """The same of the output streams."""


class Record(msgspec.Struct):
    """A job from its first placement on, as it is kept in the store."""

    state: str = State.QUEUED.value
    attempt: int = 0
    over_at: float | None = None
    attempts: dict[int, Attempt] = {}
    sealed_at: float | None = None
    late: bool = False
    """Something came after it was sealed."""


class Seal(NamedTuple):
    """Decision: write this job's points and output to the blob store."""

    key: JobKey


class Core:
    """The jobs that are not sealed yet. `counts`: facts by outcome."""

    def __init__(self) -> None:
        self.jobs: dict[JobKey, Record] = {}
        self.counts: dict[str, int] = {outcome.value: 0 for outcome in Outcome}
        self._sealing: set[JobKey] = set()
        self._over: set[JobKey] = set()
        self._agenda: list[tuple[float, JobKey]] = []
        """When each job that is over may be sealed: a heap, so that news about one job cost nothing for the others.
        What has changed since is looked up when its turn comes."""

    # -- what happens --------------------------------------------------------------------------------------------------

    def load(self, key: JobKey, record: Record) -> None:
        """Take up a job that the store knows: at a start, or because something came late."""
        self.jobs[key] = record
        if record.over_at is not None:
            self._over.add(key)
        self._plan(key)

    def forget(self, key: JobKey) -> None:
        """Nothing more has to be done about a job."""
        self.jobs.pop(key, None)
        self._over.discard(key)
        self._sealing.discard(key)

    def apply(self, key: JobKey, fact: m.JobFact, at: float) -> bool:
        """Take in a fact about a job, written at `at`; gives whether its record changed."""
        record = self.jobs.get(key)
        if isinstance(fact, m.Placed) and (record is None or record.attempt == 0):
            record = self.jobs.setdefault(key, Record())
            record.attempt = fact.attempt - 1
        if record is None:
            return False  # not placed yet, so there is nothing to keep; or sealed, so nothing more to know
        outcome, life = advance(Life(State(record.state), record.attempt), fact)
        self.counts[outcome.value] += 1
        if outcome is not Outcome.APPLIED or life is None:
            return False
        record.state, record.attempt = life.state.value, life.attempt
        if isinstance(fact, m.Placed):
            record.attempts.setdefault(fact.attempt, Attempt()).nodes = len(fact.allocations)
        if isinstance(fact, m.Lost | m.Requeued | m.Finished) and fact.attempt in record.attempts:
            attempt = record.attempts[fact.attempt]
            attempt.over_at = at
            end = None if isinstance(fact, m.Lost) else fact.end
            attempt.output_bytes = end.output_bytes if end is not None else {}
            attempt.silent = isinstance(fact, m.Lost) or (end is not None and end.started_at is None)
        if life.state in ENDS:
            record.over_at = at
            self._over.add(key)
        self._plan(key)
        return True

    def on_archived(self, key: JobKey, fact: m.Archived, at: float) -> bool:
        """The ledger keeps no fact about a job any more but this; gives whether it is news here that it is over."""
        record = self.jobs.get(key)
        if record is None or record.over_at is not None:
            return False
        record.state, record.attempt, record.over_at = fact.state, fact.attempt, at
        for number in range(1, fact.attempt + 1):
            attempt = record.attempts.setdefault(number, Attempt(silent=True))
            attempt.over_at = at if attempt.over_at is None else attempt.over_at
        self._over.add(key)
        self._plan(key)
        return True

    def on_spool(self, key: JobKey, attempt: int, spool: str, *, drained: bool) -> None:
        """Records of a spool were stored."""
        self._attempt(key, attempt).spools[spool] = drained
        self._plan(key)

    def on_output(self, key: JobKey, attempt: int, stream: str, *, whole: bool) -> None:
        """Bytes of an output stream were stored."""
        self._attempt(key, attempt).outputs[stream] = whole
        self._plan(key)

    def on_late(self, key: JobKey) -> None:
        """Something was stored of a job; if it is sealed, or just being sealed, the seal may not hold all."""
        record = self.jobs.get(key)
        if record is not None and (record.sealed_at is not None or key in self._sealing):
            record.late = True
            self._plan(key)

    def on_sealed(self, key: JobKey, now: float) -> Record:
        """A seal was written. Gives the record to keep; the job is forgotten here unless something came meanwhile."""
        self._sealing.discard(key)
        record = self.jobs[key]
        record.sealed_at = now
        if not record.late:
            self.forget(key)
        self._plan(key)
        return record

    def on_seal_failed(self, key: JobKey, now: float) -> None:
        """The blob store was not there: try again, later."""
        self._sealing.discard(key)
        self.jobs[key].sealed_at, self.jobs[key].late = now, True
        self._plan(key)

    def _attempt(self, key: JobKey, number: int) -> Attempt:
        return self.jobs.setdefault(key, Record()).attempts.setdefault(number, Attempt())

    # -- what follows --------------------------------------------------------------------------------------------------

    def is_over(self, key: JobKey) -> bool:
        """Whether the ledger has the end of a job. A job that is not here is over, or was never placed."""
        record = self.jobs.get(key)
        return record is None or record.over_at is not None

    def attempt_is_over(self, key: JobKey, number: int, now: float) -> bool:
        """Whether nothing more will come of an attempt."""
        record = self.jobs.get(key)
        if record is None:
            return True
        settles_at = _settles_at(record.attempts.get(number, Attempt()))
        return settles_at is not None and settles_at <= now

    def settled_outputs(self, key: JobKey, now: float) -> dict[tuple[int, str], int]:
        """Length of each output stream, by attempt and name, to which nothing more will come, if its node said it."""
        record = self.jobs.get(key, Record())
        return {
            (number, stream): size
            for number, attempt in record.attempts.items()
            if self.attempt_is_over(key, number, now)
            for stream, size in attempt.output_bytes.items()
        }

    def is_complete(self, key: JobKey, now: float) -> bool:
        """Whether a job is over and everything is stored that will be."""
        record = self.jobs.get(key)
        if record is None:
            return True
        at = _complete_at(record)
        return at is not None and at <= now

    def decide(self, now: float) -> list[Seal]:
        """The seals that are due. Each is answered by `on_sealed` or `on_seal_failed`."""
        due: list[Seal] = []
        while (at := self.wake_at()) is not None and at <= now:
            _, key = heapq.heappop(self._agenda)
            self._sealing.add(key)
            self.jobs[key].late = False
            due.append(Seal(key))
        return due

    def wake_at(self) -> float | None:
        """When `decide` has something to say though nothing happens."""
        while self._agenda:
            at, key = self._agenda[0]
            due_at = self._due_at(key)
            if due_at == at:
                return at
            heapq.heappop(self._agenda)
            if due_at is not None:
                heapq.heappush(self._agenda, (due_at, key))
        return None

    def _plan(self, key: JobKey) -> None:
        due_at = self._due_at(key)
        if due_at is not None:
            heapq.heappush(self._agenda, (due_at, key))

    def _due_at(self, key: JobKey) -> float | None:
        """When a job is to be sealed, as far as is known now; None: it need not be."""
        if key not in self._over or key in self._sealing:
            return None
        record = self.jobs[key]
        at = _complete_at(record)
        if at is None or (record.sealed_at is not None and not record.late):
            return None
        return at if record.sealed_at is None else max(at, record.sealed_at + RESEAL_S)

    def check(self) -> None:
        """Raise if the core contradicts itself."""
        for key, record in self.jobs.items():
            if (record.over_at is not None) != (State(record.state) in ENDS):
                raise AssertionError(f"{key}: state {record.state}, over at {record.over_at}")
            if record.attempts and record.attempt and max(record.attempts) < record.attempt:
                raise AssertionError(f"{key}: attempt {record.attempt} is not among {sorted(record.attempts)}")
        if self._over != {key for key, record in self.jobs.items() if record.over_at is not None}:
            raise AssertionError("the index of jobs that are over is wrong")
        if not self._sealing <= self._over:
            raise AssertionError("a job is being sealed that is not over")
        first = min((at for key in self.jobs if (at := self._due_at(key)) is not None), default=None)
        if self.wake_at() != first:
            raise AssertionError(f"the agenda begins at {self.wake_at()}, the first seal is due at {first}")


def _complete_at(record: Record) -> float | None:
    """When a job is complete, as far as is known now; None: not before something happens."""
    if record.over_at is None:
        return None
    moments = [_settles_at(attempt) or record.over_at + WAIT_S_MAX for attempt in record.attempts.values()]
    return max([record.over_at, *moments])


def _settles_at(attempt: Attempt) -> float | None:
    """When nothing more is expected of an attempt; None while it lives."""
    if attempt.over_at is None:
        return None
    if attempt.silent:
        return attempt.over_at
    return attempt.over_at + (0.0 if _has_all(attempt) else WAIT_S_MAX)


def _has_all(attempt: Attempt) -> bool:
    """Whether each of its nodes has said all. One that logged nothing says so: it has the spool `none`."""
    outputs, spools = attempt.outputs, attempt.spools
    if not (all(outputs.values()) and all(spools.values())):
        return False
    if attempt.nodes == 1:
        return outputs.keys() >= STREAMS and bool(spools)
    expected = {ranks.stream(name, rank) for name in STREAMS for rank in range(attempt.nodes)}
    told = {ranks.rank_of_spool(name.rpartition("/")[2]) for name in spools}
    return outputs.keys() >= expected and told >= set(range(attempt.nodes))
