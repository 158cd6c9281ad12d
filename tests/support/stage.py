"""The scheduler as a service on a real NATS server: a stage on which schedulers and nodes come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from controlplane.config import Configuration
from controlplane.frame import Clock, Tools
from controlplane.scheduling.service import serve
from events import messages as m
from events import subjects
from events.blobs import Blobs
from events.bus import Bus
from events.ledger import CaughtUp, Entry, Ledger, Write
from load_tests.simulated_node import SimulatedNode
from tests.support.nats import NatsServer
from tests.support.worlds import TEAM, a_capacity

WAIT_S_MAX = 20.0
CONFIG = Configuration(heartbeat_s=0.1, suspect_s=0.5, lease_s=0.2, leader_lease_s=0.6)


class Stage:
    """A server, schedulers that can be started and killed, nodes that can come and go, and a look at the ledger."""

    def __init__(self, nats: NatsServer, bus: Bus, folder: Path) -> None:
        self.nats = nats
        self.bus = bus
        self.ledger = Ledger(bus, source="test")
        self.blobs = Blobs.at(f"file://{folder}/blobs")
        self.facts: list[Entry] = []
        self._news = asyncio.Condition()
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Stage:
        await self._group.__aenter__()
        self._tasks = [self._group.create_task(self._follow())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(None, None, None)

    async def _follow(self) -> None:
        async for item in self.ledger.tail(after=0):
            if not isinstance(item, CaughtUp):
                self.facts.append(item)
                async with self._news:
                    self._news.notify_all()

    async def until(self, there: Callable[[], bool], *, limit_s: float = WAIT_S_MAX) -> None:
        async with asyncio.timeout(limit_s), self._news:
            await self._news.wait_for(there)

    async def scheduler(self, name: str = "s1") -> asyncio.Task[None]:
        """A scheduler on a connection of its own, caught up."""
        bus = await Bus.connect(self.nats.url, user=self.nats.user, password=self.nats.password, name=name)
        ready = asyncio.Event()
        tools = Tools(CONFIG, bus, Ledger(bus, source=name), self.blobs, Clock(), name, ready.set)

        async def run() -> None:
            try:
                await serve(tools)
            finally:
                await bus.drain()

        task = self._group.create_task(run())
        self._tasks.append(task)
        await ready.wait()
        return task

    def node(self, name: str = "n1", *, duration_s: float = 0.0, boot: str = "b1") -> asyncio.Task[None]:
        node = SimulatedNode(
            self.bus, name, capacity=a_capacity(), duration_s=lambda _: duration_s, heartbeat_s=0.1, boot=boot
        )
        return self.run(node.run())

    def run(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """In the background, until the stage is left."""
        task = self._group.create_task(what)
        self._tasks.append(task)
        return task

    async def submit(self, *specifications: m.Specification) -> None:
        for one in specifications:
            await self.ledger.append(Write(subjects.job(one.team, one.job), m.Accepted(specification=one), 0))

    def of(self, job: str) -> list[m.Fact]:
        return [entry.fact for entry in self.facts if entry.subject == subjects.job(TEAM, job)]

    def kinds(self, job: str) -> list[str]:
        return [str(type(fact).__struct_config__.tag) for fact in self.of(job)]

    def has(self, kind: type[m.Fact], job: str) -> bool:
        return any(isinstance(fact, kind) for fact in self.of(job))

    def terms(self) -> list[Entry]:
        return [entry for entry in self.facts if isinstance(entry.fact, m.Led)]


@asynccontextmanager
async def a_stage(nats: NatsServer, bus: Bus, folder: Path) -> AsyncIterator[Stage]:
    async with Stage(nats, bus, folder) as stage:
        yield stage
