"""What the scheduler says of a node, and what it should hear of its machine. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from controlplane.pool.machines import Machine
from events import messages as m

BY: Final = "kubernetes"
"""As whom we speak to the scheduler."""
UPGRADE: Final = "its pod is to be made anew: the wanted one is another by now"
"""Why a node is drained for an upgrade. The ledger keeps it, so that every leader knows which one is under way."""


class Say(NamedTuple):
    """Ask for this change of a node in its operator's name."""

    node: str
    change: m.NodeChange


class Standing(NamedTuple):
    """What the scheduler says of a node."""

    state: str
    by: str = ""
    busy: bool = False
    """Whether attempts live there."""
    why: str = ""
    """Why it takes no jobs, in the words of who said so."""
    seen_at: float = 0.0
    """When its runner was heard last, by the scheduler's clock."""

    @property
    def is_upgraded(self) -> bool:
        """Whether it was drained for an upgrade, and has not been opened since."""
        return self.by == BY and self.why == UPGRADE


def leaves(machine: Machine) -> bool:
    """Whether it is to be let go."""
    return machine.cordoned or bool(machine.notice) or not machine.reserved


def change(machine: Machine, standing: Standing) -> m.NodeChange | None:
    """What should be asked for, so that the scheduler goes by what Kubernetes says; None: it does."""
    if machine.notice:
        is_told = standing.state in {"draining", "drained"}
        return None if is_told else m.DrainNode(why=machine.notice, stop=True)
    if leaves(machine):
        why = "cordoned in Kubernetes" if machine.cordoned else "reserved for this pool no more"
        return m.CordonNode(why=why) if standing.state == "ready" else None
    ours = standing.by == BY and standing.state in {"cordoned", "draining", "drained"}
    return m.UncordonNode() if ours else None
