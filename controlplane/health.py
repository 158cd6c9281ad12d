"""Health and readiness of a process, for whoever runs it: `GET /healthz` and `GET /readyz`.

Healthy: the loop turns (the answer itself is the proof). Ready: the bus is connected and every service has said so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from events.bus import Bus

REQUEST_BYTES_MAX: Final = 4096
REQUEST_S_MAX: Final = 5.0


class Health:
    """Which services of this process are ready, and the door that tells."""

    def __init__(self, services: Sequence[str]) -> None:
        self._waiting = set(services)
        self._bus: Bus | None = None

    def ready(self, service: str) -> None:
        self._waiting.discard(service)

    def watch(self, bus: Bus) -> None:
        self._bus = bus

    def state(self) -> dict[str, object]:
        """What `/readyz` answers: `ready`, the state of the bus, and the services that are not ready yet."""
        bus = self._bus.state if self._bus else "connecting"
        return {"ready": bus == "connected" and not self._waiting, "bus": bus, "waiting_for": sorted(self._waiting)}

    @asynccontextmanager
    async def door(self, host: str, port: int) -> AsyncIterator[None]:
        """Listen while inside; a port below 0 means no door."""
        if port < 0:
            yield
            return
        server = await asyncio.start_server(self._answer, host, port, limit=REQUEST_BYTES_MAX)
        async with server:
            yield

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                words = (await reader.readline()).split()
                path = words[1] if len(words) > 1 else b""
                state = self.state()
                status = b"404 Not Found"
                if path == b"/healthz" or (path == b"/readyz" and state["ready"]):
                    status = b"200 OK"
                elif path == b"/readyz":
                    status = b"503 Service Unavailable"
                body = json.dumps(state).encode()
                writer.write(
                    b"HTTP/1.1 %s\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (status, len(body), body)
                )
                await writer.drain()
        except (TimeoutError, ValueError, ConnectionError):
            pass  # a probe that hangs, sends too much or went away gets no answer
        finally:
            writer.close()
