"""The scheduler, as a pool speaks to it: what it says of its nodes, and what it is asked to do with one."""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from controlplane.pool.standing import Say, Standing
from events import messages as m
from events import subjects
from events.bus import AskRefused, Bus, BusError

LOG: Final = logging.getLogger("headrace.pool")
LOOK_S: Final = 2.0
"""How often it is asked what runs where."""
PROBLEMS_MAX: Final = 50
"""In a status."""


class Unheard(Exception):
    """It does not answer, or not as expected."""


async def standing(bus: Bus) -> dict[str, Standing]:
    """What it says of each node. Raises Unheard."""
    try:
        said = await bus.ask(subjects.ask("scheduling", "nodes"))
        view = msgspec.json.decode(said, type=m.NodesView)
    except (BusError, AskRefused, msgspec.DecodeError) as error:
        raise Unheard(str(error)) from error
    return {node.node: _standing_of(node) for node in view.nodes}


def _standing_of(node: m.NodeView) -> Standing:
    return Standing(
        state=node.state,
        by=node.by,
        busy=bool(node.attempts),
        why=node.why,
        seen_at=node.seen_at,
        cordoned_by=node.cordoned_by,
        draining_by=node.draining_by,
    )


async def tell(bus: Bus, say: Say, *, by: str) -> str:
    """Ask for a change of a node; gives why it is refused, or nothing. Raises Unheard."""
    subject = subjects.ask("submission", "configure", by, "node", say.node)
    try:
        answer = msgspec.json.decode(await bus.ask(subject, msgspec.json.encode(say.change)), type=m.Answer)
    except (BusError, AskRefused, msgspec.DecodeError) as error:
        raise Unheard(str(error)) from error
    problems = "; ".join(problem.message for problem in answer.problems)
    LOG.info("scheduling is told", extra={"node": say.node, "change": type(say.change).__name__, "why_not": problems})
    return problems
