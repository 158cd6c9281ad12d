"""Arrays: one record for all the tasks that nobody has placed yet, however many they are. Pure.

The array's own job stands in a line of its queue for the next of its tasks, and is never placed itself. A choice of it
takes the first index that has no fact, and makes a job of that task, as a decision like any other: it is in the ledger
with the fact that places it, and folded back where that did not come about. What the ledger says of the indices is a
place before which all are taken, and those behind it that are, mostly none.
"""

from __future__ import annotations

import msgspec

from controlplane.scheduling.ends import cancelled
from controlplane.scheduling.jobs import Array, Job
from events import arrays, subjects
from events import messages as m
from events.identity import task_id
from events.lifecycle import Life, State


def array_of(specification: m.Specification) -> Array | None:
    """What an array is beside its job; None: it is none."""
    if not specification.array:
        return None
    indices, _ = arrays.parse(specification.array)
    return Array(indices=indices, at_once=specification.array_at_once or len(indices))


def next_task(job: Job) -> Job:
    """The next task of an array that has one left, as a job that the ledger does not know yet."""
    array = job.array
    assert array is not None
    return task_of(job, array.indices[array.next()])


def task_of(job: Job, index: int, decided: Job | None = None) -> Job:
    """The job of a task: its place in the queue is that of its array.

    `decided`: the same task as somebody decided it, of which nodes may have told something already.
    """
    array, of = job.array, job.specification
    assert array is not None
    if decided is not None:
        specification = decided.specification
    else:
        name = task_id(of.job, index)
        specification = msgspec.structs.replace(of, job=name, array="", array_at_once=0, after=(), begin_at=None)
    return Job(
        parts=decided.parts if decided is not None else None,
        specification=specification,
        subject=subjects.job(specification.team, specification.job),
        shape=job.shape,
        life=Life(State.QUEUED),
        sequence=0,
        accepted=0,
        rank=job.rank,
        priority=job.priority,
        queued_at=job.queued_at,
        front=job.front,
        order_at=job.order_at,
        order_s=job.order_s,
        predicted_s=job.predicted_s,
        traceparent=job.traceparent,
        task=m.Task(array=of.job, index=index, size=len(array.indices)),
    )


def first_said(job: Job) -> m.Task | None:
    """What the fact that places a job must say of it; None: the ledger knows it already."""
    return job.task if not job.sequence else None


def submitted(job: Job) -> str:
    """Subject of what somebody submitted: of a task, its array."""
    return subjects.job(job.specification.team, job.task.array) if job.task is not None else job.subject


def end(job: Job, doom: m.Outcome | None, reason: str, *, term: int) -> m.Finished | None:
    """The end of an array of which nothing lives any more and nothing is left to place; None: something is.

    `doom`: how it ends if what is left can never run, and the `reason` of that.
    """
    array = job.array
    assert array is not None, "the job is one"
    if array.tasks:
        return None
    size = len(array.indices)
    outcome: m.Outcome | None
    if job.cancelled_by:
        outcome, reason = "cancelled", cancelled(job)
    elif array.rest:
        outcome = doom
    elif array.failed:
        outcome, reason = "failed", f"{array.failed} of {size} tasks failed"
    elif array.cancelled == size:
        outcome, reason = "cancelled", "all tasks were cancelled"
    elif array.cancelled:
        outcome, reason = "cancelled", f"{array.cancelled} of {size} tasks were cancelled, the others succeeded"
    else:
        outcome, reason = "succeeded", f"all {size} tasks succeeded"
    if outcome is None:
        return None
    tasks = {"succeeded": array.succeeded, "failed": array.failed, "cancelled": array.cancelled}
    counts = {state: count for state, count in tasks.items() if count}
    return m.Finished(term=term, attempt=0, outcome=outcome, reason=reason, tasks=counts)


def stop(job: Job, *, term: int) -> m.StopRequested | None:
    """What there is to write about a live task whose array was cancelled; None: nothing."""
    if not job.cancelled_by or job.life.state not in (State.PLACED, State.RUNNING):
        return None
    return m.StopRequested(term=term, attempt=job.life.attempt, why=cancelled(job), final=True)
