"""The node's lease, as seen from the node: noting when it was last cleared.

A node is cleared by an answered exchange or, while nobody answers, by reading on its own subject in the ledger that it
is not suspected. Supervisors read what is noted here and end their attempts when it is older than the lease: that holds
when the runner is dead, too. Nothing is started when it is over: a runner that was frozen for longer finds orders that
were given before, and their jobs may run elsewhere by now.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from events import subjects
from events.bus import Bus, BusError
from events.ledger import UnknownFact, entry
from events.messages import NodeCleared, NodeGone, NodeJoined, NodeSuspected
from events.streams import LEDGER
from runtime import exit_record

LOG: Final = logging.getLogger("headrace.runner")

LOOKS_A_LEASE: Final = 10
"""How often, in the time of a lease, a node reads the ledger while nobody answers."""


class Lease:
    """Moments are `exit_record.boot_clock()`, taken before the question was asked: an answer may be late."""

    def __init__(self, path: Path, *, node: str, lease_s: float) -> None:
        self._path = path
        self._node = node
        self._lease_s = lease_s
        self._cleared_at = 0.0
        self._looked_at = 0.0

    @property
    def holds(self) -> bool:
        """Whether attempts may be started. Without leases they always may."""
        return not self._lease_s or exit_record.boot_clock() < self._cleared_at + self._lease_s

    def cleared(self, asked_at: float) -> None:
        """An exchange that was begun then was answered."""
        if self._lease_s and asked_at > self._cleared_at:
            self._cleared_at = asked_at
            try:
                exit_record.renew_lease(str(self._path), asked_at)
            except OSError as error:  # until it can be noted again the attempts' clocks run: never a reason to end
                LOG.warning("cannot note that this node is cleared: %s", error)

    async def look(self, bus: Bus) -> None:
        """Nobody answers: read in the ledger whether this node is suspected. Not more often than makes sense."""
        now = exit_record.boot_clock()
        if not self._lease_s or now < self._looked_at + self._lease_s / LOOKS_A_LEASE:
            return
        self._looked_at = now
        try:
            facts = [entry(delivery).fact for delivery in await bus.history(LEDGER.name, subjects.node(self._node))]
        except (BusError, UnknownFact) as error:
            LOG.info("cannot read whether this node is suspected: %s", error)
            return
        # Cordons and drains say nothing about it: the newest fact of these does.
        verdicts = [fact for fact in facts if isinstance(fact, NodeJoined | NodeCleared | NodeSuspected | NodeGone)]
        if verdicts and isinstance(verdicts[-1], NodeJoined | NodeCleared):
            self.cleared(now)
