"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from events import streams
from events.bus import Bus
from tests.support.nats import NatsServer

TEAM = "vision"


settings.register_profile("headrace", deadline=None)  # a busy machine is no failure
unshrunk = tuple(phase for phase in Phase if phase not in (Phase.shrink, Phase.explain))
settings.register_profile("first", settings.get_profile("headrace"), phases=unshrunk)
"""What fails first, however long it is (`load_tests.core_mutations`)."""
settings.load_profile("headrace")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true", help="write the recorded traces in tests/scenarios anew; review the diff"
    )


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A NATS server of this test's own, empty. Starting one takes some 50 ms, so none is shared."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    """A bus on that server, with every stream there is; requests of one team, `TEAM`."""
    bus = await Bus.connect(nats.url, user=nats.user, password=nats.password, name="test")
    for stream in (*streams.SHARED, streams.requests(TEAM)):
        await bus.ensure(stream)
    yield bus
    await bus.drain()
