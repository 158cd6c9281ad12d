"""The scheduler's shell: follows the ledger, leads when nobody else does, and answers nodes and questions.

Every instance follows the ledger and could lead at any moment. The leader decides when something happened and when a
timer of the core is over, one round at a time, and only when it has seen everything that it wrote before.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import msgspec

from controlplane.config import Configuration
from controlplane.frame import Tools, ensure_streams
from controlplane.scheduling import keeping, reports
from controlplane.scheduling.core import Core
from controlplane.scheduling.decisions import Broken, Round, Settings
from controlplane.scheduling.forecast import told
from controlplane.scheduling.forecasting import Forecaster
from controlplane.scheduling.leader import Deposed, Standstill, Term
from events import messages as m
from events import subjects
from events.asking import Answerer
from events.bus import Asked, AskRefused, Conflict, Refused, Subscription, Unknown
from events.ledger import CaughtUp, UnknownFact
from events.wire import UNREADABLE

LOG: Final = logging.getLogger("headrace.scheduling")

CLOCK_MARGIN_S: Final = 10.0
SNAPSHOT_FACTS: Final = 20_000
"""Between two snapshots, and as many more as there are jobs: what a snapshot costs a fact is the same at any size."""
REACH_S_MAX: Final = 30.0
"""The tail must show what was written by then; else this instance begins anew."""
REFUSED_PAUSE_S: Final = 1.0
AGAIN_PAUSE_S: Final = 1.0
"""Before an instance that had to give up begins anew."""
FORECAST_WAIT_S: Final = 1.0
"""How long a page of the queue waits for the first forecast; without one it says nothing of expected starts."""
TELL_EACH_S: Final = 0.25
"""How long nodes may wait to hear that an end of theirs is recorded: such news are gathered."""

_EXCHANGE: Final = msgspec.json.Decoder(m.Exchange)
_ASK_QUEUE: Final = msgspec.json.Decoder(m.AskQueue)
_ASK_JOB: Final = msgspec.json.Decoder(m.AskJob)
_JSON: Final = msgspec.json.Encoder()


class Stuck(Exception):
    """The tail does not show what is in the ledger."""


def build(config: Configuration) -> Core:
    """The one way a core is made: for the service, the simulator and tests."""
    return Core(
        Settings(
            heartbeat_s=config.heartbeat_s,
            suspect_s=config.suspect_s,
            lease_s=config.lease_s,
            backfill_depth=config.backfill_depth,
            preempt_min_run_s=config.preempt_min_run_s,
            fair_half_life_s=config.fair_half_life_s,
            packing=config.packing,
            margin_s=CLOCK_MARGIN_S + config.leader_lease_s,
            tiers=config.tiers,
            team_tiers={name: team.tiers for name, team in config.teams.items() if team.tiers},
        )
    )


async def serve(tools: Tools) -> None:
    """Run until cancelled."""
    status = _Status()
    await ensure_streams(tools.bus, tools.config)
    subscription = await tools.bus.answer(
        subjects.ask("scheduling", "status"), status.answer, group="scheduling-status"
    )
    trust_snapshots = True
    try:
        while True:
            instance = Instance(tools, build(tools.config))
            status.instance = instance
            try:
                await instance.run(trust_snapshots=trust_snapshots)
            except* (Unknown, Refused, Stuck) as group:
                LOG.warning("begins anew", extra={"why": _reasons(group)})
            except* UnknownFact as group:
                LOG.critical(
                    "steps down: the ledger holds what this version cannot read", extra={"why": _reasons(group)}
                )
            except* Broken as group:
                LOG.critical("steps down: an invariant does not hold", extra={"why": _reasons(group)})
                trust_snapshots = False
            await asyncio.sleep(AGAIN_PAUSE_S)
    finally:
        await subscription.close()


def _reasons(group: BaseExceptionGroup[BaseException]) -> str:
    return "; ".join(f"{type(error).__name__}: {error}" for error in group.exceptions)


class _Status:
    """Answers `status`, whatever instance there is at the time."""

    instance: Instance | None = None

    async def answer(self, asked: Asked) -> bytes:
        return _JSON.encode(self.instance.status() if self.instance is not None else {"role": "starting"})


class Instance:
    """One life of the service, from a snapshot to where it cannot go on."""

    def __init__(self, tools: Tools, core: Core) -> None:
        self._tools = tools
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._standstill = Standstill(tools.config.leader_lease_s)
        self._caught_up = asyncio.Event()
        self._wake = asyncio.Event()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._saved = 0
        self._saving = asyncio.Event()
        self._tell_at = 0.0
        self._forecaster = Forecaster(core, tools.clock.now)
        self._rounds = 0
        self._conflicts = 0

    async def run(self, *, trust_snapshots: bool) -> None:
        """Follow, and lead whenever possible. Raises Unknown, Refused, Stuck, UnknownFact, Broken in a group."""
        try:
            async with asyncio.TaskGroup() as group:
                if trust_snapshots:
                    await keeping.restore(self._core, self._tools.blobs, self._tools.ledger)
                self._saved = self._core.sequence
                group.create_task(self._follow())
                group.create_task(self._keep())
                group.create_task(self._forecaster.run())
                group.create_task(self._lead_whenever_possible())
        except asyncio.CancelledError:
            if self._core.sequence > self._saved:
                await keeping.save(self._core.sequence, self._core.snapshot(), self._tools.blobs)
            raise

    def status(self) -> dict[str, Any]:
        return {
            "role": "leader" if self._core.is_leading else "standby" if self._caught_up.is_set() else "replaying",
            "instance": self._tools.instance,
            "rounds": self._rounds,
            "conflicts": self._conflicts,
            "dead": 0,
            **self._core.counters(),
        }

    # -- following -------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        core, clock = self._core, self._tools.clock
        async for item in self._tools.ledger.tail(after=core.sequence):
            if isinstance(item, CaughtUp):
                self._caught_up.set()
                self._tools.ready()
                continue
            core.apply(item, clock.now())
            if item.subject == subjects.TERM:
                self._standstill.moved()
            if item.subject != subjects.TERM or isinstance(item.fact, m.Led):
                self._wake.set()
            if self._waiting:
                self._tell_waiting()
            if core.is_leading and core.sequence - self._saved >= SNAPSHOT_FACTS + core.size:
                self._saving.set()

    def _tell_waiting(self) -> None:
        for sequence, future in self._waiting:
            if sequence <= self._core.sequence and not future.done():
                future.set_result(None)

    async def _reach(self, sequence: int) -> None:
        """Wait until the tail has shown everything up to a sequence. Raises Stuck."""
        if self._core.sequence >= sequence:
            return
        waiting = (sequence, self._loop.create_future())
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(REACH_S_MAX):
                await waiting[1]
        except TimeoutError:
            raise Stuck(f"the tail stands at {self._core.sequence}, {sequence} is in the ledger") from None
        finally:
            self._waiting.remove(waiting)

    async def _keep(self) -> None:
        """Snapshots, one at a time; the core checks itself before each."""
        while True:
            await self._saving.wait()
            self._core.check()
            await asyncio.sleep(0)  # each takes its time when there are many jobs: others get a turn in between
            self._saved = self._core.sequence
            self._saving.clear()
            await keeping.save(self._saved, self._core.snapshot(), self._tools.blobs)

    # -- leading ---------------------------------------------------------------------------------------------------

    async def _lead_whenever_possible(self) -> None:
        tools, core = self._tools, self._core
        lease_s = tools.config.leader_lease_s
        await self._caught_up.wait()
        somebody_led = core.term_sequence > 0
        while True:
            if somebody_led:
                await self._standstill.over()
            somebody_led = True
            term = await Term.take(tools.ledger, leader=tools.instance, seen=core.term_sequence, lease_s=lease_s)
            if term is None:
                continue
            await self._reach(term.number)
            if core.term != term.number:
                continue  # another term began while this one was being read
            try:
                await self._lead(term)
            except Deposed as error:
                LOG.warning("stands by", extra={"why": str(error)})

    async def _lead(self, term: Term) -> None:
        """Decide until somebody else does."""
        core = self._core
        core.check()
        core.begin_term(self._tools.clock.now())
        LOG.info("leads", extra={"term": term.number})
        subscriptions: list[Subscription] = []
        try:
            for subject, answer in self._answers():
                subscriptions.append(await self._tools.bus.answer(subject, answer))
            while True:
                await self._pause(term)
                self._wake.clear()
                if not core.is_leading:
                    raise Deposed(f"term {term.number} is over: term {core.term} has begun")
                round_ = core.decide(self._tools.clock.now())
                if round_.decisions or term.needs_renewal:
                    await self._commit(term, round_)
                await self._tell_changed()
        finally:
            core.end_term()
            for subscription in subscriptions:
                await subscription.close()

    async def _pause(self, term: Term) -> None:
        """Until something happens, a timer of the core is over, or the term wants to be renewed."""
        wake_at = self._core.wake_at()
        until = term.renew_at
        if wake_at is not None:
            until = min(until, self._loop.time() + max(0.0, wake_at - self._tools.clock.now()))
        if self._core.has_changed:
            until = min(until, self._tell_at)
        try:
            async with asyncio.timeout_at(until):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _commit(self, term: Term, round_: Round) -> None:
        """Make a round true, or undo it. Raises Deposed, Unknown, Stuck."""
        try:
            last = await term.commit(round_.decisions, seen=self._core.sequence)
        except Conflict as error:
            self._conflicts += 1
            self._core.abandon(round_)
            LOG.info("decides again", extra={"why": str(error)})
            await self._reach(await self._tools.ledger.last_sequence())
            self._wake.set()
            return
        except Refused as error:
            self._core.abandon(round_)
            LOG.error("the ledger refuses", extra={"why": str(error)})
            await asyncio.sleep(REFUSED_PAUSE_S)
            self._wake.set()
            return
        self._rounds += 1
        self._core.landed(round_, self._tools.clock.now())
        await self._tell(round_.nodes)
        await self._reach(last)
        if round_.more:
            self._wake.set()

    async def _tell_changed(self) -> None:
        """Tell nodes their list: at once where something must stop or a gang may start, the others by and by."""
        by_and_by = self._loop.time() >= self._tell_at
        if by_and_by:
            self._tell_at = self._loop.time() + TELL_EACH_S
        await self._tell(self._core.take_changed(urgent=not by_and_by))

    async def _tell(self, nodes: tuple[str, ...] | list[str]) -> None:
        for node in nodes:
            if not self._core.is_leading:
                return  # another term has begun meanwhile: nodes hear of it from its own leader
            desired = self._core.desired(node, self._tools.clock.now())
            await self._tools.bus.send(subjects.to_node(node), _JSON.encode(desired))

    # -- answering -------------------------------------------------------------------------------------------------

    def _answers(self) -> list[tuple[str, Answerer]]:
        return [
            (subjects.EXCHANGES, self._on_exchange),
            (subjects.ask("scheduling", "why"), self._on_why),
            (subjects.ask("scheduling", "queue"), self._on_queue),
            (subjects.ask("scheduling", "nodes"), self._on_nodes),
            (subjects.ask("scheduling", "queues"), self._on_queues),
            (subjects.ask("scheduling", "teams"), self._on_teams),
        ]

    async def _on_exchange(self, asked: Asked) -> bytes:
        try:
            exchange = _EXCHANGE.decode(asked.body)
        except UNREADABLE as error:
            raise AskRefused(m.Refusal(status=400, message=f"not an exchange: {error}")) from error
        if subjects.exchange(exchange.node) != asked.subject:
            raise AskRefused(m.Refusal(status=403, message=f"{asked.subject} may not speak for node {exchange.node}"))
        if cannot_be := reports.problem(exchange):
            raise AskRefused(m.Refusal(status=400, message=f"not an exchange: {cannot_be}"))
        now = self._tools.clock.now()
        if not self._core.hear(exchange, now):
            raise AskRefused(m.Refusal(status=503, message="nobody leads here", hint="ask again in a moment"))
        self._wake.set()
        return _JSON.encode(self._core.desired(exchange.node, now))

    async def _on_why(self, asked: Asked) -> bytes:
        try:
            question = _ASK_JOB.decode(asked.body)
        except UNREADABLE as error:
            raise AskRefused(m.Refusal(status=400, message=f"not a question about a job: {error}")) from error
        why = self._core.why(question.team, question.job, self._tools.clock.now())
        if why is None:
            raise AskRefused(m.Refusal(status=404, message=f"no job {question.job} of team {question.team}"))
        if not why.position:
            return _JSON.encode(why)
        forecast = await self._forecaster.newest(question.forecast_wait_s)
        return _JSON.encode(told(why, question.team, forecast, self._tools.clock.now()))

    async def _on_queue(self, asked: Asked) -> bytes:
        try:
            question = _ASK_QUEUE.decode(asked.body)
        except UNREADABLE as error:
            raise AskRefused(m.Refusal(status=400, message=f"not a question about a queue: {error}")) from error
        forecast = await self._forecaster.newest(FORECAST_WAIT_S)
        now = self._tools.clock.now()
        page = self._core.queue_page(question, now)
        jobs = tuple(told(view, question.team, forecast, now) for view in page.jobs)
        made_at = forecast.made_at if forecast is not None else None
        return _JSON.encode(msgspec.structs.replace(page, jobs=jobs, forecast_at=made_at))

    async def _on_nodes(self, asked: Asked) -> bytes:
        return _JSON.encode(self._core.nodes_view())

    async def _on_queues(self, asked: Asked) -> bytes:
        return _JSON.encode(self._core.queues_view())

    async def _on_teams(self, asked: Asked) -> bytes:
        return _JSON.encode(self._core.teams_view())
