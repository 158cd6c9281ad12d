"""The scheduler's core: facts and exchanges in, decisions out. Pure: no I/O, no clock, no randomness.

Doors of every scheduler, leading or not: `apply` (the ledger's facts, in its order), `check`, `snapshot`, `why` and the
views. Doors of a leader, from `begin_term` on: `hear` (what nodes say, which is no fact), `decide`, `landed` and
`abandon` (what became of a round), `desired`, `wake_at`.

A decision is tentative until the ledger took it. What nodes report is kept beside the truth and turned into facts by
`decide`: at most one fact about a job or a node in a round, each guarded by the last sequence that was seen of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from controlplane.scheduling import arrays, attained, checking, ends, explain, gpu_faults, snapshots, standing, tenants
from controlplane.scheduling.decisions import ROUND_MAX, Broken, Decision, Round, Settings
from controlplane.scheduling.jobs import Job
from controlplane.scheduling.lease import Silence
from controlplane.scheduling.nodes import Node
from controlplane.scheduling.parts import Part, deciding_end
from controlplane.scheduling.placing import Choice, Placing
from controlplane.scheduling.queues import Moment
from controlplane.scheduling.truth import Truth
from controlplane.scheduling.waits import LOOK_S, Look
from events import messages as m
from events import subjects
from events.entries import Entry
from events.lifecycle import State

RECORDED_MAX: Final = 1000
"""Acknowledged ends in one message; the others come in the next."""


class Core:
    """See the top of this file. All `now` are seconds since the epoch and never go back."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._truth = Truth(settings)
        self._preempt_at: float | None = None
        """When somebody will have run for long enough to be preempted."""
        self._silence: Silence | None = None
        self._revision = 0
        """Of the last Desired of this term, whatever node it was for."""
        self._opens_at: float | None = None
        """When the next maintenance is over."""
        self._look: Look | None = None
        """What the placing would do, as long as nothing changes."""

    # -- the ledger ------------------------------------------------------------------------------------------------

    @property
    def sequence(self) -> int:
        """The last fact that was applied."""
        return self._truth.sequence

    @property
    def term(self) -> int:
        return self._truth.term

    @property
    def term_sequence(self) -> int:
        """The last sequence of the term's subject: the guard of the leader's next write there."""
        return self._truth.term_sequence

    @property
    def jobs(self) -> Mapping[str, Job]:
        """By subject: all that have not ended. To look at."""
        return self._truth.jobs

    def unready_environments(self) -> list[str]:
        """Digests (hexadecimal) of those that jobs wait for."""
        environments = self._truth.environments.items()
        return [digest for digest, one in environments if one.jobs and one.state in ("wanted", "building")]

    @property
    def size(self) -> int:
        """How many jobs it knows, ended ones at the tenth that they weigh."""
        return len(self._truth.jobs) + len(self._truth.ended) // 10

    @property
    def is_leading(self) -> bool:
        return self._silence is not None

    def apply(self, entry: Entry, now: float) -> None:
        """Take in the next fact of the ledger. Total. Where another term begins, this one does not lead any more."""
        self._look = None
        self._truth.apply(entry)
        if isinstance(entry.fact, m.Led) and self._silence is not None:
            self.end_term()
        if self._silence is not None and isinstance(entry.fact, m.NodeFact):
            self._silence.watch(self._truth.fleet.node(subjects.tokens(entry.subject)[1]), now)

    def check(self) -> None:
        """Compare every index with what it stands for. Raises Broken."""
        problems = checking.problems(self._truth)
        if problems:
            raise Broken("; ".join(problems[:10]))

    def snapshot(self) -> bytes:
        """Everything that the ledger has said so far."""
        return snapshots.encode(self._truth)

    def excerpt(self, waiting_max: int) -> bytes:
        """A snapshot of what counts from now on: without what has ended, and of those that wait no more than so many,
        of each queue the first in the order of their ranks.
        """
        return snapshots.encode(self._truth, waiting_max=waiting_max)

    def restore(self, content: bytes) -> None:
        """Be what `snapshot` was taken of. Raises ValueError if it is none of this version."""
        self._truth = snapshots.decode(content, self.settings)
        self._silence = self._look = None

    # -- leading ---------------------------------------------------------------------------------------------------

    def begin_term(self, now: float) -> None:
        """Lead from now on: everything up to the own `led` has been applied."""
        self._silence = Silence(self.settings, term=self._truth.term, now=now)
        self._revision = 0
        for _, node in sorted(self._truth.fleet.nodes.items()):
            self._silence.watch(node, now)
            self._truth.nodes_due[node.name] = node
        for job in self._truth.jobs.values():
            if job.array is not None or job.task is not None or job.is_overdue:
                self._truth.due[job.key] = job  # what a leader before this one had not written any more

    def end_term(self) -> None:
        """Lead no more: all that is not in the ledger is forgotten."""
        self._silence = self._look = None
        for job in list(self._truth.jobs.values()):
            self._truth.forget(job)
            job.parts = None
        self._truth.fruitless.clear()
        self._truth.quiet.clear()
        for node in self._truth.fleet.nodes.values():
            node.decided = node.claims = node.timer_at = None
            node.heard_at = 0.0
            self._truth.fleet.judge(node)
            self._truth.fleet.index(node)

    def hear(self, exchange: m.Exchange, now: float) -> bool:
        """What a node has, as it says itself. False: nobody leads here, or there are too many nodes."""
        truth = self._truth
        if self._silence is None:
            return False
        node = truth.fleet.nodes.get(exchange.node)
        if node is None and truth.fleet.is_full:
            return False
        node = node or truth.fleet.node(exchange.node)
        self._look = None
        rebooted = node.is_known and exchange.boot != node.boot
        node.heard_at, node.claims = now, exchange
        truth.fleet.judge(node)
        truth.fleet.index(node)
        truth.nodes_due[node.name] = node
        listed = set()
        for live in exchange.attempts:
            job = truth.by_key.get((live.ref.team, live.ref.job))
            if job is not None and self._holds(job, node, live.ref):
                listed.add(job.key)
                self._on_reported(job, node, live)
        for job in node.jobs.values():
            if job.key not in listed:
                self._on_missing(job, node, rebooted=rebooted)
        return True

    def _holds(self, job: Job, node: Node, ref: m.AttemptRef) -> bool:
        """Whether the node may speak for this attempt: it is the newest, it was placed there, and it is live."""
        return job.key in node.jobs and ref.attempt == job.attempt

    def _on_reported(self, job: Job, node: Node, live: m.LiveAttempt) -> None:
        part = job.part(node.name)
        part.missing, part.gone_why = 0, ""
        before = part.reported
        has_moved = before is None or before.state != live.state or before.meeting != live.meeting
        met = job.meeting if has_moved and job.shape.nodes > 1 else None
        if part.end is None:  # an end is never taken back
            part.reported = live
        if has_moved and job.shape.nodes > 1 and job.meeting != met:
            self._truth.changed.update(dict.fromkeys(job.nodes, True))
        has_saved = live.checkpoint_at is not None and (before is None or before.checkpoint_at != live.checkpoint_at)
        if has_saved and attained.is_unknown(job.specification, job.predicted_s):
            self._truth.fleet.touch(node)  # it may give way: a search that found nobody is made again
        if live.state == "ended":
            self._is_over(job, node, part)
        elif live.state == "running" and job.life.state is not State.RUNNING:
            self._truth.due[job.key] = job

    def _on_missing(self, job: Job, node: Node, *, rebooted: bool) -> None:
        """The node does not name an attempt that was placed there."""
        part = job.part(node.name)
        if job.decided is not None or part.end is not None:
            return
        if part.is_ready:
            part.reported = None  # another runner, which lays it out anew and proves another port
        if rebooted:
            part.gone_why = f"node {node.name} was restarted"
        elif job.life.state is not State.PLACED or not job.is_wanted_on(node.name):
            part.missing += 1  # else it has not arrived yet, and is told again
        if part.is_lost:
            self._is_over(job, node, part)

    def _is_over(self, job: Job, node: Node, part: Part) -> None:
        """A part is over: there may be something to write, and where it broke off the others must end."""
        self._truth.due[job.key] = job
        if part.is_broken:
            for name in job.nodes:
                if name != node.name:
                    self._truth.changed[name] = True

    # -- deciding --------------------------------------------------------------------------------------------------

    def decide(self, now: float) -> Round:
        """The next round of decisions; empty when there is nothing to do, or nobody leads here. Raises Broken."""
        truth, silence = self._truth, self._silence
        if silence is None:
            return Round()
        self._look = None
        if truth.broken:
            raise Broken(truth.broken)
        truth.on_time(now)
        self._opens_at = truth.fleet.opens_at(now)
        for node in silence.due(truth.fleet.nodes, now):
            truth.nodes_due[node.name] = node
        decisions: list[Decision] = []
        self._decide_jobs(decisions)
        self._decide_nodes(decisions, silence, now)
        nodes, more = self._place(decisions, truth.moment(now))
        return Round(tuple(decisions), tuple(nodes), more)

    def _decide_jobs(self, decisions: list[Decision]) -> None:
        """Starts, ends, and what can never run."""
        due = self._truth.due
        for key, job in list(due.items()) if len(due) <= ROUND_MAX else list(due.items())[: 2 * ROUND_MAX]:
            if len(decisions) >= ROUND_MAX:
                return
            if job.decided is not None:
                continue  # its time comes when the ledger has spoken
            del due[key]
            fact = self._on_due(job)
            if fact is not None:
                self._decide_about(job, fact, decisions)

    def _on_due(self, job: Job) -> m.JobFact | None:
        """What there is to write about a job that something was heard of."""
        term = self._truth.term
        if not job.is_live:
            doom = self._truth.doom(job)
            if job.array is not None:
                outcome, reason = (doom.outcome, doom.reason) if doom is not None else (None, "")
                return arrays.end(job, outcome, reason, term=term)
            if doom is None:
                return None
            return m.Finished(term=term, attempt=job.life.attempt, outcome=doom.outcome, reason=doom.reason)
        parts = [(node, job.part(node)) for node in job.nodes]
        if any(part.reported is not None and part.reported.ref.attempt != job.life.attempt for _, part in parts):
            return None
        if not all(part.is_over for _, part in parts):
            if job.life.state is State.PLACED and all(part.runs for _, part in parts):
                return m.Started(term=term, attempt=job.life.attempt, started_at=_started_at(job, parts))
            return arrays.stop(job, term=term) or (ends.on_deadline(job, term=term) if job.is_overdue else None)
        lost = next(((node, part) for node, part in parts if part.is_lost), None)
        if lost is not None:
            node, part = lost
            why = part.gone_why or f"node {node} has no such attempt any more"
            return ends.on_loss(job, node, why, term=term)
        told = [(node, part.end) for node, part in parts if part.end is not None]
        node, end = deciding_end(told, stopping=bool(job.stop_why))
        where = f"rank {job.nodes.index(node)} on {node}" if len(parts) > 1 else ""
        return ends.on_end(job, end, term=term, where=where)

    def _decide_about(self, job: Job, fact: m.JobFact, decisions: list[Decision]) -> None:
        self._truth.assume(job, fact)
        decisions.append(Decision(job.subject, fact, job.sequence, job.traceparent))

    def _decide_nodes(self, decisions: list[Decision], silence: Silence, now: float) -> None:
        truth = self._truth
        for name, node in list(truth.nodes_due.items()):
            if len(decisions) >= ROUND_MAX:
                return
            if node.decided is not None:
                continue
            del truth.nodes_due[name]
            loss = self._loss(node, silence, now)
            must_leave = node.stops or node.faults
            if (loss or must_leave) and any(job.decided is not None for job in node.jobs.values()):
                truth.nodes_due[name] = node  # what is being written about these comes first
            for _, job in sorted(node.jobs.items()) if loss else ():
                if len(decisions) >= ROUND_MAX:
                    truth.nodes_due[name] = node
                    return
                if job.decided is None:
                    self._lose(job, node, loss, decisions)
            if node.jobs and (loss or self._must_lose_first(node)):
                continue  # it is due again when it holds nothing any more
            if must_leave and not self._stop(node, decisions):
                truth.nodes_due[name] = node
                return
            fact = silence.verdict(node, now) or self._on_gpus(node, silence, now)
            if fact is not None:
                node.decided = fact
                decisions.append(Decision(subjects.node(name), fact, node.sequence))

    def _lose(self, job: Job, node: Node, why: str, decisions: list[Decision]) -> None:
        """The node is gone, and the job's part there. A gang is lost when its other parts are over, too."""
        part = job.part(node.name)
        if part.end is None:
            part.gone_why = why
        self._is_over(job, node, part)
        fact = self._on_due(job)
        if fact is not None:
            self._decide_about(job, fact, decisions)

    def _on_gpus(self, node: Node, silence: Silence, now: float) -> m.NodeGpus | None:
        """What there is to write about GPUs of a node that says how they are."""
        if not node.is_known or not silence.is_heard(node, now):
            return None
        holders = [job for _, job in sorted(node.jobs.items())]
        faults = gpu_faults.standing(node.faults, node.claims, node.repaired, holders)
        return m.NodeGpus(term=self._truth.term, faults=faults) if faults != node.faults else None

    def _stop(self, node: Node, decisions: list[Decision]) -> bool:
        """Ask what must leave the node to stop. False: there was no room for all of it in this round."""
        said = f": {node.closed_why}" if node.closed_why else ""
        drained = f"node {node.name} is being drained by {node.draining_by}{said}" if node.stops else ""
        for _, job in sorted(node.jobs.items()):
            why = drained or gpu_faults.stop_why(node.name, node.faults, job)
            if why and job.decided is None and job.life.state in (State.PLACED, State.RUNNING):
                if len(decisions) >= ROUND_MAX:
                    return False
                stop = m.StopRequested(term=self._truth.term, attempt=job.life.attempt, why=why)
                self._decide_about(job, stop, decisions)
        return True

    def _loss(self, node: Node, silence: Silence, now: float) -> str:
        """Why everything on the node is lost; empty: it is not."""
        if node.gone_why:
            return node.gone_why
        if node.suspected_at is not None and not silence.is_heard(node, now) and silence.is_over(node, now):
            return silence.lost_why(node, now)
        return ""

    def _must_lose_first(self, node: Node) -> bool:
        """Whether attempts of before a restart are still on its books: the new boot id would hide them."""
        return any(job.parts[node.name].gone_why for job in node.jobs.values() if job.parts and node.name in job.parts)

    def _place(self, decisions: list[Decision], moment: Moment) -> tuple[dict[str, None], bool]:
        """Place what waits, and end what must make room for it.

        Gives the nodes that get something, in order, and whether the round was full before all was decided.
        """
        truth = self._truth
        nodes: dict[str, None] = {}
        if len(decisions) >= ROUND_MAX:
            return nodes, True
        more = False
        placing = Placing(truth, moment, self.settings)
        for choice in placing.choices():
            facts = list(choice.facts(truth.term))
            if decisions and len(decisions) + len(facts) > ROUND_MAX:
                more = True
                break
            for job, fact in facts:
                self._decide_about(job, fact, decisions)
            if isinstance(choice, Choice):
                nodes.update(dict.fromkeys(node.name for node in choice.nodes))
            if len(decisions) >= ROUND_MAX:
                more = True
                break
        self._preempt_at = placing.wake_at
        return nodes, more

    def landed(self, round_: Round, now: float) -> None:
        """The ledger took the round. It is true when `apply` has seen it; launches may be sent now."""
        for decision in round_.decisions:
            job = self._truth.jobs.get(decision.subject)
            if job is not None and job.decided is decision.fact:
                job.landed = True
                if isinstance(decision.fact, m.Placed):
                    job.placed_at = now

    def abandon(self, round_: Round) -> None:
        """Nothing of the round was written: as if it had never been decided."""
        self._look = None
        truth = self._truth
        for decision in round_.decisions:
            job = truth.jobs.get(decision.subject)
            if job is not None and job.decided is decision.fact:
                truth.forget(job)
                if job.sequence:
                    truth.reconsider(job)
            if isinstance(decision.fact, m.NodeFact):
                node = truth.fleet.node(subjects.tokens(decision.subject)[1])
                node.decided = None
                truth.nodes_due[node.name] = node

    def wake_at(self) -> float | None:
        """When to decide again though nothing happens; None: no need."""
        if self._silence is None:
            return None
        timers = self._truth.timers
        times = [self._silence.wake_at(), timers[0][0] if timers else None, self._opens_at, self._preempt_at]
        return min((at for at in times if at is not None), default=None)

    # -- what nodes are told ---------------------------------------------------------------------------------------

    def desired(self, name: str, now: float) -> m.Desired:
        """What should live on a node: the whole of it, and newer than all that it was told before in this term."""
        truth = self._truth
        self._revision += 1
        node = truth.fleet.nodes.get(name)
        launches: list[m.Launch] = []
        recorded: list[m.AttemptRef] = []
        if node is not None and not node.gone_why:
            launches = [self._launch(job, name) for job in node.jobs.values() if job.is_wanted_on(name)]
        if node is not None and node.claims is not None:
            ended = (live.ref for live in node.claims.attempts if live.state == "ended")
            recorded = [ref for ref in ended if self._is_recorded(ref)]
        return m.Desired(
            term=truth.term,
            node=name,
            attempts=tuple(launches),
            recorded=tuple(recorded[:RECORDED_MAX]),
            heartbeat_s=self.settings.heartbeat_s,
            revision=self._revision,
        )

    def _launch(self, job: Job, node: str) -> m.Launch:
        if job.launches is None:
            job.launches = {}
        made = job.launches.get(node) or self._made_launch(job, node)
        job.launches[node] = made
        if made.gang is None:
            return made
        return msgspec.structs.replace(made, gang=msgspec.structs.replace(made.gang, meeting=job.meeting))

    def _made_launch(self, job: Job, node: str) -> m.Launch:
        """All of it that stays the same."""
        spec = job.specification
        held = job.decided.allocations if isinstance(job.decided, m.Placed) else job.allocations
        environment = self._truth.environment_of(job)
        return m.Launch(
            ref=job.ref(),
            user=spec.user,
            name=spec.name,
            allocation=next(allocation for allocation in held if allocation.node == node),
            entrypoint=spec.entrypoint,
            env=spec.env,
            source=spec.source,
            folder=spec.folder,
            lock=environment.lock if environment is not None else "",
            python=environment.python if environment is not None else "",
            time_limit_s=spec.time_limit_s,
            grace_s=spec.grace_s,
            traceparent=job.traceparent,
            placed_at=job.placed_at,
            task=job.task,
            gang=m.GangPart(rank=job.nodes.index(node), size=len(held)) if len(held) > 1 else None,
            kind=spec.kind,
        )

    def _is_recorded(self, ref: m.AttemptRef) -> bool:
        """Whether the ledger has the end of this attempt, or will never want it."""
        job = self._truth.by_key.get((ref.team, ref.job))
        if job is None:
            return True
        return ref.attempt < job.life.attempt or (ref.attempt == job.life.attempt and not job.is_live)

    def take_changed(self, *, urgent: bool) -> list[str]:
        """The nodes that should be told their list again, in order; with `urgent` only where something must stop, or
        where others wait for its start.
        """
        changed = [name for name, at_once in self._truth.changed.items() if name and (at_once or not urgent)]
        for name in changed:
            del self._truth.changed[name]
        return changed

    @property
    def has_changed(self) -> bool:
        """Whether some node should be told its list again."""
        return bool(self._truth.changed)

    # -- questions -------------------------------------------------------------------------------------------------

    def why(self, team: str, job: str, now: float) -> m.Why | None:
        """Why a job waits, or what became of it; None: nobody has heard of it."""
        return explain.why(self._truth, team, job, lambda: self._looked(now))

    def _looked(self, now: float) -> Look:
        """What the placing would do now: one look serves all questions until something happens."""
        look = self._look
        if look is None or now >= look.now + LOOK_S:
            look = self._look = Look(self._truth, now, self.settings)
        return look

    def queue_page(self, ask: m.AskQueue, now: float) -> m.QueuePage:
        """Those of a team that wait, in the order in which they would be placed."""
        return standing.page(self._truth, self._looked(now), ask)

    def nodes_view(self) -> m.NodesView:
        return explain.nodes_view(self._truth)

    def queues_view(self) -> m.QueuesView:
        return tenants.queues_view(self._truth)

    def teams_view(self) -> m.TeamsView:
        return tenants.teams_view(self._truth)

    def counters(self) -> dict[str, int]:
        """What it has seen and holds, for `status`."""
        return explain.counters(self._truth)


def _started_at(job: Job, parts: list[tuple[str, Part]]) -> float:
    """When the last part began."""
    times = [part.reported.started_at for _, part in parts if part.reported is not None]
    return max((at for at in times if at is not None), default=job.placed_at)
