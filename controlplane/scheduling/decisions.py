"""What comes out of the core, as data; what goes in is `events.entries.Entry`. Pure.

The core decides facts, but knows no bus: a `Write` of `events.ledger` has exactly the fields of a `Decision`, so the
shell makes the one of the other.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

from events import messages as m

ROUND_MAX: Final = 500
"""Decisions in one round: an atomic batch takes 1,000 messages, and a shorter one is sooner on its way."""


class Decision(NamedTuple):
    """A fact that should be written, if its subject has not moved on since `expect`. As `events.ledger.Write`."""

    subject: str
    fact: m.Fact
    expect: int
    traceparent: str = ""


class Round(NamedTuple):
    """What was decided at once: all of it becomes true, or nothing. Tentative until the ledger took it."""

    decisions: tuple[Decision, ...] = ()
    nodes: tuple[str, ...] = ()
    """Whose list of desired attempts is another one once the round has landed."""
    more: bool = False
    """There was more to decide than fits in a round."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The times that the core goes by; see `controlplane.config`."""

    heartbeat_s: float = 5.0
    suspect_s: float = 20.0
    lease_s: float = 900.0
    """0: silence alone never loses a node."""
    backfill_depth: int = 1
    """How many jobs that do not fit now have a reservation that later ones must not delay."""
    preempt_min_run_s: float = 300.0
    """No attempt is preempted before it has run for so long."""
    fair_half_life_s: float = 86_400.0
    """In fair shares, use that is so old counts half. 0: only what is held now counts."""
    packing: Literal["best_fit", "fgd"] = "best_fit"
    """Which node a job gets, of those that have room."""
    tiers: tuple[m.Tier, ...] = ()
    """What a job could ask for instead; decides nothing."""
    team_tiers: dict[str, tuple[str, ...]] = {}
    """Which of them, where a team may not ask for all."""
    margin_s: float = 13.0
    """On top of the lease, before a silent node is lost: clocks, and how long a deposed leader may still answer."""


class Counts(msgspec.Struct, kw_only=True):
    """What came of the facts that were applied. Only `forbidden` is a bug of somebody's."""

    applied: int = 0
    repeated: int = 0
    stale: int = 0
    forbidden: int = 0


class Broken(Exception):
    """An invariant of our own does not hold: the leader must not decide anything more from this state."""
