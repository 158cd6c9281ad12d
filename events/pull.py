"""A continuous pull from a JetStream consumer: messages keep coming, as many as the window allows.

Equivalent to fetching a batch again and again, but it asks for the next one when half of the window is free, so the
server always has a request to serve. Pull requests vanish without a word when a server restarts or a leader moves:
long ones ask for heartbeats, short ones end soon, and silence means that they are lost. If they were not lost after
all, there may for once be two windows of messages here. Each restart gives its requests an inbox of their own: what
the server says of older ones is not about these.

To end it without losing sight of a message takes some care. One server stops sending when the interest in the inbox
ends, and what it sent before comes before its answer to a ping. Of several servers, the consumer's may be another than
ours: what it sends before it hears of the end meets nobody here, and is nobody's until its ack_wait has passed. There,
who means to `drain` asks for a second at a time, and a drain lets the requests run out before the interest ends.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Final

from events.connection import LOG, Connection, Subscription
from events.replies import Message
from events.wire import BusError

EXPIRES_S: Final = 30.0
EXPIRES_CLUSTER_S: Final = 1.0
"""Of the requests of who means to drain, where there are several servers: a drain takes as long, or a little longer."""
HEARTBEAT_S: Final = 3.0
SILENCE_S: Final = 2.5 * HEARTBEAT_S
"""Without a message or a heartbeat for this long, a pull request is taken for lost."""
BYTES_MAX: Final = 32 * 1024**2
"""Of one pull request: what a burst of large messages may take of our memory."""

REFUSED_S: Final = 0.5

_STATUS: Final = "Status"
_DESCRIPTION: Final = "Description"
_PENDING: Final = "Nats-Pending-Messages"


class Pull:
    """Pulls from one consumer until closed. The owner calls `release` for each message that it is done with.

    `on_message` gets each message; `on_lost` is told, once, that no messages will come any more (the consumer is gone,
    its server is silent): the owner makes the consumer exist again and calls `restart`, or drops this pull. An owner
    that cares what becomes of messages on their way here says that it `drains`.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        stream: str,
        consumer: str,
        window: int,
        on_message: Callable[[Message], None],
        on_lost: Callable[[str], None],
        drains: bool = False,
    ) -> None:
        self._connection = connection
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._window = window
        self._on_message = on_message
        self._on_lost = on_lost
        self._drains = drains
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._restarts = 0
        self._restarted_at = 0.0
        self._wanted = 0
        """Asked for and not yet come."""
        self._run_out = asyncio.Event()
        """Nothing that was asked for may come any more."""
        self._run_out.set()
        self._held = 0
        """Come and not yet released."""
        self._heard_at = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._asking = False
        self._lost = False
        self._closed = False

    async def start(self) -> None:
        self._inbox = self._connection.inbox()
        self._subscription = await self._connection.subscribe(f"{self._inbox}.*", self._arrived, confirm=False)
        self.restart()

    def restart(self) -> None:
        """Forget what was asked for before, and ask again. Nothing once it is closed."""
        if self._closed:
            return
        self._lost = False
        self._want(0)
        self._restarts += 1
        self._heard_at = self._restarted_at = asyncio.get_running_loop().time()
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(HEARTBEAT_S, self._check)
        self._refill()

    async def close(self) -> None:
        self._stop()
        if self._subscription is not None:
            await self._subscription.close()

    async def drain(self) -> None:
        """Close, after what is on its way here has arrived: at most a few seconds."""
        self._stop()
        if self._drains and self._connection.is_clustered and self._connection.is_up:
            older_s = self._restarted_at + EXPIRES_CLUSTER_S - asyncio.get_running_loop().time()
            await asyncio.sleep(older_s)  # of those before a restart nothing is known but how long they last
            try:
                async with asyncio.timeout(2 * EXPIRES_CLUSTER_S):
                    await self._run_out.wait()
            except TimeoutError:
                LOG.info("pull request to %s has not ended in time", self._next)
        if self._subscription is not None:
            await self._subscription.drain()

    def _stop(self) -> None:
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._lost = True

    def release(self, count: int = 1) -> None:
        self._held -= count
        self._refill()

    def _arrived(self, message: Message) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        headers = message.headers
        if headers and _STATUS in headers and not message.reply:
            if message.subject == self._reply:
                self._on_status(headers)
            return
        self._want(self._wanted - 1)
        self._held += 1
        self._on_message(message)

    @property
    def _reply(self) -> str:
        """Where what the server says of the newest requests goes."""
        return f"{self._inbox}.{self._restarts}"

    def _on_status(self, headers: dict[str, str]) -> None:
        """What the server says about a pull request: a heartbeat, or its end and why."""
        status, description = headers[_STATUS], headers.get(_DESCRIPTION, "")
        if status == "100":
            return
        gone = status in ("503", "404") or (status == "409" and "Deleted" in description)
        if gone and "No Messages" not in description:
            self._want(0)
            self._lose(f"{status} {description}")
            return
        # an end that does not say what it leaves: ask anew for all
        self._want(self._wanted - int(headers[_PENDING]) if _PENDING in headers else 0)
        if status == "408" or "Size" in description or "Batch" in description:
            self._refill()
        else:  # refused, such as when too many wait already: asking at once would be refused at once
            asyncio.get_running_loop().call_later(REFUSED_S, self._refill)

    def _want(self, count: int) -> None:
        self._wanted = max(0, count)
        if self._wanted:
            self._run_out.clear()
        else:
            self._run_out.set()

    def _refill(self) -> None:
        if self._lost or self._asking or self._wanted + self._held > self._window // 2:
            return
        self._asking = True
        self._connection.tasks.spawn(self._ask())

    async def _ask(self) -> None:
        count = self._window - self._wanted - self._held
        self._asking = False
        if count <= 0 or self._lost or not self._connection.is_up:
            return
        self._want(self._wanted + count)
        request = {"batch": count, "max_bytes": BYTES_MAX}
        if self._drains and self._connection.is_clustered:
            request |= {"expires": int(EXPIRES_CLUSTER_S * 1e9)}  # its end is as good as a heartbeat
        else:
            request |= {"expires": int(EXPIRES_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9)}
        try:
            await self._connection.publish(self._next, json.dumps(request).encode(), reply=self._reply)
        except BusError as error:
            self._want(self._wanted - count)
            self._lose(str(error))

    def _check(self) -> None:
        """Whether the server has been silent for too long although it was asked."""
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(HEARTBEAT_S, self._check)
        if self._wanted == 0:
            self._heard_at = loop.time()
        elif self._connection.is_up and loop.time() - self._heard_at > SILENCE_S:
            self._lose(f"silent for {SILENCE_S} s")

    def _lose(self, why: str) -> None:
        if not self._lost:
            self._lost = True
            LOG.info("pull request to %s lost: %s", self._next, why)
            self._on_lost(why)
