"""What the ledger says, indexed so that a decision costs what changed and not what waits. Pure.

`apply` is the only thing that changes it for good, and it goes by the ledger's order alone: the same ledger gives the
same truth. What was decided and is not in the ledger yet lies on top (`assume`) and is taken off (`forget`) before any
fact about that job is applied. What that makes of resources and of who waits: `holdings`, `waiting`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from controlplane.scheduling import attained, gpu_faults
from controlplane.scheduling.arrays import array_of, task_of
from controlplane.scheduling.common import Common
from controlplane.scheduling.decisions import Counts, Settings
from controlplane.scheduling.dependencies import unmet
from controlplane.scheduling.holdings import hexadecimal
from controlplane.scheduling.jobs import Array, Job, Shape, backoff_s, shape_of
from controlplane.scheduling.nodes import Node
from controlplane.scheduling.parts import met_a_broken_gpu
from controlplane.scheduling.predictions import History
from controlplane.scheduling.queues import Queue, QueueKey
from controlplane.scheduling.waiting import CLAIM_S, Claim, Waiting
from events import messages as m
from events import subjects
from events.entries import Entry
from events.lifecycle import Life, Outcome, State, advance

ENDED_MAX: Final = 1_000_000
"""Ended jobs that are remembered, about 200 bytes each; what is told of older ones is taken as stale."""

Changes = tuple[int, int, int, int]
"""How often nodes, what is held, queues and teams, and claims have changed: but for time, whom a job may end goes by
nothing else.
"""
FruitlessKey = tuple[QueueKey, Shape, int, float, bool, bool]
"""Queue, shape and priority of a job, how long it may take where that matters, whether it has had little, and whether
the search is within a guarantee.
"""


class Basis(NamedTuple):
    """What an answer went by: until it is said to end, it is another one only when that has changed."""

    changes: Changes
    is_own: bool
    """It goes only by the nodes that run preemptible jobs of its own queue: one of these was looked for."""


class Fruitless(NamedTuple):
    """A search for somebody to preempt that found too few."""

    basis: Basis
    until: float
    """Then something may be possible that is not now: somebody has run for long enough, a maintenance is over."""
    at: float


class Quiet(NamedTuple):
    """A queue of which nothing came in a round."""

    basis: Basis
    moves: int
    """Of its own lines."""
    until: float
    """Then something may come of it all the same."""


class Truth(Waiting):
    """See the top of this file."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.sequence = 0
        self.term = 0
        self.term_sequence = 0
        """Last sequence of the term's subject: the guard of a round."""
        self.counts = Counts()
        self.ended: dict[str, Life] = {}
        """By subject, oldest end first."""
        self.history = History()
        self.fruitless: dict[FruitlessKey, Fruitless] = {}
        """Not in the ledger: may be forgotten at any time, and is found again."""
        self.quiet: dict[QueueKey, Quiet] = {}
        """The same of whole queues, of which nothing could come but by preemption among their own."""
        self.crowded_at = -math.inf
        """When a round had more searches to make than it may, the last time. Not in the ledger."""
        self.settings_changes = 0
        self._common = Common()

    @property
    def changes(self) -> Changes:
        return (self.fleet.changes, self.counted, self.settings_changes, self.claims_changes)

    def holds(self, basis: Basis, queue: Queue) -> bool:
        """Whether what was found of this queue on this basis would be found again."""
        return self.disturbed(queue) <= basis.changes[0] if basis.is_own else basis.changes == self.changes

    # -- the ledger speaks -----------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        """Take in the next fact of the ledger. Total: nothing that may stand there raises."""
        if entry.sequence <= self.sequence:
            self.counts.repeated += 1
            return
        self.sequence = entry.sequence
        fact = entry.fact
        if isinstance(fact, m.JobFact):
            self._apply_to_job(entry, fact)
        elif isinstance(fact, m.Archived):
            self._forget_archived(entry, fact)
        elif isinstance(fact, m.ArchiveWritten | m.Configured):
            self.counts.applied += 1
        elif isinstance(fact, m.NodeFact):
            self._apply_to_node(entry, fact)
        elif isinstance(fact, m.EnvironmentFact):
            self._apply_to_environment(entry, fact)
        elif isinstance(fact, m.QueueFact):
            self._apply_to_queue(entry, fact)
        elif isinstance(fact, m.TeamFact):
            self._apply_to_team(entry, fact)
        elif isinstance(fact, m.TermFact):
            self._apply_to_term(entry, fact)
        else:
            self.counts.forbidden += 1

    def _apply_to_term(self, entry: Entry, fact: m.TermFact) -> None:
        self.term_sequence = entry.sequence
        if isinstance(fact, m.Led):
            self.term = entry.sequence
            self.counts.applied += 1
        elif fact.term == self.term:
            self.counts.applied += 1
        else:
            self.counts.stale += 1

    def _apply_to_queue(self, entry: Entry, fact: m.QueueFact) -> None:
        _, team, name = subjects.tokens(entry.subject)
        queue = self.queue(team, name)
        self.settings_changes += 1
        if isinstance(fact, m.QueueSet):
            queue.set(fact, entry.sequence)
        else:
            queue.remove_settings(entry.sequence)
        self.counts.applied += 1

    def _apply_to_team(self, entry: Entry, fact: m.TeamSet) -> None:
        self.settings_changes += 1
        team = self.team(subjects.tokens(entry.subject)[1])
        team.set(fact, entry.sequence)
        self.counts.applied += 1

    def _apply_to_environment(self, entry: Entry, fact: m.EnvironmentFact) -> None:
        environment = self.environment(subjects.tokens(entry.subject)[1])
        self.counts.applied += 1
        if isinstance(fact, m.EnvironmentReady):
            environment.state, environment.lock, environment.python = "ready", fact.lock, fact.python
        elif isinstance(fact, m.EnvironmentFailed):
            environment.state, environment.reason = "failed", fact.reason
        elif environment.state != "ready":
            environment.state = "building" if isinstance(fact, m.EnvironmentBuilding) else "wanted"
        for job in list(environment.jobs.values()):
            self.settle(job)

    def _apply_to_node(self, entry: Entry, fact: m.NodeFact) -> None:
        node = self.fleet.node(subjects.tokens(entry.subject)[1])
        node.decided = None
        node.sequence = entry.sequence
        self._totals = None
        self.nodes_due[node.name] = node
        if isinstance(fact, m.NodeJoined):
            node.boot, node.gone_why, node.suspected_at = fact.boot, "", None
            self.fleet.resize(node, fact.capacity)
        elif not node.boot and isinstance(fact, m.NodeSuspected | m.NodeCleared):
            self.counts.forbidden += 1
            return
        else:
            self._set_state(node, fact, entry.at)
            self.fleet.judge(node)
        self.counts.applied += 1
        self.fleet.index(node)

    def _set_state(self, node: Node, fact: m.NodeFact, at: float) -> None:
        match fact:
            case m.NodeSuspected():
                node.suspected_at = at
            case m.NodeCleared():
                node.suspected_at = None
            case m.NodeCordoned(by=by, why=why):
                node.cordoned_by, node.cordoned_why = by, why
            case m.NodeUncordoned():
                node.cordoned_by = node.cordoned_why = node.draining_by = node.draining_why = ""
                node.stops = False
            case m.NodeDraining(by=by, why=why, stop=stop):
                node.draining_by, node.draining_why, node.stops = by, why, stop
            case m.NodeMaintenance(by=by, begins_at=begins_at, ends_at=ends_at, why=why):
                span = m.Span(begins_at=begins_at, ends_at=ends_at, by=by, why=why)
                self.fleet.close(node, span if ends_at > begins_at else None)
            case m.NodeGpus(faults=faults):
                node.faults = faults
            case m.NodeGpusRepaired(gpus=gpus):
                node.faults = gpu_faults.without(node.faults, gpus)
                node.repaired |= dict.fromkeys(gpus, at)
            case m.NodeGone(why=why):
                node.gone_why = why or "the node is gone"
                node.claims = None  # what it said before is over: it joins again with what it says from now on

    # -- jobs ------------------------------------------------------------------------------------------------------

    def _apply_to_job(self, entry: Entry, fact: m.JobFact) -> None:
        job = self.jobs.get(entry.subject)
        decided = None
        if job is not None:
            if job.decided is not None and type(job.decided) is not type(fact):
                self.reconsider(job)  # somebody else was faster: what made us decide may still stand
            self.forget(job)
            if job.sequence:
                job.sequence = entry.sequence
            else:  # a task that was decided only, and is folded back by now
                decided, job = job, None
        if getattr(fact, "term", self.term) < self.term:
            self.counts.stale += 1
            return
        life = job.life if job is not None else self.ended.get(entry.subject)
        outcome, after = advance(life, fact)
        if life is None and outcome is Outcome.FORBIDDEN and len(self.ended) >= ENDED_MAX:
            outcome = Outcome.STALE
        self.counts = _counted(self.counts, outcome)
        if outcome is not Outcome.APPLIED or after is None:
            return
        if job is None and isinstance(fact, m.Placed | m.CancelRequested) and fact.task is not None:
            self._begin_task(entry, fact, fact.task, after, decided)
        elif job is None:
            self._begin(entry, fact, after)
        else:
            job.life = self._common.life(after)
            _EFFECTS[type(fact)](self, job, fact, entry)

    def _begin(self, entry: Entry, fact: m.JobFact, life: Life) -> None:
        if not isinstance(fact, m.Accepted):
            self._remember(entry.subject, life)
            return
        specification = fact.specification
        begin_at = specification.begin_at or 0.0
        predicted_s = self.history.predict(specification)
        is_predicted = self.queue(specification.team, specification.queue).settings.predictions
        job = Job(
            specification=specification,
            subject=entry.subject,
            shape=shape_of(specification),
            life=life,
            sequence=entry.sequence,
            accepted=entry.sequence,
            rank=entry.sequence,
            priority=specification.priority,
            queued_at=entry.at,
            order_at=max(entry.at, begin_at),
            order_s=attained.order_s(specification, predicted_s, predictions=is_predicted),
            predicted_s=predicted_s,
            traceparent=entry.traceparent,
            not_before=begin_at,
            early=begin_at > entry.at,
            array=array_of(specification),
        )
        self._take_dependencies(job)
        self.admit(job)

    def _begin_task(
        self,
        entry: Entry,
        fact: m.Placed | m.CancelRequested,
        task: m.Task,
        life: Life,
        decided: Job | None,
    ) -> None:
        """The first fact about a task of an array. `decided`: the task as this leader had decided it, if it had."""
        of = self.by_key.get((subjects.tokens(entry.subject)[1], task.array))
        array = of.array if of is not None else None
        position = array.indices.position(task.index) if array is not None else None
        if of is None or array is None or position is None:
            if isinstance(fact, m.Placed):
                self.broken = f"{entry.subject} is a task of {task.array}, of which nothing is known"
            self._remember(entry.subject, life)
            return
        array.take(position)
        if of.waits:
            self.backlog.wait(of.shape, of.estimate_s, -1)
        if isinstance(fact, m.CancelRequested):
            array.count(life.state)
            self._remember(entry.subject, life)
            self._free_dependants(entry.subject, life.state.value, entry.at)
        else:
            job = task_of(of, task.index, decided)
            job.sequence = job.accepted = entry.sequence
            job.cancelled_by, job.cancel_why = of.cancelled_by, of.cancel_why
            self.let_go(of.key)
            self._enlist(job, array)
            job.life = self._common.life(life)
            self.on_placed(job, fact, entry)
            self.due[job.key] = job
        if of.waits and not array.rest:
            self._take_from_queue(of)
            self.dependencies.leave(of)
            of.early = False
        self.due[of.key] = of
        self.settle(of)

    def _enlist(self, job: Job, array: Array) -> None:
        """Find a task under its id, and under its array."""
        self.jobs[job.subject] = self.by_key[job.key] = array.tasks[job.key] = job
        if job.specification.environment:
            self.environment(hexadecimal(job.specification.environment)).jobs[job.key] = job

    def _take_dependencies(self, job: Job) -> None:
        """Of what has ended already, only what follows from it counts."""
        left = []
        for each in job.specification.after:
            known = self.ended.get(subjects.job(job.specification.team, each.job))
            state = each.ended or (known.state.value if known is not None else "")
            if state:
                job.unmet = job.unmet or unmet((each,), state)
            else:
                left.append(each)
        job.after = tuple(left)

    def admit(self, job: Job) -> None:
        """Index a job that was not there before: at its acceptance, and from a snapshot."""
        self._common.share(job)
        self.jobs[job.subject] = self.by_key[job.key] = job
        if job.specification.environment:
            self.environment(hexadecimal(job.specification.environment)).jobs[job.key] = job
        for of, array in self.array_of(job):
            array.tasks[job.key] = job
            self.settle(of)
        job.early = job.early and job.is_queued
        if job.is_queued:
            self._add_to_queue(job)
            self.dependencies.wait(job)
            self.settle(job)
        elif job.is_live:
            self._take(job, job.allocations)
            self._use(job)
            self.backlog.run(job.shape, job.placed_at, job.estimate_s)
        self._set_timers(job)

    def on_cancel_requested(self, job: Job, fact: m.CancelRequested, entry: Entry) -> None:
        if job.life.state is State.CANCELLED:
            self._end(job, entry.at)
            return
        if not job.cancelled_by:
            job.cancelled_by, job.cancel_why = fact.by, fact.why
        if job.array is not None:
            self._cancel_tasks(job, job.array)
        else:
            self._stopping(job, entry.at)

    def _cancel_tasks(self, job: Job, array: Array) -> None:
        """What is left of the array will not be placed, and what lives of it is stopped."""
        if job.waits:
            self._take_from_queue(job)
        for task in array.tasks.values():
            if not task.cancelled_by:
                task.cancelled_by, task.cancel_why = job.cancelled_by, job.cancel_why
            self.due[task.key] = task
            self.settle(task)
        self.due[job.key] = job

    def on_unfolded(self, job: Job, fact: m.Unfolded, entry: Entry) -> None:
        self.dependencies.leave(job)
        job.unmet, job.early = "", False
        self.settle(job)

    def on_stop_requested(self, job: Job, fact: m.StopRequested, entry: Entry) -> None:
        job.stop_why, job.stop_final = fact.why, fact.final
        self._stopping(job, entry.at)
        if fact.preemptor is not None:
            key, until = (fact.preemptor.team, fact.preemptor.job), entry.at + job.specification.grace_s + CLAIM_S
            older = self.let_go(key)
            if key in self.by_key:
                self.keep(key, Claim(fact.preemptor.nodes, max(until, older.until if older else 0.0)))

    def _stopping(self, job: Job, at: float) -> None:
        for part in (job.parts or {}).values():
            part.missing = 0
        job.stop_at = job.stop_at or at
        self._touch_nodes(job)
        self.changed.update(dict.fromkeys(job.nodes, True))

    def on_hold_changed(self, job: Job, fact: m.Held | m.Released, entry: Entry) -> None:
        self.let_go(job.key)
        self.settle(job)

    def on_reprioritised(self, job: Job, fact: m.Reprioritised, entry: Entry) -> None:
        with self._reordered(job):
            job.priority = fact.priority

    def on_moved(self, job: Job, fact: m.Moved, entry: Entry) -> None:
        beside = fact.before or fact.after
        other = self.by_key.get((job.specification.team, beside)) if beside else None
        queue = self.queue_of(job)
        if beside:
            waits = other is not None and other is not job and other.waits
            if not waits or other is None or self.queue_of(other) is not queue:
                return  # it has left the queue meanwhile: there is no place beside it any more
        rank = queue.rank_beside(other, after=bool(fact.after))
        with self._reordered(job):
            job.rank = rank
            if other is None:
                job.front = -entry.sequence
            else:
                job.front, job.order_at, job.order_s = other.front, other.order_at, other.order_s

    @contextmanager
    def _reordered(self, job: Job) -> Iterator[None]:
        """Inside of this, what its place goes by may change."""
        queue, waits = self.queue_of(job), job.waits
        if job.in_line:
            queue.leave(job)
        if waits:
            queue.remove(job)
        yield
        if waits:
            queue.add(job)
        self.settle(job)

    def on_placed(self, job: Job, fact: m.Placed, entry: Entry) -> None:
        if job.waits:  # a task of an array begins with this
            self._take_from_queue(job)
        self.let_go(job.key)
        self.dependencies.leave(job)
        job.allocations, job.placed_at, job.started_at = fact.allocations, entry.at, None
        job.running_at = None
        job.stop_why = job.unmet = ""
        job.stop_final = job.is_overdue = job.early = False
        job.stop_at = 0.0
        self._take(job, fact.allocations)
        self._use(job, entry.at)
        self.backlog.run(job.shape, job.placed_at, job.estimate_s)
        self._set_timers(job)
        if job.parts:
            self.due[job.key] = job
        self._look_at_drained(job)

    def on_started(self, job: Job, fact: m.Started, entry: Entry) -> None:
        job.started_at, job.running_at = fact.started_at, entry.at
        self._touch_nodes(job)
        self._look_at_drained(job)

    def _look_at_drained(self, job: Job) -> None:
        """Its node may have been drained while this was on its way to the ledger."""
        for name in job.nodes:
            node = self.fleet.node(name)
            if node.stops:
                self.nodes_due[name] = node

    def on_broken_off(self, job: Job, fact: m.Requeued | m.Lost, entry: Entry) -> None:
        self._give_back(job, entry.at)
        attained.note(job, entry.at)
        job.started_at = job.running_at = job.launches = job.parts = None
        has_failed = isinstance(fact, m.Requeued) and fact.failures > 0
        is_excused = (bool(job.stop_why) or _is_of_hardware(fact)) and not has_failed
        job.failures += has_failed
        job.excused += is_excused
        job.stop_why, job.is_overdue, job.early = "", False, not is_excused
        job.not_before = 0.0 if is_excused else entry.at + backoff_s(job.tries + job.failures)
        self._set_timers(job)
        self._add_to_queue(job)
        self.settle(job)

    def on_finished(self, job: Job, fact: m.Finished, entry: Entry) -> None:
        if fact.outcome == "succeeded" and job.array is None:
            self.history.learn(job.specification, entry.at - job.held_from)
        self._end(job, entry.at)

    def _end(self, job: Job, at: float) -> None:
        self.let_go(job.key)
        self.dependencies.leave(job)
        if job.waits:
            self._take_from_queue(job)
        elif job.array is None:
            self._give_back(job, at)
        self._leave(job)
        self._remember(job.subject, job.life)
        self._free_dependants(job.subject, job.life.state.value, at)
        for of, array in self.array_of(job):
            array.tasks.pop(job.key, None)
            array.count(job.life.state)
            self.due[of.key] = of
            self.settle(of)

    def _leave(self, job: Job) -> None:
        del self.jobs[job.subject], self.by_key[job.key]
        self.due.pop(job.key, None)
        if job.specification.environment:
            del self.environment(hexadecimal(job.specification.environment)).jobs[job.key]

    def _free_dependants(self, subject: str, state: str, at: float) -> None:
        for dependant in self.dependencies.end(subject, state, at):
            self.settle(dependant)

    def _forget_archived(self, entry: Entry, fact: m.Archived) -> None:
        """The job is over, whatever was heard of it before: what came in between is not in the ledger any more."""
        self.counts.applied += 1
        job = self.jobs.get(entry.subject)
        if job is not None:
            self.forget(job)
            job.life = self._common.life(Life(State(fact.state), fact.attempt))
            self._end(job, entry.at)
        else:
            self._free_dependants(entry.subject, fact.state, entry.at)
        self.ended.pop(entry.subject, None)

    def _remember(self, subject: str, life: Life) -> None:
        self.ended[subject] = self._common.life(life)
        if len(self.ended) > ENDED_MAX:
            del self.ended[next(iter(self.ended))]

    # -- what is decided and not in the ledger yet -----------------------------------------------------------------

    def assume(self, job: Job, fact: m.Fact) -> None:
        """Go by this decision until the ledger has spoken."""
        job.decided, job.landed = fact, False
        if isinstance(fact, m.StopRequested):
            self._touch_nodes(job)
        if isinstance(fact, m.Placed):
            if job.in_line:
                self.queue_of(job).leave(job)
            else:
                self._unfold(job)
            self._take(job, fact.allocations)

    def _unfold(self, job: Job) -> None:
        """A task is placed that the ledger does not know yet."""
        for of, array in self.array_of(job):
            self._enlist(job, array)
            array.assumed.add(array.next())
            self.settle(of)

    def _fold(self, job: Job) -> None:
        """The ledger does not know the task: it is one of the rest again."""
        self._leave(job)
        for of, array in self.array_of(job):
            del array.tasks[job.key]
            if job.task is not None:
                array.fold(job.task)
            self.settle(of)

    def forget(self, job: Job) -> None:
        """Go by the ledger alone again."""
        fact = job.decided
        if fact is None:
            return
        if isinstance(fact, m.Placed):
            self._release(job, fact.allocations)
            job.launches = None
        else:
            self._touch_nodes(job)  # it may be ended for another again
        job.decided, job.landed = None, False
        if job.sequence:
            self.settle(job)
        else:
            self._fold(job)

    def reconsider(self, job: Job) -> None:
        """Look again at whether there is something to write about it: what was decided did not come about."""
        self.due[job.key] = job
        for name in job.nodes if job.is_live else ():
            self.nodes_due[name] = self.fleet.node(name)


def _is_of_hardware(fact: m.Requeued | m.Lost) -> bool:
    return isinstance(fact, m.Requeued) and fact.end is not None and met_a_broken_gpu(fact.end)


def _counted(counts: Counts, outcome: Outcome) -> Counts:
    setattr(counts, outcome.value, getattr(counts, outcome.value) + 1)
    return counts


_EFFECTS: Final[dict[type[m.JobFact], Callable[[Truth, Job, Any, Entry], None]]] = {
    m.CancelRequested: Truth.on_cancel_requested,
    m.Held: Truth.on_hold_changed,
    m.Released: Truth.on_hold_changed,
    m.Reprioritised: Truth.on_reprioritised,
    m.Moved: Truth.on_moved,
    m.Unfolded: Truth.on_unfolded,
    m.Placed: Truth.on_placed,
    m.Started: Truth.on_started,
    m.StopRequested: Truth.on_stop_requested,
    m.Requeued: Truth.on_broken_off,
    m.Lost: Truth.on_broken_off,
    m.Finished: Truth.on_finished,
}
