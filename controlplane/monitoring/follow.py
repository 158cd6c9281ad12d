"""A stream, followed in batches: as much as has come, bounded by count and bytes, at most some ten times a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

from events.bus import BusError, CaughtUp, Delivery

LOG: Final = logging.getLogger("headrace.monitoring")

COUNT_MAX: Final = 2_000
BYTES_MAX: Final = 4 * 1024**2
"""Of a batch; a batch of the largest messages is a little more."""
LINGER_S: Final = 0.1
"""How long a first message waits for others: few large transactions cost a tenth of many small ones."""
RECOVER_S: Final = 0.5

Begin = Callable[[], Awaitable[int]]
"""Gives the sequence behind which to read. Raises BusError."""
Tail = Callable[[int], AsyncGenerator[Delivery | CaughtUp, None]]
Handler = Callable[[Sequence[Delivery]], Awaitable[None]]


class Follower:
    """Hands on what a tail gives, one batch after another. When it is ahead of the handler, it stops reading."""

    def __init__(self, begin: Begin, tail: Tail, handler: Handler) -> None:
        self._begin = begin
        self._tail = tail
        self._handler = handler
        self._pending: list[Delivery] = []
        self._bytes = 0
        self._mark = False
        """The stream's end of now stands behind what is pending."""
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._again = asyncio.Event()
        self.caught_up = asyncio.Event()
        """Everything that the stream held at the start was handled."""

    def begin_again(self) -> None:
        """The server may have forgotten its newest messages, and give out their numbers anew: ask where to begin."""
        self._again.set()

    async def run(self, *, until_caught_up: bool = False) -> None:
        """Follow for ever, or until the stream's end of now was handled."""
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read_for_ever())
            await self._hand_on(until_caught_up)
            reader.cancel()

    async def _read_for_ever(self) -> None:
        while True:
            self._again.clear()
            try:
                after = await self._begin()
            except BusError as error:
                LOG.warning("cannot begin to read: %s", error)
                await asyncio.sleep(RECOVER_S)
                continue
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read(after))
                await self._again.wait()
                reader.cancel()

    async def _read(self, after: int) -> None:
        async with aclosing(self._tail(after)) as items:
            async for item in items:
                if isinstance(item, CaughtUp):
                    self._mark = True
                    self._some.set()
                    self._full.set()
                    continue
                await self._room.wait()
                self._pending.append(item)
                self._bytes += len(item.body)
                self._some.set()
                if len(self._pending) >= COUNT_MAX or self._bytes >= BYTES_MAX:
                    self._full.set()
                    self._room.clear()

    async def _hand_on(self, until_caught_up: bool) -> None:
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
                if until_caught_up:
                    return

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(LINGER_S):
                await self._full.wait()
        except TimeoutError:
            return
