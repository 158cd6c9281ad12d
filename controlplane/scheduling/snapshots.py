"""Snapshots: the truth as bytes, and back. Pure.

Only what the ledger said is in one; every index is built anew. Two schedulers that applied the same facts give the
same bytes, whenever and from which older snapshot they began.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import islice
from typing import Final

import msgspec

from controlplane.scheduling.arrays import array_of
from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.jobs import Array, Job, shape_of
from controlplane.scheduling.nodes import Node
from controlplane.scheduling.predictions import Key
from controlplane.scheduling.shares import Account
from controlplane.scheduling.truth import Truth
from controlplane.scheduling.waiting import Claim
from events import messages as m
from events.lifecycle import Life, State
from events.wire import UNREADABLE

VERSION: Final = 12


class _Job(msgspec.Struct, array_like=True):
    specification: m.Specification
    subject: str
    state: str
    attempt: int
    held: bool
    sequence: int
    accepted: int
    rank: tuple[str, str]
    """Numerator and denominator; as hexadecimal text, for they may be of any size, and decimal digits may not."""
    priority: int
    queued_at: float
    front: int
    order_at: float
    order_s: float
    attained_s: float
    predicted_s: float | None
    running_at: float | None
    traceparent: str
    task: m.Task | None
    array: tuple[int, list[int], int, int, int] | None
    """Of an array: `first`, `taken`, and how many of its tasks succeeded, failed, were cancelled."""
    not_before: float
    after: tuple[m.Dependency, ...]
    unmet: str
    failures: int
    allocations: tuple[m.Allocation, ...]
    placed_at: float
    started_at: float | None
    cancelled_by: str
    cancel_why: str
    stop_why: str
    excused: int
    stop_at: float
    stop_final: bool


_Average = tuple[float, float, float, float]
"""milli_cpus, memory_bytes, gpus, at."""


class _Node(msgspec.Struct, array_like=True):
    name: str
    sequence: int
    boot: str
    capacity: m.Capacity
    suspected_at: float | None
    cordoned_by: str
    cordoned_why: str
    draining_by: str
    draining_why: str
    stops: bool
    maintenance: m.Span | None
    gone_why: str
    faults: tuple[m.GpuFault, ...]
    repaired: list[tuple[int, float]]


class _Snapshot(msgspec.Struct, array_like=True):
    version: int
    sequence: int
    term: int
    term_sequence: int
    jobs: list[_Job]
    ended: list[tuple[str, str, int, bool]]
    queues: list[tuple[str, str, m.QueueSet, int, bool, _Average]]
    teams: list[tuple[str, m.TeamSet, int, _Average]]
    claims: list[tuple[str, str, tuple[str, ...], float]]
    history: list[tuple[Key, tuple[float, ...]]]
    """The least recently used first."""
    environments: list[tuple[str, str, str, str, str]]
    nodes: list[_Node]


_DECODER: Final = msgspec.msgpack.Decoder(_Snapshot)
_ENCODER: Final = msgspec.msgpack.Encoder()


def encode(truth: Truth, *, waiting_max: int | None = None) -> bytes:
    """What the ledger has said, as bytes. `waiting_max`: see `Core.excerpt`."""
    jobs = list(truth.jobs.values()) if waiting_max is None else _excerpt(truth, waiting_max)
    return _ENCODER.encode(
        _Snapshot(
            version=VERSION,
            sequence=truth.sequence,
            term=truth.term,
            term_sequence=truth.term_sequence,
            jobs=[_from_job(truth, job) for job in _by_age(jobs)],
            ended=[
                (subject, life.state.value, life.attempt, life.held)
                for subject, life in (truth.ended.items() if waiting_max is None else ())
            ],
            queues=[
                (q.team, q.name, q.settings, q.sequence, q.removed, _average(q.account))
                for _, q in sorted(truth.queues.items())
            ],
            teams=[
                (t.name, t.settings, t.sequence, _average(t.account))
                for _, t in sorted(truth.teams.items())
                if t.sequence or t.account.average.at
            ],
            history=list(truth.history) if waiting_max is None else [],
            claims=[(*key, claim.nodes, claim.until) for key, claim in truth.claims.items()],
            environments=[
                (digest, e.state, e.lock, e.python, e.reason)
                for digest, e in sorted(truth.environments.items())
                if waiting_max is None or e.jobs
            ],
            nodes=[_from_node(node) for _, node in sorted(truth.fleet.nodes.items()) if node.sequence],
        )
    )


def _excerpt(truth: Truth, waiting_max: int) -> list[Job]:
    """All jobs that hold resources, and the first of those that wait."""
    running = {job.key: job for node in truth.fleet.nodes.values() for job in node.jobs.values() if job.is_live}
    queues = [queue for _, queue in sorted(truth.queues.items()) if queue.waiting]
    each = max(1, waiting_max // max(1, len(queues)))
    waiting = [truth.by_key[(queue.team, job)] for queue in queues for _, _, job in islice(queue.waiting, each)]
    return [*running.values(), *waiting]


def decode(content: bytes, settings: Settings) -> Truth:
    """The truth in a snapshot. Raises ValueError if it is none, or one of another version."""
    try:
        snapshot = _DECODER.decode(content)
    except UNREADABLE as error:
        raise ValueError(f"not a snapshot of the scheduler: {error}") from error
    if snapshot.version != VERSION:
        raise ValueError(f"a snapshot of version {snapshot.version}, this reads {VERSION}")
    truth = Truth(settings)
    truth.sequence, truth.term, truth.term_sequence = snapshot.sequence, snapshot.term, snapshot.term_sequence
    for team, name, of_queue, sequence, removed, average in snapshot.queues:
        queue = truth.queue(team, name)
        queue.set(of_queue, sequence)
        queue.removed = removed
        _restore(queue.account, average)
    for name, of_team, sequence, average in snapshot.teams:
        team_ = truth.team(name)
        team_.set(of_team, sequence)
        _restore(team_.account, average)
    for digest, state, lock, python, reason in snapshot.environments:
        environment = truth.environment(digest)
        environment.state, environment.lock, environment.python, environment.reason = state, lock, python, reason
    for record in snapshot.nodes:
        node = _to_node(record)
        truth.fleet.nodes[node.name] = node
        truth.fleet.close(node, node.maintenance)
        truth.fleet.resize(node, node.capacity)
    for record_ in snapshot.jobs:
        truth.admit(_to_job(record_))
    for subject, state, attempt, held in snapshot.ended:
        truth.ended[subject] = Life(State(state), attempt, held)
    for team, job, nodes, until in snapshot.claims:
        truth.keep((team, job), Claim(nodes, until))
    truth.history.restore(snapshot.history)
    return truth


def _average(account: Account) -> _Average:
    average = account.average
    return (average.milli_cpus, average.memory_bytes, average.gpus, average.at)


def _restore(account: Account, average: _Average) -> None:
    mine = account.average
    mine.milli_cpus, mine.memory_bytes, mine.gpus, mine.at = average


def _from_job(truth: Truth, job: Job) -> _Job:
    return _Job(
        specification=job.specification,
        subject=job.subject,
        state=job.life.state.value,
        attempt=job.life.attempt,
        held=job.life.held,
        sequence=job.sequence,
        accepted=job.accepted,
        rank=(f"{job.rank.numerator:x}", f"{job.rank.denominator:x}"),
        priority=job.priority,
        queued_at=job.queued_at,
        front=job.front,
        order_at=job.order_at,
        order_s=job.order_s,
        attained_s=job.attained_s,
        predicted_s=job.predicted_s,
        running_at=job.running_at,
        traceparent=job.traceparent,
        not_before=job.not_before,
        task=job.task,
        array=_from_array(job.array) if job.array is not None else None,
        after=job.after,
        unmet=job.unmet,
        failures=job.failures,
        allocations=job.allocations,
        placed_at=job.placed_at,
        started_at=job.started_at,
        cancelled_by=job.cancelled_by,
        cancel_why=job.cancel_why,
        stop_why=job.stop_why,
        excused=job.excused,
        stop_at=job.stop_at,
        stop_final=job.stop_final,
    )


def _by_age(jobs: Iterable[Job]) -> list[Job]:
    """An array before its tasks. Without tasks that are decided only."""
    return sorted((job for job in jobs if job.sequence), key=lambda job: job.accepted)


def _from_array(array: Array) -> tuple[int, list[int], int, int, int]:
    return (array.first, sorted(array.taken), array.succeeded, array.failed, array.cancelled)


def _to_job(record: _Job) -> Job:
    numerator, denominator = (int(part, 16) for part in record.rank)
    array = array_of(record.specification)
    if array is not None and record.array is not None:
        array.first, taken, array.succeeded, array.failed, array.cancelled = record.array
        array.taken = set(taken)
    return Job(
        array=array,
        task=record.task,
        specification=record.specification,
        subject=record.subject,
        shape=shape_of(record.specification),
        life=Life(State(record.state), record.attempt, record.held),
        sequence=record.sequence,
        accepted=record.accepted,
        rank=numerator if denominator == 1 else Fraction(numerator, denominator),
        priority=record.priority,
        queued_at=record.queued_at,
        front=record.front,
        order_at=record.order_at,
        order_s=record.order_s,
        attained_s=record.attained_s,
        predicted_s=record.predicted_s,
        running_at=record.running_at,
        traceparent=record.traceparent,
        not_before=record.not_before,
        early=record.not_before > 0.0 and State(record.state) is State.QUEUED,
        after=record.after,
        unmet=record.unmet,
        failures=record.failures,
        allocations=record.allocations,
        placed_at=record.placed_at,
        started_at=record.started_at,
        cancelled_by=record.cancelled_by,
        cancel_why=record.cancel_why,
        stop_why=record.stop_why,
        excused=record.excused,
        stop_at=record.stop_at,
        stop_final=record.stop_final,
    )


def _from_node(node: Node) -> _Node:
    return _Node(
        name=node.name,
        sequence=node.sequence,
        boot=node.boot,
        capacity=node.capacity,
        suspected_at=node.suspected_at,
        cordoned_by=node.cordoned_by,
        cordoned_why=node.cordoned_why,
        draining_by=node.draining_by,
        draining_why=node.draining_why,
        stops=node.stops,
        maintenance=node.maintenance,
        gone_why=node.gone_why,
        faults=node.faults,
        repaired=sorted(node.repaired.items()),
    )


def _to_node(record: _Node) -> Node:
    return Node(
        name=record.name,
        sequence=record.sequence,
        boot=record.boot,
        capacity=record.capacity,
        suspected_at=record.suspected_at,
        cordoned_by=record.cordoned_by,
        cordoned_why=record.cordoned_why,
        draining_by=record.draining_by,
        draining_why=record.draining_why,
        stops=record.stops,
        maintenance=record.maintenance,
        gone_why=record.gone_why,
        faults=record.faults,
        repaired=dict(record.repaired),
    )


def described(content: bytes) -> dict[str, object]:
    """What a snapshot says, by name: to compare two of them.

    Instead of the ranks of waiting jobs their order: a place between two jobs that have left the ledger may be another
    number when it is found again, but never another place. Without what was used, and what is predicted by it: of jobs
    that have left the ledger nothing tells it but a snapshot.
    """
    snapshot = _DECODER.decode(content)
    said: dict[str, object] = {"term": snapshot.term}
    neutral = {"rank": ("", ""), "predicted_s": None, "order_s": 0.0}
    said |= {job.subject: msgspec.structs.replace(job, **neutral) for job in snapshot.jobs}
    said |= {subject: tuple(life) for subject, *life in snapshot.ended}
    said |= {f"queue {team}/{name}": tuple(rest) for team, name, *rest, _ in snapshot.queues}
    said |= {f"team {name}": tuple(rest) for name, *rest, _ in snapshot.teams if rest[1]}
    said |= {f"kept for {team}/{job}": tuple(rest) for team, job, *rest in snapshot.claims}
    said |= {f"environment {digest}": tuple(rest) for digest, *rest in snapshot.environments}
    said |= {f"node {node.name}": node for node in snapshot.nodes}
    waiting: dict[str, list[tuple[int, Fraction, str]]] = {}
    for job in snapshot.jobs:
        if job.state in (State.QUEUED.value, State.UNFOLDING.value):
            rank = Fraction(*(int(part, 16) for part in job.rank))
            queue = f"{job.specification.team}/{job.specification.queue}"
            waiting.setdefault(f"order in {queue}", []).append((-job.priority, rank, job.subject))
    return said | {name: tuple(subject for *_, subject in sorted(jobs)) for name, jobs in waiting.items()}
