"""Server-sent events (WHATWG HTML): events out of a follower, comments as heartbeats, an end when the gateway closes.

A follower holds no buffer: it looks at how things stand whenever it is asked for its next event. So a slow reader costs
nothing but its connection, and that is cut when it does not read at all (`app.Slow`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import msgspec
from litestar.response import Stream

from controlplane.gateway.context import Gateway

HEARTBEAT_S: Final = 15.0
LOOK_S: Final = 5.0
"""A follower looks around at least so often."""
_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}


class Event(NamedTuple):
    """One event. `data` becomes JSON, which is one line."""

    name: str
    data: object
    id: str = ""

    def encode(self) -> bytes:
        lines = [b"event: " + self.name.encode()]
        if self.id:
            lines.append(b"id: " + self.id.encode())
        lines.append(b"data: " + msgspec.json.encode(self.data))
        return b"\n".join(lines) + b"\n\n"


Follower = AsyncIterator[Event | None]
"""None: nothing new for a while."""


def stream(gateway: Gateway, follower: Follower) -> Stream:
    """The response that sends what a follower gives."""
    return Stream(_bytes(gateway, follower), media_type="text/event-stream", headers=_HEADERS)


async def _bytes(gateway: Gateway, follower: Any) -> AsyncIterator[bytes]:
    now = gateway.tools.clock.now
    yield b": here is headrace\n\n"
    said_at = now()
    try:
        async for event in follower:
            if gateway.is_closing:
                return
            if event is not None:
                yield event.encode()
                said_at = now()
            elif now() - said_at >= HEARTBEAT_S:
                yield b": still here\n\n"
                said_at = now()
    finally:
        await follower.aclose()
