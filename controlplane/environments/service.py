"""The shell of environments: follows the ledger, solves what the core says, writes what came of it under guards.

Its state is the ledger alone: it replays the facts about environments and nodes at its start (some kB a request, once
a request) and needs no snapshot. Several may run: `building` is written under a guard, so one of them solves.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from controlplane.environments import core as c
from controlplane.environments.resolver import Interrupted, Resolver, Solved
from controlplane.frame import Tools, ensure_streams
from events import logs, subjects
from events.blobs import BlobError, BlobMissing
from events.bus import Asked, AskRefused, BusError, CaughtUp, Conflict, NoAnswer
from events.ledger import UnknownFact, Write
from events.lifecycle import Outcome
from events.messages import (
    AskEnvironment,
    EnvironmentBuilding,
    EnvironmentFailed,
    EnvironmentReady,
    EnvironmentView,
    Fact,
    Refusal,
)
from events.wire import UNREADABLE

LOG: Final = logging.getLogger("headrace.environments")
FOLLOWED: Final = (subjects.ENVIRONMENTS, subjects.NODES)
CHECK_EVERY: Final = 64
"""Facts between two checks of the core."""


class Applied(NamedTuple):
    """A fact of the ledger."""

    subject: str
    sequence: int
    fact: Fact
    at: float


class Dropped(NamedTuple):
    """A build ended without a fact of ours."""

    subject: str


class Probed(NamedTuple):
    builder: str
    alive: bool


Event = Applied | Dropped | Probed | CaughtUp


async def serve(tools: Tools) -> None:
    """Run until cancelled. What is being solved then is dropped; the next service takes it over."""
    resolver = Resolver(cache=_cache(tools.config.state), builds=tools.config.environment_builds, environ=os.environ)
    await Service(tools, resolver).run()


def _cache(state: str) -> Path:
    """Where uv keeps what it fetched, over restarts. uv makes the folder."""
    return Path(state).absolute() / "environments" / "uv-cache"


class Service:
    """One instance. An owner task holds the core; everything else reaches it through its queue."""

    def __init__(self, tools: Tools, resolver: Resolver) -> None:
        self._tools = tools
        self._resolver = resolver
        self._core = c.Core(me=tools.instance)
        self._events: asyncio.Queue[Event] = asyncio.Queue(maxsize=1_000)
        self._solving: set[str] = set()
        self._counters = {"solved": 0, "unsolvable": 0, "interrupted": 0, "conflicts": 0, "unknown": 0}

    async def run(self) -> None:
        bus = self._tools.bus
        await ensure_streams(bus, self._tools.config)
        answers = [
            await bus.answer(subjects.ask("environments", "status"), self._status, group="environments"),
            await bus.answer(subjects.ask("environments", "view"), self._view, group="environments"),
            await bus.answer(subjects.ask("environments", "log"), self._log, group="environments"),
            await bus.answer(subjects.ask("environments", "builder", self._tools.instance), self._alive),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                await self._own(group)
        finally:
            for answer in answers:
                await answer.close()

    # -- following, deciding -------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        after = 0
        while True:
            try:
                async for item in self._tools.ledger.tail(after=after, subjects=FOLLOWED):
                    if isinstance(item, CaughtUp):
                        await self._events.put(item)
                    else:
                        after = item.sequence
                        await self._events.put(Applied(item.subject, item.sequence, item.fact, item.at))
            except UnknownFact as error:
                after = error.sequence  # of a newer version; what it means for us, that version will do
                self._counters["unknown"] += 1
                LOG.warning("%s", error, extra={"subject": error.subject, "sequence": error.sequence})

    async def _own(self, group: asyncio.TaskGroup) -> None:
        """Hold the core: one event at a time in, decisions out, one timer."""
        caught_up, applied = False, 0
        while True:
            event = await self._next(caught_up)
            now = self._tools.clock.now()
            match event:
                case CaughtUp():
                    if not caught_up:
                        self._tools.ready()
                    caught_up = True
                case Applied(subject=subject, sequence=sequence, fact=fact, at=at):
                    outcome = self._core.apply(subject, sequence, fact, at)
                    if outcome is Outcome.FORBIDDEN:
                        LOG.error(
                            "forbidden fact %s", type(fact).__name__, extra={"subject": subject, "sequence": sequence}
                        )
                    applied += 1
                    if applied % CHECK_EVERY == 0:
                        self._core.check()
                case Dropped(subject=subject):
                    self._core.on_dropped(subject, now)
                case Probed(builder=builder, alive=alive):
                    self._core.on_probed(builder, alive=alive)
            for decision in self._core.decide(now) if caught_up else ():
                group.create_task(self._carry_out(decision))

    async def _next(self, caught_up: bool) -> Event | None:
        """The next event; None when the core's timer rings first."""
        wake_at = self._core.wake_at() if caught_up else None
        wait_s = None if wake_at is None else max(0.0, wake_at - self._tools.clock.now())
        try:
            async with asyncio.timeout(wait_s):
                return await self._events.get()
        except TimeoutError:
            return None

    # -- acting --------------------------------------------------------------------------------------------------------

    async def _carry_out(self, decision: c.Decision) -> None:
        match decision:
            case c.Build():
                await self._build(decision)
            case c.Fail(subject=subject, expect=expect, reason=reason):
                await self._write(subject, EnvironmentFailed(reason=reason), expect)
            case c.Probe(builder=builder):
                await self._events.put(Probed(builder, await self._is_alive(builder)))

    async def _build(self, build: c.Build) -> None:
        """Claim a request, solve it, write what came of it. Ends in a fact of ours, or in `Dropped`."""
        begun = self._tools.clock.now()
        claim = await self._write(build.subject, EnvironmentBuilding(builder=self._tools.instance), build.expect)
        if claim is None:
            await self._events.put(Dropped(build.subject))
            return
        self._solving.add(build.subject)
        try:
            with logs.about(subject=build.subject):
                fact = await self._solved(build.target, begun)
        finally:
            self._solving.discard(build.subject)
        if await self._write(build.subject, fact, claim) is None:
            await self._events.put(Dropped(build.subject))

    async def _solved(self, target: c.Target, begun: float) -> EnvironmentReady | EnvironmentFailed:
        for pause_s in (*c.RETRY_PAUSES_S, None):
            outcome = await self._resolver.solve(target)
            reason, name = "" if isinstance(outcome, Solved) else outcome.reason, type(outcome).__name__.lower()
            self._counters[name] += 1
            took_s = self._tools.clock.now() - begun
            LOG.info("environment %s after %.2f s", name, took_s, extra={"python": target.python})
            try:
                log = await self._tools.blobs.put(outcome.log.encode())
                if isinstance(outcome, Solved):
                    lock = await self._tools.blobs.put(outcome.lock)
                    return EnvironmentReady(
                        lock=lock,
                        python=target.python,
                        platform=target.platform,
                        packages=outcome.packages,
                        took_s=round(took_s, 3),
                        log=log,
                    )
            except BlobError as error:
                reason, log = f"the blob store failed: {error}", ""
            passing = isinstance(outcome, Interrupted) or not log
            if not passing or pause_s is None:
                break
            await asyncio.sleep(pause_s)
        return EnvironmentFailed(reason=reason, log=log)

    async def _write(self, subject: str, fact: Fact, expect: int) -> int | None:
        """Append a fact; None if it did not land: somebody was faster, or the ledger cannot be written now."""
        try:
            return await self._tools.ledger.append(Write(subject, fact, expect))
        except Conflict:
            self._counters["conflicts"] += 1
        except BusError as error:
            LOG.warning("%s was not written: %s", type(fact).__name__, error, extra={"subject": subject})
        return None

    async def _is_alive(self, builder: str) -> bool:
        try:
            await self._tools.bus.ask(subjects.ask("environments", "builder", builder))
        except NoAnswer:
            return False
        except BusError:
            return True
        return True

    # -- answering -----------------------------------------------------------------------------------------------------

    async def _alive(self, _: Asked) -> bytes:
        return b"{}"

    async def _status(self, _: Asked) -> bytes:
        outcomes = {outcome.value: count for outcome, count in self._core.outcomes.items()}
        zeros = {outcome.value: 0 for outcome in Outcome}
        status: dict[str, Any] = {"instance": self._tools.instance, **zeros, **outcomes, "dead": 0}
        return msgspec.json.encode(status | self._counters | self._core.count() | {"solving": len(self._solving)})

    async def _view(self, asked: Asked) -> bytes:
        return msgspec.json.encode(self._found(asked))

    async def _log(self, asked: Asked) -> bytes:
        view = self._found(asked)
        if not view.log:
            return view.reason.encode()
        try:
            return await self._tools.blobs.get(view.log)
        except BlobMissing as error:
            raise AskRefused(Refusal(status=404, message="the build log is no longer kept")) from error
        except BlobError as error:
            raise AskRefused(Refusal(status=503, message=str(error))) from error

    def _found(self, asked: Asked) -> EnvironmentView:
        try:
            digest = msgspec.json.decode(asked.body, type=AskEnvironment).environment
            view = self._core.view(digest)
        except (*UNREADABLE, ValueError) as error:
            raise AskRefused(Refusal(status=400, message=f"not an AskEnvironment: {error}")) from error
        if view is None:
            raise AskRefused(Refusal(status=404, message=f"no environment {digest} was ever wanted"))
        return view
