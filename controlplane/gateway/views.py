"""What the gateway knows of a job, and how it shows it: a record that facts change, a view that is read."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from events import arrays
from events import messages as m
from events.ledger import Entry
from events.lifecycle import ENDS, Life, State

HISTORY_MAX: Final = 200
"""Of a job, the newest; a job that was requeued very often has had more."""


class HistoryItem(msgspec.Struct, frozen=True, kw_only=True):
    """One fact about a job, for a person."""

    at: float
    type: str
    sequence: int
    text: str = ""


class EnvironmentRecord(msgspec.Struct, kw_only=True):
    """Where an environment request stands: `wanted`, `building`, `ready`, `failed`."""

    digest: str
    state: str = "wanted"
    lock: str = ""
    packages: int = 0
    took_s: float = 0.0
    reason: str = ""
    sequence: int = 0
    """Of the newest fact."""


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it stands."""

    job: str
    name: str
    team: str
    user: str
    queue: str
    tier: str
    state: str
    held: bool
    attempt: int
    submitted_at: float | None
    queued_at: float | None
    placed_at: float | None
    started_at: float | None
    finished_at: float | None
    reason: str
    exit_code: int | None
    signal: int | None
    usage: m.Usage | None
    allocations: tuple[m.Allocation, ...]
    entrypoint: tuple[str, ...]
    kind: str
    """`ray`: with a Ray cluster of its own; else `plain`."""
    source: str
    folder: str
    environment: EnvironmentRecord | None
    labels: dict[str, str]
    on: tuple[m.Constraint, ...]
    """Which nodes will do, in order of preference. Empty: any node."""
    priority: int
    time_limit_s: float | None
    attempts_max: int
    retries: int
    after: tuple[m.Dependency, ...]
    """What it was to wait for, whether that is over by now or not."""
    begin_at: float | None
    deadline_at: float | None
    array: str
    """Indices of its tasks; empty: it is no array."""
    array_at_once: int
    tasks: dict[str, int] | None
    """Of an array: how many of its tasks are in each state; `queued` counts those that nobody has placed."""
    task: m.Task | None
    """Which task of which array it is."""
    history: list[HistoryItem]
    problems: tuple[m.Problem, ...] = ()
    warnings: tuple[m.Problem, ...] = ()
    latest: dict[str, dict[str, Any]] = {}
    """Newest value of each series by name: `step`, `value`, `at`. Only where it was asked for."""


class JobRecord(msgspec.Struct, kw_only=True):
    """What facts have told about a job so far."""

    job: str
    team: str
    life: Life
    user: str = ""
    name: str = ""
    specification: m.Specification | None = None
    priority: int = 0
    sequence: int = 0
    """Of the newest fact."""
    submitted_at: float | None = None
    queued_at: float | None = None
    placed_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    reason: str = ""
    end: m.AttemptEnd | None = None
    allocations: tuple[m.Allocation, ...] = ()
    problems: tuple[m.Problem, ...] = ()
    warnings: tuple[m.Problem, ...] = ()
    history: list[HistoryItem] = []
    task: m.Task | None = None
    tasks: dict[str, int] = {}
    """Of an array: how many of the tasks that have a fact are in each state."""
    tasks_sequence: int = 0
    """Of the newest fact about one of its tasks."""

    def states(self) -> dict[str, int]:
        """Of an array: how many of its tasks are in each state. Those that will never run count as the array ended."""
        size = len(arrays.parse(self.specification.array)[0]) if self.specification else 0
        found = dict(self.tasks)
        if rest := size - sum(found.values()):
            state = "cancelled" if self.is_over or self.life.state is State.STOPPING else "queued"
            found[state] = found.get(state, 0) + rest
        return {state: count for state, count in found.items() if count}

    @property
    def is_over(self) -> bool:
        return self.life.state in ENDS

    @property
    def environment(self) -> str:
        return self.specification.environment if self.specification else ""

    def tell(self, entry: Entry, life: Life) -> None:
        """Take in a fact that the lifecycle has applied."""
        fact = entry.fact
        self.life, self.sequence = life, entry.sequence
        tag = str(type(fact).__struct_config__.tag)
        self.history.append(HistoryItem(at=entry.at, type=tag, sequence=entry.sequence, text=_text(fact)))
        del self.history[:-HISTORY_MAX]
        _CHANGES.get(type(fact), _nothing)(self, fact, entry.at)
        if life.state is State.QUEUED and not isinstance(fact, m.Accepted):
            self.queued_at = entry.at if isinstance(fact, m.Requeued | m.Lost) else self.queued_at
        if self.is_over and self.finished_at is None:
            self.finished_at = entry.at

    def view(self, environment: EnvironmentRecord | None, of: m.Specification | None = None) -> JobView:
        """`of`: of a task, the specification of its array."""
        said, end = self.specification or of, self.end
        return JobView(
            job=self.job,
            name=self.name,
            team=self.team,
            user=self.user,
            queue=said.queue if said else "",
            tier=said.tier if said else "",
            state=self.life.state.value,
            held=self.life.held,
            attempt=self.life.attempt,
            submitted_at=self.submitted_at,
            queued_at=self.queued_at,
            placed_at=self.placed_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            reason=self.reason,
            exit_code=end.exit_code if end else None,
            signal=end.signal if end else None,
            usage=end.usage if end else None,
            allocations=self.allocations,
            entrypoint=said.entrypoint if said else (),
            kind=said.kind if said else "plain",
            source=said.source if said else "",
            folder=said.folder if said else "",
            environment=environment,
            labels=said.labels if said else {},
            on=said.on if said else (),
            priority=self.priority,
            time_limit_s=said.time_limit_s if said else None,
            attempts_max=said.attempts_max if said else 0,
            retries=said.retries if said else 0,
            after=said.after if said else (),
            begin_at=said.begin_at if said else None,
            deadline_at=said.deadline_at if said else None,
            array=said.array if said and not self.task else "",
            array_at_once=said.array_at_once if said and not self.task else 0,
            tasks=self.states() if said and said.array and not self.task else None,
            task=self.task,
            history=self.history,
            problems=self.problems,
            warnings=self.warnings,
        )


def _text(fact: m.Fact) -> str:
    """A fact in a few words; empty where its type says all."""
    match fact:
        case m.Rejected(problems=problems):
            return problems[0].message if problems else ""
        case m.CancelRequested(by=by, why=why) | m.Held(by=by, why=why):
            return f"by {by}: {why}" if why else f"by {by}"
        case m.Released(by=by):
            return f"by {by}"
        case m.Reprioritised(by=by, priority=priority):
            return f"to {priority}, by {by}"
        case m.Moved(by=by, before=before, after=after):
            return f"{f'before {before}' if before else f'after {after}' if after else 'to the front'}, by {by}"
        case m.Placed(why=why, allocations=allocations):
            return why or "on " + ", ".join(each.node for each in allocations)
        case m.StopRequested(why=why) | m.Requeued(why=why) | m.Lost(why=why):
            return why
        case m.Finished(outcome=outcome, reason=reason):
            return f"{outcome}: {reason}"
        case _:
            return ""


# -- what each fact changes in a record --------------------------------------------------------------------------------


def _nothing(record: JobRecord, fact: Any, at: float) -> None:
    """This fact changes the job's life, and nothing else."""


def _accepted(record: JobRecord, fact: m.Accepted, at: float) -> None:
    said = fact.specification
    record.specification, record.user, record.name = said, said.user, said.name
    record.priority, record.warnings = said.priority, fact.warnings
    record.submitted_at, record.queued_at = said.submitted_at or at, at


def _rejected(record: JobRecord, fact: m.Rejected, at: float) -> None:
    record.user, record.name, record.problems = fact.user, fact.name, fact.problems
    record.submitted_at = at
    first = fact.problems[0] if fact.problems else None
    record.reason = f"{first.path}: {first.message}" if first else "rejected"


def _cancel_requested(record: JobRecord, fact: m.CancelRequested, at: float) -> None:
    if fact.task is not None:
        record.task, record.submitted_at = fact.task, at
    if record.life.state is State.CANCELLED:
        record.reason = f"cancelled by {fact.by}" + (f": {fact.why}" if fact.why else "")


def _reprioritised(record: JobRecord, fact: m.Reprioritised, at: float) -> None:
    record.priority = fact.priority


def _placed(record: JobRecord, fact: m.Placed, at: float) -> None:
    if fact.task is not None:
        record.task, record.submitted_at, record.queued_at = fact.task, at, at
    record.placed_at, record.started_at, record.allocations = at, None, fact.allocations
    record.end, record.reason = None, ""


def _unfolded(record: JobRecord, fact: m.Unfolded, at: float) -> None:
    record.placed_at = at


def _started(record: JobRecord, fact: m.Started, at: float) -> None:
    record.started_at = fact.started_at


def _stop_requested(record: JobRecord, fact: m.StopRequested, at: float) -> None:
    record.reason = fact.why


def _back(record: JobRecord, fact: m.Requeued | m.Lost, at: float) -> None:
    record.allocations, record.reason = (), fact.why
    record.end = fact.end if isinstance(fact, m.Requeued) else None


def _finished(record: JobRecord, fact: m.Finished, at: float) -> None:
    record.reason, record.end = fact.reason, fact.end
    record.tasks = dict(fact.tasks)
    if fact.end is not None:
        record.started_at = fact.end.started_at or record.started_at
        record.finished_at = fact.end.ended_at


_CHANGES: Final[dict[type[m.Fact], Any]] = {
    m.Accepted: _accepted,
    m.Rejected: _rejected,
    m.CancelRequested: _cancel_requested,
    m.Reprioritised: _reprioritised,
    m.Unfolded: _unfolded,
    m.Placed: _placed,
    m.Started: _started,
    m.StopRequested: _stop_requested,
    m.Requeued: _back,
    m.Lost: _back,
    m.Finished: _finished,
}
