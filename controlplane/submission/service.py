"""The door: takes requests in, writes what the core decides, answers. Any number of these may run side by side."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

import msgspec

from controlplane.frame import Tools, ensure_streams, patiently
from controlplane.submission import answers, core, tasks
from controlplane.submission.archived import rejection, state_of
from controlplane.submission.following import Following
from controlplane.submission.operators import GROUP, Operators
from controlplane.submission.reading import Findings
from controlplane.submission.room import Room
from controlplane.submission.spelled import names_asked, names_in
from controlplane.submission.writer import Writer
from events import messages as m
from events import streams, subjects
from events.asking import FULL_S
from events.bus import Asked, Conflict, Consumer, Delivery, Retry, Subscription
from events.identity import environment_digest
from events.ledger import Write
from events.lifecycle import State

LOG: Final = logging.getLogger("headrace.submission")

BATCH: Final = 256
CONFLICT_TRIES: Final = 8
"""Somebody writes about a job just when it is controlled: read again, at most so often in one go."""
BUSY_S: Final = 0.5
READY_MAX: Final = 10_000
READY_S: Final = 60.0
"""How long it is believed without looking that an environment is ready."""
TASKS_AT_ONCE: Final = 64
"""Of an array, being cancelled one by one."""
DONE_KEPT: Final = 2 * BATCH


class Subject(NamedTuple):
    """What the subject of a request says. `job` is empty for a submit."""

    team: str
    user: str
    job: str


async def serve(tools: Tools) -> None:
    """Set the streams and queues up, then turn requests into facts until cancelled."""
    door = Door(tools)
    await door.set_up()
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(door.writer.run())
        following = group.create_task(door.following.run())
        try:
            await door.following.caught_up.wait()
            await door.open()
            tools.ready()
            await asyncio.Event().wait()
        finally:
            await door.close()
            writing.cancel()
            following.cancel()


class Door:
    """The service's state: nothing that outlives it, but counters and a memory of what was just written."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.writer = Writer(tools.ledger)
        self.following = Following(tools.ledger)
        self._room = Room(tools.bus, tools.clock.now)
        self._counters: Counter[str] = Counter()
        self._ready: OrderedDict[str, float] = OrderedDict()
        self._done: OrderedDict[tuple[str, int, float], None] = OrderedDict()
        self._controlled: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._consumers: list[Consumer] = []
        self._answers: list[Subscription] = []

    # -- life ----------------------------------------------------------------------------------------------------------

    async def set_up(self) -> None:
        """Every stream, and the configured queues as facts: those that are there already stay as they are."""
        bus, config = self._tools.bus, self._tools.config
        await ensure_streams(bus, config)
        for team, settings in config.teams.items():
            for queue in settings.queues:
                write = Write(subjects.queue(team, queue), m.QueueSet(by="configuration"), 0)
                with contextlib.suppress(Conflict):
                    await patiently(partial(self._tools.ledger.append, write), f"queue {queue} of team {team}")

    async def open(self) -> None:
        bus = self._tools.bus
        for team in self._tools.config.teams:
            stream = streams.requests_stream_name(team)
            submits, controls = subjects.requests_of(team)
            of_submits = partial(
                bus.consume_batches,
                stream,
                durable="submission_submit",
                subjects=[submits],
                handler=self.on_submits,
                batch=BATCH,
                linger_s=0.0,
            )
            of_controls = partial(
                bus.consume, stream, durable="submission_control", subjects=[controls], handler=self.on_control
            )
            self._consumers += [
                await patiently(of_submits, f"submits of team {team}"),
                await patiently(of_controls, f"controls of team {team}"),
            ]
        self._answers = [
            await bus.answer(subjects.ASK_SUBMIT, self.on_asked_submit, group=GROUP),
            await bus.answer(subjects.ASK_CONTROL, self.on_asked_control, group=GROUP),
            await bus.answer(subjects.ask("submission", "status"), self.on_asked_status, group=GROUP),
        ]
        consumer, asked = await Operators(self._tools, self.following, self._counters).open()
        self._consumers.append(consumer)
        self._answers += asked

    async def close(self) -> None:
        """Take nothing in any more, and finish what is in hand."""
        for subscription in self._answers:
            await subscription.close()
        for consumer in self._consumers:
            await consumer.drain()

    # -- what comes in -------------------------------------------------------------------------------------------------

    async def on_submits(self, deliveries: Sequence[Delivery]) -> None:
        """Many at once; those that are written are answered even if another one fails and comes again."""
        outcomes = await asyncio.gather(*map(self._on_submit, deliveries), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _on_submit(self, delivery: Delivery) -> None:
        to = _of(names_in(delivery.subject)[1:])
        this = (to.team, delivery.sequence, delivery.at)
        if this in self._done:
            return
        with delivery.at_work():
            answer = answers.note(await self._submit(_incoming(to, delivery)))
            self._done[this] = None
            if len(self._done) > DONE_KEPT:
                self._done.popitem(last=False)
            await answers.tell(self._tools.bus, to.team, to.user, delivery.headers, answer)

    async def on_control(self, delivery: Delivery) -> None:
        to = _of(names_in(delivery.subject)[1:])
        order = core.Ordered(
            team=to.team,
            user=to.user,
            job=to.job,
            body=delivery.body,
            at=delivery.at,
            traceparent=delivery.envelope.traceparent,
            tries=delivery.delivered,
        )
        await answers.tell(
            self._tools.bus, to.team, to.user, delivery.headers, answers.note(await self._control(order))
        )

    async def on_asked_submit(self, asked: Asked) -> bytes:
        to, envelope = _of(names_asked(asked.subject)[1:]), asked.envelope
        request = core.Incoming(
            team=to.team,
            user=to.user,
            body=asked.body,
            at=self._tools.clock.now(),
            event_id=envelope.id,
            place=uuid.uuid4().hex,
            traceparent=envelope.traceparent,
        )
        try:
            return msgspec.json.encode(answers.note(await self._submit(request)))
        except Retry as error:
            raise answers.later(error) from error

    async def on_asked_control(self, asked: Asked) -> bytes:
        to = _of(names_asked(asked.subject)[1:])
        order = core.Ordered(
            team=to.team,
            user=to.user,
            job=to.job,
            body=asked.body,
            at=self._tools.clock.now(),
            traceparent=asked.envelope.traceparent,
            may_wait=False,
        )
        try:
            return msgspec.json.encode(answers.note(await self._control(order)))
        except Retry as error:
            raise answers.later(error) from error

    async def on_asked_status(self, asked: Asked) -> bytes:
        """Counters since this instance started; `forbidden` is a bug of ours and stays 0."""
        counts = self._counters
        status = {
            "instance": self._tools.instance,
            "applied": counts["accepted"] + counts["rejected"] + counts["applied"],
            "repeated": counts["repeated"],
            "stale": 0,
            "forbidden": 0,
            "dead": sum(consumer.dead for consumer in self._consumers),
            "retried": sum(consumer.retried for consumer in self._consumers),
            "batches": self.writer.batches,
            "conflicts": self.writer.conflicts,
            "archived_known": len(self.following.archived.jobs),
            **{
                name: counts[name]
                for name in ("accepted", "rejected", "controlled", "configured", "refused", "waited", "put_off")
            },
        }
        return msgspec.json.encode(status)

    # -- what becomes of it --------------------------------------------------------------------------------------------

    async def _submit(self, request: core.Incoming) -> m.Answer:
        decision = await self._decide_submit(request)
        if decision.fact is None:
            self._counters["refused"] += 1
            return decision.answer
        archived = self.following.archived
        if decision.job in archived.jobs:
            return await self._repeated_archived(request.team, decision.job, decision.job in archived.rejected)
        subject = subjects.job(request.team, decision.job)
        if isinstance(decision, core.Accept) and decision.fact.specification.after:
            if await self._tools.ledger.last(subject) is not None:
                return await self._repeated(subject, request.team, decision.job)
            decision = await self._dependent(request, decision)
        if await self._room.is_short() and await self._tools.ledger.last(subject) is None:
            self._counters["put_off"] += 1
            raise Retry(FULL_S, f"the ledger is {self._room.percent} % full: new jobs wait until some are archived")
        if isinstance(decision, core.Accept) and decision.environment is not None:
            await self._want(decision.environment, request, decision.job, decision.traceparent)
        assert decision.fact is not None, "there is such a team"
        try:
            sequence = await self.writer.append(Write(subject, decision.fact, 0, decision.traceparent))
        except Conflict:
            return await self._repeated(subject, request.team, decision.job)
        self._counters[decision.answer.verdict] += 1
        return msgspec.structs.replace(decision.answer, sequence=sequence)

    async def _decide_submit(self, request: core.Incoming) -> core.Accept | core.Reject:
        """By the settings of the queue; before it is rejected, by what another instance may have written just now."""
        queues = self.following.queues
        decision = core.decide_submit(request, self._tools.config, queues)
        queue = decision.queue if isinstance(decision, core.Reject) else ""
        if queue and await self.following.refresh(request.team, queue):
            return core.decide_submit(request, self._tools.config, queues)
        return decision

    async def _dependent(self, request: core.Incoming, accept: core.Accept) -> core.Accept | core.Reject:
        """What becomes of a job that waits for others. Raises Retry where one of them may still be on its way."""
        jobs = [each.job for each in accept.fact.specification.after]
        states = dict(zip(jobs, await asyncio.gather(*(self._state(request.team, job) for job in jobs)), strict=True))
        now = self._tools.clock.now()
        decision = core.decide_dependent(request, accept, states, now, self._tools.config)
        if isinstance(decision, core.Wait):
            self._counters["waited"] += 1
            raise Retry(decision.after_s, f"{accept.job} names a job that is not there yet")
        return decision

    async def _state(self, team: str, job: str) -> State | None:
        """Where a job stands; None: there is none. Raises Retry."""
        life = core.life_of(await self._told(subjects.job(team, job)))
        if life is None and job in self.following.archived.jobs:
            return await state_of(self._tools, team, job)
        return life.state if life is not None else None

    async def _repeated(self, subject: str, team: str, job: str) -> m.Answer:
        history = await self._told(subject)
        if not history:
            raise Conflict(f"{subject}: was there, and is not")
        sequence, first, *_ = history[0]
        if isinstance(first, m.Archived):
            return await self._repeated_archived(team, job, first.state == "rejected", sequence)
        self._counters["repeated"] += 1
        return core.repeated(job, first, sequence)

    async def _repeated_archived(self, team: str, job: str, rejected: bool, sequence: int = 0) -> m.Answer:
        self._counters["repeated"] += 1
        if not rejected:
            return m.Answer(verdict="repeated", job=job, sequence=sequence)
        return core.repeated(job, await rejection(self._tools, team, job), sequence)

    async def _want(self, wanted: m.EnvironmentRequest, request: core.Incoming, job: str, traceparent: str) -> None:
        """The environment is wanted, once for all jobs; a failed one is wanted again, for a job that is not there yet.

        Only that it is ready is remembered, for that stays so. Anything else is looked up each time: whoever comes
        after a failure must not find a memory of the time before it.
        """
        digest = environment_digest(wanted)
        if self._tools.clock.now() - self._ready.get(digest, 0.0) < READY_S:
            return
        subject = subjects.environment(digest)
        newest = await self._tools.ledger.last(subject)
        if newest is not None and not isinstance(newest.fact, m.EnvironmentFailed):
            if isinstance(newest.fact, m.EnvironmentReady):
                self._remember_ready(digest)
            return
        if newest is not None and await self._tools.ledger.last(subjects.job(request.team, job)) is not None:
            return  # a repeat: nothing waits for it
        fact = m.EnvironmentWanted(request=wanted, by=f"{request.team}/{request.user}")
        expect = newest.sequence if newest is not None else 0
        with contextlib.suppress(Conflict):  # somebody else wanted it in this very moment
            await self.writer.append(Write(subject, fact, expect, traceparent))

    def _remember_ready(self, digest: str) -> None:
        self._ready[digest] = self._tools.clock.now()
        self._ready.move_to_end(digest)
        if len(self._ready) > READY_MAX:
            self._ready.popitem(last=False)

    async def _control(self, order: core.Ordered) -> m.Answer:
        """Raises Retry if the job is not there yet, or is being written about all the time."""
        control, found = core.read_control(order, self._tools.config)
        if control is None:
            self._counters["refused"] += 1
            return core.refused(order.job, found)
        subject = subjects.job(order.team, order.job)
        lock = self._controlled.setdefault(subject, asyncio.Lock())
        async with lock:  # two of this process would only get into each other's way
            if isinstance(control, m.Cancel) and control.tasks:
                return await self._cancel_tasks(order, control, found, subject)
            return await self._decide_control(order, control, found, subject)

    async def _cancel_tasks(self, order: core.Ordered, control: m.Cancel, found: Findings, subject: str) -> m.Answer:
        """Cancel some tasks of an array."""
        history = await self._told(subject)
        life = core.life_of(history)
        if life is None:
            return await self._decide_control(order, control, found, subject)
        chosen = tasks.chosen(control, history[0].fact, life, found)
        if not chosen:
            self._counters["refused"] += 1
            return core.refused(order.job, found)
        told: list[tuple[m.Task, m.Answer]] = []
        for begin in range(0, len(chosen), TASKS_AT_ONCE):
            some = chosen[begin : begin + TASKS_AT_ONCE]
            said = await asyncio.gather(*(self._cancel_task(order, control, task, history) for task in some))
            told += zip(some, said, strict=True)
        return tasks.answered(order.job, told, found)

    async def _cancel_task(
        self, order: core.Ordered, control: m.Cancel, task: m.Task, array: Sequence[core.Told]
    ) -> m.Answer:
        mine = order._replace(job=tasks.job_of(task), may_wait=False)
        subject = subjects.job(order.team, mine.job)
        decision = core.decide_task(mine, control, task, array, await self._told(subject))
        if decision is not None:
            try:
                sequence = await self.writer.append(Write(subject, decision.fact, 0, decision.traceparent))
            except Conflict:
                LOG.info("a task was placed while it was being cancelled", extra={"job": mine.job})
            else:
                self._counters["controlled"] += 1
                return m.Answer(verdict="applied", job=mine.job, sequence=sequence)
        return await self._decide_control(mine, m.Cancel(why=control.why), Findings(), subject)

    async def _decide_control(self, order: core.Ordered, control: m.Control, found: Findings, subject: str) -> m.Answer:
        beside = core.beside(control)
        for _ in range(CONFLICT_TRIES):
            history = await self._told(subject)
            if not history and order.job in self.following.archived.jobs:
                self._counters["refused"] += 1
                return core.over(order.job, found)
            other = await self._told(subjects.job(order.team, beside)) if beside else []
            now = self._tools.clock.now()
            queues = self.following.queues
            decision = core.decide_control(order, control, history, other, now, self._tools.config, queues, found)
            if isinstance(decision, core.Wait):
                self._counters["waited"] += 1
                raise Retry(decision.after_s, f"no job {order.job} yet")
            if isinstance(decision, m.Answer):
                self._counters["repeated" if decision.verdict == "repeated" else "refused"] += 1
                return decision
            try:
                write = Write(subject, decision.fact, history[-1].sequence, decision.traceparent)
                sequence = await self.writer.append(write)
            except Conflict:
                continue
            self._counters["controlled"] += 1
            return m.Answer(verdict="applied", job=order.job, sequence=sequence, warnings=found.warnings)
        raise Retry(BUSY_S, f"{order.job} changes all the time")

    async def _told(self, subject: str) -> list[core.Told]:
        entries = await self._tools.ledger.history(subject)
        about = m.JobFact | m.Archived
        return [core.Told(e.sequence, e.fact, e.traceparent, e.at) for e in entries if isinstance(e.fact, about)]


def _incoming(to: Subject, delivery: Delivery) -> core.Incoming:
    envelope = delivery.envelope
    return core.Incoming(
        team=to.team,
        user=to.user,
        body=delivery.body,
        at=delivery.at,
        event_id=envelope.id,
        place=delivery.place,
        traceparent=envelope.traceparent,
        tries=delivery.delivered,
        may_wait=True,
    )


def _of(names: list[str]) -> Subject:
    """From `<team> <user>` and, for a control, `<job>`."""
    team, user, *job = names
    return Subject(team, user, job[0] if job else "")
