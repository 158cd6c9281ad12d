"""The scheduler's invariants: every index compared with what it stands for. Pure, and as slow as it needs to be.

An invariant that does not hold is a bug of ours. Deciding on would book something twice, so it ends the leader's term.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from controlplane.scheduling import attained, gpu_faults
from controlplane.scheduling.backfill import length_s
from controlplane.scheduling.dependencies import awaited
from controlplane.scheduling.jobs import Job, Key
from controlplane.scheduling.nodes import LAUNCHES_BYTES_MAX, Node, bits, held_by
from controlplane.scheduling.order import ESTIMATE_S_MIN
from controlplane.scheduling.packing import MILLI
from controlplane.scheduling.predictions import KEYS_MAX, RUNS
from controlplane.scheduling.queues import Queue, guarantee_of, is_limited
from controlplane.scheduling.shares import Account, Held
from controlplane.scheduling.truth import Truth
from events import messages as m
from events.lifecycle import HOLDS_RESOURCES, State

K = TypeVar("K")


def problems(truth: Truth) -> list[str]:
    """Everything that is not as it should be, each as a sentence."""
    found = [truth.broken] if truth.broken else []
    holders = [job for job in truth.jobs.values() if job.is_live or isinstance(job.decided, m.Placed)]
    found += _jobs(truth)
    found += _waiting(truth)
    found += _history(truth)
    found += _arrays(truth)
    on: defaultdict[str, list[Job]] = defaultdict(list)
    for job in holders:
        for name in job.nodes:
            on[name].append(job)
    for node in truth.fleet.nodes.values():
        found += _node(node, on[node.name])
    found += _index(truth)
    of = _grouped(truth.jobs.values(), lambda job: truth.queue_of(job).key)
    holding = _grouped(holders, lambda job: truth.queue_of(job).key)
    for queue in truth.queues.values():
        found += _queue(truth, queue, of[queue.key], holding[queue.key])
    holding_of_team = _grouped(holders, lambda job: job.specification.team)
    for team in truth.teams.values():
        found += _account(f"team {team.name}", team.account, holding_of_team[team.name])
        if {queue.key for queue in team.queues} != {key for key in truth.queues if key[0] == team.name}:
            found.append(f"team {team.name} has its queues wrong")
        said = (team.guarantee, team.is_promised, team.is_limited)
        if said != (guarantee_of(team.settings), bool(team.guarantee), is_limited(team.settings)):
            found.append(f"team {team.name} has its guarantee wrong, or whether it has one, or limits")
    preemptible = {job.key for job in truth.jobs.values() if job.is_live and job.specification.preemptible}
    if preemptible != set(truth.preemptible):
        found.append(f"who may be preempted is wrong: {sorted(preemptible ^ set(truth.preemptible))}")
    if any(key not in truth.by_key or not truth.by_key[key].waits for key in truth.claims):
        found.append(f"something is kept for a job that does not wait: {sorted(truth.claims)}")
    return found


def _grouped(jobs: Iterable[Job], key: Callable[[Job], K]) -> defaultdict[K, list[Job]]:
    """One pass over all jobs, and not one for each node and each queue."""
    groups: defaultdict[K, list[Job]] = defaultdict(list)
    for job in jobs:
        groups[key(job)].append(job)
    return groups


def _jobs(truth: Truth) -> Iterator[str]:
    for subject, job in truth.jobs.items():
        if job.subject != subject or truth.by_key.get(job.key) is not job:
            yield f"{subject} is not found under its id"
        states = (State.QUEUED, State.UNFOLDING) if job.array is not None else (State.QUEUED,)
        if job.life.state not in HOLDS_RESOURCES and job.life.state not in states:
            yield f"{subject} has ended and is still here"
        if job.is_live != bool(job.allocations):
            yield f"{subject} is {job.life.state.value} and holds {len(job.allocations)} allocations"
        if job.is_live and len(set(job.nodes)) != job.shape.nodes:
            yield f"{subject} asks for {job.shape.nodes} nodes and has {job.nodes}"
        if job.sequence and job.is_queued != job.waits:
            yield f"{subject} is {job.life.state.value} and stands in its queue: {job.waits}"
        if subject in truth.ended:
            yield f"{subject} is both live and ended"
        environment = truth.environment_of(job)
        if environment is not None and job.key not in environment.jobs:
            yield f"{subject} is unknown to its environment"
    if len(truth.by_key) != len(truth.jobs):
        yield f"{len(truth.jobs)} jobs, and {len(truth.by_key)} ids"


def _waiting(truth: Truth) -> Iterator[str]:
    """Dependencies and times."""
    right: defaultdict[str, set[Key]] = defaultdict(set)
    for job in truth.jobs.values():
        if job.after and not job.is_queued:
            yield f"{job.subject} is {job.life.state.value} and waits for other jobs"
        for subject in awaited(job):
            right[subject].add(job.key)
    if {subject: set(waiting) for subject, waiting in truth.dependencies.described().items()} != right:
        yield "the jobs that wait for others are not found under these"
    timers = {(subject, at) for at, _, subject in truth.timers}
    for job in truth.jobs.values():
        due_at = None if job.is_overdue or not job.sequence else job.last_at
        for at in (job.not_before if job.early else None, due_at):
            if at is not None and (job.subject, at) not in timers:
                yield f"{job.subject} has no timer at {at}"
        if job.early and not job.is_queued:
            yield f"{job.subject} is {job.life.state.value} and waits for its time"


def _history(truth: Truth) -> Iterator[str]:
    if len(truth.history) > KEYS_MAX:
        yield f"{len(truth.history)} jobs are remembered, {KEYS_MAX} are allowed"
    for key, runs in truth.history:
        if not 1 <= len(runs) <= RUNS or min(runs) < ESTIMATE_S_MIN:
            yield f"runs of {key} are remembered wrong: {runs}"
    for job in truth.jobs.values():
        limit_s = job.specification.time_limit_s
        if job.predicted_s is not None and limit_s is not None and job.predicted_s > max(limit_s, ESTIMATE_S_MIN):
            yield f"{job.subject} is predicted to run for {job.predicted_s} s, beyond its limit"


def _arrays(truth: Truth) -> Iterator[str]:
    tasks: defaultdict[Key, set[Key]] = defaultdict(set)
    for job in truth.jobs.values():
        if job.task is not None:
            tasks[job.specification.team, job.task.array].add(job.key)
        elif not job.sequence:
            yield f"{job.subject} is decided only, and no task"
    for job in truth.jobs.values():
        array = job.array
        if array is None:
            continue
        if set(array.tasks) != tasks[job.key]:
            yield f"{job.subject} has its tasks wrong: {sorted(set(array.tasks) ^ tasks[job.key])}"
        assumed = sum(not task.sequence for task in array.tasks.values())
        over = array.succeeded + array.failed + array.cancelled
        if len(array.indices) - array.rest != len(array.tasks) - assumed + over:
            yield f"{job.subject} counts its tasks wrong"
        if assumed != len(array.assumed) or any(at < array.first or at in array.taken for at in array.assumed):
            yield f"{job.subject} has what is decided of it wrong"
        if array.first in array.taken or any(at < array.first for at in array.taken):
            yield f"{job.subject} has taken {sorted(array.taken)} behind {array.first}"
        passed = range(array.first, array.next()) if array.rest > assumed else ()
        if any(at not in array.taken | array.assumed for at in passed):
            yield f"{job.subject} passes over a task"


def _node(node: Node, jobs: list[Job]) -> Iterator[str]:
    if {job.key for job in jobs} != set(node.jobs):
        yield f"node {node.name} lists {sorted(node.jobs)}, jobs say {sorted(job.key for job in jobs)}"
    held: Counter[int] = Counter()
    for job in jobs:
        here = [allocation for allocation in held_by(job) if allocation.node == node.name]
        for allocation in here:
            held.update(dict.fromkeys(allocation.gpus, allocation.gpu_milli))
        if [len(each.gpus) * each.gpu_milli for each in here] != [job.shape.milli_gpus]:
            yield f"{job.subject} asked for {job.shape.milli_gpus} thousandths of GPUs and holds others"
    over = {gpu: much for gpu, much in held.items() if much > MILLI}
    yield from (f"of GPU {gpu} of {node.name} {much} thousandths are held" for gpu, much in over.items())
    if node.free_gpus != bits(range(node.capacity.gpus)) & ~bits(held):
        yield f"node {node.name} says that GPUs {node.free_gpus:b} are free, held are {sorted(held)}"
    if node.unfit_gpus != gpu_faults.unfit(node.faults, node.claims, node.repaired, node.capacity):
        yield f"node {node.name} says that GPUs {node.unfit_gpus:b} are out of use, by {node.faults}"
    parts = {
        gpu
        for job in jobs
        for each in held_by(job)
        if each.node == node.name and each.gpu_milli < MILLI
        for gpu in each.gpus
    }
    if node.shared != {gpu: MILLI - held[gpu] for gpu in parts if gpu < node.capacity.gpus}:
        yield f"node {node.name} counts what is left of shared GPUs wrong: {node.shared}"
    free = (
        round(node.capacity.cpus * 1000) - sum(job.shape.milli_cpus for job in jobs),
        node.capacity.memory_bytes - sum(job.shape.memory_bytes for job in jobs),
        LAUNCHES_BYTES_MAX - sum(job.shape.launch_bytes for job in jobs),
    )
    if free != (node.free_milli_cpus, node.free_memory_bytes, node.free_launch_bytes):
        yield f"node {node.name} counts its free resources wrong: {free} is right"


def _index(truth: Truth) -> Iterator[str]:
    nodes = truth.fleet.nodes.values()
    right = {
        node.name: ((node.free_gpus & ~node.unfit_gpus).bit_count(), node.free_milli_cpus)
        for node in nodes
        if node.is_open
    }
    if truth.fleet.indexed() != right:
        yield "the index of nodes is not what the nodes say"
    if truth.fleet.sharing() != {node.name for node in nodes if node.is_open and node.shared}:
        yield "the nodes with shared GPUs are others than the nodes say"
    if set(truth.fleet.closing) != {node.name for node in nodes if node.maintenance is not None}:
        yield "the nodes with a maintenance are others than the nodes say"


def _queue(truth: Truth, queue: Queue, mine: list[Job], holding: list[Job]) -> Iterator[str]:
    waiting = sorted((-job.priority, job.rank, job.id) for job in mine if job.is_queued and job.sequence)
    if waiting != list(queue.waiting):
        yield f"queue {queue.key} has its waiting jobs wrong"
    in_line = {job.key for line in queue.lines.values() for *_, job in line}
    eligible = {
        job.key for job in mine if job.is_queued and not isinstance(job.decided, m.Placed) and not truth.parked(job)
    }
    if in_line != eligible or in_line != {job.key for job in mine if job.in_line}:
        yield f"queue {queue.key} has its lines wrong: {sorted(in_line ^ eligible)}"
    if any(queue.line_key(entry[-1]) != key for key, line in queue.lines.items() for entry in line):
        yield f"queue {queue.key} has a job in the wrong line"
    if any(not line or list(line) != sorted(line) for line in queue.lines.values()):
        yield f"queue {queue.key} has an empty line, or one out of order"
    by_shape = {key: line for lines in queue.shapes.values() for key, line in lines.items()}
    if by_shape.keys() != queue.lines.keys() or any(by_shape[key] is not line for key, line in queue.lines.items()):
        yield f"queue {queue.key} has other lines by shape"
    yield from _lines(queue)
    oldest = min((line[0][-1].order_at for line in by_shape.values()), default=math.inf)
    if queue.oldest not in (None, oldest):
        yield f"queue {queue.key} has its oldest head wrong"
    preemptible = {job.key for job in holding if job.is_live and job.specification.preemptible}
    if preemptible != queue.preemptible.keys() or queue.guarantee != guarantee_of(queue.settings):
        yield f"queue {queue.key} has its preemptible jobs wrong, or its guarantee"
    if Counter(job.priority for job in queue.preemptible.values()) != queue.preemptible_of:
        yield f"queue {queue.key} counts its preemptible jobs of a priority wrong"
    unknown = {job.key for job in holding if job.is_live and attained.is_unknown(job.specification, job.predicted_s)}
    if unknown != queue.unknown.keys():
        yield f"queue {queue.key} has it wrong of which jobs nobody can tell how long they run"
    if queue.is_promised != bool(queue.guarantee) or queue.is_limited != is_limited(queue.settings):
        yield f"queue {queue.key} has it wrong whether it has a guarantee or limits"
    yield from _account(f"queue {queue.key}", queue.account, holding)
    users = _grouped(holding, lambda job: job.specification.user)
    if set(users) != set(queue.users):
        yield f"queue {queue.key} has its users wrong: {sorted(queue.users)}, not {sorted(users)}"
    for user, jobs in users.items():
        if _sum(jobs) != queue.users.get(user):
            yield f"queue {queue.key} counts what {user} holds wrong"


def _lines(queue: Queue) -> Iterator[str]:
    """What is known of them beside who stands there."""
    lengths = {key: Counter(length_s(entry[-1]) for entry in line) for key, line in queue.lines.items()}
    shortest = {
        shape: min((takes_s for key in lines for takes_s in lengths.get(key, ())), default=None)
        for shape, lines in queue.shapes.items()
    }
    if lengths != queue.lengths or not queue.shortest.items() <= shortest.items():
        yield f"queue {queue.key} counts wrong how long its jobs may take"
    by_priority = {key: priority for priority, lines in queue.priorities.items() for key in lines}
    if by_priority != {key: key.priority for key in queue.lines}:
        yield f"queue {queue.key} has other lines by priority"
    standing = [entry[-1] for line in queue.lines.values() for entry in line]
    if queue.unlike != sum(job.order_s != job.estimate_s for job in standing):
        yield f"queue {queue.key} counts wrong who stands by another estimate than its own"


def _account(who: str, account: Account, holding: list[Job]) -> Iterator[str]:
    if (right := _sum(holding)) != account.held:
        yield f"{who} counts what it holds wrong: {right} is right, not {account.held}"
    used = [job.shape for job in holding if job.is_live]
    by_ledger = (
        sum(shape.milli_cpus * shape.nodes for shape in used),
        sum(shape.memory_bytes * shape.nodes for shape in used),
        sum(shape.milli_gpus * shape.nodes for shape in used),
    )
    average = account.average
    if by_ledger != (average.held_milli_cpus, average.held_memory_bytes, average.held_milli_gpus):
        yield f"{who} counts what it uses wrong: {by_ledger} is right"


def _sum(jobs: list[Job]) -> Held:
    held = Held()
    for job in jobs:
        held.take(job.shape, preemptible=job.specification.preemptible)
    return held
