"""Why a job waits, and what nodes and queues hold: refusals as data, with numbers. Pure.

Derived from the very structures that decide, never stored. Costs about what is asked about, not what waits.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from controlplane.scheduling.backfill import length_s
from controlplane.scheduling.ends import span as span_of
from controlplane.scheduling.jobs import Job
from controlplane.scheduling.limits import Limits
from controlplane.scheduling.nodes import LAUNCHES_BYTES_MAX, Node
from controlplane.scheduling.queues import Queue
from controlplane.scheduling.truth import Truth
from events import messages as m
from events import subjects
from events.lifecycle import State

HELD_BY_MAX: Final = 10
"""Names of jobs in one answer; a person reads no more."""
GIB: Final = 1024**3


def why(truth: Truth, team: str, job_id: str, now: float) -> m.Why | None:
    """Why a job waits; None: nobody has heard of it."""
    job = truth.by_key.get((team, job_id))
    if job is None:
        life = truth.ended.get(subjects.job(team, job_id))
        if life is None:
            return None
        return m.Why(job=job_id, state=life.state.value, summary=f"it is over: {life.state.value}")
    if job.life.state is not State.QUEUED:
        return m.Why(job=job_id, state=job.life.state.value, summary=_where(job))
    queue = truth.queue_of(job)
    position = queue.position(job, truth.moment(now))
    hindrances = (*_parked(truth, job, now), *_queue(truth, queue, job, now), *_resources(truth, position, job, now))
    first = next((hindrance.message for hindrance in hindrances if not hindrance.ok), "about to be placed")
    return m.Why(
        job=job_id,
        state=job.life.state.value,
        position=position,
        of=len(queue.waiting),
        hindrances=hindrances,
        summary=first,
    )


def _where(job: Job) -> str:
    on = f"attempt {job.life.attempt} on node {job.node}"
    if job.life.state is State.STOPPING:
        what = f"cancelled by {job.cancelled_by}" if job.cancelled_by else job.stop_why
        return f"{on} is being stopped: {what}"
    return f"{on} is starting" if job.life.state is State.PLACED else f"{on} runs"


def _no(kind: str, message: str, **more: object) -> m.Hindrance:
    return m.Hindrance(ok=False, kind=kind, message=message, **more)  # type: ignore[arg-type]


def _yes(kind: str, message: str, **more: object) -> m.Hindrance:
    return m.Hindrance(ok=True, kind=kind, message=message, **more)  # type: ignore[arg-type]


def _parked(truth: Truth, job: Job, now: float) -> list[m.Hindrance]:
    """What must be in order before resources count."""
    found = []
    if job.life.held:
        found.append(_no("hold", "it is held; release it to let it run"))
    doom = truth.doom(job)
    if doom:
        found.append(_no("environment" if "environment" in doom else "node", f"it can never run: {doom}"))
    environment = truth.environment_of(job)
    if environment is not None and not doom:
        words = {"wanted": "its environment waits to be built", "building": "its environment is being built"}
        message = words.get(environment.state)
        found.append(_no("environment", message) if message else _yes("environment", "its environment is ready"))
    if job.backing_off and job.not_before > now:
        wait = span_of(max(1.0, job.not_before - now))
        found.append(
            _no("order", f"attempt {job.life.attempt} broke off; the next one starts in {wait} at the earliest")
        )
    return found


def _queue(truth: Truth, queue: Queue, job: Job, now: float) -> list[m.Hindrance]:
    """What the settings of its queue and of its team say."""
    if queue.settings.paused:
        return [_no("queue", f"queue {queue.name} is paused by {queue.settings.by or 'its operator'}")]
    refusal = Limits(truth, truth.moment(now)).refusal(queue, job)
    if refusal is None:
        return [_yes("queue", f"queue {queue.name} lets it run")]
    who, what, held, limit, asked = refusal[:5]
    if refusal.never:
        message = f"it asks for {asked:g} {what}, and {who} may hold {limit:g} at most"
    elif what == "jobs":
        message = f"{who} runs {held:g} of at most {limit:g} jobs"
    else:
        message = f"{who} holds {held:g} of at most {limit:g} {what}, it asks for {asked:g}"
    return [_no("queue", message, asked=asked, free=max(0.0, limit - held))]


def _resources(truth: Truth, position: int, job: Job, now: float) -> list[m.Hindrance]:
    """What the nodes say."""
    fleet, shape = truth.fleet, job.shape
    known = [node for node in fleet.nodes.values() if node.is_known]
    if not known:
        return [_no("node", "there is no node yet")]
    large = [node for node in known if node.could_fit(shape)]
    if not large:
        if shape.launch_bytes > LAUNCHES_BYTES_MAX:
            return [_no("node", "its entrypoint and environment variables are too large to be sent to a node")]
        biggest = max(known, key=lambda node: (node.capacity.gpus, node.capacity.cpus, node.name)).capacity
        has = f"the largest has {_amounts(biggest.cpus, biggest.memory_bytes, biggest.gpus)}"
        message = f"no node is large enough: it asks for {_asks(job)}, {has}"
        return [_no("node", message, asked=float(shape.gpus), free=float(biggest.gpus))]
    if fleet.best(shape) is not None:
        if closed := _in_maintenance(truth, job, now):
            return [_yes("resources", "a node has room"), _no("node", closed)]
        if position > 1:
            return [_yes("resources", "a node has room"), _no("order", _ahead(position - 1))]
        return [_yes("resources", "a node has room"), _no("order", "its turn comes next, or another queue's before it")]
    is_open = [node for node in large if node.is_open]
    if not is_open:
        states = ", ".join(sorted(map(_closed, large))[:HELD_BY_MAX])
        return [_no("node", f"no node of its size takes jobs now: {states}")]
    best = max(is_open, key=lambda node: (node.free_gpus.bit_count(), node.free_milli_cpus, node.name))
    free = _amounts(best.free_milli_cpus / 1000, best.free_memory_bytes, best.free_gpus.bit_count())
    message = f"it asks for {_asks(job)}, and the most that one node has free is {free}"
    holders = tuple(sorted(key[1] for node in is_open for key in node.jobs)[:HELD_BY_MAX])
    asked, has_free = (
        (shape.gpus, best.free_gpus.bit_count())
        if shape.gpus
        else (shape.milli_cpus / 1000, best.free_milli_cpus / 1000)
    )
    return [_no("resources", message, asked=float(asked), free=float(has_free), held_by=holders)]


def _in_maintenance(truth: Truth, job: Job, now: float) -> str:
    """Why the job may start on none of the nodes with room: a maintenance is too near. Empty: it may on one."""
    fleet, takes_s = truth.fleet, length_s(job)
    if fleet.best(job.shape, lambda node: not node.is_closed(now, takes_s)) is not None:
        return ""
    roomy = [node for node in fleet.closing.values() if node.is_open and node.fits(job.shape)]
    spans = sorted((-node.maintenance.begins_at, node.name, node.maintenance) for node in roomy if node.maintenance)
    _, name, span = spans[0]
    others = f"; {len(spans) - 1} more with room close no later" if len(spans) > 1 else ""
    said = f" ({span.why})" if span.why else ""
    if span.begins_at <= now:
        return f"{name} is closed until {moment(span.ends_at, now)} for maintenance{said}{others}"
    limit_s = job.specification.time_limit_s
    length = "it has no time limit, and may" if limit_s is None else f"its limit of {span_of(limit_s)} does"
    return f"{name} is closed from {moment(span.begins_at, now)} for maintenance{said}: {length} not fit before{others}"


def moment(at: float, now: float) -> str:
    """A moment, for a person: `18:00 UTC`, or with its day where that is another one."""
    there, here = (datetime.fromtimestamp(each, UTC) for each in (at, now))
    return f"{there:%H:%M} UTC" if there.date() == here.date() else f"{there:%Y-%m-%d %H:%M} UTC"


def _closed(node: Node) -> str:
    """Why a node takes no jobs."""
    if node.state == "ready":
        return f"{node.name} can start none ({node.cannot_start})"
    who = node.draining_by or node.cordoned_by
    by = f" by {who}" if who and node.state in ("cordoned", "draining", "drained") else ""
    said = f" ({node.closed_why})" if by and node.closed_why else ""
    return f"{node.name} is {node.state}{by}{said}"


def _ahead(jobs: int) -> str:
    return "one job of its queue comes first" if jobs == 1 else f"{jobs} jobs of its queue come first"


def _asks(job: Job) -> str:
    return _amounts(job.shape.milli_cpus / 1000, job.shape.memory_bytes, job.shape.gpus)


def _amounts(cpus: float, memory_bytes: int, gpus: int) -> str:
    return f"{cpus:g} CPUs, {memory_bytes / GIB:.3g} GiB and {gpus} GPU{'' if gpus == 1 else 's'}"


def nodes_view(truth: Truth) -> m.NodesView:
    """All nodes, by name."""
    views = [
        m.NodeView(
            node=node.name,
            state=node.state,
            capacity=node.capacity,
            free=node.free(),
            attempts=tuple(job.ref() for _, job in sorted(node.jobs.items())),
            seen_at=node.heard_at,
            by=node.draining_by or node.cordoned_by,
            why=node.gone_why or node.closed_why,
            maintenance=node.maintenance,
        )
        for _, node in sorted(truth.fleet.nodes.items())
        if node.sequence
    ]
    return m.NodesView(term=truth.term, nodes=tuple(views))


def queues_view(truth: Truth) -> m.QueuesView:
    """All queues, by team and name."""
    views = [
        m.QueueView(
            team=queue.team,
            queue=queue.name,
            weight=queue.settings.weight,
            waiting=len(queue.waiting),
            running=queue.account.held.running,
            gpus=queue.account.held.gpus,
            running_max=queue.settings.running_max,
            gpus_max=queue.settings.gpus_max,
            paused=queue.settings.paused,
        )
        for _, queue in sorted(truth.queues.items())
        if queue.is_shown
    ]
    return m.QueuesView(queues=tuple(views))


def counters(truth: Truth) -> dict[str, int]:
    """What it has seen and holds, for `status`."""
    return {
        "applied": truth.counts.applied,
        "repeated": truth.counts.repeated,
        "stale": truth.counts.stale,
        "forbidden": truth.counts.forbidden,
        "sequence": truth.sequence,
        "term": truth.term,
        "jobs": len(truth.jobs),
        "ended": len(truth.ended),
        "waiting": sum(len(queue.waiting) for queue in truth.queues.values()),
        "running": sum(queue.account.held.running for queue in truth.queues.values()),
        "nodes": sum(node.is_known for node in truth.fleet.nodes.values()),
    }
