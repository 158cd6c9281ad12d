"""When nodes have room for what does not fit now, by the limits of what runs: kept from round to round. Pure.

Equivalent to asking every node anew, each time. But what a node answers stays true until something is taken or given
back there, or an attempt outlives its limit; and time alone only ever makes an answer later. So all answers about a
shape stand in a heap: asked again are those nodes that have changed since, and those at the top that have gone stale.
"""

from __future__ import annotations

import heapq
import math
from typing import Final, NamedTuple

from controlplane.scheduling.jobs import Job, Shape
from controlplane.scheduling.nodes import Fleet, Node, held_by
from events import messages as m
from events.lifecycle import State

FAR_S: Final = 3e9
"""Somewhere behind all limits: when a job without one ends."""
OVERDUE_S: Final = 60.0
"""A job that has outlived its limit is being stopped: it is taken to hold what it has for so much longer."""
_NOTHING: Final = Shape(milli_cpus=0, memory_bytes=0, gpus=0, nodes=1, launch_bytes=0)
SHAPES_MAX: Final = 64
"""Of which answers are kept, about 300 bytes a node each; the one that was asked for the longest ago is forgotten."""


class End(NamedTuple):
    """When a live job gives back what it holds, at the latest."""

    at: float
    moves: bool
    """It is so long from now whenever one asks: another one as soon as time goes on."""
    overdue: bool = False
    """It should have done so by now."""


def end_of(job: Job, now: float) -> End:
    """See End."""
    limit_s = job.specification.time_limit_s
    decided, moves = job.decided, False
    if isinstance(decided, m.Placed):
        at, moves = now + (FAR_S if limit_s is None else limit_s), True
    elif limit_s is None:
        at, moves = now + FAR_S, True
    else:
        at = job.begun_at + limit_s
    if isinstance(decided, m.StopRequested):
        soon = now + job.specification.grace_s
        at, moves = (soon, True) if soon < at else (at, moves)
    elif job.life.state is State.STOPPING:
        soon = job.stop_at + job.specification.grace_s
        at, moves = (soon, False) if soon < at else (at, moves)
    return End(at, moves) if at > now else End(now + OVERDUE_S, True, overdue=True)


def ends_at(job: Job, now: float) -> float:
    """When what a live job holds is free again, at the latest."""
    return end_of(job, now).at


def shared_until(node: Node, now: float) -> dict[int, End]:
    """When each of its shared GPUs is whole again: nobody has a part of it any more. What is known to be over has none
    as soon as that is in the ledger.
    """
    until: dict[int, End] = {}
    for job in node.jobs.values():
        if job.shape.shares_gpu:
            is_over = isinstance(job.decided, m.Finished | m.Requeued | m.Lost)
            end = End(math.nextafter(now, math.inf), True) if is_over else end_of(job, now)
            here = (index for each in held_by(job) if each.node == node.name for index in each.gpus)
            for index in node.parts_left.keys() & here:
                until[index] = max(end, until.get(index, end), key=lambda one: (one.at, not one.overdue))
    return until


def lacking(node: Node, shape: Shape) -> tuple[int, int, int, int]:
    """What is missing on a node for this shape, GPUs first; for a part of a GPU, a whole one."""
    return (
        max(0, shape.gpus - node.idle_gpus.bit_count()),
        max(0, shape.milli_cpus - node.free_milli_cpus),
        max(0, shape.memory_bytes - node.free_memory_bytes),
        max(0, shape.launch_bytes - node.free_launch_bytes),
    )


class Offer(NamedTuple):
    """From when on a node has room, if nothing more is placed there. Sorts as a job would choose."""

    at: float
    """−∞: now. ∞: when a job without a limit ends."""
    lacking: tuple[int, int, int, int]
    name: str
    version: int
    """Of the node."""
    until: float
    """At this time, and later, it has to be asked again."""


class Forecast:
    """The offers of all nodes to one shape."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._offers: list[Offer] = []
        self._seen = -1
        """How much of the changes of the fleet is in the offers; −1: nothing."""

    def first(self, fleet: Fleet, now: float, *, count: int, without: set[str]) -> tuple[list[Offer], list[Offer]]:
        """The best offers in order: `count` of them, and, of several, all others of the same time as the last one.

        Fewer: there are no more nodes. And those that sort before the last one, of nodes that do not count.
        """
        self._catch_up(fleet, now)
        found: list[Offer] = []
        aside: list[Offer] = []
        asked: set[str] = set()
        while self._offers and (len(found) < count or self._offers[0].at <= found[-1].at):
            offer = heapq.heappop(self._offers)
            node = fleet.nodes[offer.name]
            if node.version != offer.version:
                continue  # a newer one stands somewhere
            if offer.until <= now and offer.name not in asked:
                asked.add(offer.name)
                heapq.heappush(self._offers, _offer(node, self._shape, now))
                continue
            (aside if offer.name in without else found).append(offer)
            if count == 1 and found:
                break  # it sorts as a job would choose: no other of the same time is better
        for offer in (*found, *aside):
            heapq.heappush(self._offers, offer)
        return found, aside

    def _catch_up(self, fleet: Fleet, now: float) -> None:
        changed = fleet.changed_since(self._seen)
        if changed is None:
            nodes = [node for node in fleet.nodes.values() if _can(node, self._shape)]
            self._offers = [_offer(node, self._shape, now) for node in nodes]
            heapq.heapify(self._offers)
        else:
            for name in dict.fromkeys(changed):
                if _can(node := fleet.nodes[name], self._shape):
                    heapq.heappush(self._offers, _offer(node, self._shape, now))
        self._seen = fleet.changes


def forecast(fleet: Fleet, shape: Shape) -> Forecast:
    """The one that is kept about a shape."""
    kept = fleet.forecasts.pop(shape, None) or Forecast(shape)
    fleet.forecasts[shape] = kept
    if len(fleet.forecasts) > SHAPES_MAX:
        del fleet.forecasts[next(iter(fleet.forecasts))]
    return kept


def _can(node: Node, shape: Shape) -> bool:
    return node.is_open and node.could_fit(shape)


def _offer(node: Node, shape: Shape, now: float) -> Offer:
    """What an open node that is large enough offers at this moment. For a part of a GPU it is a whole one: what is free
    of a shared GPU now may be gone by then.
    """
    missing = lacking(node, shape)
    if not any(missing):
        return Offer(-math.inf, missing, node.name, node.version, math.inf)
    gpus, milli_cpus, memory_bytes, launch_bytes = missing
    until = math.inf
    ends = []
    for job in node.jobs.values():
        at, moves, _ = end_of(job, now)
        if not moves:
            until = min(until, at)
        elif at < now + FAR_S:
            until = now
        else:
            at = math.inf
        ends.append((at, job.shape, node.gives_back(job)))
    if node.shared:
        whole = [end.at for end in shared_until(node, now).values()]
        ends += [(at if at < now + FAR_S else math.inf, _NOTHING, 1) for at in whole]
    ends.sort(key=_at)
    at = math.inf
    for end, gone, whole_gpus in ends:
        at = end
        gpus -= whole_gpus
        milli_cpus -= gone.milli_cpus
        memory_bytes -= gone.memory_bytes
        launch_bytes -= gone.launch_bytes
        if gpus <= 0 and milli_cpus <= 0 and memory_bytes <= 0 and launch_bytes <= 0:
            break
    return Offer(at, missing, node.name, node.version, until)


def _at(end: tuple[float, Shape, int]) -> float:
    return end[0]
