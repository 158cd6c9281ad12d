"""What the scheduler says of a node, and what it should hear of its machine. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from events import messages as m

CLOSED: Final = frozenset({"cordoned", "draining", "drained"})


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


class Wanted(NamedTuple):
    """Why a node should be drained, or else cordoned. Neither: it should be open."""

    drain: str = ""
    cordon: str = ""


def change(wanted: Wanted, standing: Standing, *, by: str) -> m.NodeChange | None:
    """What should be asked for, so that the scheduler goes by what is wanted; None: it does.

    What somebody else has closed stays closed.
    """
    if wanted.drain:
        is_told = standing.state in {"draining", "drained"}
        return None if is_told else m.DrainNode(why=wanted.drain, stop=True)
    if wanted.cordon:
        return m.CordonNode(why=wanted.cordon) if standing.state == "ready" else None
    return m.UncordonNode() if standing.by == by and standing.state in CLOSED else None
