"""Reservations: what a job that does not fit now will get, and when; nothing may be placed that would delay it. Pure.

Time ahead is a profile of each node: what is free of it now, what comes back when the limits of its jobs are over, what
reservations and maintenance will take. A job may start where, from now to its limit, the profile has enough for it.

With one reservation that is EASY (Lifka, "The ANL/IBM SP Scheduling System", JSSPP 1995): what is backfilled ends
before the shadow time of the first blocked job, or takes only what that job leaves over. With one for each it is
conservative backfilling (Mu'alem and Feitelson, "Utilization, Predictability, Workloads, and User Runtime Estimates in
Scheduling the IBM SP2 with Backfilling", TPDS 2001).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from controlplane.scheduling.ahead import FAR_S, end_of, forecast, lacking, shared_until
from controlplane.scheduling.jobs import Job, Shape
from controlplane.scheduling.nodes import Fleet, Node


class Amounts(NamedTuple):
    """Of one node. May be below zero."""

    milli_cpus: int
    memory_bytes: int
    gpus: int
    launch_bytes: int

    def __add__(self, other: tuple[int, ...]) -> Amounts:  # type: ignore[override]
        return Amounts(*(mine + its for mine, its in zip(self, other, strict=True)))

    def __neg__(self) -> Amounts:
        return Amounts(*(-mine for mine in self))

    def cover(self, need: Amounts) -> bool:
        """Whether that is there. Who wants no GPU does not mind that more of them are promised than there are."""
        return (
            self.milli_cpus >= need.milli_cpus
            and self.memory_bytes >= need.memory_bytes
            and (self.gpus >= need.gpus or not need.gpus)
            and self.launch_bytes >= need.launch_bytes
        )


ONE_GPU: Final = Amounts(0, 0, 1, 0)
ALL: Final = Amounts(*4 * (2**62,))
"""More than any node has: what its maintenance takes."""


class Reservation(NamedTuple):
    """What one job will get, at the latest."""

    job: Job
    nodes: tuple[str, ...]
    at: float
    until: float
    need: Amounts
    """Of each of the nodes."""


def need_of(shape: Shape) -> Amounts:
    """Of one node. For a part of a GPU a whole one, wherever it is not known which it shares."""
    return Amounts(shape.milli_cpus, shape.memory_bytes, shape.gpus, shape.launch_bytes)


def _given_back(node: Node, job: Job) -> Amounts:
    """What others may have when this job is over: a GPU that it shares only with the last, and none that is broken."""
    return need_of(job.shape)._replace(gpus=node.gives_back(job))


class Plan:
    """The reservations of one round."""

    def __init__(self, fleet: Fleet, now: float) -> None:
        self._fleet = fleet
        self._now = now
        self.reservations: list[Reservation] = []
        self.pinned: dict[str, Job] = {}
        """Nodes of which something is kept for a job that preempted."""
        self.pins = 0
        """How often something was pinned."""
        self._on: dict[str, list[Reservation]] = {}
        self._profiles: dict[str, list[tuple[float, Amounts]]] = {}

    @property
    def restricts(self) -> bool:
        """Whether there is anything ahead that a job could run into."""
        return bool(self._on or self._fleet.closing)

    def reserve(self, job: Job) -> Reservation | None:
        """Keep for a blocked job what it can have the earliest; None: too few open nodes are large enough."""
        reservation = self.earliest(job)
        if reservation is not None:
            self.reservations.append(reservation)
            self._hold(reservation)
        return reservation

    def pin(self, job: Job, nodes: tuple[str, ...]) -> None:
        """Keep what the job needs of these nodes from now on; one that is closed or gone is passed over."""
        found = [self._fleet.nodes[name] for name in nodes if name in self._fleet.nodes]
        kept = tuple(node.name for node in found if node.is_open)
        self._hold(Reservation(job, kept, self._now, self._now + length_s(job), need_of(job.shape)))
        self.pinned.update(dict.fromkeys(kept, job))
        self.pins += 1

    def _hold(self, reservation: Reservation) -> None:
        for name in reservation.nodes:
            self._on.setdefault(name, []).append(reservation)
            self.changed(name)

    def reserved(self, job: Job) -> Reservation | None:
        """What is kept for it; None: nothing."""
        return next((reservation for reservation in self.reservations if reservation.job is job), None)

    def earliest(self, job: Job) -> Reservation | None:
        """The earliest time and the nodes at which a job can start, if nothing else comes before it.

        Of several nodes that are free at that time, those that have the most of what it needs already. Infinitely late:
        never, since those that have room must be closed before it could end.
        """
        fleet, now, shape = self._fleet, self._now, job.shape
        special = self._special()
        if special and shape.nodes > 1:
            return self._earliest_of(job, [node for node in fleet.nodes.values() if node.is_open])
        offers, aside = forecast(fleet, shape).first(fleet, now, count=shape.nodes, without=special)
        found = [(_moment(offer.at, now), offer.lacking, offer.name) for offer in offers]
        if aside:  # what is ahead can only make it later there: no other special node is better than the best offer
            only = self._earliest_of(job, [fleet.nodes[offer.name] for offer in aside])
            if only is not None:
                found.append((only.at, lacking(fleet.nodes[only.nodes[0]], shape), only.nodes[0]))
            found = sorted(found)[:1]
        if len(found) < shape.nodes:
            return None
        at = max(one[0] for one in found)
        best = sorted(found, key=lambda one: one[1:])[: shape.nodes]
        return Reservation(job, tuple(name for *_, name in best), at, at + length_s(job), need_of(shape))

    def _special(self) -> set[str]:
        """The nodes on which a job could run into something: for all others, only what runs there counts."""
        closing = self._fleet.closing.values()
        return {*self._on, *(node.name for node in closing if node.is_closed(self._now, math.inf))}

    def _earliest_of(self, job: Job, nodes: list[Node]) -> Reservation | None:
        """The same of some nodes, by asking each of them for all that is ahead."""
        need, takes_s, count = need_of(job.shape), length_s(job), job.shape.nodes
        large = [node for node in nodes if node.could_fit(job.shape)]
        if len(large) < count:
            return None
        starts, at = self._starts(large, need, takes_s, self._now, count)
        while count > 1 and at < math.inf and sum(start == at for start in starts.values()) < count:
            starts, at = self._starts(large, need, takes_s, at, count)
        ready = [node for node in large if starts[node.name] <= at]
        best = sorted(ready, key=lambda node: (lacking(node, job.shape), node.name))[:count]
        return Reservation(job, tuple(node.name for node in best), at, at + takes_s, need)

    def admits(self, node: Node, job: Job) -> bool:
        """Whether a job that fits on the node now takes nothing away from a reservation, or from its maintenance."""
        if node.is_closed(self._now, length_s(job)):
            return False
        if node.name not in self._on:
            return True
        return self._short_at(node, job.shape, self._now) >= self._now + length_s(job)

    def _short_at(self, node: Node, shape: Shape, since: float) -> float:
        """From `since` on, when a job that starts on the node now would lack something; infinite: never."""
        needs = self._needs(node, shape)
        return next((at for at, free in self._profile(node) if at >= since and not free.cover(needs(at))), math.inf)

    def _needs(self, node: Node, shape: Shape) -> Callable[[float], Amounts]:
        """What a job that starts there now takes of whole GPUs and the rest, at a time.

        Beside others on a GPU it takes none more, until the last of these gives the GPU back but for its part. But who
        preempted keeps whatever is freed there, parts too; and what has outlived its limit may be gone at any moment.
        """
        need, part = need_of(shape), node.part_for(shape)
        pinned = self.pinned.get(node.name)
        if part is None or (pinned is not None and pinned.shape.gpus):
            return lambda at: need
        end, beside = shared_until(node, self._now)[part], need._replace(gpus=0)
        return lambda at: beside if at < end.at and not end.overdue else need

    def changed(self, node: str) -> None:
        """Something was placed there."""
        self._profiles.pop(node, None)

    def delayed(self, node: Node, job: Job) -> list[Reservation]:
        """The reservations there that would not have enough any more at the first moment at which one has not."""
        needs, until = self._needs(node, job.shape), self._now + length_s(job)
        for at, free in self._profile(node):
            if at < until and not free.cover(needs(at)):
                return [one for one in self._on.get(node.name, ()) if one.at <= at < one.until]
        return []

    def window_s(self, shape: Shape) -> float:
        """How long a job of this shape may take on those nodes that have room for it now, and something ahead."""
        return max((window_s for window_s, _ in self.windows(shape)), default=0.0)

    def reach_s(self, shape: Shape) -> float:
        """How long a job of this shape may take at the most, wherever there is room for it now."""
        special = self._special()
        if shape.nodes > 1 or self._fleet.best(shape, lambda node: node.name not in special) is not None:
            return math.inf
        return self.window_s(shape)

    def windows(self, shape: Shape) -> Iterator[tuple[float, Node]]:
        """How long a job of this shape may take on each of those nodes with room for it now and something ahead."""
        for name in self._on | self._fleet.closing:
            node = self._fleet.nodes[name]
            if node.fits(shape) and node.is_open:
                yield self._window_of(node, shape), node

    def _window_of(self, node: Node, shape: Shape) -> float:
        """How long `admits` lets a job of this shape take there."""
        span = node.maintenance
        closed_in_s = math.inf if span is None or self._now >= span.ends_at else max(0.0, span.begins_at - self._now)
        if node.name not in self._on:
            return closed_in_s
        return min(closed_in_s, self._short_at(node, shape, self._now) - self._now)

    def _starts(
        self, nodes: list[Node], need: Amounts, takes_s: float, after: float, count: int
    ) -> tuple[dict[str, float], float]:
        """The earliest start on each node from `after` on, and when the first `count` of them have begun."""
        starts = {node.name: self._earliest(node, need, takes_s, after) for node in nodes}
        return starts, sorted(starts.values())[count - 1] if count > 1 else min(starts.values())

    def _earliest(self, node: Node, need: Amounts, takes_s: float, after: float) -> float:
        """From `after` on. Infinite: never."""
        profile = self._profile(node)
        for at, _ in profile:
            begin = max(at, after)
            if self._lasts(profile, begin, begin + takes_s, need):
                return begin
        return math.inf

    def _lasts(self, profile: list[tuple[float, Amounts]], begin: float, end: float, need: Amounts) -> bool:
        """Whether there is enough all the time from `begin` to before `end`."""
        current = [free for at, free in profile if at <= begin][-1:]
        return all(free.cover(need) for free in (*current, *(free for at, free in profile if begin < at < end)))

    def _profile(self, node: Node) -> list[tuple[float, Amounts]]:
        """(time, what is free from then on), ascending; begins now."""
        if (known := self._profiles.get(node.name)) is not None:
            return known
        changes = [(end_of(job, self._now).at, _given_back(node, job)) for job in node.jobs.values()]
        if node.shared:
            changes += [(end.at, ONE_GPU) for end in shared_until(node, self._now).values()]
        if node.is_closed(self._now, math.inf) and (span := node.maintenance) is not None:
            changes += [(max(span.begins_at, self._now), -ALL), (span.ends_at, ALL)]
        for reservation in self._on.get(node.name, ()):
            changes += [(reservation.at, -reservation.need), (reservation.until, reservation.need)]
        free = free_of(node)
        profile = [(self._now, free)]
        for at, change in sorted(changes):
            free += change
            if profile[-1][0] == at:
                profile[-1] = (at, free)
            else:
                profile.append((at, free))
        self._profiles[node.name] = profile
        return profile


def free_of(node: Node) -> Amounts:
    """What of a node is free now."""
    return Amounts(node.free_milli_cpus, node.free_memory_bytes, node.idle_gpus.bit_count(), node.free_launch_bytes)


def length_s(job: Job) -> float:
    """How long a job may hold what it has."""
    limit_s = job.specification.time_limit_s
    return 2 * FAR_S if limit_s is None else limit_s


def _moment(at: float, now: float) -> float:
    """Of an offer."""
    return now + FAR_S if at == math.inf else max(at, now)
