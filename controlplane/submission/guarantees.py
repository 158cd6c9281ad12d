"""Whether what queues and teams are guaranteed can be kept: sums against a team's own guarantee, and the nodes. Pure.

A team's own guarantee is for all of its queues together; a team without one is guaranteed what its queues are. A sum
that is too large already (a node went away) is no reason to refuse a change that does not make it larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from controlplane.submission.reading import Findings, quoted
from events import messages as m

ITEMS_MAX: Final = 12
"""Of a sum that is written out; the rest is one item."""


class Guaranteed(NamedTuple):
    """Of one resource, in one team: its own guarantee (0: none), those of its queues, and the most it may hold."""

    own: float
    queues: Mapping[str, float]
    most: float | None

    @property
    def of_queues(self) -> float:
        return sum(self.queues.values())

    @property
    def total(self) -> float:
        return self.own or self.of_queues

    @property
    def over_own(self) -> float:
        """By how much its queues' are more than its own."""
        return max(0.0, self.of_queues - self.own) if self.own else 0.0

    @property
    def over_most(self) -> float:
        return max(0.0, self.total - self.most) if self.most is not None else 0.0


Installation = Mapping[str, Guaranteed]
"""By team."""


def gpus(team: m.TeamSet, queues: Mapping[str, m.QueueSet]) -> Guaranteed:
    return Guaranteed(
        team.guaranteed_gpus, {name: each.guaranteed_gpus for name, each in queues.items()}, team.gpus_max
    )


def cpus(team: m.TeamSet, queues: Mapping[str, m.QueueSet]) -> Guaranteed:
    return Guaranteed(team.guaranteed_cpus, {name: each.guaranteed_cpus for name, each in queues.items()}, None)


def check(
    before: Installation, after: Installation, team: str, *, unit: str, capacity: float | None, found: Findings
) -> None:
    """Tell what does not hold after a change of this team or of one of its queues, and did before."""
    path = f"$.guaranteed_{unit.lower()}"
    old, new = before[team], after[team]
    if _grows(old.over_own, new.over_own):
        message = f"guaranteed: {_sum(new.queues)} {unit}; team {quoted(team)} is guaranteed {new.own:g}"
        found.problem(path, message, "lower those of its queues, or raise the team's: headrace teams set")
    if _grows(old.over_most, new.over_most):
        message = f"guaranteed: {_sum(new.queues)} {unit}; team {quoted(team)} may hold {new.most:g} at most"
        if new.own:
            message = f"team {quoted(team)} is guaranteed {new.own:g} {unit} and may hold {new.most:g} at most"
        found.problem(path, message, "raise its `gpus_max`, or guarantee less")
    total_before, total = (sum(each.total for each in each_of.values()) for each_of in (before, after))
    if not _grows(total_before, total):
        return
    if capacity is None:
        message = f"scheduling knows no node or does not answer: {total:g} {unit} were not held against what there is"
        found.warn(path, message, "headrace nodes")
    elif _grows(capacity, total):
        message = f"guaranteed: {_sum(_items(after))} {unit}; the nodes have {capacity:g}"
        found.problem(path, message, "guarantee less: what is not guaranteed is shared all the same")


def _items(installation: Installation) -> dict[str, float]:
    """What makes up the sum of all: teams with a guarantee of their own, else their queues."""
    items: dict[str, float] = {}
    for team, each in installation.items():
        items |= {team: each.own} if each.own else {f"{team}/{name}": amount for name, amount in each.queues.items()}
    return items


def _sum(items: Mapping[str, float]) -> str:
    """`red/default 4 + red/big 8 = 12`."""
    some = {name: amount for name, amount in items.items() if amount}
    shown = sorted(some, key=lambda name: some[name], reverse=True)[:ITEMS_MAX] if len(some) > ITEMS_MAX else some
    words = [f"{name} {some[name]:g}" for name in some if name in shown]
    rest = [amount for name, amount in some.items() if name not in shown]
    words += [f"{len(rest)} others {sum(rest):g}"] if rest else []
    return f"{' + '.join(words)} = {sum(some.values()):g}"


def _grows(before: float, after: float) -> bool:
    """By more than what adding up in another order may make of it."""
    return after > before + 1e-6
