"""The nodes: what each has, what of it is free, and which of them fits best. Pure.

Open nodes stand in buckets by their number of free GPUs, ordered in each by free CPUs. The best fit for a job is the
first node of the first bucket that has enough of everything: whole nodes stay whole for those who need them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec
from sortedcontainers import SortedDict, SortedList

from controlplane.scheduling import gpu_faults
from controlplane.scheduling.jobs import Job, Key, Shape
from controlplane.scheduling.packing import MILLI, Fragmentation, Room, Want
from events import labels
from events import messages as m

if TYPE_CHECKING:
    from controlplane.scheduling.ahead import Forecast

LAUNCHES_BYTES_MAX: Final = 900 * 1024
"""Of one node together: the list of its attempts must fit in one message of 1 MiB, with room for the acknowledged."""
NODES_MAX: Final = 20_000
"""At once: twice what one pool is made for; a stranger's names must not fill the memory."""


SUITED_MAX: Final = 1000
"""Constraints of which a node knows whether it meets them."""
CHANGES_MAX: Final = 50_000
"""That are told node by node; for who has missed more, all have changed."""


class Node(msgspec.Struct, eq=False, kw_only=True):
    """One node. Free amounts may be below zero for a while when a node came back smaller than it was."""

    name: str
    sequence: int = 0
    """Of its last fact; 0: the ledger does not know it."""
    boot: str = ""
    capacity: m.Capacity = m.Capacity(cpus=0, memory_bytes=0)
    suspected_at: float | None = None
    cordoned_by: str = ""
    cordoned_why: str = ""
    draining_by: str = ""
    draining_why: str = ""
    stops: bool = False
    """It is drained of what runs on it, too."""
    maintenance: m.Span | None = None
    gone_why: str = ""
    faults: tuple[m.GpuFault, ...] = ()
    """Why GPUs are out of use, by the ledger."""
    repaired: dict[int, float] = msgspec.field(default_factory=dict)
    """When somebody said last that a GPU is fit again, by index."""
    free_milli_cpus: int = 0
    free_memory_bytes: int = 0
    free_gpus: int = 0
    """One bit an index. Those that nobody has a part of, out of use or not."""
    shared: dict[int, int] = msgspec.field(default_factory=dict)
    """Of GPUs of which some have parts: how many thousandths are left, by index."""
    unfit_gpus: int = 0
    """One bit an index: those that are out of use, by the ledger, or by the node's own word that is not there yet."""
    free_launch_bytes: int = LAUNCHES_BYTES_MAX
    jobs: dict[Key, Job] = msgspec.field(default_factory=dict)

    # -- not in the ledger ------------------------------------------------------------------------------------------
    heard_at: float = 0.0
    claims: m.Exchange | None = None
    """What it said of itself last."""
    decided: m.Fact | None = None
    timer_at: float | None = None
    version: int = 0
    """Another one after each change of what is free, of its state, or of when its jobs end."""
    suited: dict[tuple[labels.Pairs, ...], bool] = msgspec.field(default_factory=dict)
    """Whether it has the labels that are asked for; as long as it has these."""
    indexed: tuple[int, int] | None = None
    """(free GPUs, free CPUs) under which it stands in the buckets; None: it does not."""

    @property
    def is_open(self) -> bool:
        """Whether attempts may be placed on it."""
        return bool(self.state == "ready" and not self.cannot_start)

    @property
    def cannot_start(self) -> str:
        """Why it can start nothing, by the ledger, or by its own word that is not in the ledger yet."""
        return self.capacity.cannot_start or (self.claims.capacity.cannot_start if self.claims is not None else "")

    @property
    def idle_gpus(self) -> int:
        """One bit an index: those that a job may get whole."""
        return self.free_gpus & ~self.unfit_gpus

    @property
    def parts_left(self) -> dict[int, int]:
        """Of `shared` those of which a job may get a part."""
        if not self.unfit_gpus:
            return self.shared
        return {index: left for index, left in self.shared.items() if not self.unfit_gpus >> index & 1}

    def gives_back(self, job: Job) -> int:
        """How many whole GPUs others may have when this job holds nothing here any more."""
        if job.shape.shares_gpu:
            return 0
        if not self.unfit_gpus:
            return job.shape.gpus
        held = bits(index for each in held_by(job) if each.node == self.name for index in each.gpus)
        return (held & ~self.unfit_gpus).bit_count()

    @property
    def is_known(self) -> bool:
        """Whether it counts: the ledger knows it, and it is not gone."""
        return bool(self.boot) and not self.gone_why

    @property
    def state(self) -> Any:
        """As `messages.NodeView` names it."""
        if not self.is_known:
            return "gone"
        if self.suspected_at is not None:
            return "suspected"
        if self.draining_by:
            return "draining" if self.jobs else "drained"
        return "cordoned" if self.cordoned_by else "ready"

    @property
    def closed_by(self) -> str:
        """Who drains it, or else who cordoned it."""
        return self.draining_by or self.cordoned_by

    @property
    def closed_why(self) -> str:
        """What they said, and nobody else."""
        return self.draining_why if self.draining_by else self.cordoned_why

    def fits(self, shape: Shape) -> bool:
        """Whether a job of this shape can start now, were the node open."""
        return self.suits(shape) and (
            (shape.gpus <= self.idle_gpus.bit_count() or self.part_for(shape) is not None)
            and shape.milli_cpus <= self.free_milli_cpus
            and shape.memory_bytes <= self.free_memory_bytes
            and shape.launch_bytes <= self.free_launch_bytes
        )

    def is_closed(self, now: float, length_s: float) -> bool:
        """Whether what starts now and takes so long would be there during its maintenance."""
        span = self.maintenance
        return span is not None and now < span.ends_at and now + length_s > span.begins_at

    def part_for(self, shape: Shape) -> int | None:
        """The shared GPU that has room for a part of it, with the least left over; None: none has."""
        if not shape.shares_gpu:
            return None
        roomy = [(left, index) for index, left in self.parts_left.items() if left >= shape.gpu_milli]
        return min(roomy)[1] if roomy else None

    def suits(self, shape: Shape) -> bool:
        """Whether it has the labels that such a job asks for."""
        if not shape.on:
            return True
        known = self.suited.get(shape.on)
        if known is None:
            if len(self.suited) >= SUITED_MAX:
                self.suited.clear()
            known = self.suited[shape.on] = labels.is_any_met(shape.on, self.name, self.capacity)
        return known

    def meets(self, constraint: labels.Pairs) -> bool:
        return labels.is_met(constraint, self.name, self.capacity)

    def could_fit(self, shape: Shape) -> bool:
        """Whether it could if the node were empty."""
        return self.suits(shape) and self.is_large_enough(shape)

    def is_large_enough(self, shape: Shape, *, repaired: bool = False) -> bool:
        """The same, whatever its labels are. `repaired`: were all of its GPUs fit."""
        return (
            shape.gpus <= self.capacity.gpus - (0 if repaired else self.unfit_gpus.bit_count())
            and shape.milli_cpus <= round(self.capacity.cpus * 1000)
            and shape.memory_bytes <= self.capacity.memory_bytes
            and shape.launch_bytes <= LAUNCHES_BYTES_MAX
        )

    def free(self) -> m.Allocation:
        return m.Allocation(
            node=self.name,
            cpus=self.free_milli_cpus / 1000,
            memory_bytes=self.free_memory_bytes,
            gpus=indices(self.idle_gpus),
        )


class Taken(Protocol):
    """What somebody takes of the nodes: one job, or a whole queue."""

    @property
    def milli_cpus(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def milli_gpus(self) -> int: ...


class Totals(NamedTuple):
    """What all known nodes have together."""

    milli_cpus: int
    memory_bytes: int
    gpus: int

    def share(self, taken: Taken) -> float:
        """The largest part of anything that this takes: its dominant share."""
        return max(
            taken.milli_cpus / (self.milli_cpus or 1),
            taken.memory_bytes / (self.memory_bytes or 1),
            taken.milli_gpus / MILLI / (self.gpus or 1),
        )


class Fleet:
    """All nodes, and the index of the open ones."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.closing: dict[str, Node] = {}
        """Those with a maintenance, also one that is over."""
        self.forecasts: dict[Shape, Forecast] = {}
        """See `ahead`. By the shape that was asked for the longest ago first."""
        self.changes = 0
        self._log: list[str] = []
        """The nodes of the last of these changes."""
        self._fragmentation: Fragmentation | None = None
        self._buckets: Any = SortedDict()
        self._sharing: dict[str, Node] = {}
        """Open nodes of whose GPUs some have parts."""

    def node(self, name: str) -> Node:
        """The node of that name, made if nobody has heard of it."""
        node = self.nodes.get(name)
        if node is None:
            node = self.nodes[name] = Node(name=name)
        return node

    @property
    def is_full(self) -> bool:
        """Whether no further node may come. Those that are gone do not count: names come and go with machines."""
        nodes = self.nodes.values()
        return len(nodes) >= NODES_MAX and sum(not node.gone_why for node in nodes) >= NODES_MAX

    def totals(self) -> Totals:
        known = [node.capacity for node in self.nodes.values() if node.is_known]
        return Totals(
            sum(round(capacity.cpus * 1000) for capacity in known),
            sum(capacity.memory_bytes for capacity in known),
            sum(capacity.gpus for capacity in known),
        )

    # -- what is free ----------------------------------------------------------------------------------------------

    def take(self, node: Node, job: Job, allocation: m.Allocation) -> bool:
        """The job holds this much of the node from now on. False: one of the GPUs was held already."""
        clash = _take_gpus(node, allocation)
        node.free_milli_cpus -= job.shape.milli_cpus
        node.free_memory_bytes -= job.shape.memory_bytes
        node.free_launch_bytes -= job.shape.launch_bytes
        node.jobs[job.key] = job
        self.touch(node)
        self.index(node)
        return not clash

    def give_back(self, node: Node, job: Job, allocation: m.Allocation) -> None:
        """The job holds nothing of the node any more."""
        del node.jobs[job.key]
        _give_back_gpus(node, allocation)
        node.free_milli_cpus += job.shape.milli_cpus
        node.free_memory_bytes += job.shape.memory_bytes
        node.free_launch_bytes += job.shape.launch_bytes
        self.touch(node)
        self.index(node)

    def resize(self, node: Node, capacity: m.Capacity) -> None:
        """The node has another capacity; what is held on it stays held."""
        node.capacity = capacity
        node.suited.clear()
        held = list(node.jobs.values())
        node.free_milli_cpus = round(capacity.cpus * 1000) - sum(job.shape.milli_cpus for job in held)
        node.free_memory_bytes = capacity.memory_bytes - sum(job.shape.memory_bytes for job in held)
        node.free_gpus, node.shared = bits(range(capacity.gpus)), {}
        for job in held:
            for allocation in held_by(job):
                if allocation.node == node.name:
                    _take_gpus(node, allocation)
        node.unfit_gpus = gpu_faults.unfit(node.faults, node.claims, node.repaired, capacity)
        self.touch(node)
        self.index(node)

    def judge(self, node: Node) -> None:
        """What the node, the ledger or an operator says of its GPUs is new: which are fit may be others."""
        unfit = gpu_faults.unfit(node.faults, node.claims, node.repaired, node.capacity)
        if unfit != node.unfit_gpus:
            node.unfit_gpus = unfit
            self.touch(node)
            self.index(node)

    def close(self, node: Node, span: m.Span | None) -> None:
        """Its maintenance is another one; None: there is none."""
        node.maintenance = span
        if span is not None:
            self.closing[node.name] = node
        else:
            self.closing.pop(node.name, None)
        self.touch(node)

    def opens_at(self, now: float) -> float | None:
        """When the next maintenance is over."""
        spans = (node.maintenance for node in self.closing.values())
        return min((span.ends_at for span in spans if span is not None and span.ends_at > now), default=None)

    # -- the index -------------------------------------------------------------------------------------------------

    def index(self, node: Node) -> None:
        """Put the node where it belongs; to be called after every change of what is free, or of its state."""
        where = (node.idle_gpus.bit_count(), node.free_milli_cpus) if node.is_open else None
        if where is not None and node.shared:
            self._sharing[node.name] = node
        else:
            self._sharing.pop(node.name, None)
        if where == node.indexed:
            return
        self.touch(node)
        if node.indexed is not None:
            bucket = self._buckets[node.indexed[0]]
            bucket.remove((node.indexed[1], node.name))
            if not bucket:
                del self._buckets[node.indexed[0]]
        if where is not None:
            bucket = self._buckets.get(where[0])
            if bucket is None:
                bucket = self._buckets[where[0]] = SortedList()
            bucket.add((where[1], node.name))
        node.indexed = where

    def touch(self, node: Node) -> None:
        """Something has changed that its part in forecasts goes by, or whom a job may end there."""
        node.version += 1
        self.changes += 1
        if len(self._log) >= CHANGES_MAX:
            self._log.clear()
        self._log.append(node.name)

    def changed_since(self, change: int) -> list[str] | None:
        """The nodes of all later changes; None: that is too long ago to tell."""
        known = self.changes - len(self._log)
        return None if change < known else self._log[change - known :]

    def pack(self, kinds: Mapping[Want, int] | None) -> None:
        """Place jobs so that little idles in vain for these kinds of work, each with how many there are (`packing`).

        None: by best fit.
        """
        if kinds is None:
            self._fragmentation = None
        elif self._fragmentation is None or kinds != self._fragmentation.kinds:
            self._fragmentation = Fragmentation(kinds)

    def best(self, shape: Shape, admits: Callable[[Node], bool] | None = None) -> Node | None:
        """The open node that takes a job of this shape now, of those that are admitted: with the least left over.

        Packed by FGD, the one of whose GPUs the least idles in vain, and of several of these that one. Of alternatives,
        one for the first that has any.
        """
        for one in _each_alone(shape):
            found = self._best(one, admits)
            if found is not None:
                return found
        return None

    def _best(self, shape: Shape, admits: Callable[[Node], bool] | None) -> Node | None:
        found = self.with_room(shape, admits)
        if self._fragmentation is None or not shape.gpus:
            return next(found, None)
        want = want_of(shape)
        scored = [(self._fragmentation.fit(room_of(node), want).score, node) for node in found]
        return max(scored, key=lambda one: one[0])[1] if scored else None  # of equals the first

    def with_room(self, shape: Shape, admits: Callable[[Node], bool] | None = None) -> Iterator[Node]:
        """Open nodes with room for one part of a job of this shape, the least left over first.

        For a part of a GPU, the shared one with the least left over.
        """
        first = self._with_part(shape) if shape.shares_gpu else []
        seen = {node.name for node in first}
        yield from (node for node in first if admits is None or admits(node))
        for free_gpus in self._buckets.irange(minimum=shape.gpus):
            for _, name in self._buckets[free_gpus].irange(minimum=(shape.milli_cpus, "")):
                node = self.nodes[name]
                if node.fits(shape) and name not in seen and (admits is None or admits(node)):
                    yield node

    def _with_part(self, shape: Shape) -> list[Node]:
        """Those of whose shared GPUs one has room, the least left over first."""
        found = []
        for node in self._sharing.values():
            index = node.part_for(shape)
            if index is not None and node.fits(shape):
                found.append((node.shared[index], node.free_milli_cpus, node.name, node))
        return [node for *_, node in sorted(found, key=lambda each: each[:3])]

    def several(self, shape: Shape, admits: Callable[[Node], bool] | None = None) -> tuple[Node, ...] | None:
        """As many open nodes as a gang of this shape asks for, each with room for its part; None: too few.

        Of alternatives, all of one and the same if there are enough.
        """
        for one in dict.fromkeys((*_each_alone(shape), shape)):
            found = tuple(islice(self.with_room(one, admits), shape.nodes))
            if len(found) == shape.nodes:
                return found
        return None

    def could_fit(self, shape: Shape) -> bool:
        """Whether any known node is large enough."""
        return any(node.is_known and node.could_fit(shape) for node in self.nodes.values())

    def sharing(self) -> set[str]:
        """Names of the open nodes of whose GPUs some have parts, for `check`."""
        return set(self._sharing)

    def indexed(self) -> dict[str, tuple[int, int]]:
        """Where each node stands in the buckets, for `check`."""
        return {name: (free_gpus, cpus) for free_gpus, bucket in self._buckets.items() for cpus, name in bucket}


def _each_alone(shape: Shape) -> Iterator[Shape]:
    """The shape with only one of its alternatives, in their order."""
    if len(shape.on) < 2:
        yield shape
    else:
        yield from (shape._replace(on=(constraint,)) for constraint in shape.on)


def want_of(shape: Shape) -> Want:
    """What a job of this shape asks of one node, for `packing`."""
    models = labels.values_of(labels.GPU, shape.on) if shape.gpus else ()
    return Want(shape.milli_cpus, shape.gpus, shape.gpu_milli if shape.gpus else MILLI, models)


def room_of(node: Node) -> Room:
    """What is free of a node, for `packing`: which GPUs it is does not matter."""
    free, parts = node.idle_gpus.bit_count(), tuple(sorted(node.parts_left.values(), reverse=True))
    taken = node.capacity.gpus - free - len(parts)
    model = labels.of_node(node.name, node.capacity, labels.GPU)
    return Room(node.free_milli_cpus, (MILLI,) * free + parts + (0,) * taken, model)


def allocate(node: Node, shape: Shape) -> m.Allocation:
    """What a job of this shape gets of a node that fits: of the GPUs, those with the lowest indices; a part of the
    shared one with the least left over, else of an idle one.
    """
    part = node.part_for(shape)
    return m.Allocation(
        node=node.name,
        cpus=shape.milli_cpus / 1000,
        memory_bytes=shape.memory_bytes,
        gpus=indices(node.idle_gpus)[: shape.gpus] if part is None else (part,),
        gpu_milli=shape.gpu_milli if shape.gpus else MILLI,
    )


def _take_gpus(node: Node, allocation: m.Allocation) -> bool:
    """They are held from now on. True: one of them, or as much of it, was held already."""
    there = bits(range(node.capacity.gpus))
    if allocation.gpu_milli >= MILLI:
        mask = bits(allocation.gpus)
        clash = bool(mask & ~node.free_gpus & there)
        node.free_gpus &= ~mask
        return clash
    clash = False
    for index in allocation.gpus:
        bit = 1 << index
        if bit & node.free_gpus:
            node.free_gpus &= ~bit
            node.shared[index] = MILLI
        left = node.shared.get(index, 0) - allocation.gpu_milli
        if bit & there:
            clash |= left < 0
            node.shared[index] = left
    return clash


def _give_back_gpus(node: Node, allocation: m.Allocation) -> None:
    there = bits(range(node.capacity.gpus))
    if allocation.gpu_milli >= MILLI:
        node.free_gpus |= bits(allocation.gpus) & there
        return
    for index in allocation.gpus:
        if index not in node.shared:
            continue  # the node came back with fewer
        node.shared[index] += allocation.gpu_milli
        if node.shared[index] >= MILLI:
            del node.shared[index]
            node.free_gpus |= (1 << index) & there


def held_by(job: Job) -> tuple[m.Allocation, ...]:
    """What a job holds, also if that is decided only."""
    return job.decided.allocations if isinstance(job.decided, m.Placed) else job.allocations


def bits(numbers: Iterable[int]) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask


def indices(mask: int) -> tuple[int, ...]:
    return tuple(index for index in range(mask.bit_length()) if mask >> index & 1)
