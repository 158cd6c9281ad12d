"""What submission keeps of the ledger: the archive's ids, and what queues and teams there are."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from controlplane.submission.archived import Archived
from controlplane.submission.queues import FOLLOWED, Queues
from events import messages as m
from events import subjects
from events.bus import CaughtUp
from events.ledger import Ledger, UnknownFact

REACH_S: Final = 2.0
LOG: Final = logging.getLogger("headrace.submission")


class Following:
    """Follows the ledger in a task of its own (`run`); whoever decides reads what it has learned."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._moved = asyncio.Condition()
        self.sequence = 0
        """Up to which it has read."""
        self.archived = Archived()
        self.queues = Queues()
        self.caught_up = asyncio.Event()
        """All of before the start is known: no submit of an archived job is taken for a new one, no queue is missed."""

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                async for item in self._ledger.tail(after=self.sequence, subjects=(subjects.ARCHIVE, *FOLLOWED)):
                    if isinstance(item, CaughtUp):
                        self.caught_up.set()
                    elif isinstance(item.fact, m.ArchiveWritten):
                        self.archived.apply(item.fact)
                    else:
                        self.queues.apply(item)
                    await self._reached(item.sequence)
            except UnknownFact as error:
                if error.subject == subjects.ARCHIVE:
                    raise  # a job that is in the archive must not be taken for a new one
                # Of a newer version, which checks by it; to stop taking jobs in would help nobody.
                LOG.warning("%s", error, extra={"subject": error.subject, "sequence": error.sequence})
                await self._reached(error.sequence)

    async def refresh(self, team: str, queue: str) -> bool:
        """Look the newest fact of a queue up; gives whether it was not known. Raises BusError."""
        try:
            subject = subjects.queue(team, queue)
        except subjects.BadName:
            return False
        newest = await self._ledger.last(subject)
        if newest is None or newest.sequence <= self.queues.known(team, queue).sequence:
            return False
        self.queues.apply(newest)
        return True

    async def reached(self, sequence: int) -> bool:
        """Whether it has read up to there; waits for it a little."""
        try:
            async with asyncio.timeout(REACH_S), self._moved:
                return await self._moved.wait_for(lambda: self.sequence >= sequence)
        except TimeoutError:
            return False

    async def _reached(self, sequence: int) -> None:
        async with self._moved:
            self.sequence = max(self.sequence, sequence)
            self._moved.notify_all()
