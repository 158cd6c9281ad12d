"""The life of a job: one table and one function. Nothing else changes the state of a job.

A job is *accepted* or *rejected* at the door. An accepted job is `queued`; it may be held and released there, and its
priority and place may change. Scheduling gives it an attempt and allocations: `placed`. The node reports that the
entrypoint runs: `running`. When somebody wants it to stop (a cancel, a preemption, a drain) it is `stopping` until the
node says that nothing of it lives any more. An attempt that ended, or whose node is lost, either ends the job
(`succeeded`, `failed`, `cancelled`) or puts it back in the queue; only `placed` raises the attempt's number.

An array is a job that is never placed itself. When its first task is, it is `unfolding`, and what is done to a queued
job can be done to the rest of it; it ends when its last task has. A task begins with the fact that places it, or that
cancels it before.

Four things can come of a fact:

* `APPLIED`: it is a row of the table.
* `REPEATED`: the row says that the state already is what the fact would make it.
* `STALE`: it speaks of an older attempt, or comes after the end: true once, of no importance now.
* `FORBIDDEN`: no correct writer writes it in this state. The only one that is a bug of ours.

Old is not wrong, so the attempt is compared once, before the table. The table holds every state, also those without
exits; a fact that a state has no row for is forbidden there. The diagram in `docs/concepts/road.md` is generated
from it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from events import messages as m


class State(Enum):
    """Where a job stands. The last four are ends."""

    QUEUED = "queued"
    UNFOLDING = "unfolding"
    PLACED = "placed"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


class Outcome(Enum):
    """What came of a fact; each is counted."""

    APPLIED = "applied"
    REPEATED = "repeated"
    STALE = "stale"
    FORBIDDEN = "forbidden"


class Life(msgspec.Struct, frozen=True):
    """A job's state, the number of its newest attempt (0: none yet), and whether it is held."""

    state: State
    attempt: int = 0
    held: bool = False


class Row(msgspec.Struct, frozen=True):
    """What a fact does in a state: the next state, and whether nothing is new about it."""

    to: State | None
    """None: the fact names it itself, as one of `ends`."""
    outcome: Outcome = Outcome.APPLIED
    held: bool | None = None
    """None: stays as it is."""
    ends: frozenset[State] = frozenset()


ENDS: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.REJECTED})
HOLDS_RESOURCES: Final = frozenset({State.PLACED, State.RUNNING, State.STOPPING})

_Q, _U, _P, _R, _S = State.QUEUED, State.UNFOLDING, State.PLACED, State.RUNNING, State.STOPPING
_AGAIN = Outcome.REPEATED
_END = Row(None, ends=frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED}))

TABLE: Final[dict[State, dict[type[m.JobFact], Row]]] = {
    State.QUEUED: {
        m.Accepted: Row(_Q, _AGAIN),
        m.Held: Row(_Q, held=True),
        m.Released: Row(_Q, held=False),
        m.Reprioritised: Row(_Q),
        m.Moved: Row(_Q),
        m.CancelRequested: Row(State.CANCELLED),  # nothing lives: the wish is the deed
        m.Unfolded: Row(_U),
        m.Placed: Row(_P),
        m.Finished: Row(None, ends=frozenset({State.FAILED, State.CANCELLED})),  # it can never run
        m.Requeued: Row(_Q, _AGAIN),
        m.Lost: Row(_Q, _AGAIN),
    },
    State.UNFOLDING: {
        m.Accepted: Row(_U, _AGAIN),
        m.Unfolded: Row(_U, _AGAIN),
        m.Held: Row(_U, held=True),
        m.Released: Row(_U, held=False),
        m.Reprioritised: Row(_U),
        m.Moved: Row(_U),
        m.CancelRequested: Row(_S),  # its tasks are stopped first
        m.Finished: _END,
    },
    State.PLACED: {
        m.Accepted: Row(_P, _AGAIN),
        m.Placed: Row(_P, _AGAIN),
        m.Started: Row(_R),
        m.StopRequested: Row(_S),
        m.CancelRequested: Row(_S),
        m.Requeued: Row(_Q),
        m.Lost: Row(_Q),
        m.Finished: _END,  # it ended before anybody heard of its start
    },
    State.RUNNING: {
        m.Accepted: Row(_R, _AGAIN),
        m.Placed: Row(_R, _AGAIN),
        m.Started: Row(_R, _AGAIN),
        m.StopRequested: Row(_S),
        m.CancelRequested: Row(_S),
        m.Requeued: Row(_Q),
        m.Lost: Row(_Q),
        m.Finished: _END,
    },
    State.STOPPING: {
        m.Accepted: Row(_S, _AGAIN),
        m.Placed: Row(_S, _AGAIN),
        m.Started: Row(_S, _AGAIN),  # it started while the wish to stop it was on its way
        m.StopRequested: Row(_S, _AGAIN),
        m.CancelRequested: Row(_S),  # a cancel on top of a preemption: it will not be queued again
        m.Requeued: Row(_Q),
        m.Lost: Row(_Q),
        m.Finished: _END,
    },
    State.SUCCEEDED: {m.Accepted: Row(State.SUCCEEDED, _AGAIN), m.Finished: Row(State.SUCCEEDED, _AGAIN)},
    State.FAILED: {m.Accepted: Row(State.FAILED, _AGAIN), m.Finished: Row(State.FAILED, _AGAIN)},
    State.CANCELLED: {
        m.Accepted: Row(State.CANCELLED, _AGAIN),
        m.Finished: Row(State.CANCELLED, _AGAIN),
        m.CancelRequested: Row(State.CANCELLED, _AGAIN),
    },
    State.REJECTED: {m.Rejected: Row(State.REJECTED, _AGAIN)},
}
"""(state, fact) → row. Facts about an older attempt never get here; after an end only what is listed is repeated."""

_LATE: Final = (m.Unfolded, m.Placed, m.Started, m.StopRequested, m.Requeued, m.Lost, m.CancelRequested)
"""What may still arrive after an end without anybody being wrong."""

_OF_AN_ATTEMPT: Final = (m.Placed, m.Started, m.StopRequested, m.Requeued, m.Lost, m.Finished)


def advance(life: Life | None, fact: m.JobFact) -> tuple[Outcome, Life | None]:
    """What becomes of a job by a fact: the outcome, and its life from then on (unchanged unless applied).

    `life` is None for a job that nobody has heard of. Pure and total: every pair has an answer, none raises.
    """
    if life is None:
        return _begin(fact)
    if isinstance(fact, _OF_AN_ATTEMPT):
        newest = life.attempt + 1 if isinstance(fact, m.Placed) and life.state is State.QUEUED else life.attempt
        if fact.attempt < newest:
            return Outcome.STALE, life
        if fact.attempt > newest:
            return Outcome.FORBIDDEN, life
    row = TABLE[life.state].get(type(fact))
    if row is None:
        late = life.state in ENDS and life.state is not State.REJECTED and isinstance(fact, _LATE)
        return (Outcome.STALE if late else Outcome.FORBIDDEN), life
    if row.outcome is not Outcome.APPLIED:
        return row.outcome, life
    attempt = fact.attempt if isinstance(fact, m.Placed) else life.attempt
    to = State(fact.outcome) if isinstance(fact, m.Finished) else row.to
    if to is None or (isinstance(fact, m.Finished) and to not in row.ends):
        return Outcome.FORBIDDEN, life
    held = life.held if row.held is None else row.held
    return Outcome.APPLIED, Life(to, attempt, held)


def _begin(fact: m.JobFact) -> tuple[Outcome, Life | None]:
    if isinstance(fact, m.Accepted):
        return Outcome.APPLIED, Life(State.QUEUED, 0, fact.held)
    if isinstance(fact, m.Rejected):
        return Outcome.APPLIED, Life(State.REJECTED)
    if isinstance(fact, m.Placed) and fact.task is not None and fact.attempt == 1:
        return Outcome.APPLIED, Life(State.PLACED, 1)
    if isinstance(fact, m.CancelRequested) and fact.task is not None:
        return Outcome.APPLIED, Life(State.CANCELLED)
    return Outcome.FORBIDDEN, None
