"""One connection to NATS that never ends by itself, and the replies it waits for.

The only file that calls nats-py. What it adds to it (each was seen to go wrong, see the tests):

* Replies are ours: each has a deadline, fails with Unknown the moment the connection breaks, and is forgotten when its
  waiter is cancelled. (nats-py's publish futures never finish after a server was killed.)
* A connection that nats-py gives up for good (`-ERR` of some kinds) is opened again, with all its subscriptions.
* A denied publish is an error at the caller, not a silence: the server tells it asynchronously.
* Nothing is kept for later while there is no connection: what is published then waits, or is dropped if nobody waits.
* A cancelled caller is cancelled: nats-py loses a cancel that arrives together with a PONG (`asyncio.wait_for` up to
  Python 3.11 returns the result then, python/cpython#86296) or while its buffer is full.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from events.replies import Message, Replies, Tasks
from events.wire import FORBIDDEN, TOO_LARGE, Refused, Unknown


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """What is imported meanwhile finds this module only if it is there already."""
    absent = module not in sys.modules
    if absent:
        sys.modules[module] = None  # type: ignore[assignment]  # importlib's own sign for "not to be found"
    try:
        yield
    finally:
        if absent:
            del sys.modules[module]


with _without("aiohttp"):  # of nats-py's websockets, which we do not use: 11 MiB and 0.2 s of every process
    import nats.aio.client
    import nats.errors

LOG: Final = logging.getLogger("headrace.bus")

CONNECT_S: Final = 2.0
RECONNECT_WAIT_S: Final = 0.2
"""Between two attempts at the same server: a restarted server is back within a second."""
PING_S: Final = 5.0
"""A silent connection is given up after three of these."""
PENDING_BYTES: Final = 8 * 1024**2

SAY_AGAIN_S: Final = 10.0
"""The same trouble is logged once in this time, however often it is met."""

_DENIED: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')

OnMessage = Callable[[Message], None]


async def _cancellable(call: Awaitable[Any]) -> None:
    """A call of nats-py, and the cancel that it may have swallowed."""
    task = asyncio.current_task()
    cancels = task.cancelling() if task is not None else 0
    await call
    if task is not None and task.cancelling() > cancels:
        raise asyncio.CancelledError


def _size(headers: dict[str, str] | None) -> int:
    """Bytes that headers take on the wire: `NATS/1.0`, one a line, an empty line."""
    if not headers:
        return 0
    return 12 + sum(len(name.encode()) + len(value.encode("utf-8", "replace")) + 4 for name, value in headers.items())


class _Client(nats.aio.client.Client):  # type: ignore[misc]  # nats-py is untyped for us
    """nats-py's client with a faster parser of headers: a quarter of the CPU of consuming went there."""

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        headers = {}
        for line in raw.decode("utf-8", "replace").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                headers[name] = value.strip()
        return headers

    async def flush(self, timeout: float = CONNECT_S) -> None:  # noqa: ASYNC109  nats-py's own signature
        """A PING that does not overtake what waits for the flusher, as nats-py's own does, and its PONG."""
        await self._flush_pending(force_flush=True)
        await super().flush(timeout)


class Subscription:
    """Interest in a subject, for as long as it is not closed: it outlives the connection."""

    def __init__(self, connection: Connection, subject: str, group: str, on_message: OnMessage) -> None:
        self._connection = connection
        self.subject = subject
        self.group = group
        self._on_message = on_message
        self.closed = False
        self.on_close: list[Callable[[], object]] = []
        self.raw: Any = None

    async def receive(self, message: Message) -> None:
        if not self.closed:
            self._on_message(message)

    async def close(self) -> None:
        """No more messages from now on."""
        if not self.closed:
            self.closed = True
            for hook in self.on_close:
                hook()
            await self._connection.unsubscribe(self)

    async def drain(self) -> None:
        """No more messages, but for those that our server has sent already: they arrive before this ends."""
        if not self.closed:
            await self._connection.drain(self)
            await self.close()


class Connection:
    """See the top of this file. `state` is `connecting`, `connected`, `reconnecting` or `closed`."""

    def __init__(self, servers: list[str], *, user: str, password: str, name: str) -> None:
        self._servers = servers
        self._login = {"user": user, "password": password} if user else {}
        self._name = name
        self._client: Any = None
        self._subscriptions: list[Subscription] = []
        self._up = asyncio.Event()
        self._denied: set[str] = set()
        self._said, self._said_at = "", 0.0
        self.tasks = Tasks()
        self.state = "connecting"
        self.on_reconnected: list[Callable[[], None]] = []
        self.replies = Replies("")

    # -- life ----------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, however long it takes."""
        await self._open()
        self.replies = Replies(self.inbox() + ".")
        await self.subscribe(self.replies.prefix + "*", self.replies.arrived)

    async def _open(self) -> None:
        client = _Client()
        connecting = client.connect(
            servers=self._servers,
            name=self._name,
            connect_timeout=CONNECT_S,
            reconnect_time_wait=RECONNECT_WAIT_S,
            max_reconnect_attempts=-1,
            ping_interval=PING_S,
            pending_size=PENDING_BYTES,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
            **self._login,
        )
        await _cancellable(connecting)
        self._client = client
        self.state = "connected"
        self._up.set()

    async def close(self) -> None:
        """Flush what was published and close; a server that is away does not hold it up."""
        if self.state == "closed":
            return
        was_connected = self.state == "connected"
        self.state = "closed"
        self._up.clear()
        await self.tasks.cancel()
        if was_connected:
            try:
                await _cancellable(self._client.flush(timeout=CONNECT_S))
            except (nats.errors.Error, OSError) as error:
                LOG.warning("could not flush before closing: %s", error)
        self.replies.fail(lambda: Unknown("the connection was closed"))
        if self._client is not None:
            await self._client.close()

    async def connected(self, timeout_s: float) -> None:
        """Wait for the connection. Raises Unknown if there is none in time."""
        if self._up.is_set():
            return
        if self.state == "closed":
            raise Unknown("the connection is closed")
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            raise Unknown("no connection to NATS") from None

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    @property
    def is_clustered(self) -> bool:
        """Whether the server that we are connected to is one of several: then its INFO names their cluster."""
        return bool(self._client._server_info.get("cluster"))

    # -- messages ------------------------------------------------------------------------------------------------------

    def inbox(self) -> str:
        return str(self._client.new_inbox())

    async def publish(self, subject: str, body: bytes, headers: dict[str, str] | None = None, reply: str = "") -> None:
        """Hand a message to the connection. Raises Refused for what no server would take, Unknown if it is closed."""
        size, limit = len(body) + _size(headers), self._client.max_payload
        if size > limit:  # nats-py counts the body alone; the server would close the connection on all of us
            raise Refused(TOO_LARGE, f"{size} bytes for {subject}; the server takes {limit}")
        try:
            await _cancellable(self._client.publish(subject, body, reply=reply, headers=headers or None))
        except (nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
            raise Refused(400, f"{subject!r}: {error}") from None
        except nats.errors.Error as error:  # closed, draining, buffer full
            raise Unknown(str(error)) from error

    async def request(
        self, subject: str, body: bytes, headers: dict[str, str] | None = None, *, timeout_s: float
    ) -> Message:
        """Publish and wait for one reply. Raises Unknown, Refused."""
        await self.connected(timeout_s)
        reply, future = self.replies.expect(subject, timeout_s)
        try:
            await self.publish(subject, body, headers, reply)
            return await future
        finally:
            future.cancel()

    async def subscribe(
        self, subject: str, on_message: OnMessage, *, group: str = "", confirm: bool = True
    ) -> Subscription:
        """Interest that survives reconnects. `on_message` must not block. Raises Refused if it is not allowed.

        Without `confirm` it is not waited for the server's word: for inboxes, which are ours.
        """
        subscription = Subscription(self, subject, group, on_message)
        await self._attach(subscription)
        self._subscriptions.append(subscription)
        try:
            if confirm:
                await self._confirm(subscription)
        except BaseException:
            await subscription.close()
            raise
        return subscription

    async def _confirm(self, subscription: Subscription) -> None:
        subject = subscription.subject
        try:
            await _cancellable(self._client.flush(timeout=CONNECT_S))
        except nats.errors.Error as error:
            LOG.info("subscribed to %s, but the server has not confirmed it: %s", subject, error)
        if subject.lower() in self._denied:
            self._denied.discard(subject.lower())
            raise Refused(FORBIDDEN, f"not allowed to subscribe to {subject}")

    async def _attach(self, subscription: Subscription) -> None:
        subscription.raw = await self._client.subscribe(
            subscription.subject, queue=subscription.group, cb=subscription.receive, pending_bytes_limit=0
        )

    async def drain(self, subscription: Subscription) -> None:
        """End the interest, and wait until all that came of it was received. Without a connection nothing can come."""
        if not self.is_up:
            return
        try:
            await _cancellable(subscription.raw.drain())
        except nats.errors.Error as error:
            LOG.info("could not wait for the last messages of %s: %s", subscription.subject, error)

    async def unsubscribe(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
        try:
            await subscription.raw.unsubscribe()
        except nats.errors.Error:  # closed already: then the server has forgotten it, too
            return

    # -- what nats-py tells --------------------------------------------------------------------------------------------

    async def _on_error(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        denied = _DENIED.search(text)
        if denied is None:
            now = asyncio.get_running_loop().time()
            if text != self._said or now - self._said_at > SAY_AGAIN_S:
                self._said, self._said_at = text, now
                LOG.warning("nats: %s", text)
            return
        what, subject = denied[1], denied[2]
        LOG.error("nats: not allowed: %s", what, extra={"subject": subject})
        if what == "publish":
            self.replies.fail(lambda: Refused(FORBIDDEN, f"not allowed to publish to {subject}"), subject)
        else:
            self._denied.add(subject)

    async def _on_disconnected(self) -> None:
        self._up.clear()
        if self.state == "connected":
            self.state = "reconnecting"
            LOG.warning("connection to NATS lost")
        self.replies.fail(lambda: Unknown("the connection broke"))

    async def _on_reconnected(self) -> None:
        self.state = "connected"
        self._up.set()
        LOG.info("connected to NATS again")
        for hook in list(self.on_reconnected):
            hook()

    async def _on_closed(self) -> None:
        if self.state != "closed" and self._client is not None:
            self.tasks.spawn(self._reopen())

    async def _reopen(self) -> None:
        """nats-py gave this connection up (some errors of the server do that); open another one."""
        LOG.warning("connection to NATS was given up; opening another")
        await self._open()
        for subscription in list(self._subscriptions):
            await self._attach(subscription)
        await self._on_reconnected()
