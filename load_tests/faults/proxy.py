"""A TCP proxy between one process and one server, whose line can be cut, slowed, silenced, made one-way."""

from __future__ import annotations

import asyncio
from typing import Final

DELAYS_S: Final = {"slow": 0.4, "late": 2.5}
"""Of each piece. `late` is longer than the pause before a job's next attempt: word of an old one comes into it."""
CHUNK: Final = 65536


class Proxy:
    """Listens on a free port of loopback; `mode` is read anew for every piece that passes."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._moves = asyncio.Event()
        self._moves.set()
        self.mode = ""
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.drop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def set(self, mode: str) -> None:
        """`cut`, `slow`, `late`, `silent`, `mute` (the process is not heard), `deaf` (it hears nothing), `stuck`, or
        empty: nothing is wrong.
        """
        was, self.mode = self.mode, mode
        self._moves.clear() if mode == "stuck" else self._moves.set()
        if mode == "cut" or was in ("silent", "mute", "deaf"):
            self.drop()  # what was swallowed is gone: a line that lost bytes must not go on

    def drop(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "cut":
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, back}
        pumps = [
            asyncio.create_task(self._pump(reader, back, "mute")),
            asyncio.create_task(self._pump(there, writer, "deaf")),
        ]
        self._tasks |= set(pumps)
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            return  # the world ends: Python 3.11 prints a traceback for a handler that ends cancelled
        finally:
            for pump in pumps:
                pump.cancel()
            self._tasks -= set(pumps)
            for each in (writer, back):
                each.transport.abort()
                self._open.discard(each)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallowed: str) -> None:
        try:
            while data := await reader.read(CHUNK):
                await self._moves.wait()  # until then the sender's window fills up
                if delay_s := DELAYS_S.get(self.mode):
                    await asyncio.sleep(delay_s)
                if self.mode in ("silent", swallowed):
                    continue
                writer.write(data)
                await writer.drain()
        except OSError:
            return
