"""The one wrapper over NATS: transport in our words. What the messages mean is the business of `ledger` and services.

Everything that is stored is either acknowledged, or an error that says what is known (`events/wire.py`). Nothing here
waits without a limit but `connect`, and what follows a stream: those go on for as long as it takes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final

import msgspec

from events import jetstream, tail
from events.connection import Connection, Message, Subscription
from events.consumer import DRAIN_S, BatchHandler, Consumer, Handler
from events.messages import Refusal
from events.streams import Stream
from events.wire import (
    NOT_THERE,
    Asked,
    AskRefused,
    BusError,
    CaughtUp,
    Conflict,
    Delivery,
    NoAnswer,
    Outgoing,
    Poison,
    Refused,
    Retry,
    Unknown,
)

__all__ = [
    "AskRefused",
    "Asked",
    "Bus",
    "BusError",
    "CaughtUp",
    "Conflict",
    "Consumer",
    "Delivery",
    "NoAnswer",
    "Outgoing",
    "Poison",
    "Refused",
    "Retry",
    "Subscription",
    "Unknown",
]

LOG: Final = logging.getLogger("headrace.bus")

PIPELINE_MAX: Final = 512
"""Publishes in flight at once: enough to keep a server busy, few enough to be answered well before their deadline."""
ANSWERING_MAX: Final = 256
"""Questions of one subscription being answered at once; more wait."""
WAITING_MAX: Final = 2000
"""Questions that wait, on one bus, before more are refused; they would not be answered in time anyway."""
HEARD_MAX: Final = 10_000
"""Messages that one listener has not handled yet; what comes then is dropped, which a listener must bear anyway."""
_REFUSAL: Final = msgspec.json.Decoder(Refusal)
_REFUSAL_HEADER: Final = "hr-refusal"

Answerer = Callable[[Asked], Awaitable[bytes]]


class Bus:
    """A connection to the bus. Made by `connect`, ended by `drain`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._slots = asyncio.Semaphore(PIPELINE_MAX)
        self._consumers: list[Consumer] = []
        self._answers: list[Subscription] = []
        self._answering: set[asyncio.Task[None]] = set()

    @classmethod
    async def connect(cls, url: str, *, user: str = "", password: str = "", name: str) -> Bus:
        """Connect to one server or several (separated by commas), and stay connected; waits for as long as it takes."""
        servers = [server.strip() for server in url.split(",") if server.strip()]
        connection = Connection(servers, user=user, password=password, name=name)
        await connection.open()
        return cls(connection)

    @property
    def state(self) -> str:
        """`connecting`, `connected`, `reconnecting` or `closed`."""
        return self._connection.state

    async def drain(self) -> None:
        """Finish what is being handled, then close. Again is nothing."""
        for subscription in self._answers:
            await subscription.close()
        for consumer in self._consumers:
            await consumer.drain()
        if self._answering:
            await asyncio.wait(self._answering, timeout=DRAIN_S)
        await self._connection.close()

    # -- streams -------------------------------------------------------------------------------------------------------

    async def ensure(self, stream: Stream, *, replicas: int = 1) -> None:
        """Make a stream be there, as it is described. Raises Refused, Unknown."""
        config = stream.configuration(replicas=replicas)
        try:
            await jetstream.api(self._connection, f"STREAM.UPDATE.{stream.name}", config)
        except Refused as error:
            if error.code != jetstream.NO_STREAM:
                raise
            await jetstream.api(self._connection, f"STREAM.CREATE.{stream.name}", config)

    async def publish(self, outgoing: Outgoing) -> int:
        """Store one message; gives its sequence. Raises Conflict, Refused, Unknown."""
        for pause_s in jetstream.RETRY_PAUSES_S:
            try:
                return await self._publish_once(outgoing)
            except jetstream.WriteInFlight:
                await asyncio.sleep(pause_s)
            except Refused as error:
                if error.code != NOT_THERE:
                    raise
                await asyncio.sleep(pause_s)
        return await self._publish_once(outgoing)

    async def _publish_once(self, outgoing: Outgoing) -> int:
        async with self._slots:
            message = await self._connection.request(
                outgoing.subject, outgoing.body, jetstream.headers_of(outgoing), timeout_s=jetstream.PUBLISH_S
            )
        return jetstream.stored_at(message, outgoing.subject).seq

    async def publish_many(self, items: Sequence[Outgoing]) -> list[int | BusError]:
        """Store many messages, each for itself and pipelined: gives the sequence or the error of each, in order."""
        results: list[int | BusError] = []
        for start in range(0, len(items), PIPELINE_MAX):
            results += await self._publish_window(items[start : start + PIPELINE_MAX])
        return results

    async def _publish_window(self, items: Sequence[Outgoing]) -> list[int | BusError]:
        connection = self._connection
        futures: list[asyncio.Future[Message] | BusError] = []
        try:
            await connection.connected(jetstream.PUBLISH_S)
        except Unknown as error:
            return [error] * len(items)
        try:
            for item in items:
                reply, future = connection.replies.expect(item.subject, jetstream.PUBLISH_S)
                try:
                    await connection.publish(item.subject, item.body, jetstream.headers_of(item), reply)
                except BusError as error:
                    future.cancel()
                    futures.append(error)
                else:
                    futures.append(future)
            return [await self._outcome(item, future) for item, future in zip(items, futures, strict=True)]
        finally:
            for pending in futures:
                if isinstance(pending, asyncio.Future):
                    pending.cancel()

    async def _outcome(self, item: Outgoing, future: asyncio.Future[Message] | BusError) -> int | BusError:
        if isinstance(future, BusError):
            return future
        try:
            return jetstream.stored_at(await future, item.subject).seq
        except (jetstream.WriteInFlight, Refused) as error:
            if isinstance(error, Refused) and error.code != NOT_THERE:
                return error
        except BusError as error:
            return error
        try:  # surely not written, and worth another try
            return await self.publish(item)
        except BusError as error:
            return error

    async def publish_batch(self, items: Sequence[Outgoing]) -> int:
        """Store all of the messages or none, one behind the other; gives the sequence of the first.

        At most `jetstream.BATCH_MAX`, on one stream, and only the first of a subject may have a guard (the guard of a
        later one would speak of a state that the batch itself changes). Raises Conflict, Refused, Unknown.
        """
        if not 0 < len(items) <= jetstream.BATCH_MAX:
            raise Refused(400, f"a batch of {len(items)} messages; from 1 to {jetstream.BATCH_MAX} are possible")
        if len(items) == 1:
            return await self.publish(items[0])
        for pause_s in jetstream.RETRY_PAUSES_S:
            try:
                return await jetstream.publish_batch(self._connection, items)
            except jetstream.WriteInFlight:
                await asyncio.sleep(pause_s)
            except Refused as error:
                if not error.temporary:
                    raise
                await asyncio.sleep(pause_s)
        return await jetstream.publish_batch(self._connection, items)

    async def consume(
        self,
        stream: str,
        *,
        durable: str,
        subjects: Sequence[str],
        handler: Handler,
        in_flight: int = 256,
        ack_wait_s: float = 30.0,
        tries_max: int = 10,
    ) -> Consumer:
        """Handle every message of a durable consumer that instances share; see `events/consumer.py`.

        `handler` returns: acknowledged. It raises Retry: again later. Poison, or anything else `tries_max` times:
        to the dead letters.
        """
        consumer = Consumer(
            self._connection,
            self.publish,
            stream=stream,
            durable=durable,
            filters=subjects,
            window=in_flight,
            ack_wait_s=ack_wait_s,
            tries_max=tries_max,
        )
        await consumer.start(handler)
        self._consumers.append(consumer)
        return consumer

    async def consume_batches(
        self,
        stream: str,
        *,
        durable: str,
        subjects: Sequence[str],
        handler: BatchHandler,
        batch: int = 500,
        linger_s: float = 0.05,
        ack_wait_s: float = 30.0,
        tries_max: int = 10,
    ) -> Consumer:
        """As `consume`, but one handler at a time gets up to `batch` messages at once, in the order of delivery."""
        consumer = Consumer(
            self._connection,
            self.publish,
            stream=stream,
            durable=durable,
            filters=subjects,
            window=2 * batch,
            ack_wait_s=ack_wait_s,
            tries_max=tries_max,
        )
        await consumer.start_batches(handler, batch=batch, linger_s=linger_s)
        self._consumers.append(consumer)
        return consumer

    def tail(self, stream: str, *, subjects: Sequence[str], after: int) -> AsyncGenerator[Delivery | CaughtUp, None]:
        """Every message after a sequence, in order, once, for ever; and one CaughtUp. See `events/tail.py`."""
        return tail.tail(self._connection, stream, subjects, after)

    async def last(self, stream: str, subject: str) -> Delivery | None:
        """The newest message on a literal subject, or None. Never behind what was acknowledged."""
        return await jetstream.last_message(self._connection, stream, subject)

    async def history(self, stream: str, subject: str) -> list[Delivery]:
        """All messages on a literal subject, in order. Never behind what was acknowledged."""
        newest = await self.last(stream, subject)
        if newest is None:
            return []
        found = await jetstream.messages_on(self._connection, stream, subject)
        if not found or found[-1].sequence < newest.sequence:  # a replica that is behind answered
            found = await jetstream.messages_by_leader(self._connection, stream, subject)
        return found

    async def last_sequence(self, stream: str) -> int:
        info = await jetstream.api(self._connection, f"STREAM.INFO.{stream}")
        return int(info["state"]["last_seq"])

    # -- without a stream ----------------------------------------------------------------------------------------------

    async def send(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Publish to whoever listens right now. At most once: dropped while there is no connection."""
        if self._connection.is_up:
            await self._connection.publish(subject, body, headers)

    async def listen(self, subject: str, handler: Handler) -> Subscription:
        """Hear what is published from now on, at most once, one after another; also what is on its way to a stream."""
        queue: asyncio.Queue[Message] = asyncio.Queue(HEARD_MAX)

        def arrived(message: Message) -> None:
            if queue.full():
                LOG.warning("a listener of %s is too slow: %s was dropped", subject, message.subject)
            else:
                queue.put_nowait(message)

        async def work() -> None:
            while True:
                message = await queue.get()
                try:
                    await handler(Delivery(message.subject, message.data, message.headers))
                except Exception:  # the next message has nothing to do with it
                    LOG.exception("handler of %s failed", subject)

        subscription = await self._connection.subscribe(subject, arrived)
        worker = self._connection.tasks.spawn(work())
        subscription.on_close.append(worker.cancel)
        return subscription

    async def ask(
        self, subject: str, body: bytes = b"", *, headers: dict[str, str] | None = None, timeout_s: float = 2.0
    ) -> bytes:
        """Ask a question. Raises NoAnswer, AskRefused, Refused."""
        try:
            message = await self._connection.request(subject, body, headers, timeout_s=timeout_s)
        except Unknown as error:
            raise NoAnswer(f"{subject}: {error}") from error
        if message.headers and message.headers.get("Status") == "503":
            raise NoAnswer(f"nobody answers {subject}")
        answer: bytes = message.data
        if (message.headers and _REFUSAL_HEADER in message.headers) or b'"refusal"' in answer[:200]:
            try:
                refusal = _REFUSAL.decode(answer)
            except msgspec.DecodeError:
                return answer
            raise AskRefused(refusal)
        return answer

    async def answer(self, subject: str, handler: Answerer, *, group: str = "") -> Subscription:
        """Answer questions; of several with the same `group` one gets each. A handler refuses by raising AskRefused."""
        slots = asyncio.Semaphore(ANSWERING_MAX)

        async def reply(message: Message) -> None:
            async with slots:
                body, headers = await self._answered(handler, message)
            await self._reply(message, body, headers)

        def arrived(message: Message) -> None:
            if not message.reply:
                return
            if len(self._answering) < WAITING_MAX:
                work = reply(message)
            else:
                busy = Refusal(status=503, message="too many questions", hint="ask again in a moment")
                work = self._reply(message, msgspec.json.encode(busy), {_REFUSAL_HEADER: "1"})
            task = self._connection.tasks.spawn(work)
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

        subscription = await self._connection.subscribe(subject, arrived, group=group)
        self._answers.append(subscription)
        return subscription

    async def _reply(self, message: Message, body: bytes, headers: dict[str, str]) -> None:
        try:
            try:
                await self._connection.publish(message.reply, body, headers)
            except Refused as error:
                refusal = Refusal(status=500, message=f"the answer cannot be sent: {error}")
                await self._connection.publish(message.reply, msgspec.json.encode(refusal), {_REFUSAL_HEADER: "1"})
        except BusError as error:
            LOG.info("an answer on %s was lost: %s", message.subject, error)

    async def _answered(self, handler: Answerer, message: Message) -> tuple[bytes, dict[str, str]]:
        try:
            return await handler(Asked(message.subject, message.data, message.headers or {})), {}
        except AskRefused as error:
            refusal = error.refusal
        except BusError as error:
            refusal = Refusal(status=503, message=str(error), hint="try again in a moment")
        except Exception:  # a question never ends its service
            LOG.exception("answering %s failed", message.subject)
            refusal = Refusal(status=500, message="the service failed to answer; its log says why")
        return msgspec.json.encode(refusal), {_REFUSAL_HEADER: "1"}
