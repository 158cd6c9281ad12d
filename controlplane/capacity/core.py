"""Which nodes should have a runner, and which of them lack one. Pure.

Level-triggered: the whole of what Ray shows goes in, what to do comes out, and doing it twice does no harm.
"""

from __future__ import annotations

from typing import Final

import msgspec

LABEL: Final = "hr.node"
"""The Ray label that makes a Ray node one of ours, and names it: `ray start --labels hr.node=<name>`."""

RUNNER_S_MAX: Final = 10.0
"""A runner that was asked for and does not answer within this time is asked for again."""


class SeenNode(msgspec.Struct, frozen=True, kw_only=True):
    """A Ray node as the fleet shows it. `name` is empty for a node without our label: it is none of our business."""

    name: str
    ray_id: str
    alive: bool
    cpus: float
    gpus: int
    memory_bytes: int
    gpu_model: str = ""
    address: str = ""
    """At which other nodes reach it."""
    labels: dict[str, str] = {}
    """What its operator gave it: constraints of jobs go by them."""


class StartRunner(msgspec.Struct, frozen=True):
    """Make sure that a runner lives on this node."""

    node: SeenNode


class Capacity:
    """What was seen of the fleet, and since when a runner is being waited for."""

    def __init__(self) -> None:
        self._asked_at: dict[str, float] = {}

    def decide(self, nodes: list[SeenNode], runners: frozenset[str], now: float) -> list[StartRunner]:
        """What to do about these nodes, of which `runners` names those whose runner answers."""
        live = {node.name: node for node in nodes if node.alive and node.name}
        self._asked_at = {name: at for name, at in self._asked_at.items() if name in live and name not in runners}
        missing = [live[name] for name in sorted(live) if name not in runners]
        due = [node for node in missing if now >= self._asked_at.get(node.name, float("-inf")) + RUNNER_S_MAX]
        for node in due:
            self._asked_at[node.name] = now
        return [StartRunner(node) for node in due]

    def duplicates(self, nodes: list[SeenNode]) -> tuple[str, ...]:
        """Names that two live Ray nodes claim: an operator's mistake that would put two runners on one name."""
        names = [node.name for node in nodes if node.alive and node.name]
        return tuple(sorted({name for name in names if names.count(name) > 1}))
