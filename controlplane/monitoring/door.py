"""The OTLP/HTTP door: any OpenTelemetry SDK, in any language, writes an attempt's metrics here.

https://opentelemetry.io/docs/specs/otlp/#otlphttp: `POST /v1/metrics`, protobuf or JSON, plain or gzip. Whose metrics
they are is told by the bearer token alone, never by the body. 200 means that the stream METRICS has them; SDKs send
again after anything else that they may, and a push that comes again is known by its digest. `/v1/traces` and `/v1/logs`
are answered so that no SDK stumbles; what they carry is counted and dropped.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import uvicorn
from litestar import Litestar, Request, Response, post
from litestar.exceptions import ClientException, HTTPException

from controlplane import http
from controlplane.config import ConfigurationError
from controlplane.monitoring import intake, otlp
from events import otlp_token, subjects
from events.bus import BusError, Outgoing
from events.messages import AttemptRef

BODY_BYTES_MAX: Final = 4 * 1024**2
"""Of a push as it is sent."""
PLAIN_BYTES_MAX: Final = 16 * 1024**2
"""Of a push once it is unpacked: what packs better than this is no metrics."""
PUBLISH_BYTES_MAX: Final = 768 * 1024
"""Of one message; a stream takes a megabyte."""
PUSHES_MAX: Final = 32
"""At work at once: each holds its body, unpacked, and what was made of it."""
IDLE_S: Final = 75
"""An SDK that pushes once a minute keeps its connection."""
BACKLOG: Final = 512

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
# google.rpc.Code
INVALID_ARGUMENT, UNAVAILABLE, PERMISSION_DENIED, UNAUTHENTICATED = 3, 14, 7, 16

PublishMany = Callable[[list[Outgoing]], Awaitable[list[int | BusError]]]
IsClosed = Callable[[AttemptRef], Awaitable[bool]]


class Refused(Exception):
    """A push that is not taken: HTTP status, google.rpc code, and a sentence."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Door:
    """The application. `counts` is shown in the status of monitoring."""

    def __init__(self, secret: bytes, publish_many: PublishMany, is_closed: IsClosed) -> None:
        self._secret = secret
        self._publish_many = publish_many
        self._is_closed = is_closed
        self.counts = {"pushes": 0, "pushes_refused": 0, "dropped_traces": 0, "dropped_logs": 0}

    def application(self) -> Litestar:
        """Its ASGI application."""

        @post("/v1/metrics", status_code=200)
        async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
            return await self._respond(request, self._metrics)

        @post("/v1/traces", status_code=200)
        async def traces(request: Request[Any, Any, Any]) -> Response[bytes]:
            return await self._respond(request, self._drop("dropped_traces"))

        @post("/v1/logs", status_code=200)
        async def logs(request: Request[Any, Any, Any]) -> Response[bytes]:
            return await self._respond(request, self._drop("dropped_logs"))

        return Litestar(
            [metrics, traces, logs], request_max_body_size=BODY_BYTES_MAX, openapi_config=None, logging_config=None
        )

    async def _respond(
        self, request: Request[Any, Any, Any], take: Callable[[AttemptRef, bytes, bool], Awaitable[None]]
    ) -> Response[bytes]:
        is_json = request.headers.get("content-type", "").split(";")[0].strip().lower() == JSON
        try:
            ref = self._whose(request.headers.get("authorization", ""))
            body = unpacked(await request.body(), request.headers.get("content-encoding", ""))
            await take(ref, body, is_json)
        except Refused as refused:
            self.counts["pushes_refused"] += 1
            return _refusal(refused, is_json=is_json)
        except ClientException as error:  # too large: Litestar says so while it reads
            self.counts["pushes_refused"] += 1
            return _refusal(Refused(error.status_code, INVALID_ARGUMENT, _too_large(error)), is_json=is_json)
        return Response(b"{}" if is_json else b"", media_type=JSON if is_json else PROTOBUF)

    def _whose(self, authorization: str) -> AttemptRef:
        scheme, _, token = authorization.partition(" ")
        ref = otlp_token.check(self._secret, token.strip()) if scheme.lower() == "bearer" else None
        if ref is None:
            raise Refused(
                401, UNAUTHENTICATED, "send the attempt's own token: OTEL_EXPORTER_OTLP_HEADERS is set in jobs"
            )
        return ref

    async def _metrics(self, ref: AttemptRef, body: bytes, is_json: bool) -> None:
        try:
            bodies = otlp.split(otlp.parse(body, is_json=is_json), bytes_max=PUBLISH_BYTES_MAX)
        except otlp.BadBody as error:
            raise Refused(400, INVALID_ARGUMENT, str(error)) from error
        if await self._is_closed(ref):
            raise Refused(403, PERMISSION_DENIED, f"attempt {ref.attempt} of {ref.job} is over")
        results = await self._publish_many([_outgoing(ref, part) for part in bodies])
        for result in results:
            if isinstance(result, BusError):
                raise Refused(503, UNAVAILABLE, f"not stored, send it again: {result}")
        self.counts["pushes"] += 1

    def _drop(self, counter: str) -> Callable[[AttemptRef, bytes, bool], Awaitable[None]]:
        async def drop(ref: AttemptRef, body: bytes, is_json: bool) -> None:
            self.counts[counter] += 1

        return drop


def _outgoing(ref: AttemptRef, body: bytes) -> Outgoing:
    push = hashlib.sha256(f"{ref.attempt}\n".encode() + body).hexdigest()[:32]
    headers = {"hr-door": "1", intake.ATTEMPT: str(ref.attempt), intake.PUSH: push}
    return Outgoing(subjects.otlp(ref.team, ref.job), body, headers)


def unpacked(body: bytes, encoding: str) -> bytes:
    """The body without its compression. Raises Refused."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise Refused(415, INVALID_ARGUMENT, f"content-encoding {encoding[:40]!r}; gzip and deflate are possible")
    unpacker = zlib.decompressobj(wbits=47)
    try:
        plain = unpacker.decompress(body, PLAIN_BYTES_MAX)
    except zlib.error as error:
        raise Refused(400, INVALID_ARGUMENT, f"not {encoding}: {error}") from error
    if unpacker.unconsumed_tail:
        raise Refused(413, INVALID_ARGUMENT, f"more than {PLAIN_BYTES_MAX} bytes once it is unpacked")
    if not unpacker.eof:
        raise Refused(400, INVALID_ARGUMENT, f"not {encoding}: it is cut off")
    return plain


def _too_large(error: HTTPException) -> str:
    return f"more than {BODY_BYTES_MAX} bytes" if error.status_code == 413 else error.detail


def _refusal(refused: Refused, *, is_json: bool) -> Response[bytes]:
    """A google.rpc.Status, as OTLP wants it."""
    if is_json:
        body = json.dumps({"code": refused.code, "message": refused.message}).encode()
    else:
        text = refused.message.encode()[:2000]
        body = b"\x08" + bytes([refused.code]) + b"\x12" + _varint(len(text)) + text
    headers = {"retry-after": "1"} if refused.status == 503 else {}
    return Response(body, status_code=refused.status, media_type=JSON if is_json else PROTOBUF, headers=headers)


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128, number >> 7])


# -- listening ---------------------------------------------------------------------------------------------------------


def listener(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigurationError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigurationError(
            f"otlp_port: cannot listen on {host}:{port}: {error.strerror}; set otlp_port to a free port (0: any)"
        ) from error
    return listening


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the business of `controlplane.main`."""
        yield


@asynccontextmanager
async def listening(application: Litestar, sock: socket.socket) -> AsyncIterator[None]:
    """Serve while inside; at the end, answer what is being answered."""
    config = uvicorn.Config(
        http.Identified(http.Bounded(application, places=PUSHES_MAX)),
        log_config=None,
        access_log=False,
        lifespan="off",
        http=http.Impatient,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    server = _Server(config)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[sock]))
        try:
            yield
        finally:
            server.should_exit = True
