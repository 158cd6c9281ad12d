"""Requests about machines: read what the ledger says of the node, write what follows under its guard."""

from __future__ import annotations

from collections import Counter
from typing import Final

from controlplane.frame import Tools
from controlplane.submission import machine_rules
from controlplane.submission.machine_rules import MachineOrder
from events import messages as m
from events.bus import Conflict, Retry
from events.ledger import Write
from events.subjects import BadName

CONFLICT_TRIES: Final = 8
"""Scheduling writes about the node at the same time: decide again, at most so often in one go."""
BUSY_S: Final = 0.5


class Machines:
    """See the top of this file."""

    def __init__(self, tools: Tools, counters: Counter[str]) -> None:
        self._tools = tools
        self._counters = counters

    async def change(self, order: MachineOrder) -> m.Answer:
        """Raises Retry if the node's facts change all the time."""
        change, found = machine_rules.read(order)
        try:
            subject = order.subject
        except BadName as error:
            found.problem("$.node", str(error))
            change = None
        if change is None:
            self._counters["refused"] += 1
            return machine_rules.refused(found)
        for _ in range(CONFLICT_TRIES):
            seen = found.copy()
            history = await self._tools.ledger.history(subject)
            decision = machine_rules.decide(order, change, history, self._tools.clock.now(), seen)
            if isinstance(decision, m.Answer):
                self._counters["repeated" if decision.verdict == "repeated" else "refused"] += 1
                return decision
            try:
                sequence = await self._tools.ledger.append(Write(subject, decision.fact, decision.expect))
            except Conflict:
                continue
            self._counters["configured"] += 1
            return m.Answer(verdict="applied", sequence=sequence, warnings=seen.warnings)
        raise Retry(BUSY_S, f"node {order.node} changes all the time")
