"""Why a job waits, and what would start it sooner. Pure.

A `Look` is one pass of the very placing that decides (`placing.Placing`), over the truth as it is, and taken back: its
reservations, its refusals and the nodes it would choose are the answers. It serves every question until something
changes, so what a question costs beyond that goes by what is asked about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec

from controlplane.scheduling import attained, gpu_faults, parked
from controlplane.scheduling.ahead import FAR_S, ends_at
from controlplane.scheduling.backfill import Reservation, length_s
from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.jobs import Job, Shape, shape_of
from controlplane.scheduling.limits import Refusal
from controlplane.scheduling.nodes import LAUNCHES_BYTES_MAX, Node, held_by
from controlplane.scheduling.placing import Choice, Placing
from controlplane.scheduling.predictions import capped
from controlplane.scheduling.queues import Queue
from controlplane.scheduling.truth import Truth
from controlplane.scheduling.waiting import Claim
from controlplane.scheduling.words import amounts, count, moment, no, sentence_of, span, yes
from events import labels
from events import messages as m
from events.lifecycle import Life, State

HOLDERS_MAX: Final = 10
"""Jobs in one answer; a person reads no more."""
CHOICES_MAX: Final = 32
"""What one look places at the most, to take it back: a leader that is not behind has left nothing to place."""
LABELS_SHOWN_MAX: Final = 3
VALUES_SHOWN_MAX: Final = 5
SOONER_S_MIN: Final = 60.0
"""A shorter time limit than this is no advice."""
LOOK_S: Final = 1.0
"""For how long one look answers, if nothing has happened: meanwhile limits come nearer."""


class Look:
    """See the top of this file. Must be made anew after every change of the truth."""

    def __init__(self, truth: Truth, now: float, settings: Settings) -> None:
        self.now = now
        self._truth = truth
        self._settings = settings
        self._moment = truth.moment(now)
        self._placing, self._chosen = self._pass()
        self._under: dict[tuple[str, ...], list[Job]] = {}

    def _pass(self) -> tuple[Placing, dict[Job, tuple[Node, ...]]]:
        """The placing as it would go now, and where it would place jobs. Leaves the truth as it was."""
        truth, chosen, assumed = self._truth, dict[Job, tuple[Node, ...]](), list[Job]()
        nodes_due = dict(truth.nodes_due)
        placing = Placing(truth, self._moment, self._settings, whole=True)
        for choice in islice(placing.choices(), CHOICES_MAX):
            for job, fact in choice.facts(truth.term):
                truth.assume(job, fact)
                assumed.append(job)
            if isinstance(choice, Choice):
                chosen[choice.job] = choice.nodes
        for job in reversed(assumed):
            truth.forget(job)
        placing.taken_back()
        truth.nodes_due = nodes_due  # a question changes nothing, not even the order in which nodes are looked at
        return placing, chosen

    def why(self, job: Job) -> m.Why:
        """Of a queued job."""
        queue = self._truth.queue_of(job)
        position = queue.position(job, self._moment)
        hindrances, is_free = self._hindrances(job, position)
        first = next((hindrance.message for hindrance in hindrances if not hindrance.ok), "about to be placed")
        return m.Why(
            job=job.id,
            state=job.life.state.value,
            position=position,
            of=len(queue.waiting),
            hindrances=hindrances,
            summary=first,
            sooner=tuple(self._sooner(job)) if is_free and job.in_line and job not in self._chosen else (),
        )

    def first(self, job: Job, position: int) -> m.Hindrance | None:
        """What a queued job waits for before all else; None: it is about to be placed."""
        return next((hindrance for hindrance in self._hindrances(job, position)[0] if not hindrance.ok), None)

    def in_order(self, queue: Queue) -> Iterator[Job]:
        """Those that may run, the first one first."""
        return queue.in_order(self._moment)

    def _hindrances(self, job: Job, position: int) -> tuple[tuple[m.Hindrance, ...], bool]:
        """Everything that was looked at, and whether the job may run as soon as there is room."""
        kept, limits = parked.hindrances(self._truth, job, self.now), self._limits(self._truth.queue_of(job), job)
        is_free = all(hindrance.ok for hindrance in (*kept, *limits))
        return (*kept, *limits, *self._resources(position, job, is_free=is_free)), is_free

    # -- limits ----------------------------------------------------------------------------------------------------

    def _limits(self, queue: Queue, job: Job) -> list[m.Hindrance]:
        """What the settings of its queue and of its team say."""
        if queue.settings.paused:
            return [no("queue", f"queue {queue.name} is paused by {queue.settings.by or 'its operator'}")]
        limits = self._placing.limits
        refusal, scope = limits.refused(queue, job)
        if refusal is None:
            first = limits.behind(queue, job)
            if first is None or first is job:
                return [yes("queue", f"queue {queue.name} lets it run")]
            refusal, scope = limits.refused(self._truth.queue_of(first), first)
            if refusal is None:  # what was tried in this look has been taken back
                return [no("order", f"job {first.id} comes first")]
            message = f"job {first.id} comes first: {_limit(refusal)}"
        else:
            message = _limit(refusal)
            if not scope:
                message += "; a preemptible job may have more (--preemptible)"
        holders = [] if refusal.never else [job for job in self._running(scope) if job.shape.gpus or refusal.asked == 1]
        free = max(0.0, float(refusal.limit - refusal.held))
        return [self._held("queue", message, holders, asked=float(refusal.asked), free=free)]

    def _running(self, scope: tuple[str, ...]) -> list[Job]:
        """What holds something under a limit: a look at all that runs."""
        found = self._under.get(scope)
        if found is None:
            nodes = self._truth.fleet.nodes.values()
            running = {job.key: job for node in nodes for job in node.jobs.values()}.values()
            found = [job for job in running if scope and scope == _scope(job)[: len(scope)]]
            self._under[scope] = found
        return found

    # -- the nodes -------------------------------------------------------------------------------------------------

    def _resources(self, position: int, job: Job, *, is_free: bool) -> list[m.Hindrance]:
        fleet, shape, placing = self._truth.fleet, job.shape, self._placing
        known = [node for node in fleet.nodes.values() if node.is_known]
        large = [node for node in known if node.could_fit(shape)]
        if len(large) < shape.nodes:
            return [_too_large(job, known, len(large))]
        fits = self._chosen.get(job) or placing.room_for(shape)
        if fits is not None:
            room = yes("resources", f"{_named(fits)} {'has' if len(fits) == 1 else 'have'} room", nodes=_names(fits))
            if job in self._chosen or not is_free:
                return [room]
            if placing.nodes_for(job) is None:
                return [room, *self._delays(job, fits)]
            return [room, no("order", _ahead(position - 1))]
        open_ones = [node for node in large if node.is_open]
        if len(open_ones) < shape.nodes:
            states = ", ".join(sorted(_closed(node) for node in large if not node.is_open)[:HOLDERS_MAX])
            few = "no node" if not open_ones else f"only {len(open_ones)} of the {shape.nodes} nodes that it needs"
            return [no("node", f"{few} of its size takes jobs now: {states}")]
        found = [_too_little_free(job, open_ones)]
        if (claim := self._truth.claims.get(job.key)) is not None and claim.until > self.now:
            found.append(self._made_room(claim))
        elif (reserved := placing.plan.reserved(job)) is not None:
            found.append(self._reservation(reserved))
        return found

    def _made_room(self, claim: Claim) -> m.Hindrance:
        """Who is being stopped for it."""
        nodes = [self._truth.fleet.nodes[name] for name in claim.nodes if name in self._truth.fleet.nodes]
        stopping = {
            job.key: job for node in nodes for job in node.jobs.values() if job.life.state is State.STOPPING
        }.values()
        message = f"room is being made for it on {_named(nodes)}"
        return self._held("preemption", message, list(stopping), nodes=_names(nodes), at=claim.until)

    def _reservation(self, mine: Reservation) -> m.Hindrance:
        """What is kept for it, and who must end before."""
        nodes = [self._truth.fleet.nodes[name] for name in mine.nodes]
        holders = {job.key: job for node in nodes for job in node.jobs.values()}.values()
        before = [holder for holder in holders if ends_at(holder, self.now) <= mine.at]
        ahead = [
            one.job.id
            for one in self._placing.plan.reservations
            if one.until <= mine.at and not set(one.nodes).isdisjoint(mine.nodes)
        ]
        message = f"{_named(nodes)} {'is' if len(nodes) == 1 else 'are'} kept for it"
        if ahead:
            message += f" after {sentence_of(ahead[:HOLDERS_MAX])}"
        at = mine.at if mine.at < self.now + FAR_S else None
        if at is None:
            message += ", but a job without a time limit is in the way"
        return self._held("reservation", message, before, nodes=mine.nodes, at=at)

    def _delays(self, job: Job, nodes: tuple[Node, ...]) -> list[m.Hindrance]:
        """Who would start later, were it started on these nodes, or what closes them too soon."""
        found = [(one, node) for node in nodes for one in self._placing.plan.delayed(node, job)]
        if not found:
            closed = _in_maintenance(self._truth, job, self.now) if job.shape.nodes == 1 else ""
            return [no("node", closed)] if closed else [no("order", _ahead(0))]
        first, node = min(found, key=lambda each: (each[0].at, each[0].job.id))
        delayed = tuple(dict.fromkeys(one.job.id for one, on in found if on is node))[:HOLDERS_MAX]
        limit_s = job.specification.time_limit_s
        takes = f"it may take {span(limit_s)}" if limit_s is not None else "it has no time limit"
        message = f"{takes}, and node {node.name} is kept for {sentence_of(delayed)}"
        at = first.at if first.at < self.now + FAR_S else None
        return [no("delay", message, nodes=(node.name,), at=at, held_by=delayed)]

    # -- advice ----------------------------------------------------------------------------------------------------

    def _sooner(self, job: Job) -> Iterator[m.Sooner]:
        """What would let it start at once: each is tried in a pass of its own before it is told."""
        limit_s = job.specification.time_limit_s
        window_s = self._placing.plan.window_s(job.shape)
        if SOONER_S_MIN <= window_s < (FAR_S if limit_s is None else limit_s):
            whole_s = window_s // 60 * 60
            nodes = self._would_start(job, time_limit_s=whole_s)
            if nodes is not None:
                message = f"with a time limit of {span(whole_s)} or less it could start now on {_named(nodes)}"
                yield m.Sooner(kind="time_limit", message=message, nodes=_names(nodes), time_limit_s=whole_s)
        on = self._of_tier(job)
        if on is not None and (nodes := self._would_start(job, on=on)) is not None:
            message = f"on any node of its tier, without its own constraint, it could start now on {_named(nodes)}"
            yield m.Sooner(kind="on", message=message, nodes=_names(nodes))
        less = [tier for tier in self._tiers(job) if self._is_less(tier, job)]
        tier = max(less, key=_size, default=None)
        changes = {} if tier is None else {"tier": tier.name, "resources": tier.resources, "on": tier.on}
        if tier is not None and (nodes := self._would_start(job, **changes)) is not None:
            message = f"as tier {tier.name} it could start now on {_named(nodes)}"
            yield m.Sooner(kind="tier", message=message, nodes=_names(nodes), tier=tier.name)

    def _of_tier(self, job: Job) -> tuple[m.Constraint, ...] | None:
        """Which nodes its tier may be on, where it has said less than that itself; None: it has not."""
        mine = job.specification
        tier = next((tier for tier in self._settings.tiers if tier.name == mine.tier), None)
        return tier.on if tier is not None and mine.on and tier.on != mine.on else None

    def _tiers(self, job: Job) -> list[m.Tier]:
        """Those that the settings of its queue, or else of its team, let it ask for."""
        queue = self._truth.queue_of(job)
        allowed = queue.settings.tiers or self._settings.team_tiers.get(queue.team)
        return [tier for tier in self._settings.tiers if not allowed or tier.name in allowed]

    def _is_less(self, tier: m.Tier, job: Job) -> bool:
        """Whether it asks for less than the job does, for a GPU only if the job does, and some node has room for it."""
        asked, less = job.specification.resources, tier.resources
        theirs, mine = (less.nodes, *_amount(less)), (asked.nodes, *_amount(asked))
        if (asked.gpus > 0) != (less.gpus > 0) or theirs == mine:
            return False
        is_less = all(its <= its_own for its, its_own in zip(theirs, mine, strict=True))
        return is_less and self._placing.room_for(_shape(job, tier)) is not None

    def _would_start(self, job: Job, **changes: object) -> tuple[Node, ...] | None:
        """Where the job would be placed now, had it been submitted like that."""
        queue = self._truth.queue_of(job)
        other = _other(job, predictions=queue.settings.predictions, **changes)
        queue.leave(job)
        queue.enter(other)
        try:
            return self._pass()[1].get(other)
        finally:
            queue.leave(other)
            queue.enter(job)

    def _held(self, kind: str, message: str, holders: list[Job], **more: object) -> m.Hindrance:
        """A refusal with those who are in the way, the first to end first."""
        first = sorted(holders, key=lambda job: (ends_at(job, self.now), job.key))[:HOLDERS_MAX]
        return no(
            kind,
            message,
            held_by=tuple(job.id for job in first),
            holders=tuple(_holder(job, self.now) for job in first),
            **more,
        )


def _holder(job: Job, now: float) -> m.Holder:
    until = ends_at(job, now)
    return m.Holder(
        job=job.id,
        team=job.specification.team,
        nodes=tuple(allocation.node for allocation in held_by(job)),
        gpus=sum(len(allocation.gpus) for allocation in held_by(job)),
        until_at=until if until < now + FAR_S else None,
        expected_at=job.expected_end_at(now) if job.predicted_s is not None else None,
    )


def _too_large(job: Job, known: list[Node], large: int) -> m.Hindrance:
    """Too few nodes could ever take its part of it."""
    if not known:
        return no("node", "there is no node yet")
    if job.shape.launch_bytes > LAUNCHES_BYTES_MAX:
        return no("node", "its entrypoint and environment variables are too large to be sent to a node")
    if large:
        message = f"it asks for {job.shape.nodes} nodes of {_asks(job)} each, and there are {large} of that size"
        return no("node", message, asked=float(job.shape.nodes), free=float(large))
    if job.shape.on and (others := [node for node in known if node.is_large_enough(job.shape)]):
        return _unsuited(job, others)
    if repaired := [node for node in known if node.suits(job.shape) and node.is_large_enough(job.shape, repaired=True)]:
        return _unfit(job, repaired)
    biggest = max(known, key=lambda node: (node.capacity.gpus, node.capacity.cpus, node.name)).capacity
    has = f"the largest has {amounts(biggest.cpus, biggest.memory_bytes, biggest.gpus)}"
    message = f"no node is large enough: it asks for {_asks(job)}, {has}"
    return no("node", message, asked=float(job.shape.gpus), free=float(biggest.gpus))


def _unfit(job: Job, nodes: list[Node]) -> m.Hindrance:
    """Those that are large enough have GPUs that are out of use."""
    shown = nodes[:HOLDERS_MAX]
    message = (
        f"it asks for {_asks(job)}, and {sentence_of([gpu_faults.told(node.name, node.faults) for node in shown])}"
    )
    return no("node", message, asked=float(job.shape.gpus), nodes=_names(shown))


def _unsuited(job: Job, large: list[Node]) -> m.Hindrance:
    """No node that is large enough has the labels that it asks for."""
    wanted = job.shape.on
    named = sorted({label for constraint in wanted for label, _ in constraint if label != labels.NODE})
    has = []
    for label in named[:LABELS_SHOWN_MAX]:
        found = Counter(labels.of_node(node.name, node.capacity, label) for node in large)
        values = [f"{value or 'none'} on {count(many, 'node')}" for value, many in found.most_common(VALUES_SHOWN_MAX)]
        has.append(f"{label} is {sentence_of(values)}")
    told = f": {'; '.join(has)}" if has else ""
    return no("node", f"no node of its size is {labels.text(wanted)}{told}", nodes=_names(large[:HOLDERS_MAX]))


def _too_little_free(job: Job, open_nodes: list[Node]) -> m.Hindrance:
    """What it asks for beside what there is."""
    shape = job.shape
    if shape.nodes > 1 and (fitting := [node for node in open_nodes if node.fits(shape)]):
        message = (
            f"it asks for {shape.nodes} nodes with {_asks(job)} each{_where(shape)}, and "
            f"{count(len(fitting), 'node')} of them free"
        )
        return no("resources", message, asked=float(shape.nodes), free=float(len(fitting)), nodes=_names(fitting))
    best = max(open_nodes, key=lambda node: (_free_gpus(node, shape), node.free_milli_cpus, node.name))
    free_gpus, free_cpus = _free_gpus(best, shape), best.free_milli_cpus / 1000
    free = amounts(free_cpus, best.free_memory_bytes, free_gpus)
    one = "one such node" if shape.on else "one node"
    message = f"it asks for {_asks(job)}{_where(shape)}, and the most that {one} has free is {free}"
    asked, has = (shape.milli_gpus / 1000, free_gpus) if shape.gpus else (shape.milli_cpus / 1000, free_cpus)
    return no("resources", message, asked=float(asked), free=float(has), nodes=(best.name,))


def _limit(refusal: Refusal) -> str:
    who, what, held, limit, asked = refusal[:5]
    if refusal.never:
        return f"it asks for {asked:g} {what}, and {who} may hold {limit:g} at most"
    if what == "jobs":
        return f"{who} runs {held:g} of at most {limit:g} jobs"
    return f"{who} holds {held:g} of at most {limit:g} {what}, it asks for {asked:g}"


def _scope(job: Job) -> tuple[str, ...]:
    return (job.specification.team, job.specification.queue, job.specification.user)


def _names(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(node.name for node in nodes)


def _named(nodes: Sequence[Node]) -> str:
    """`node n1`, `nodes n1 and n2`."""
    return f"node{'' if len(nodes) == 1 else 's'} {sentence_of(_names(nodes))}"


def _other(job: Job, *, predictions: bool, **changes: object) -> Job:
    """The job as if it had been submitted with these fields, of an array one task; it stands in no line."""
    specification = msgspec.structs.replace(job.specification, **changes)
    predicted_s = None if job.predicted_s is None else capped(job.predicted_s, specification.time_limit_s)
    return msgspec.structs.replace(
        job,
        specification=specification,
        shape=shape_of(specification),
        predicted_s=predicted_s,
        order_s=attained.order_s(specification, predicted_s, predictions=predictions),
        in_line=False,
        array=None,
        life=Life(State.QUEUED, job.life.attempt),
    )


def _shape(job: Job, tier: m.Tier) -> Shape:
    return shape_of(msgspec.structs.replace(job.specification, resources=tier.resources, on=tier.on))


def _amount(resources: m.Resources) -> tuple[float, ...]:
    return (resources.gpus, resources.cpus, resources.memory_bytes)


def _size(tier: m.Tier) -> tuple[object, ...]:
    resources = tier.resources
    return (resources.gpus * resources.nodes, *_amount(resources), tier.name)


def _in_maintenance(truth: Truth, job: Job, now: float) -> str:
    """Why the job may start on none of the nodes with room: a maintenance is too near. Empty: it may on one."""
    fleet, takes_s = truth.fleet, length_s(job)
    if fleet.best(job.shape, lambda node: not node.is_closed(now, takes_s)) is not None:
        return ""
    roomy = [node for node in fleet.closing.values() if node.is_open and node.fits(job.shape)]
    spans = sorted((-node.maintenance.begins_at, node.name, node.maintenance) for node in roomy if node.maintenance)
    _, name, planned = spans[0]
    others = f"; {len(spans) - 1} more with room close no later" if len(spans) > 1 else ""
    said = f" ({planned.why})" if planned.why else ""
    if planned.begins_at <= now:
        return f"{name} is closed until {moment(planned.ends_at, now)} for maintenance{said}{others}"
    limit_s = job.specification.time_limit_s
    length = "it has no time limit, and may" if limit_s is None else f"its limit of {span(limit_s)} does"
    return (
        f"{name} is closed from {moment(planned.begins_at, now)} for maintenance{said}: {length} not fit before{others}"
    )


def _closed(node: Node) -> str:
    """Why a node takes no jobs."""
    if node.state == "ready":
        return f"{node.name} can start none ({node.cannot_start})"
    who = node.closed_by
    by = f" by {who}" if who and node.state in ("cordoned", "draining", "drained") else ""
    said = f" ({node.closed_why})" if by and node.closed_why else ""
    return f"{node.name} is {node.state}{by}{said}"


def _ahead(jobs: int) -> str:
    if jobs <= 0:
        return "its turn comes next, or another queue's before it"
    return "one job of its queue comes first" if jobs == 1 else f"{jobs} jobs of its queue come first"


def _free_gpus(node: Node, shape: Shape) -> float:
    """Whole ones; for who wants a part, the most that is left of one that is shared, where none is whole."""
    whole = node.idle_gpus.bit_count()
    return whole if whole or not shape.shares_gpu else max(node.parts_left.values(), default=0) / 1000


def _where(shape: Shape) -> str:
    return f" on {labels.text(shape.on)}" if shape.on else ""


def _asks(job: Job) -> str:
    return amounts(job.shape.milli_cpus / 1000, job.shape.memory_bytes, job.shape.milli_gpus / 1000)
