"""Fixtures of the bus's tests: the same tests run on one server, and on three with every stream replicated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import NamedTuple

import pytest

from events import jetstream, streams
from events.bus import Bus, BusError
from tests.conftest import TEAM
from tests.support.nats import NatsCluster, NatsServer

WAIT_S = 20.0


class Stage(NamedTuple):
    """Where a test plays: servers that are shared by tests, streams that are fresh for each."""

    servers: NatsServer | NatsCluster
    replicas: int
    bus: Bus

    async def another_bus(self, name: str) -> Bus:
        return await Bus.connect(self.servers.url, user=self.servers.user, password=self.servers.password, name=name)


@pytest.fixture(scope="session")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats-one"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    cluster = NatsCluster(tmp_path_factory.mktemp("nats-three"))
    cluster.start()
    yield cluster
    cluster.kill()


@pytest.fixture(params=["one", "three"])
async def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    servers = request.getfixturevalue(request.param)
    replicas = 3 if request.param == "three" else 1
    bus = await Bus.connect(servers.url, user=servers.user, password=servers.password, name="test")
    await fresh_streams(bus, replicas)
    monkeypatch.setattr("events.bus.DRAIN_S", 1.0)
    monkeypatch.setattr("events.consumer.DRAIN_S", 1.0)  # a test that failed may leave a handler that never ends
    yield Stage(servers, replicas, bus)
    await bus.drain()


@pytest.fixture
def bus(stage: Stage) -> Bus:
    return stage.bus


async def fresh_streams(bus: Bus, replicas: int) -> None:
    """Every stream, empty. The servers may have started this very moment: then they are asked again."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                names = await jetstream.api(bus._connection, "STREAM.NAMES")
                for name in names["streams"] or ():
                    await jetstream.api(bus._connection, f"STREAM.DELETE.{name}")
                for stream in (*streams.SHARED, streams.requests(TEAM)):
                    await bus.ensure(stream, replicas=replicas)
            except BusError:
                await asyncio.sleep(0.2)
            else:
                return


async def eventually(holds: Callable[[], object], within_s: float = WAIT_S) -> None:
    """Wait until something holds, now or after some awaiting; the test fails if it never does."""
    async with asyncio.timeout(within_s):
        while True:
            held = holds()
            if isinstance(held, Awaitable):
                held = await held
            if held:
                return
            await asyncio.sleep(0.01)
