"""The jobs of a team that wait, in their order: a page at a time. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from controlplane.scheduling.jobs import Job
from controlplane.scheduling.queues import Queue
from controlplane.scheduling.truth import Truth
from controlplane.scheduling.waits import Look
from events import messages as m

LIMIT_MAX: Final = 200
AFTER_MAX: Final = 10_000
"""Who wants to know who stands behind so many asks for the jobs instead: to get there, all before are looked at."""


def page(truth: Truth, look: Look, ask: m.AskQueue) -> m.QueuePage:
    """At most `LIMIT_MAX` of them. What is parked (held, without its environment, …) stands behind what may run."""
    queues = [queue for _, queue in sorted(truth.queues.items()) if queue.team == ask.team]
    queues = [queue for queue in queues if queue.waiting and (not ask.queue or queue.name == ask.queue)]
    limit, after = max(1, min(ask.limit, LIMIT_MAX)), max(0, min(ask.after, AFTER_MAX))
    waiting = sum(len(queue.waiting) for queue in queues)
    places = ((place, job) for queue in queues for place, job in enumerate(_in_order(truth, look, queue), 1))
    jobs = tuple(_view(look, place, job) for place, job in islice(places, after, after + limit))
    end = after + len(jobs)
    return m.QueuePage(jobs=jobs, waiting=waiting, next=end if jobs and end < min(waiting, AFTER_MAX) else 0)


def _in_order(truth: Truth, look: Look, queue: Queue) -> Iterator[Job]:
    yield from look.in_order(queue)
    for _, _, job_id in queue.waiting:
        job = truth.by_key[(queue.team, job_id)]
        if not job.in_line:
            yield job


def _view(look: Look, place: int, job: Job) -> m.QueuedView:
    specification, first = job.specification, look.first(job, place)
    return m.QueuedView(
        place=place,
        queue=specification.queue,
        job=job.id,
        name=specification.name,
        user=specification.user,
        tier=specification.tier,
        queued_at=job.queued_at,
        priority=job.priority,
        time_limit_s=specification.time_limit_s,
        kind=first.kind if first is not None else "",
        why=first.message if first is not None else "about to be placed",
    )
