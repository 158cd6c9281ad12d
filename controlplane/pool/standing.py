"""What the scheduler says of a node, and what it should hear of its machine. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from controlplane.pool.machines import Machine
from events import messages as m

BY: Final = "kubernetes"
"""As whom we speak to the scheduler of what Kubernetes says."""
UPGRADE: Final = "its pod is to be made anew: the wanted one is another by now"
"""Why a node is drained for an upgrade. The ledger keeps it, so that every leader knows which one is under way."""
CLOSED: Final = frozenset({"cordoned", "draining", "drained"})


class Say(NamedTuple):
    """Ask for this change of a node in its operator's name."""

    node: str
    change: m.NodeChange


class Standing(NamedTuple):
    """What the scheduler says of a node."""

    state: str
    by: str = ""
    """Who drains it, or else who cordoned it."""
    busy: bool = False
    """Whether attempts live there."""
    why: str = ""
    """Why it takes no jobs, in the words of `by`."""
    seen_at: float = 0.0
    """When its runner was heard last, by the scheduler's clock."""
    cordoned_by: str = ""
    """Who cordoned it, also while it is drained by another."""
    draining_by: str = ""
    """Who drains it, also while it is suspected."""

    @property
    def is_upgraded(self) -> bool:
        """Whether it was drained for an upgrade, and has not been opened since."""
        return self.by == BY and self.why == UPGRADE


class Wanted(NamedTuple):
    """Why a node should be drained, or else cordoned. Neither: it should be open."""

    drain: str = ""
    cordon: str = ""


def wanted_of(machine: Machine) -> Wanted:
    """What Kubernetes says of a machine."""
    if machine.notice:
        return Wanted(drain=machine.notice)
    if machine.cordoned:
        return Wanted(cordon="cordoned in Kubernetes")
    return Wanted() if machine.reserved else Wanted(cordon="reserved for this pool no more")


def leaves(machine: Machine) -> bool:
    """Whether it is to be let go."""
    return wanted_of(machine) != Wanted()


def change(wanted: Wanted, standing: Standing, *, by: str) -> m.NodeChange | None:
    """What should be asked for, so that the scheduler goes by what is wanted; None: it does.

    What somebody else has closed stays closed: opening takes back every cordon and every drain, whoever made it. So a
    node that somebody else cordoned while we drain it stays drained until they open it.
    """
    if wanted.drain:
        is_told = standing.state in {"draining", "drained"} or standing.draining_by != ""
        return None if is_told else m.DrainNode(why=wanted.drain, stop=True)
    if wanted.cordon:
        return m.CordonNode(why=wanted.cordon) if standing.state == "ready" else None
    is_ours = standing.by == by and standing.cordoned_by in {"", by}
    return m.UncordonNode() if is_ours and standing.state in CLOSED else None
