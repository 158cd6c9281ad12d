"""What became of a job, and what nodes and queues hold. Pure.

Derived from the very structures that decide, never stored. Costs about what is asked about, not what waits.
"""

from __future__ import annotations

from collections.abc import Callable

from controlplane.scheduling.jobs import Job
from controlplane.scheduling.truth import Truth
from controlplane.scheduling.waits import Look
from controlplane.scheduling.words import count
from events import messages as m
from events import subjects
from events.lifecycle import State


def why(truth: Truth, team: str, job_id: str, look: Callable[[], Look]) -> m.Why | None:
    """Why a job waits; None: nobody has heard of it. `look` gives what the placing would do now."""
    job = truth.by_key.get((team, job_id))
    if job is None:
        life = truth.ended.get(subjects.job(team, job_id))
        if life is None:
            return None
        return m.Why(job=job_id, state=life.state.value, summary=f"it is over: {life.state.value}")
    if not job.is_queued:
        return m.Why(job=job_id, state=job.life.state.value, summary=_where(job))
    return look().why(job)


def _nodes(job: Job) -> str:
    return f"node {job.nodes[0]}" if len(job.nodes) == 1 else f"nodes {', '.join(job.nodes)}"


def _where(job: Job) -> str:
    if job.array is not None:
        return f"nothing of it waits; {count(len(job.array.tasks), 'task')} of it have not ended"
    on = f"attempt {job.life.attempt} on {_nodes(job)}"
    if job.life.state is State.STOPPING:
        what = f"cancelled by {job.cancelled_by}" if job.cancelled_by else job.stop_why
        return f"{on} is being stopped: {what}"
    return f"{on} is starting{_late(job)}" if job.life.state is State.PLACED else f"{on} runs"


def _late(job: Job) -> str:
    """Of a gang: the nodes for which the others wait."""
    if len(job.nodes) == 1:
        return ""
    parts = job.parts or {}
    late = [name for name in job.nodes if name not in parts or not (parts[name].is_ready or parts[name].runs)]
    return f", once it is laid out on {', '.join(late)}" if late else ""


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
            by=node.closed_by,
            why=node.gone_why or node.closed_why,
            cordoned_by=node.cordoned_by,
            cordoned_why=node.cordoned_why,
            draining_by=node.draining_by,
            draining_why=node.draining_why,
            maintenance=node.maintenance,
            shared=dict(sorted(node.parts_left.items())),
            faults=node.faults,
        )
        for _, node in sorted(truth.fleet.nodes.items())
        if node.sequence
    ]
    return m.NodesView(term=truth.term, nodes=tuple(views))


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
