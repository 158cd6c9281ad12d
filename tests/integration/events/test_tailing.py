"""A tail gives every message once and in order, and says when it has caught up, on one server and on three."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from events import jetstream, subjects
from events.bus import Bus, CaughtUp, Delivery, Outgoing, Refused
from events.replies import Message
from events.tail import _Reader
from tests.integration.events.conftest import Stage, eventually
from tests.support.nats import NatsCluster


def a_node(number: int) -> Outgoing:
    return Outgoing(subjects.node(f"n{number % 3}"), b"%d" % number, {})


async def read(tail: AsyncIterator[Delivery | CaughtUp], count: int) -> list[bytes | str]:
    """The next items: bodies, and the word `caught up`."""
    found: list[bytes | str] = []
    async with asyncio.timeout(20):
        async for item in tail:
            found.append("caught up" if isinstance(item, CaughtUp) else item.body)
            if len(found) == count:
                return found
    return found


async def test_a_tail_gives_what_is_there_then_says_so_and_goes_on(bus: Bus) -> None:
    await bus.publish_many([a_node(number) for number in range(3)])
    tail = bus.tail("LEDGER", subjects=subjects.LEDGER, after=0)
    assert await read(tail, 4) == [b"0", b"1", b"2", "caught up"]
    await bus.publish(a_node(3))
    assert await read(tail, 1) == [b"3"]


async def test_a_tail_begins_behind_the_sequence_that_it_was_given(bus: Bus) -> None:
    await bus.publish_many([a_node(number) for number in range(5)])
    assert await read(bus.tail("LEDGER", subjects=subjects.LEDGER, after=3), 3) == [b"3", b"4", "caught up"]


async def test_a_tail_of_an_empty_stream_has_caught_up_at_once(bus: Bus) -> None:
    tail = bus.tail("LEDGER", subjects=subjects.LEDGER, after=0)
    assert await read(tail, 1) == ["caught up"]


async def test_a_tail_of_some_subjects_has_caught_up_when_theirs_were_given(bus: Bus) -> None:
    await bus.publish_many([a_node(number) for number in range(6)])
    tail = bus.tail("LEDGER", subjects=[subjects.node("n1")], after=0)
    assert await read(tail, 3) == [b"1", b"4", "caught up"]


async def test_a_tail_of_what_is_not_there_says_until_where_the_stream_was_read(bus: Bus) -> None:
    await bus.publish_many([a_node(number) for number in range(6)])
    async for item in bus.tail("LEDGER", subjects=[subjects.TERM], after=0):
        assert item == CaughtUp(6)
        break


async def test_a_long_tail_is_complete(bus: Bus) -> None:
    for start in range(0, 5000, 1000):
        await bus.publish_batch([a_node(start + number) for number in range(1000)])
    found = await read(bus.tail("LEDGER", subjects=subjects.LEDGER, after=0), 5001)
    assert found == [*(b"%d" % number for number in range(5000)), "caught up"]


async def test_a_tail_has_caught_up_with_the_leader_not_with_a_copy_that_is_behind(stage: Stage) -> None:
    """A server that was silent for a moment holds some of the consumers, and only a part of the stream."""
    bus, at_once, last = stage.bus, 12, 0
    for _ in range(8):
        async with a_silent_follower(stage):
            await bus.publish_batch([a_node(number) for number in range(1000)])
            tails = [read(bus.tail("LEDGER", subjects=subjects.LEDGER, after=last), 1001) for _ in range(at_once)]
            reading = asyncio.gather(*tails)
            await asyncio.wait([reading], timeout=0.2)
        assert [found.index("caught up") for found in await reading] == [1000] * at_once
        last += 1000


async def test_a_tail_misses_what_was_lost_on_its_way_to_it(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last message, so that none behind it shows the gap."""
    monkeypatch.setattr("events.tail.CHECK_S", 0.1)
    arrived, lost = _Reader._arrived, []

    def lose_one(reader: _Reader, message: Message) -> None:
        if message.data == b"4" and not lost:
            lost.append(message)
        else:
            arrived(reader, message)

    monkeypatch.setattr(_Reader, "_arrived", lose_one)
    await bus.publish_many([a_node(number) for number in range(5)])
    found = await read(bus.tail("LEDGER", subjects=subjects.LEDGER, after=0), 6)
    assert found == [b"0", b"1", b"2", b"3", b"4", "caught up"]
    assert len(lost) == 1


@asynccontextmanager
async def a_silent_follower(stage: Stage) -> AsyncIterator[None]:
    """Of several servers one that is neither ours nor the leader of LEDGER stands still meanwhile."""
    if not isinstance(stage.servers, NatsCluster):
        yield
        return
    info = await jetstream.api(stage.bus._connection, "STREAM.INFO.LEDGER")
    ours = stage.bus._connection._client.connected_url.port
    leader = info["cluster"]["leader"]
    silent = next(server for server in stage.servers.servers if server.name != leader and server.port != ours)
    silent.pause()
    try:
        yield
    finally:
        silent.resume()


async def test_a_tail_whose_rest_was_purged_has_caught_up(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("events.tail.CHECK_S", 0.1)
    monkeypatch.setattr("events.tail.WINDOW", 4)
    await bus.publish_many([a_node(number) for number in range(50)])
    tail = bus.tail("LEDGER", subjects=subjects.LEDGER, after=0)
    assert await read(tail, 1) == [b"0"]
    await jetstream.api(bus._connection, "STREAM.PURGE.LEDGER")
    found: list[bytes | str] = []
    while "caught up" not in found:
        found += await read(tail, 1)
    assert len(found) < 50


async def test_a_tail_goes_on_when_its_consumer_is_deleted(bus: Bus) -> None:
    await bus.publish_many([a_node(number) for number in range(3)])
    tail = bus.tail("LEDGER", subjects=subjects.LEDGER, after=0)
    assert await read(tail, 4) == [b"0", b"1", b"2", "caught up"]
    names = await jetstream.api(bus._connection, "CONSUMER.NAMES.LEDGER")
    await jetstream.api(bus._connection, f"CONSUMER.DELETE.LEDGER.{names['consumers'][0]}")
    await bus.publish_many([a_node(number) for number in range(3, 6)])
    assert await read(tail, 3) == [b"3", b"4", b"5"]


async def test_a_tail_that_nobody_reads_any_more_leaves_no_consumer(bus: Bus) -> None:
    await bus.publish(a_node(0))
    tail = bus.tail("LEDGER", subjects=subjects.LEDGER, after=0)
    assert await read(tail, 1) == [b"0"]
    await tail.aclose()  # type: ignore[attr-defined]

    async def is_gone() -> bool:
        return not (await jetstream.api(bus._connection, "CONSUMER.NAMES.LEDGER"))["consumers"]

    await eventually(is_gone)


async def test_a_tail_of_no_stream_is_refused(bus: Bus) -> None:
    with pytest.raises(Refused):
        await read(bus.tail("NOSUCH", subjects=["x"], after=0), 1)
