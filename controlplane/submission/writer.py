"""Writes facts as fast as the ledger takes them: one by one while idle, in atomic batches while they queue up.

Whoever has a fact to write awaits `append`; one owner writes what is waiting. A batch says only that one of its facts
met a conflict, not which: then each is written for itself, so that nobody suffers from his neighbour's repeat.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, NamedTuple

from events.bus import BusError, Conflict, Refused
from events.ledger import Ledger, Write

BATCH_MAX: Final = 500
WAITING_MAX: Final = 4096


class _Waiting(NamedTuple):
    write: Write
    outcome: asyncio.Future[int]


class Writer:
    """See the top of this file. `run` is its owner's loop; it goes on until it is cancelled."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(WAITING_MAX)
        self._later: deque[_Waiting] = deque()
        self.batches = 0
        self.conflicts = 0

    async def append(self, write: Write) -> int:
        """Write one fact under its guard; gives its sequence. Raises Conflict, Refused, Unknown."""
        outcome: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        await self._queue.put(_Waiting(write, outcome))
        return await outcome

    async def run(self) -> None:
        while True:
            await self._write(await self._round())

    async def _round(self) -> list[_Waiting]:
        """What waits, at most one fact a subject: a second one has to see what became of the first."""
        waiting = deque(self._later)
        self._later.clear()
        if not waiting:
            waiting.append(await self._queue.get())
        while len(waiting) < BATCH_MAX and not self._queue.empty():
            waiting.append(self._queue.get_nowait())
        chosen: dict[str, _Waiting] = {}
        for item in waiting:
            if item.write.subject in chosen:
                self._later.append(item)
            else:
                chosen[item.write.subject] = item
        return list(chosen.values())

    async def _write(self, items: list[_Waiting]) -> None:
        if len(items) == 1:
            await self._alone(items[0])
            return
        try:
            first = await self._ledger.commit([item.write for item in items])
        except (Conflict, Refused):
            async with asyncio.TaskGroup() as group:
                for item in items:
                    group.create_task(self._alone(item))
        except BusError as error:
            for item in items:
                _fail(item, error)
        else:
            self.batches += 1
            for sequence, item in enumerate(items, first):
                if not item.outcome.done():
                    item.outcome.set_result(sequence)

    async def _alone(self, item: _Waiting) -> None:
        try:
            sequence = await self._ledger.append(item.write)
        except BusError as error:
            self.conflicts += isinstance(error, Conflict)
            _fail(item, error)
        else:
            if not item.outcome.done():
                item.outcome.set_result(sequence)


def _fail(item: _Waiting, error: BusError) -> None:
    if not item.outcome.done():
        item.outcome.set_exception(error)
