"""What the two doors that speak HTTP share: bounds on connections, on requests at work, on how long a client takes.

A client that says nothing, or stops in the middle of a request, is let go; who comes while all places are taken is told
so, with the time to come back (`retry-after`), and costs no more than that answer. Each request has an id.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import h11
from litestar.enums import ScopeType
from litestar.exceptions import ClientException
from litestar.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

from events import logs

CONNECTIONS_MAX: Final = 4096
"""Open at once, of each door: an idle one costs about 20 KB."""
REQUESTS_MAX: Final = 1024
"""At work at once, streams of events among them."""
HEAD_S: Final = 20.0
"""For the head of a request, from the connection or from its first byte on."""
BODY_S: Final = 30.0
"""Between two parts of a body."""
BUSY_S: Final = 2
"""When to come again, if all places were taken."""

REQUEST_ID: Final = b"x-request-id"
REFUSED: Final = b"hr-refused"
"""On an answer of 500 that is none of our failures: Ray's API says no to some requests in this way."""
STARTS: Final = frozenset({"http.response.start", "websocket.http.response.start"})
HEARD_BYTES_MAX: Final = 4096
"""Of a message over a WebSocket: what clients say there is not listened to."""
CODES_OF_STATUS: Final = 4000

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


def _failure(message: str, hint: str) -> bytes:
    """The one form of a failure."""
    return json.dumps({"error": {"message": message, "hint": hint, "problems": []}}).encode()


_BUSY_BODY: Final = _failure("all places are taken just now", f"try again in {BUSY_S} s")
_CLOSING_BODY: Final = _failure("this server ends just now", f"try again in {BUSY_S} s: nothing tells what was done")


def _come_again(body: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", str(BUSY_S).encode()),
        (b"connection", b"close"),
    )


_BUSY_HEADERS: Final = _come_again(_BUSY_BODY)
_BUSY_RAW: Final = b"".join(
    (
        b"HTTP/1.1 503 Service Unavailable\r\n",
        *(b"%s: %s\r\n" % header for header in _BUSY_HEADERS),
        b"\r\n",
        _BUSY_BODY,
    )
)


class Impatient(H11Protocol):
    """uvicorn's protocol, which by itself would wait for the head of a request for ever, and on any number of them."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.write(_BUSY_RAW)
            transport.close()
            return
        self._late = self.loop.call_later(HEAD_S, transport.close)

    def data_received(self, data: bytes) -> None:
        with logs.about(request=logs.new_request_id(), client=self.client[0] if self.client else ""):
            super().data_received(data)
        is_idle = self.cycle is None or self.cycle.response_complete
        if not is_idle or self.conn.their_state is not h11.IDLE:
            self._in_time()
        elif self._late is None:  # a part of a head
            self._late = self.loop.call_later(HEAD_S, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered as every other failure is; uvicorn has logged it."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is under way
            self.transport.close()
            return
        body = _failure("this is no request of HTTP/1.1", "look at what stands between you and this server")
        head = h11.Response(
            status_code=400,
            headers=[
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
                (REQUEST_ID, logs.request_id().encode()),
            ],
        )
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Abrupt(WSProtocol):
    """uvicorn's WebSocket, which would say a proper goodbye for an application that does not: when the server ends, and
    to who does not answer. Here a goodbye is a word of the application's, and whoever did not hear it was cut off."""

    def shutdown(self) -> None:
        self.transport.abort()

    def keepalive_timeout(self) -> None:
        self.transport.abort()


class Denied:
    """What Litestar does with an exception, for WebSockets: an answer of HTTP before one is open, and a cut after it.

    Litestar itself closes it with a code of four digits, the last three of which are the status.
    """

    def __init__(self, app: Any) -> None:
        self._app: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = False

        async def send_denied(message: Any) -> None:
            nonlocal is_open
            is_open = is_open or message["type"] == "websocket.accept"
            if message["type"] != "websocket.close" or message["code"] < CODES_OF_STATUS:
                await send(message)
            elif not is_open:
                body = message.get("reason", "") or ""
                headers = [(b"content-type", b"text/plain; charset=utf-8")]
                await _answer(scope, send, message["code"] - CODES_OF_STATUS, headers, body.encode())

        await self._app(scope, receive, send_denied)


class Identified:
    """Each request has an id: the client's own `x-request-id`, if it is well-formed, else a new one.

    It is in the answer, in every line that is logged meanwhile, and goes along with every question that is asked.
    """

    def __init__(self, app: Any) -> None:
        self._app: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == REQUEST_ID), "")
        request = given if logs.REQUEST_ID.fullmatch(given) else logs.new_request_id()

        async def send_identified(message: Any) -> None:
            if message["type"] in STARTS:
                message["headers"] = [*message["headers"], (REQUEST_ID, request.encode())]
            await send(message)

        with logs.about(request=request):
            await self._app(scope, receive, send_identified)


class Bounded:
    """An application with so many places. `counts`: answers that were a no, a not now (503) or a failure of ours."""

    def __init__(self, app: Any, *, places: int = REQUESTS_MAX) -> None:
        self._app: ASGIApp = app
        self._places = places
        self._taken = 0
        self.counts = {"refused": 0, "unavailable": 0, "failed": 0}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._taken >= self._places:
            self.counts["unavailable"] += 1
            await _refuse(scope, send, _BUSY_BODY)
            return
        self._taken += 1
        has_begun = False

        async def counting(message: Any) -> None:
            nonlocal has_begun
            has_begun = True
            if message["type"] in STARTS and message["status"] >= 400:
                status = message["status"]
                is_refused = status < 500 or any(name.lower() == REFUSED for name, _ in message["headers"])
                self.counts["refused" if is_refused else "unavailable" if status == 503 else "failed"] += 1
            await send(message)

        try:
            has_body = scope.get("method", "") in _WITH_BODY
            await self._app(scope, _in_time(receive) if has_body else receive, counting)
        except asyncio.CancelledError:
            if has_begun:
                raise
            await _refuse(scope, counting, _CLOSING_BODY)  # uvicorn cancels what takes longer than its end may
        finally:
            self._taken -= 1


async def _refuse(scope: Scope, send: Send, body: bytes) -> None:
    await _answer(scope, send, 503, list(_come_again(body)), body)


async def _answer(scope: Scope, send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """An answer of HTTP, also to who asked for a WebSocket."""
    before: Any = "websocket." if scope["type"] == ScopeType.WEBSOCKET else ""
    start: Any = {"type": f"{before}http.response.start", "status": status, "headers": headers}
    rest: Any = {"type": f"{before}http.response.body", "body": body, "more_body": False}
    await send(start)
    await send(rest)


def _in_time(receive: Receive) -> Receive:
    """The same, but a body that stops, or ends too early, is the client's mistake."""
    whole = False

    async def receive_in_time() -> Any:
        nonlocal whole
        if whole:  # what comes now is the end of the connection, whenever that is
            return await receive()
        try:
            async with asyncio.timeout(BODY_S):
                message: Any = await receive()
        except TimeoutError:
            hint = {"hint": "send it in one go"}
            raise ClientException(f"the body stopped for {BODY_S:.0f} s", status_code=408, extra=hint) from None
        if message["type"] == "http.disconnect":
            raise ClientException("the connection was closed before the body was whole")
        whole = not message.get("more_body", False)
        return message

    return receive_in_time
