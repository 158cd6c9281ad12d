"""The one wrapper over NATS: transport in our words. What the messages mean is the business of `ledger` and services.

Everything that is stored is either acknowledged, or an error that says what is known (`events/wire.py`). Nothing here
waits without a limit but `connect`, and what follows a stream: those go on for as long as it takes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Final

from events import asking, copying, jetstream, tail
from events.asking import Answerer, Answering
from events.connection import Connection, Subscription
from events.consumer import DRAIN_S, BatchHandler, Consumer, Handler
from events.copying import Copied
from events.replies import Message
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
    Usage,
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
    "Usage",
]

LOG: Final = logging.getLogger("headrace.bus")

PIPELINE_MAX: Final = 512
"""Publishes in flight at once: enough to keep a server busy, few enough to be answered well before their deadline."""


class Bus:
    """A connection to the bus. Made by `connect`, ended by `drain`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._slots = asyncio.Semaphore(PIPELINE_MAX)
        self._consumers: list[Consumer] = []
        self._answering = Answering(connection)

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

    def on_reconnected(self, hook: Callable[[], None]) -> None:
        """Call this whenever the connection was lost and is there again; its server may be another one by then."""
        self._connection.on_reconnected.append(hook)

    async def drain(self) -> None:
        """Finish what is being handled, then close. Again is nothing."""
        await self._answering.drain(DRAIN_S)
        for consumer in self._consumers:
            await consumer.drain()
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
        """The newest message on a subject, which may have wildcards, or None. Never behind what was acknowledged."""
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

    async def page(self, stream: str, subject: str, *, after: int, count: int, bytes_max: int) -> list[Delivery]:
        """The next messages after a sequence whose subject fits; fewer than `count` are not the last ones."""
        return await jetstream.page(self._connection, stream, subject, after, count=count, bytes_max=bytes_max)

    async def message(self, stream: str, sequence: int) -> Delivery | None:
        """The message of a sequence, or None."""
        return await jetstream.message(self._connection, stream, sequence)

    async def remove(self, stream: str, sequence: int) -> bool:
        """Take one message out of a stream for good; False if it was not there."""
        return await jetstream.remove(self._connection, stream, sequence)

    async def usage(self, stream: str) -> Usage:
        """How much a stream holds, and how much it may."""
        info = await jetstream.api(self._connection, f"STREAM.INFO.{stream}")
        state = info["state"]
        return Usage(int(state["messages"]), int(state["bytes"]), int(info["config"]["max_bytes"]))

    async def save(self, stream: str, write: Callable[[bytes], object]) -> Copied:
        """A stream as bytes, as it is now; see `events/copying.py`. Raises Refused, Unknown."""
        return await copying.save(self._connection, stream, write)

    async def restore(self, stream: str, copied: Copied, chunks: Iterable[bytes]) -> None:
        """A stream from its bytes. Raises Refused if there is one of that name, Unknown."""
        await copying.restore(self._connection, stream, copied, chunks)

    async def remove_stream(self, stream: str) -> None:
        """Delete a stream with all that it holds; again is nothing. Raises Refused, Unknown."""
        await copying.remove(self._connection, stream)

    async def last_sequence(self, stream: str) -> int:
        info = await jetstream.api(self._connection, f"STREAM.INFO.{stream}")
        return int(info["state"]["last_seq"])

    # -- without a stream ----------------------------------------------------------------------------------------------

    async def send(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Publish to whoever listens right now. At most once: dropped while there is no connection."""
        if not self._connection.is_up:
            return
        try:
            await self._connection.publish(subject, body, headers)
        except Unknown as error:
            LOG.debug("dropped a message to %s: %s", subject, error)

    async def listen(self, subject: str, handler: Handler) -> Subscription:
        """Hear what is published from now on, at most once, one after another; also what is on its way to a stream."""
        return await asking.listen(self._connection, subject, handler)

    async def ask(
        self, subject: str, body: bytes = b"", *, headers: dict[str, str] | None = None, timeout_s: float = 2.0
    ) -> bytes:
        """Ask a question. Raises NoAnswer, AskRefused, Refused."""
        return await asking.ask(self._connection, subject, body, headers=headers, timeout_s=timeout_s)

    async def answer(self, subject: str, handler: Answerer, *, group: str = "") -> Subscription:
        """Answer questions; of several with the same `group` one gets each. A handler refuses by raising AskRefused."""
        return await self._answering.answer(subject, handler, group=group)
