"""A durable consumer gives every message to a handler until it is dealt with, on one server and on three."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise

import pytest

from events import jetstream, subjects
from events.bus import Bus, Consumer, Delivery, Outgoing, Poison, Refused, Retry, Unknown
from events.wire import TOO_LARGE
from tests.conftest import TEAM
from tests.integration.events.conftest import Stage, eventually

REQUESTS = "REQUESTS_" + TEAM
SUBMIT = subjects.submit(TEAM, "ada")


def a_submit(body: bytes = b"{}", user: str = "ada") -> Outgoing:
    return Outgoing(subjects.submit(TEAM, user), body, {"ce-id": "7", "Nats-Msg-Id": user + body.hex()})


async def consume(bus: Bus, handler: Callable[[Delivery], Awaitable[None]], **options: float) -> Consumer:
    return await bus.consume(
        REQUESTS,
        durable="submission",
        subjects=[f"hr.v1.submit.{TEAM}.*"],
        handler=handler,
        **options,  # type: ignore[arg-type]
    )


async def left_in(bus: Bus, stream: str) -> int:
    info = await jetstream.api(bus._connection, f"STREAM.INFO.{stream}")
    return int(info["state"]["messages"])


async def until_empty(bus: Bus) -> None:
    async def is_empty() -> bool:
        return await left_in(bus, REQUESTS) == 0

    await eventually(is_empty)


async def test_every_message_is_handled_once_and_then_gone_from_a_work_queue(bus: Bus) -> None:
    seen: Counter[bytes] = Counter()

    async def handler(delivery: Delivery) -> None:
        seen[delivery.body] += 1

    await consume(bus, handler)
    await bus.publish_many([a_submit(b"%d" % number, f"u{number % 7}") for number in range(1000)])
    await until_empty(bus)
    assert seen == Counter(b"%d" % number for number in range(1000))


async def test_a_delivery_says_where_it_stands_and_what_it_is(bus: Bus) -> None:
    seen: list[Delivery] = []

    async def handler(delivery: Delivery) -> None:
        seen.append(delivery)

    await consume(bus, handler)
    sequence = await bus.publish(a_submit(b"x"))
    await eventually(lambda: seen)
    assert (seen[0].subject, seen[0].sequence, seen[0].delivered) == (SUBMIT, sequence, 1)
    assert seen[0].envelope.id == "7"
    assert seen[0].at > 1.7e9


async def test_instances_share_the_messages(stage: Stage) -> None:
    other = await stage.another_bus("other")
    seen: list[Counter[bytes]] = [Counter(), Counter()]

    def counting(counter: Counter[bytes]) -> Callable[[Delivery], Awaitable[None]]:
        async def handler(delivery: Delivery) -> None:
            counter[delivery.body] += 1

        return handler

    for bus, counter in zip((stage.bus, other), seen, strict=True):
        await consume(bus, counting(counter), in_flight=8)
    await stage.bus.publish_many([a_submit(b"%d" % number) for number in range(300)])
    await until_empty(stage.bus)
    assert seen[0] + seen[1] == Counter(b"%d" % number for number in range(300))
    assert all(seen)
    await other.drain()


async def test_messages_of_a_subject_are_handled_in_order_and_other_subjects_do_not_wait(bus: Bus) -> None:
    gate = asyncio.Event()
    seen: list[tuple[str, bytes]] = []

    async def handler(delivery: Delivery) -> None:
        user = subjects.tokens(delivery.subject)[-1]
        if user == "slow":
            await gate.wait()
        seen.append((user, delivery.body))

    await consume(bus, handler)
    await bus.publish_many([a_submit(b"%03d" % number, user) for number in range(20) for user in ("slow", "quick")])
    await eventually(lambda: len(seen) == 20)
    gate.set()
    await eventually(lambda: len(seen) == 40)
    assert seen[:20] == [("quick", b"%03d" % number) for number in range(20)]
    assert seen[20:] == [("slow", b"%03d" % number) for number in range(20)]


async def test_no_more_than_in_flight_is_taken_from_the_stream(bus: Bus) -> None:
    gate = asyncio.Event()
    at_once = most = 0

    async def handler(_: Delivery) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await gate.wait()
        at_once -= 1

    consumer = await consume(bus, handler, in_flight=10)
    await bus.publish_many([a_submit(b"%d" % number, f"u{number}") for number in range(50)])
    await eventually(lambda: at_once == 10)
    info = await jetstream.api(bus._connection, f"CONSUMER.INFO.{REQUESTS}.submission")
    assert info["num_ack_pending"] == 10
    gate.set()
    await until_empty(bus)
    assert most == 10
    assert consumer.handled == 50


async def test_retry_gives_the_message_again_after_that_time_and_never_counts_as_failed(bus: Bus) -> None:
    at: list[float] = []

    async def handler(_: Delivery) -> None:
        at.append(asyncio.get_running_loop().time())
        if len(at) < 4:
            raise Retry(0.2)

    consumer = await consume(bus, handler, tries_max=1)
    await bus.publish(a_submit())
    await until_empty(bus)
    assert [later - earlier >= 0.19 for earlier, later in pairwise(at)] == [True, True, True]
    assert consumer.dead == 0


async def test_a_handler_that_keeps_failing_costs_its_message_a_dead_letter_with_reason_and_headers(bus: Bus) -> None:
    tries = 0

    async def handler(_: Delivery) -> None:
        nonlocal tries
        tries += 1
        raise ZeroDivisionError("by nothing\nat all")

    consumer = await consume(bus, handler, tries_max=3)
    sequence = await bus.publish(a_submit(b"body"))
    await until_empty(bus)
    letter = await bus.last("DEAD", subjects.dead(SUBMIT))
    assert letter is not None
    assert (tries, letter.body, letter.headers["ce-id"]) == (3, b"body", "7")
    assert letter.headers["hr-reason"] == "ZeroDivisionError: by nothing at all"
    assert letter.headers["hr-stream"] == REQUESTS
    assert letter.headers["hr-sequence"] == str(sequence)
    assert letter.headers["hr-tries"] == "3"
    assert "Nats-Msg-Id" not in letter.headers
    assert consumer.dead == 1


async def test_poison_is_a_dead_letter_at_once(bus: Bus) -> None:
    async def handler(_: Delivery) -> None:
        raise Poison("not JSON")

    await consume(bus, handler)
    await bus.publish(a_submit(b"{"))
    await until_empty(bus)
    letter = await bus.last("DEAD", subjects.dead(SUBMIT))
    assert letter is not None
    assert letter.headers["hr-reason"] == "not JSON"


@pytest.mark.parametrize(
    "strange", [Outgoing(SUBMIT, bytes(510_000), {}), Outgoing(SUBMIT, b"x", {"x": "y" * 8000, "ce-id": "ü\t\"'\\"})]
)
async def test_a_strange_message_still_becomes_a_dead_letter(bus: Bus, strange: Outgoing) -> None:
    async def handler(_: Delivery) -> None:
        raise Poison("x\r\nNats-Rollup: all\r\n" + "y" * 5000)

    await consume(bus, handler)
    await bus.publish(strange)
    await until_empty(bus)
    letter = await bus.last("DEAD", subjects.dead(SUBMIT))
    assert letter is not None
    assert letter.headers["hr-reason"].startswith("x  Nats-Rollup")
    assert letter.headers["hr-sequence"] == "1"


async def test_headers_that_nobody_should_have_sent_are_left_out_of_the_dead_letter(stage: Stage) -> None:
    async def handler(_: Delivery) -> None:
        raise Poison("no")

    await consume(stage.bus, handler)
    raw = stage.bus._connection._client  # what another client may write into a header's name
    await raw._send_command(b"HPUB %s 22 24\r\nNATS/1.0\r\n(b d): 1\r\n\r\n{}\r\n" % SUBMIT.encode())
    await raw.flush()
    await until_dead(stage.bus)
    await until_empty(stage.bus)
    letter = await stage.bus.last("DEAD", subjects.dead(SUBMIT))
    assert letter is not None
    assert letter.headers["hr-bytes"] == "2"


async def until_dead(bus: Bus) -> None:
    async def is_dead() -> bool:
        return await left_in(bus, "DEAD") > 0

    await eventually(is_dead)


async def test_trouble_of_the_bus_is_not_the_fault_of_the_message(bus: Bus) -> None:
    errors: list[Exception] = [Unknown("down"), Refused(10077, "maximum bytes exceeded")]

    async def handler(_: Delivery) -> None:
        if errors:
            raise errors.pop()

    consumer = await consume(bus, handler, tries_max=1)
    await bus.publish(a_submit())
    await until_empty(bus)
    assert (consumer.handled, consumer.dead) == (1, 0)


async def test_a_message_that_can_never_be_stored_is_a_dead_letter(bus: Bus) -> None:
    async def handler(_: Delivery) -> None:
        raise Refused(TOO_LARGE, "the fact is too large")

    consumer = await consume(bus, handler, tries_max=1)
    await bus.publish(a_submit())
    await until_empty(bus)
    assert consumer.dead == 1


async def test_a_long_handler_keeps_its_message(bus: Bus) -> None:
    starts = 0

    async def handler(_: Delivery) -> None:
        nonlocal starts
        starts += 1
        await asyncio.sleep(2.5)

    await consume(bus, handler, ack_wait_s=1.0)
    await bus.publish_many([a_submit(), a_submit(b"waits behind the first")])
    await until_empty(bus)
    assert starts == 2


async def test_a_handler_that_says_in_progress_keeps_its_message(bus: Bus) -> None:
    started: list[int] = []

    async def handler(delivery: Delivery) -> None:
        started.append(delivery.delivered)
        await delivery.in_progress()

    await consume(bus, handler)
    await bus.publish(a_submit())
    await until_empty(bus)
    assert started == [1]


async def test_drain_finishes_what_is_being_handled_and_hands_the_rest_back(stage: Stage) -> None:
    started, gate = asyncio.Event(), asyncio.Event()
    handled: list[bytes] = []

    async def handler(delivery: Delivery) -> None:
        started.set()
        await gate.wait()
        handled.append(delivery.body)

    consumer = await consume(stage.bus, handler)
    await stage.bus.publish_many([a_submit(b"%d" % number) for number in range(5)])
    await started.wait()
    draining = asyncio.ensure_future(consumer.drain())
    await asyncio.sleep(0)
    gate.set()
    await draining
    assert handled == [b"0"]
    rest: list[Delivery] = []

    async def successor(delivery: Delivery) -> None:
        rest.append(delivery)

    await consume(stage.bus, successor)
    await until_empty(stage.bus)
    assert sorted(delivery.body for delivery in rest) == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("stage", ["three"], indirect=True)
async def test_of_several_servers_a_drain_still_takes_what_its_requests_bring_and_hands_it_back(stage: Stage) -> None:
    """The consumer's server may be another than ours: what it sends before it hears of our end must arrive."""
    seen: list[bytes] = []

    async def handler(delivery: Delivery) -> None:
        seen.append(delivery.body)

    consumer = await consume(stage.bus, handler)
    await eventually(lambda: consumer._pull._wanted)
    draining = asyncio.ensure_future(consumer.drain())
    await asyncio.sleep(0)
    await stage.bus.publish(a_submit(b"late"))
    await draining
    info = await jetstream.api(stage.bus._connection, f"CONSUMER.INFO.{REQUESTS}.submission")
    assert (seen, info["delivered"]["consumer_seq"]) == ([], 1)
    await consume(stage.bus, handler)
    await until_empty(stage.bus)
    assert seen == [b"late"]


@pytest.mark.parametrize("stage", ["three"], indirect=True)
async def test_a_drain_lets_run_out_what_was_asked_for_before_trouble_too(stage: Stage) -> None:
    """A pull that was restarted knows nothing of its older requests, which may live on."""
    consumer = await consume(stage.bus, ignore)
    await eventually(lambda: consumer._pull._wanted)
    consumer._pull.restart()
    drained, left = consumer._pull._subscription, []

    async def drain() -> None:
        info = await jetstream.api(stage.bus._connection, f"CONSUMER.INFO.{REQUESTS}.submission")
        left.append(info["num_waiting"])
        await close()

    assert drained is not None
    close, drained.drain = drained.drain, drain  # type: ignore[method-assign]
    await consumer.drain()
    assert left == [0]


async def ignore(_: Delivery) -> None:
    """Whatever comes."""


async def test_batches_hold_what_has_come_in_order_and_are_acknowledged_whole(bus: Bus) -> None:
    batches: list[list[bytes]] = []

    async def handler(deliveries: Sequence[Delivery]) -> None:
        batches.append([delivery.body for delivery in deliveries])

    await bus.publish_many([a_submit(b"%04d" % number) for number in range(1000)])
    await bus.consume_batches(
        REQUESTS, durable="m", subjects=[f"hr.v1.submit.{TEAM}.*"], handler=handler, batch=300, linger_s=0.2
    )
    await until_empty(bus)
    assert [body for batch in batches for body in batch] == [b"%04d" % number for number in range(1000)]
    assert len(batches) < 10


async def test_a_poisoned_message_does_not_take_its_batch_with_it(bus: Bus) -> None:
    stored: list[bytes] = []

    async def handler(deliveries: Sequence[Delivery]) -> None:
        bodies = [delivery.body for delivery in deliveries]
        if b"bad" in bodies:
            raise Poison("not metrics")
        stored.extend(bodies)

    await bus.publish_many([a_submit(b"a"), a_submit(b"bad"), a_submit(b"b")])
    await bus.consume_batches(REQUESTS, durable="m", subjects=[f"hr.v1.submit.{TEAM}.*"], handler=handler)
    await until_empty(bus)
    assert stored == [b"a", b"b"]
    letter = await bus.last("DEAD", subjects.dead(SUBMIT))
    assert letter is not None
    assert letter.body == b"bad"


async def test_a_consumer_that_somebody_deleted_is_made_again(bus: Bus) -> None:
    seen: list[bytes] = []

    async def handler(delivery: Delivery) -> None:
        seen.append(delivery.body)

    await consume(bus, handler)
    await bus.publish(a_submit(b"before"))
    await until_empty(bus)
    await jetstream.api(bus._connection, f"CONSUMER.DELETE.{REQUESTS}.submission")
    await bus.publish(a_submit(b"after"))
    await until_empty(bus)
    assert seen == [b"before", b"after"]
