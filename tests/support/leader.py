"""A leader that wants what a test tells it to want, on a real bus."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import msgspec

from events import subjects
from events.bus import Asked, Bus
from events.messages import Allocation, AttemptEnd, AttemptRef, Desired, Exchange, Launch, LiveAttempt

WAIT_S_MAX = 30.0
GIB = 1024**3


def a_launch(job: str, code: str, *, attempt: int = 1, gpus: tuple[int, ...] = (), **fields: object) -> Launch:
    """An order to run some Python."""
    launch = Launch(
        ref=AttemptRef(team="vision", job=job, attempt=attempt),
        user="ada",
        name=job,
        allocation=Allocation(node="n1", cpus=1, memory_bytes=GIB, gpus=gpus),
        entrypoint=(sys.executable, "-c", code),
        grace_s=0.2,
    )
    return msgspec.structs.replace(launch, **fields)


class Leader:
    """Answers exchanges while it is `listening`; keeps what it was told."""

    def __init__(self, bus: Bus, node: str = "n1", *, term: int = 7) -> None:
        self.bus = bus
        self.node = node
        self.term = term
        self.wanted: dict[AttemptRef, Launch] = {}
        self.ends: dict[AttemptRef, AttemptEnd] = {}
        self.exchanges: list[Exchange] = []
        self.records = True
        self.heartbeat_s = 0.2
        self._revision = 0
        self._news = asyncio.Condition()

    async def listen(self) -> None:
        self._subscription = await self.bus.answer(subjects.exchange(self.node), self._on_exchange)

    async def fall_silent(self) -> None:
        await self._subscription.close()

    async def want(self, *launches: Launch) -> None:
        """Have these run, and say so at once."""
        self.wanted |= {launch.ref: launch for launch in launches}
        await self.say()

    async def want_no_more(self, ref: AttemptRef) -> None:
        del self.wanted[ref]
        await self.say()

    async def say(self, *, term: int | None = None) -> None:
        await self.bus.send(subjects.to_node(self.node), msgspec.json.encode(self._desired((), term)))

    async def until(self, true: Callable[[], bool], *, wait_s: float = WAIT_S_MAX) -> None:
        """Wait until an exchange has made it so."""
        async with asyncio.timeout(wait_s), self._news:
            await self._news.wait_for(true)

    async def end_of(self, ref: AttemptRef, *, wait_s: float = WAIT_S_MAX) -> AttemptEnd:
        await self.until(lambda: ref in self.ends, wait_s=wait_s)
        return self.ends[ref]

    async def until_running(self, ref: AttemptRef) -> LiveAttempt:
        await self.until(lambda: (live := self.reported(ref)) is not None and live.state == "running")
        found = self.reported(ref)
        assert found is not None
        return found

    def reported(self, ref: AttemptRef) -> LiveAttempt | None:
        """What the newest exchange says about it."""
        newest = self.exchanges[-1].attempts if self.exchanges else ()
        return next((live for live in newest if live.ref == ref), None)

    async def _on_exchange(self, asked: Asked) -> bytes:
        exchange = msgspec.json.decode(asked.body, type=Exchange)
        ended = {live.ref: live.end for live in exchange.attempts if live.end is not None}
        for ref in ended:
            self.wanted.pop(ref, None)
        async with self._news:
            self.exchanges.append(exchange)
            self.ends |= ended
            self._news.notify_all()
        return msgspec.json.encode(self._desired(tuple(ended) if self.records else (), None))

    def _desired(self, recorded: tuple[AttemptRef, ...], term: int | None) -> Desired:
        self._revision += 1
        return Desired(
            term=self.term if term is None else term,
            node=self.node,
            attempts=tuple(self.wanted.values()),
            recorded=recorded,
            heartbeat_s=self.heartbeat_s,
            revision=self._revision,
        )
