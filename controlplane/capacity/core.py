"""Which nodes should have a runner, and which of them lack one. Pure.

Level-triggered: the whole of what Ray shows goes in, what to do comes out, and doing it twice does no harm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

import msgspec

LABEL: Final = "hr.node"
"""The Ray label that makes a Ray node one of ours, and names it: `ray start --labels hr.node=<name>`."""

TWICE: Final = "two Ray nodes have this name: give each its own by ray start --labels hr.node=<name>"
"""A mistake that would put two runners on one name."""
UNLISTED: Final = "has joined Ray and is not in the file of hosts: it gets no runner"

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

    def decide(
        self, nodes: list[SeenNode], runners: frozenset[str], now: float, *, listed: Collection[str] | None = None
    ) -> list[StartRunner]:
        """What to do about these nodes, of which `runners` names those whose runner answers.

        `listed`: the only ones that may have one; None: all that joined.
        """
        live = {
            node.name: node for node in nodes if node.alive and node.name and (listed is None or node.name in listed)
        }
        self._asked_at = {name: at for name, at in self._asked_at.items() if name in live and name not in runners}
        missing = [live[name] for name in sorted(live) if name not in runners]
        due = [node for node in missing if now >= self._asked_at.get(node.name, float("-inf")) + RUNNER_S_MAX]
        for node in due:
            self._asked_at[node.name] = now
        return [StartRunner(node) for node in due]


def mistakes(nodes: list[SeenNode], *, listed: Collection[str] | None = None) -> dict[str, str]:
    """What an operator has to put right, by the name of the node."""
    names = Counter(node.name for node in nodes if node.alive and node.name)
    strangers = sorted(name for name in names if listed is not None and name not in listed)
    return dict.fromkeys(strangers, UNLISTED) | {name: TWICE for name in sorted(names) if names[name] > 1}
