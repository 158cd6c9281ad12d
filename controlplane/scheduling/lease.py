"""Silence: when a node is suspected, when it is lost, and what to write about it. Pure.

Silence is counted from the moment this leader took its term, since nobody heard for it before: so a new leader suspects
before it loses. A suspected node is lost only when it must have ended its attempts itself: its lease, the longest grace
of its attempts and a margin for clocks and for what a deposed leader may still have answered.
"""

from __future__ import annotations

import heapq

from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.nodes import Node
from events import messages as m


class Silence:
    """Who was heard when, and whose silence is over its time. Only a leader has one."""

    def __init__(self, settings: Settings, *, term: int, now: float) -> None:
        self._settings = settings
        self._term = term
        self._since = now
        self._timers: list[tuple[float, str]] = []

    def watch(self, node: Node, now: float) -> None:
        """Look at this node again when its time would be over; forgets when that was to be before."""
        at = self.over_at(node)
        if at is not None and at <= now:  # it is over already, and what follows from it is not in the ledger yet
            at = now + self._settings.suspect_s
        node.timer_at = at
        if at is not None:
            heapq.heappush(self._timers, (at, node.name))

    def due(self, nodes: dict[str, Node], now: float) -> list[Node]:
        """The nodes to look at now."""
        due = []
        while self._timers and self._timers[0][0] <= now:
            at, name = heapq.heappop(self._timers)
            node = nodes[name]
            if node.timer_at == at:
                if self.is_over(node, now):
                    due.append(node)
                self.watch(node, now)
        return due

    def wake_at(self) -> float | None:
        return self._timers[0][0] if self._timers else None

    def over_at(self, node: Node) -> float | None:
        """When the silence of a node has been too long for its state; None: never."""
        if not node.is_known:
            return None
        if node.suspected_at is None:
            return max(node.heard_at, self._since) + self._settings.suspect_s
        if self._settings.lease_s <= 0:
            return None
        grace_s = max((job.specification.grace_s for job in node.jobs.values()), default=0.0)
        since = max(node.suspected_at, self._since, node.heard_at)
        return since + self._settings.lease_s + grace_s + self._settings.margin_s

    def is_over(self, node: Node, now: float) -> bool:
        at = self.over_at(node)
        return at is not None and at <= now

    def is_heard(self, node: Node, now: float) -> bool:
        """Whether the node spoke lately."""
        return node.heard_at >= self._since and now - node.heard_at < self._settings.suspect_s

    def verdict(self, node: Node, now: float) -> m.NodeFact | None:
        """What there is to write about a node that holds nothing that would have to be written first."""
        claims = node.claims
        if claims is not None and self.is_heard(node, now):
            if not node.is_known or claims.boot != node.boot or claims.capacity != node.capacity:
                return m.NodeJoined(boot=claims.boot, capacity=claims.capacity, term=self._term)
            return m.NodeCleared(term=self._term) if node.suspected_at is not None else None
        if not self.is_over(node, now):
            return None
        if node.suspected_at is None:
            return m.NodeSuspected(term=self._term, since_at=max(node.heard_at, self._since))
        return m.NodeGone(term=self._term, why=self.lost_why(node, now))

    def lost_why(self, node: Node, now: float) -> str:
        """Why the attempts of a silent node are given up, for a person."""
        since = node.suspected_at if node.suspected_at is not None else now
        return f"node {node.name} has been silent for {now - since:.0f} s, longer than its lease"
