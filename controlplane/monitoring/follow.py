"""A stream, followed in batches: as much as has come, bounded by count and bytes, at most some ten times a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from events.bus import CaughtUp, Delivery

COUNT_MAX: Final = 2_000
BYTES_MAX: Final = 4 * 1024**2
"""Of a batch; a batch of the largest messages is a little more."""
LINGER_S: Final = 0.1
"""How long a first message waits for others: few large transactions cost a tenth of many small ones."""

Handler = Callable[[Sequence[Delivery]], Awaitable[None]]


class Follower:
    """Hands on what a tail gives, one batch after another. When it is ahead of the handler, it stops reading."""

    def __init__(
        self, tail: AsyncIterator[Delivery | CaughtUp], handler: Handler, *, linger_s: float = LINGER_S
    ) -> None:
        self._tail = tail
        self._handler = handler
        self._linger_s = linger_s
        self._pending: list[Delivery] = []
        self._bytes = 0
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._over = False
        self._mark = False
        """The stream's end of now stands behind what is pending."""
        self.caught_up = asyncio.Event()
        """Everything that the stream held at the start was handled."""

    async def run(self, *, until_caught_up: bool = False) -> None:
        """Follow for ever, or until the stream's end of now was handled."""
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(until_caught_up))
            await self._hand_on()
            reader.cancel()

    async def _read(self, until_caught_up: bool) -> None:
        async for item in self._tail:
            if isinstance(item, CaughtUp):
                self._over = until_caught_up
                self._mark = True
                self._some.set()
                self._full.set()
                if until_caught_up:
                    return
                continue
            await self._room.wait()
            self._pending.append(item)
            self._bytes += len(item.body)
            self._some.set()
            if len(self._pending) >= COUNT_MAX or self._bytes >= BYTES_MAX:
                self._full.set()
                self._room.clear()

    async def _hand_on(self) -> None:
        while True:
            await self._some.wait()
            if not self._full.is_set():
                await self._linger()
            batch, self._pending, self._bytes = self._pending, [], 0
            mark, self._mark = self._mark, False
            self._some.clear()
            self._full.clear()
            self._room.set()
            if batch:
                await self._handler(batch)
            if mark:
                self.caught_up.set()
            if mark and self._over:
                return

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(self._linger_s):
                await self._full.wait()
        except TimeoutError:
            return
