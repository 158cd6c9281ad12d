"""Questions and answers, and what is heard without a stream, on one server and on three."""

from __future__ import annotations

import asyncio

import pytest

from events import subjects
from events.bus import Asked, AskRefused, Bus, Delivery, NoAnswer, Outgoing, Unknown
from events.messages import Refusal
from tests.integration.events.conftest import Stage, eventually

QUESTION = subjects.ask("scheduling", "why")


async def test_a_question_is_answered(bus: Bus) -> None:
    async def echo(asked: Asked) -> bytes:
        return asked.headers["x"].encode() + b" " + asked.body

    await bus.answer(QUESTION, echo)
    assert await bus.ask(QUESTION, b"you", headers={"x": "hello"}) == b"hello you"


async def test_a_question_to_nobody_has_no_answer(bus: Bus) -> None:
    with pytest.raises(NoAnswer):
        await bus.ask(QUESTION)


async def test_a_question_that_takes_too_long_has_no_answer(bus: Bus) -> None:
    async def never(_: Asked) -> bytes:
        await asyncio.Event().wait()
        return b""

    await bus.answer(QUESTION, never)
    with pytest.raises(NoAnswer):
        await bus.ask(QUESTION, timeout_s=0.2)


async def test_a_refusal_arrives_as_it_was_meant(bus: Bus) -> None:
    refusal = Refusal(status=404, message="no job j-1", hint="headrace ps lists your jobs")

    async def refuse(_: Asked) -> bytes:
        raise AskRefused(refusal)

    await bus.answer(QUESTION, refuse)
    with pytest.raises(AskRefused) as raised:
        await bus.ask(QUESTION)
    assert raised.value.refusal == refusal


async def test_a_refusal_of_another_language_is_known_by_its_tag(bus: Bus) -> None:
    async def refuse(_: Asked) -> bytes:
        return b'{ "status": 503, "message": "later", "type": "refusal" }'

    await bus.answer(QUESTION, refuse)
    with pytest.raises(AskRefused, match="later"):
        await bus.ask(QUESTION)


async def test_an_answer_that_only_speaks_of_refusals_is_an_answer(bus: Bus) -> None:
    async def answer(_: Asked) -> bytes:
        return b'{"word": "refusal"}'

    await bus.answer(QUESTION, answer)
    assert await bus.ask(QUESTION) == b'{"word": "refusal"}'


@pytest.mark.parametrize(("error", "status"), [(ZeroDivisionError("oops"), 500), (Unknown("no connection"), 503)])
async def test_an_answerer_that_fails_refuses_and_lives_on(bus: Bus, error: Exception, status: int) -> None:
    errors = [error]

    async def handler(_: Asked) -> bytes:
        if errors:
            raise errors.pop()
        return b"fine"

    await bus.answer(QUESTION, handler)
    with pytest.raises(AskRefused) as raised:
        await bus.ask(QUESTION)
    assert raised.value.refusal.status == status
    assert await bus.ask(QUESTION) == b"fine"


async def test_an_answer_too_large_to_send_is_a_refusal(bus: Bus) -> None:
    async def handler(_: Asked) -> bytes:
        return bytes(2 * 1024**2)

    await bus.answer(QUESTION, handler)
    with pytest.raises(AskRefused, match="cannot be sent"):
        await bus.ask(QUESTION)


async def test_a_slow_answer_does_not_hold_up_the_next_question(bus: Bus) -> None:
    gate = asyncio.Event()

    async def handler(asked: Asked) -> bytes:
        if asked.body == b"slow":
            await gate.wait()
        return asked.body

    await bus.answer(QUESTION, handler)
    slow = asyncio.ensure_future(bus.ask(QUESTION, b"slow", timeout_s=10))
    assert await bus.ask(QUESTION, b"quick") == b"quick"
    gate.set()
    assert await slow == b"slow"


async def test_of_a_group_one_answers_each_question(stage: Stage) -> None:
    other = await stage.another_bus("other")
    answered: list[str] = []

    async def handler(asked: Asked) -> bytes:
        answered.append(asked.body.decode())
        return b""

    for bus in (stage.bus, other):
        await bus.answer(QUESTION, handler, group="gateway")
    for number in range(20):
        await stage.bus.ask(QUESTION, str(number).encode())
    assert answered == [str(number) for number in range(20)]
    await other.drain()


async def test_who_listens_hears_also_what_is_on_its_way_into_a_stream(bus: Bus) -> None:
    heard: list[Delivery] = []

    async def handler(delivery: Delivery) -> None:
        heard.append(delivery)
        if len(heard) == 1:
            raise ZeroDivisionError

    listening = await bus.listen("hr.v1.node.*", handler)
    await bus.publish(Outgoing(subjects.node("n1"), b"stored", {"ce-id": "1"}))
    await bus.send(subjects.node("n2"), b"sent")
    await eventually(lambda: len(heard) == 2)
    assert [(delivery.body, delivery.sequence) for delivery in heard] == [(b"stored", 0), (b"sent", 0)]
    assert heard[0].envelope.id == "1"
    await listening.close()
    await bus.send(subjects.node("n3"), b"too late")
    await bus.last("LEDGER", subjects.node("n1"))  # a round trip behind it
    assert len(heard) == 2


async def test_a_cancel_that_comes_with_the_servers_answer_is_a_cancel_and_leaves_nobody_listening(bus: Bus) -> None:
    """nats-py alone loses it: then a service that is told to end goes on working."""
    client = bus._connection._client
    send_ping = client._send_ping

    async def echo(asked: Asked) -> bytes:
        return asked.body

    asking = asyncio.create_task(bus.answer(QUESTION, echo))

    async def cancel_with_the_pong(future: asyncio.Future[bool]) -> None:
        future.add_done_callback(lambda _: asking.cancel())
        await send_ping(future)

    client._send_ping = cancel_with_the_pong
    with pytest.raises(asyncio.CancelledError):
        await asking
    client._send_ping = send_ping
    with pytest.raises(NoAnswer):
        await bus.ask(QUESTION)
