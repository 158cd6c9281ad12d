"""What the bus does when its server is killed, restarted, silent or unwilling; each of these went wrong somewhere."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from events import messages as m
from events import streams, subjects
from events.bus import Bus, BusError, CaughtUp, Delivery, NoAnswer, Outgoing, Refused, Unknown
from events.ledger import Ledger, Write
from tests.conftest import TEAM
from tests.integration.events.conftest import eventually, fresh_streams
from tests.support.nats import NatsCluster, NatsServer

NODE = subjects.node("n1")
REQUESTS = "REQUESTS_" + TEAM


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    """A bus on a server of this test's own: it will be killed."""
    bus = await Bus.connect(nats.url, user=nats.user, password=nats.password, name="test")
    await fresh_streams(bus, 1)
    yield bus
    await bus.drain()


def a_submit(number: int) -> Outgoing:
    return Outgoing(subjects.submit(TEAM, f"u{number % 5}"), b"%d" % number, {})


async def restart(server: NatsServer) -> None:
    server.kill()
    await asyncio.to_thread(server.start)


async def test_publishes_in_flight_when_the_server_is_killed_are_unknown_and_the_bus_works_again(
    bus: Bus, nats: NatsServer
) -> None:
    nats.pause()
    publishing = [asyncio.ensure_future(bus.publish(a_submit(number))) for number in range(700)]
    many = asyncio.ensure_future(bus.publish_many([a_submit(number) for number in range(700)]))
    batch = asyncio.ensure_future(bus.publish_batch([Outgoing(NODE, b"{}", {}), Outgoing(NODE, b"{}", {})]))
    await eventually(lambda: len(bus._connection.replies) > 700)
    nats.kill()
    async with asyncio.timeout(20):
        await eventually(lambda: bus.state == "reconnecting")
        await asyncio.to_thread(nats.start)
        outcomes = await asyncio.gather(*publishing, batch, return_exceptions=True)
        results = await many
    assert any(isinstance(outcome, Unknown) for outcome in outcomes)
    assert all(isinstance(outcome, int | Unknown) for outcome in (*outcomes, *results))
    assert isinstance(await bus.publish(a_submit(0)), int)
    assert len(bus._connection.replies) == 0
    assert bus._slots._value == 512


async def test_a_publish_to_a_silent_server_is_unknown_in_time(
    bus: Bus, nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.jetstream.PUBLISH_S", 0.3)
    nats.pause()
    async with asyncio.timeout(3):
        with pytest.raises(Unknown):
            await bus.publish(a_submit(0))
        assert all(isinstance(result, Unknown) for result in await bus.publish_many([a_submit(0)]))
        with pytest.raises(NoAnswer):
            await bus.ask(subjects.ask("x", "y"), timeout_s=0.3)
    nats.resume()


async def test_a_cancelled_publish_is_cancelled_and_frees_its_slot(bus: Bus, nats: NatsServer) -> None:
    nats.pause()
    publishing = [asyncio.ensure_future(bus.publish(a_submit(number))) for number in range(600)]
    await eventually(lambda: len(bus._connection.replies) == 512)
    for task in publishing:
        task.cancel()
    outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    nats.resume()
    assert isinstance(await bus.publish(a_submit(0)), int)
    assert len(bus._connection.replies) == 0


async def test_without_a_connection_a_publish_waits_for_it(bus: Bus, nats: NatsServer) -> None:
    nats.kill()
    await eventually(lambda: bus.state == "reconnecting")
    publishing = asyncio.ensure_future(bus.publish(a_submit(0)))
    await asyncio.to_thread(nats.start)
    assert isinstance(await publishing, int)


async def test_a_consumer_goes_on_when_its_server_restarts_and_no_message_is_lost(bus: Bus, nats: NatsServer) -> None:
    seen: Counter[bytes] = Counter()

    async def handler(delivery: Delivery) -> None:
        await asyncio.sleep(0.001)
        seen[delivery.body] += 1

    await bus.consume(
        REQUESTS, durable="s", subjects=[f"hr.v1.submit.{TEAM}.*"], handler=handler, in_flight=16, ack_wait_s=2
    )
    acknowledged: set[bytes] = set()
    for round_number in range(3):
        items = [a_submit(round_number * 100 + number) for number in range(100)]
        results = await bus.publish_many(items)
        acknowledged |= {
            item.body for item, result in zip(items, results, strict=True) if not isinstance(result, BusError)
        }
        await restart(nats)
        await eventually(lambda: bus.state == "connected")
    assert len(acknowledged) == 300
    await eventually(lambda: acknowledged <= set(seen))


async def test_a_tail_has_no_gap_and_no_repeat_when_its_server_restarts(bus: Bus, nats: NatsServer) -> None:
    found: list[int] = []
    caught_up: list[int] = []

    async def read() -> None:
        async for item in bus.tail("LEDGER", subjects=subjects.LEDGER, after=0):
            if isinstance(item, CaughtUp):
                caught_up.append(item.sequence)
            else:
                found.append(item.sequence)

    reading = asyncio.ensure_future(read())
    ledger = Ledger(bus, source="test")
    expect = 0
    for number in range(200):
        expect = await ledger.append(Write(NODE, m.NodeCordoned(by="ada"), expect))
        if number in (50, 120, 121):
            await restart(nats)
    await eventually(lambda: found and found[-1] == expect)
    assert found == list(range(1, expect + 1))
    assert len(caught_up) == 1
    reading.cancel()


async def test_an_append_survives_the_restart_of_its_server_and_is_written_once(bus: Bus, nats: NatsServer) -> None:
    ledger = Ledger(bus, source="test")
    nats.pause()
    appending = asyncio.ensure_future(ledger.append(Write(NODE, m.NodeCordoned(by="ada"), 0)))
    await eventually(lambda: len(bus._connection.replies) == 1)
    await restart(nats)
    sequence = await appending
    assert [entry.sequence for entry in await ledger.history(NODE)] == [sequence]


async def test_answers_and_listeners_outlive_the_server(bus: Bus, nats: NatsServer) -> None:
    async def answer(_: object) -> bytes:
        return b"fine"

    heard: list[bytes] = []

    async def handler(delivery: Delivery) -> None:
        heard.append(delivery.body)

    await bus.answer(subjects.ask("x", "y"), answer)
    await bus.listen("some.subject", handler)
    await restart(nats)
    assert await bus.ask(subjects.ask("x", "y"), timeout_s=10) == b"fine"
    await bus.send("some.subject", b"still there")
    await eventually(lambda: heard)


async def test_a_connection_that_was_given_up_is_opened_again_with_its_subscriptions(
    bus: Bus, nats: NatsServer
) -> None:
    async def answer(_: object) -> bytes:
        return b"fine"

    await bus.answer(subjects.ask("x", "y"), answer)
    given_up = bus._connection._client
    await given_up._process_err("'maximum connections exceeded'")
    await eventually(lambda: bus._connection._client is not given_up)
    assert await bus.ask(subjects.ask("x", "y"), timeout_s=10) == b"fine"
    assert isinstance(await bus.publish(a_submit(0)), int)


async def test_connecting_waits_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    connecting = asyncio.ensure_future(
        Bus.connect(server.url, user=server.user, password=server.password, name="early")
    )
    done, _ = await asyncio.wait([connecting], timeout=0.3)
    assert not done
    await asyncio.to_thread(server.start)
    bus = await asyncio.wait_for(connecting, 10)
    assert bus.state == "connected"
    await bus.drain()
    assert bus.state == "closed"
    server.kill()


async def test_a_drain_while_the_server_is_away_ends(bus: Bus, nats: NatsServer) -> None:
    nats.kill()
    await eventually(lambda: bus.state == "reconnecting")
    async with asyncio.timeout(5):
        await bus.drain()
    with pytest.raises(Unknown):
        await bus.publish(a_submit(0))


async def test_an_outage_is_told_in_words_and_never_as_a_traceback(
    bus: Bus, nats: NatsServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    await restart(nats)
    await bus.publish(a_submit(0))
    assert "connection to NATS lost" in caplog.text
    assert "Traceback" not in caplog.text
    assert all(record.exc_info is None for record in caplog.records)
    assert capfd.readouterr() == ("", "")


# -- not allowed -------------------------------------------------------------------------------------------------------


class StrictServer(NatsServer):
    """A server whose user may neither publish to the node's subjects nor hear those of the terms."""

    def configuration(self) -> str:
        allowed = 'permissions: { publish: { deny: ["hr.v1.node.>"] }, subscribe: { deny: ["hr.v1.term"] } }'
        return (
            super()
            .configuration()
            .replace(
                f'  user: "{self.user}"\n  password: "{self.password}"\n',
                f'  users: [{{ user: "{self.user}", password: "{self.password}", {allowed} }}]\n',
            )
        )


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[NatsServer]:
    server = StrictServer(tmp_path)
    server.start()
    yield server
    server.kill()


async def test_what_is_not_allowed_is_refused_at_once(strict: NatsServer, capfd: pytest.CaptureFixture[str]) -> None:
    bus = await Bus.connect(strict.url, user=strict.user, password=strict.password, name="test")
    await bus.ensure(streams.LEDGER)
    async with asyncio.timeout(2):
        with pytest.raises(Refused, match="not allowed") as refused:
            await bus.publish(Outgoing(NODE, b"{}", {}))
        assert refused.value.code == 403
        with pytest.raises(Refused, match="not allowed"):
            await bus.ask(NODE, timeout_s=10)
        with pytest.raises(Refused, match="not allowed"):
            await bus.listen(subjects.TERM, lambda _: asyncio.sleep(0))
        assert await bus.publish(Outgoing(subjects.TERM, b"{}", {})) == 1
    await bus.drain()
    assert capfd.readouterr() == ("", "")


# -- three servers -----------------------------------------------------------------------------------------------------


async def test_when_one_of_three_servers_is_killed_writing_consuming_and_tailing_go_on(tmp_path: Path) -> None:
    cluster = NatsCluster(tmp_path)
    cluster.start()
    bus = await Bus.connect(cluster.url, user=cluster.user, password=cluster.password, name="test")
    try:
        await fresh_streams(bus, 3)
        handled: set[bytes] = set()
        tailed: list[int] = []

        async def handler(delivery: Delivery) -> None:
            handled.add(delivery.body)

        async def read() -> None:
            async for item in bus.tail("LEDGER", subjects=subjects.LEDGER, after=0):
                tailed.extend([item.sequence] if isinstance(item, Delivery) else [])

        await bus.consume(REQUESTS, durable="s", subjects=[f"hr.v1.submit.{TEAM}.*"], handler=handler, ack_wait_s=3)
        reading = asyncio.ensure_future(read())
        for victim in (cluster.servers[0], cluster.servers[1]):
            await _write_while_killing(bus, victim)
        last = await bus.last_sequence("LEDGER")
        await eventually(lambda: tailed and tailed[-1] == last, 60)
        assert tailed == list(range(1, last + 1))
        await eventually(lambda: len(handled) == 50, 60)
        reading.cancel()
    finally:
        await bus.drain()
        cluster.kill()


async def _write_while_killing(bus: Bus, victim: NatsServer) -> None:
    """Append 30 facts and submit 25 jobs; kill a server in the middle, and start it again."""
    ledger = Ledger(bus, source="test")
    last = await ledger.last(NODE)
    expect = last.sequence if last else 0
    before = 100 * expect
    for number in range(30):
        if number == 10:
            victim.kill()
        async with asyncio.timeout(60):
            expect = await _until_written(ledger, expect)
            if number < 25:
                await _until_stored(bus, a_submit(before + number + 1))
    await asyncio.to_thread(victim.start)


async def _until_written(ledger: Ledger, expect: int) -> int:
    while True:
        try:
            return await ledger.append(Write(NODE, m.NodeCordoned(by="ada"), expect))
        except (Unknown, Refused) as error:
            _must_pass(error)


async def _until_stored(bus: Bus, outgoing: Outgoing) -> None:
    while True:
        try:
            await bus.publish(outgoing)
        except (Unknown, Refused) as error:
            _must_pass(error)
        else:
            return


def _must_pass(error: Unknown | Refused) -> None:
    """While the two that are left agree on a leader, nothing is stored; any other refusal is wrong."""
    if isinstance(error, Refused) and not error.temporary:
        raise error
