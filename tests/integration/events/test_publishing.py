"""What is stored, and what is refused, on one server and on three."""

from __future__ import annotations

import asyncio

import pytest

from events import jetstream, subjects
from events.bus import Bus, Conflict, Outgoing, Refused
from events.streams import LEDGER, Stream
from events.wire import TOO_LARGE
from tests.integration.events.conftest import Stage

NODE = subjects.node("n1")


def a_message(subject: str = NODE, *, expect: int | None = None, body: bytes = b"{}") -> Outgoing:
    return Outgoing(subject, body, {"ce-id": "1"}, expect)


async def test_what_was_published_can_be_read_back_with_its_headers(bus: Bus) -> None:
    sequence = await bus.publish(a_message(body=b"hello"))
    found = await bus.last("LEDGER", NODE)
    assert found is not None
    assert (found.sequence, found.subject, found.body, found.headers["ce-id"]) == (sequence, NODE, b"hello", "1")
    assert found.at > 1.7e9


async def test_nothing_stands_on_a_subject_that_nobody_wrote_to(bus: Bus) -> None:
    assert await bus.last("LEDGER", NODE) is None
    assert await bus.history("LEDGER", NODE) == []


async def test_a_history_is_complete_and_in_order(bus: Bus) -> None:
    sequences = [await bus.publish(a_message(body=str(number).encode())) for number in range(5)]
    await bus.publish(a_message(subjects.node("other")))
    assert [delivery.sequence for delivery in await bus.history("LEDGER", NODE)] == sequences


async def test_a_history_longer_than_a_page_is_complete(bus: Bus) -> None:
    for _ in range(2):
        await bus.publish_batch([a_message() for _ in range(jetstream.BATCH_MAX)])
    await bus.publish(a_message())
    found = [delivery.sequence for delivery in await bus.history("LEDGER", NODE)]
    assert found == list(range(1, 2 * jetstream.BATCH_MAX + 2))


async def test_a_guard_that_does_not_hold_is_a_conflict_and_nothing_is_written(bus: Bus) -> None:
    first = await bus.publish(a_message(expect=0))
    with pytest.raises(Conflict):
        await bus.publish(a_message(expect=0))
    await bus.publish(a_message(expect=first))
    with pytest.raises(Conflict):
        await bus.publish(a_message(expect=first))
    assert await bus.last_sequence("LEDGER") == 2


async def test_of_rivals_on_one_subject_exactly_one_writes(stage: Stage) -> None:
    rival = await stage.another_bus("rival")
    expect = 0
    for _ in range(10):
        outcomes = await asyncio.gather(
            *(bus.publish(a_message(expect=expect)) for bus in (stage.bus, rival) * 3), return_exceptions=True
        )
        written = [outcome for outcome in outcomes if isinstance(outcome, int)]
        assert len(written) == 1
        assert all(isinstance(outcome, int | Conflict) for outcome in outcomes)
        expect = written[0]
    assert len(await stage.bus.history("LEDGER", NODE)) == 10
    await rival.drain()


async def test_many_are_stored_each_for_itself_and_answered_in_order(bus: Bus) -> None:
    items = [a_message(subjects.node(f"n{number}"), expect=0) for number in range(1200)]
    items[700] = a_message(subjects.node("n1"), expect=0)
    results = await bus.publish_many(items)
    assert isinstance(results[700], Conflict)
    written = [result for number, result in enumerate(results) if number != 700]
    assert sorted(written) == list(range(1, 1200))  # type: ignore[type-var]


async def test_a_batch_is_stored_whole_and_one_behind_the_other(bus: Bus) -> None:
    await bus.publish(a_message(subjects.node("before")))
    first = await bus.publish_batch([a_message(subjects.node(f"n{number}"), expect=0) for number in range(20)])
    assert first == 2
    assert await bus.last_sequence("LEDGER") == 21


async def test_a_batch_with_one_stale_guard_writes_nothing(bus: Bus) -> None:
    await bus.publish(a_message(subjects.node("n7")))
    with pytest.raises(Conflict):
        await bus.publish_batch([a_message(subjects.node(f"n{number}"), expect=0) for number in range(20)])
    assert await bus.last_sequence("LEDGER") == 1


async def test_of_rival_batches_that_renew_one_subject_exactly_one_is_written(stage: Stage) -> None:
    rival = await stage.another_bus("rival")
    expect = 0
    for number in range(10):
        outcomes = await asyncio.gather(
            *(
                bus.publish_batch(
                    [a_message(subjects.TERM, expect=expect), a_message(subjects.job("t", f"{n}-{number}"))]
                )
                for n, bus in enumerate((stage.bus, rival))
            ),
            return_exceptions=True,
        )
        written = [outcome for outcome in outcomes if isinstance(outcome, int)]
        assert len(written) == 1, outcomes
        expect = written[0]
    assert await stage.bus.last_sequence("LEDGER") == 20
    await rival.drain()


async def test_the_largest_batch_is_stored_and_a_larger_one_refused(bus: Bus) -> None:
    assert await bus.publish_batch([a_message() for _ in range(jetstream.BATCH_MAX)]) == 1
    with pytest.raises(Refused, match="1001 messages"):
        await bus.publish_batch([a_message() for _ in range(jetstream.BATCH_MAX + 1)])
    assert await bus.last_sequence("LEDGER") == jetstream.BATCH_MAX


async def test_a_batch_over_two_streams_is_refused_and_leaves_nothing(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "RETRY_PAUSES_S", (0.01,))
    with pytest.raises(Refused):
        await bus.publish_batch([a_message(), a_message(subjects.metrics("n1", "t", "j")), a_message()])
    assert await bus.last_sequence("LEDGER") == 0


async def test_a_message_over_the_servers_limit_is_refused_before_it_is_sent(bus: Bus) -> None:
    with pytest.raises(Refused) as refused:
        await bus.publish(a_message(body=bytes(2 * 1024**2)))
    assert refused.value.code == TOO_LARGE
    assert not refused.value.temporary


async def test_headers_count_where_the_server_says_how_large_a_message_may_be(bus: Bus) -> None:
    """The server closes the connection on a message that is too large: all that was under way would be lost."""
    limit = 1024**2
    for body, headers in ((limit - 5, {"a": "b"}), (limit - 9000, {"hr-reason": "x" * 9000})):
        with pytest.raises(Refused) as refused:
            await bus.publish(a_message(body=bytes(body))._replace(headers=headers))
        assert refused.value.code == TOO_LARGE
    assert bus.state == "connected"


async def test_a_message_over_its_streams_limit_is_refused(bus: Bus) -> None:
    with pytest.raises(Refused) as refused:
        await bus.publish(a_message(subjects.submit("vision", "ada"), body=bytes(600 * 1024)))
    assert refused.value.code == TOO_LARGE


async def test_a_full_stream_refuses_and_forgets_nothing(stage: Stage) -> None:
    small = Stream(name="SMALL", subjects=("small.*",), bytes_max=5000, on_full="new")
    await stage.bus.ensure(small, replicas=stage.replicas)
    results = await stage.bus.publish_many([a_message("small.x", body=bytes(800)) for _ in range(20)])
    stored = [result for result in results if isinstance(result, int)]
    refused = [result for result in results if isinstance(result, Refused)]
    assert len(stored) + len(refused) == 20
    assert refused
    assert not refused[0].temporary
    assert [delivery.sequence for delivery in await stage.bus.history("SMALL", "small.x")] == stored


async def test_a_subject_that_no_stream_takes_is_refused(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetstream, "RETRY_PAUSES_S", (0.01,))
    with pytest.raises(Refused) as refused:
        await bus.publish(a_message("nobody.takes.this"))
    assert refused.value.temporary


@pytest.mark.parametrize("subject", ["has space", "line\r\nPUB x 0\r\n", ""])
async def test_a_subject_that_would_break_the_protocol_is_refused(bus: Bus, subject: str) -> None:
    with pytest.raises(Refused):
        await bus.publish(a_message(subject))


async def test_a_stream_that_is_there_is_left_as_it_is_and_a_changed_limit_is_applied(stage: Stage) -> None:
    await stage.bus.publish(a_message())
    await stage.bus.ensure(LEDGER, replicas=stage.replicas)
    assert await stage.bus.last_sequence("LEDGER") == 1
    small = Stream(name="SMALL", subjects=("small.*",), bytes_max=5000, on_full="new")
    larger = Stream(name="SMALL", subjects=("small.*",), bytes_max=9000, on_full="new")
    await stage.bus.ensure(small, replicas=stage.replicas)
    await stage.bus.ensure(larger, replicas=stage.replicas)
    info = await jetstream.api(stage.bus._connection, "STREAM.INFO.SMALL")
    assert info["config"]["max_bytes"] == 9000
