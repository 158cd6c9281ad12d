"""Questions and answers, and what is heard without a stream: at most once, with limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from events import logs
from events.cloudevents import REQUEST, from_headers
from events.connection import Connection, Subscription
from events.messages import Refusal
from events.replies import Message
from events.subjects import BadName
from events.wire import UNREADABLE, Asked, AskRefused, BusError, Delivery, NoAnswer, Refused, Unknown, about

LOG: Final = logging.getLogger("headrace.bus")

ANSWERING_MAX: Final = 256
"""Questions of one subscription being answered at once; more wait."""
WAITING_MAX: Final = 2000
"""Questions that wait, on one bus, before more are refused; they would not be answered in time anyway."""
HEARD_MAX: Final = 10_000
"""Messages that one listener has not handled yet; what comes then is dropped, which a listener must bear anyway."""
MOMENT_S: Final = 1.0
"""When to come again after trouble that passes by itself."""
FULL_S: Final = 30.0
"""When to come again where there was no room: somebody has to make some."""
_REFUSAL: Final = msgspec.json.Decoder(Refusal)
_REFUSAL_HEADER: Final = "hr-refusal"

Answerer = Callable[[Asked], Awaitable[bytes]]
Listener = Callable[[Delivery], Awaitable[None]]


async def listen(connection: Connection, subject: str, handler: Listener) -> Subscription:
    """Hear what is published from now on, at most once, one after another; also what is on its way to a stream."""
    queue: asyncio.Queue[Message] = asyncio.Queue(HEARD_MAX)

    def arrived(message: Message) -> None:
        if queue.full():
            LOG.warning("a listener of %s is too slow", subject, extra={"subject": message.subject, "dropped": True})
        else:
            queue.put_nowait(message)

    async def work() -> None:
        while True:
            message = await queue.get()
            delivery = Delivery(message.subject, message.data, message.headers)
            with delivery.at_work():
                try:
                    await handler(delivery)
                except Exception:  # the next message has nothing to do with it
                    LOG.exception("handler of %s failed", subject)

    subscription = await connection.subscribe(subject, arrived)
    worker = connection.tasks.spawn(work())
    subscription.on_close.append(worker.cancel)
    return subscription


async def ask(
    connection: Connection, subject: str, body: bytes, *, headers: dict[str, str] | None, timeout_s: float
) -> bytes:
    """Ask a question, in the name of the request at work. Raises NoAnswer, AskRefused, Refused."""
    request = logs.request_id()
    headers = {**(headers or {}), REQUEST: request} if request else headers
    try:
        message = await connection.request(subject, body, headers, timeout_s=timeout_s)
    except Unknown as error:
        raise NoAnswer(f"{subject}: {error}") from error
    if message.headers and message.headers.get("Status") == "503":
        raise NoAnswer(f"nobody answers {subject}")
    answer: bytes = message.data
    if (message.headers and _REFUSAL_HEADER in message.headers) or b'"refusal"' in answer[:200]:
        try:
            refusal = _REFUSAL.decode(answer)
        except UNREADABLE:
            return answer
        raise AskRefused(refusal)
    return answer


def again_s(error: BusError) -> float:
    """When to try again what the bus did not do."""
    return FULL_S if isinstance(error, Refused) and error.full else MOMENT_S


class Answering:
    """The questions that one bus answers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._subscriptions: list[Subscription] = []
        self._answering: set[asyncio.Task[None]] = set()

    async def answer(self, subject: str, handler: Answerer, *, group: str = "") -> Subscription:
        """Answer questions; of several with the same `group` one gets each. A handler refuses by raising AskRefused."""
        slots = asyncio.Semaphore(ANSWERING_MAX)

        async def reply(message: Message) -> None:
            with about(message.subject, from_headers(message.headers)):
                async with slots:
                    body, headers = await self._answered(handler, message)
                await self._reply(message, body, headers)

        def arrived(message: Message) -> None:
            if not message.reply:
                return
            if len(self._answering) < WAITING_MAX:
                work = reply(message)
            else:
                busy = Refusal(
                    status=503, message="too many questions", hint="ask again in a moment", retry_after_s=MOMENT_S
                )
                work = self._reply(message, msgspec.json.encode(busy), {_REFUSAL_HEADER: "1"})
            task = self._connection.tasks.spawn(work)
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

        subscription = await self._connection.subscribe(subject, arrived, group=group)
        self._subscriptions.append(subscription)
        subscription.on_close.append(lambda: self._subscriptions.remove(subscription))
        return subscription

    async def drain(self, grace_s: float) -> None:
        """Take no more questions, and answer those that were taken."""
        for subscription in list(self._subscriptions):
            await subscription.close()
        if self._answering:
            await asyncio.wait(self._answering, timeout=grace_s)

    async def _reply(self, message: Message, body: bytes, headers: dict[str, str]) -> None:
        try:
            try:
                await self._connection.publish(message.reply, body, headers)
            except Refused as error:
                refusal = Refusal(status=500, message=f"the answer cannot be sent: {error}")
                await self._connection.publish(message.reply, msgspec.json.encode(refusal), {_REFUSAL_HEADER: "1"})
        except BusError as error:
            LOG.info("an answer was lost: %s", error, extra={"subject": message.subject})

    async def _answered(self, handler: Answerer, message: Message) -> tuple[bytes, dict[str, str]]:
        try:
            return await handler(Asked(message.subject, message.data, message.headers or {})), {}
        except AskRefused as error:
            refusal = error.refusal
        except BusError as error:
            refusal = Refusal(
                status=503, message=str(error), hint="try again in a moment", retry_after_s=again_s(error)
            )
        except BadName as error:  # of what was asked about
            refusal = Refusal(status=400, message=str(error))
        except Exception:  # a question never ends its service
            LOG.exception("answering failed")
            refusal = Refusal(status=500, message="the service failed to answer; its log says why")
        return msgspec.json.encode(refusal), {_REFUSAL_HEADER: "1"}
