"""A tail of a stream: every message after a sequence, in order, without a gap or a repeat, for ever.

It reads through an ephemeral consumer without acknowledgements, which vanishes when its server does. The consumer's own
sequence tells a gap; after a gap, a silence or a reconnect another consumer is made that begins behind the last message
that was given.

Of several servers any may hold that consumer, also one whose copy of the stream is behind: that nothing is pending
there does not say that nothing is left. What a tail has to give until it has caught up is asked of the stream's leader.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from events import jetstream
from events.connection import LOG, Connection
from events.pull import Pull
from events.replies import Message
from events.wire import AckInfo, BusError, CaughtUp, Delivery, Refused, ack_info

WINDOW: Final = 1000
INACTIVE_S: Final = 60
"""A consumer that nobody pulls from for this long is removed by the server."""
CHECK_S: Final = 3.0
"""Nothing came for this long and we are not caught up: ask again what is left, some may have been purged."""
RECOVER_S: Final = 0.3


class _Broken(Exception):
    """This consumer gives nothing more; go on with another one."""


async def tail(
    connection: Connection, stream: str, filters: Sequence[str], after: int
) -> AsyncGenerator[Delivery | CaughtUp, None]:
    """See the top of this file. Gives one CaughtUp, when what the stream held at the start was given."""
    caught_up = False
    while True:
        try:
            reader = await _Reader.open(connection, stream, filters, after)
        except BusError as error:
            if isinstance(error, Refused) and not error.temporary:
                raise
            LOG.warning("tail of %s: %s", stream, error)
            await asyncio.sleep(RECOVER_S)
            continue
        try:
            while True:
                if not caught_up and await reader.is_caught_up():
                    caught_up = True
                    yield CaughtUp(max(after, reader.last_at_start))
                delivery = await reader.next(CHECK_S if not caught_up else None)
                if delivery is not None:
                    after = delivery.sequence
                    yield delivery
        except _Broken as error:
            LOG.info("tail of %s goes on behind %d: %s", stream, after, error)
        finally:
            await reader.close()


class _Reader:
    """One ephemeral consumer, read until it breaks."""

    def __init__(
        self, connection: Connection, stream: str, name: str, filters: Sequence[str], after: int, last_at_start: int
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._name = name
        self._filters = filters
        self.last_at_start = last_at_start
        self._given = after
        self._until = last_at_start
        """What was there at the start ends with this sequence, or before it."""
        self._asks = False
        self._is_silent = False
        """Nothing came for `CHECK_S`."""
        self._expected = 1
        self._queue: asyncio.Queue[tuple[Message, AckInfo] | None] = asyncio.Queue()
        self._broken = ""
        self._hook = self._on_reconnected
        self._pull = Pull(
            connection, stream=stream, consumer=name, window=WINDOW, on_message=self._arrived, on_lost=self._break
        )

    @classmethod
    async def open(cls, connection: Connection, stream: str, filters: Sequence[str], after: int) -> _Reader:
        name = "tail-" + uuid.uuid4().hex[:16]
        last: int = (await jetstream.api(connection, f"STREAM.INFO.{stream}"))["state"]["last_seq"]
        config: dict[str, Any] = {
            "name": name,
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "replay_policy": "instant",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(INACTIVE_S * 1e9),
        }
        config |= {"filter_subjects": list(filters)} if filters else {}
        request = {"stream_name": stream, "config": config, "action": "create"}
        created = await jetstream.api(connection, f"CONSUMER.CREATE.{stream}.{name}", request)
        reader = cls(connection, stream, name, filters, after, last)
        reader._asks = created["num_pending"] == 0
        connection.on_reconnected.append(reader._hook)
        try:
            await reader._pull.start()
        except BusError:
            await reader.close()
            raise
        return reader

    async def close(self) -> None:
        if self._hook in self._connection.on_reconnected:
            self._connection.on_reconnected.remove(self._hook)
        await self._pull.close()
        if self._connection.is_up:
            try:
                await self._connection.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}", b"")
            except BusError as error:  # the server removes it by itself later
                LOG.debug("consumer %s stays for a while: %s", self._name, error)

    async def next(self, wait_s: float | None) -> Delivery | None:
        """The next message; None if none came for `wait_s`. Raises _Broken."""
        try:
            async with asyncio.timeout(wait_s):
                item = await self._queue.get()
        except TimeoutError:
            self._asks = self._is_silent = True
            return None
        if item is None:
            raise _Broken(self._broken)
        message, info = item
        if info.consumer_sequence != self._expected:
            raise _Broken(f"message {info.consumer_sequence} came where {self._expected} was expected")
        self._expected += 1
        self._given = info.sequence
        self._asks |= info.pending == 0
        self._is_silent = False
        self._pull.release()
        return Delivery(message.subject, message.data, message.headers, sequence=info.sequence, at=info.at)

    async def is_caught_up(self) -> bool:
        """Whether what was there at the start was given. Raises _Broken, Refused.

        Once nothing seems to be left, the leader is asked how far that went: the stream's last message may not be ours,
        and what was purged meanwhile never comes. If nothing comes for a while although the leader has more, and the
        consumer has sent all it knows of, then that was lost on its way here, or its copy is far behind.
        """
        if self._given < self._until and self._asks:
            self._asks = False
            self._until = min(self._until, await self._newest())
            if self._given < self._until and self._is_silent and await self._pending() == 0:
                raise _Broken(f"nothing comes, though there is more up to {self._until}")
        return self._given >= self._until

    async def _pending(self) -> int:
        """How many messages the consumer knows of that it has not sent yet. Raises _Broken."""
        try:
            info = await jetstream.api(self._connection, f"CONSUMER.INFO.{self._stream}.{self._name}")
        except BusError as error:  # also where it is gone
            raise _Broken(str(error)) from error
        return int(info["num_pending"])

    async def _newest(self) -> int:
        """The sequence of our newest message that the stream's leader holds; 0: none. Raises _Broken, Refused."""
        asked = (jetstream.last_message(self._connection, self._stream, subject) for subject in self._filters or (">",))
        try:
            return max(found.sequence if found else 0 for found in await asyncio.gather(*asked))
        except BusError as error:
            if isinstance(error, Refused) and not error.temporary:
                raise
            raise _Broken(str(error)) from error

    def _arrived(self, message: Message) -> None:
        info = ack_info(message.reply)
        if info is not None and info.consumer == self._name:
            self._queue.put_nowait((message, info))

    def _on_reconnected(self) -> None:
        self._break("reconnected")

    def _break(self, why: str) -> None:
        if not self._broken:
            self._broken = why
            self._queue.put_nowait(None)
