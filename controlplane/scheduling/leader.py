"""The term: how one scheduler of several becomes the one that decides, and how it stops being it.

A term begins with `led` on the term's subject, under a guard; its number is the sequence of that fact. Every round
begins with `renewed` under the guard of the subject's last sequence, so the store itself refuses a round of a leader
that was followed by another one. A round of one fact does without, as the very next fact after all that its leader
has seen: the store then guards that nothing was written since, so no `led` either. An idle leader renews by itself.
Who sees the subject stand still for the lease, by a clock of his own, may take the term. Time decides only when a
takeover is tried, never whether a write is good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from controlplane.scheduling.decisions import Decision
from events import messages as m
from events import subjects
from events.ledger import Conflict, Ledger, Write

RENEWALS_PER_LEASE: Final = 3
RENEWED_TTL_S: Final = 60
"""How long the ledger keeps a renewal. When all have gone, the subject's last fact is `led` again: an old leader's
guard fails then, and it steps down."""


class Deposed(Exception):
    """Somebody else has the term, or nobody: it is not ours any more."""


class Standstill:
    """Whether the term's subject moves, by the monotonic clock of this process."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._moved = asyncio.Event()

    def moved(self) -> None:
        self._moved.set()

    async def over(self) -> None:
        """Wait until it has stood still for a whole lease from now on."""
        while True:
            self._moved.clear()
            try:
                async with asyncio.timeout(self._lease_s):
                    await self._moved.wait()
            except TimeoutError:
                return


class Term:
    """A term that this process holds, as far as it knows."""

    def __init__(self, ledger: Ledger, number: int, lease_s: float) -> None:
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._last = number
        self._renew_each_s = lease_s / RENEWALS_PER_LEASE
        self.number = number
        self.renew_at = self._loop.time()
        """On the loop's clock."""

    @classmethod
    async def take(cls, ledger: Ledger, *, leader: str, seen: int, lease_s: float) -> Term | None:
        """Begin a term, unless the subject has moved since `seen`. None: somebody else was faster."""
        last = await ledger.last(subjects.TERM)
        expect = last.sequence if last is not None else 0
        if expect > seen:
            return None
        try:
            number = await ledger.append(Write(subjects.TERM, m.Led(leader=leader), expect))
        except Conflict:
            return None
        return cls(ledger, number, lease_s)

    async def commit(self, decisions: Sequence[Decision], *, seen: int) -> int:
        """Write a round that was decided on all facts up to `seen`; gives the sequence of its last fact.

        Raises Deposed; Conflict if a guard of a decision did not hold; Refused; Unknown.
        """
        if len(decisions) == 1 and not self.needs_renewal:
            try:  # a third of what a batch costs
                return await self._ledger.append_next(_write(decisions[0]), last=seen)
            except Conflict:
                pass  # something was written since; whether it matters the guards of the round will say
        renewed = Write(subjects.TERM, m.Renewed(term=self.number), self._last, ttl_s=RENEWED_TTL_S)
        writes = [renewed, *map(_write, decisions)]
        try:
            first = await self._ledger.commit(writes)
        except Conflict as error:
            last = await self._ledger.last(subjects.TERM)
            if last is None or last.sequence != self._last:
                raise Deposed(f"term {self.number} is over: {error}") from error
            raise
        self._last = first
        self.renew_at = self._loop.time() + self._renew_each_s
        return first + len(decisions)

    @property
    def needs_renewal(self) -> bool:
        return self._loop.time() >= self.renew_at


def _write(decision: Decision) -> Write:
    return Write(decision.subject, decision.fact, decision.expect, decision.traceparent)
