"""The policy once more, as dumbly as it can be said: from the whole ledger, each time, with lists and sorting.

Shares no data structure with the scheduler: no lines, no heaps, no indexes, nothing kept between two moments. Slow
and for small worlds: several nodes that are always there, jobs that are placed and end, limits, priorities,
policies, gangs, reservations. No preemption and no guarantees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from controlplane.scheduling import order
from controlplane.scheduling.jobs import shape_of
from events import messages as m
from events import subjects

FAR_S = 3e9
OVERDUE_S = 60.0
Amount = tuple[int, int, int, int]


class Waiting(NamedTuple):
    spec: m.Specification
    priority: int
    at: float
    rank: int


class Live(NamedTuple):
    spec: m.Specification
    nodes: tuple[str, ...]
    at: float
    gpus: tuple[tuple[int, ...], ...]
    """On each of the nodes."""


class Kept(NamedTuple):
    nodes: tuple[str, ...]
    at: float
    until: float
    need: Amount


class Dumb:
    """What the ledger says, and what should be placed now."""

    def __init__(self, ledger: Sequence[Any], now: float, depth: int) -> None:
        self.now = now
        self.depth = depth
        self.nodes: dict[str, m.Capacity] = {}
        self.unfit: dict[str, set[int]] = {}
        self.queues: dict[tuple[str, str], m.QueueSet] = {}
        self.teams: dict[str, m.TeamSet] = {}
        self.waiting: dict[str, Waiting] = {}
        self.live: dict[str, Live] = {}
        self.kept: list[Kept] = []
        self.placed: list[tuple[str, tuple[str, ...]]] = []
        self._tried: set[str] = set()
        self._blocked: set[tuple[str, ...]] = set()
        self._guarded: set[tuple[str, str]] = set()
        for entry in ledger:
            self._read(entry)

    def _read(self, entry: Any) -> None:
        fact, words = entry.fact, subjects.tokens(entry.subject)
        match fact:
            case m.NodeJoined():
                self.nodes[words[1]] = fact.capacity
            case m.NodeGpus():
                self.unfit[words[1]] = {fault.gpu for fault in fact.faults}
            case m.NodeGpusRepaired():
                self.unfit[words[1]] -= set(fact.gpus)
            case m.QueueSet():
                self.queues[words[1], words[2]] = fact
            case m.TeamSet():
                self.teams[words[1]] = fact
            case m.Accepted():
                spec = fact.specification
                self.waiting[spec.job] = Waiting(spec, spec.priority, entry.at, entry.sequence)
            case m.Placed():
                spec = self.waiting.pop(words[2]).spec
                gpus = tuple(each.gpus for each in fact.allocations)
                self.live[spec.job] = Live(spec, tuple(a.node for a in fact.allocations), entry.at, gpus)
            case m.Reprioritised():
                self.waiting[words[2]] = self.waiting[words[2]]._replace(priority=fact.priority)
            case m.CancelRequested():
                del self.waiting[words[2]]
            case m.Finished():
                del self.live[words[2]]

    # -- what is to be placed ------------------------------------------------------------------------------------------

    def decide(self) -> list[tuple[str, tuple[str, ...]]]:
        """Jobs and their nodes, in order."""
        done: set[tuple[str, str]] = set()
        while True:
            keys = {self._key(job.spec) for job in self.waiting.values() if job.spec.job not in self._tried} - done
            open_keys = sorted((key for key in keys if not self._queue(key).paused), key=self._turn)
            if not open_keys:
                return self.placed
            if not self._place_one(open_keys[0]):
                done.add(open_keys[0])

    def _place_one(self, key: tuple[str, str]) -> bool:
        mine = [job for job in self.waiting.values() if self._key(job.spec) == key]
        for job in sorted(mine, key=self._place):
            if self._is_full(key):
                return False
            name = job.spec.job
            if name in self._tried:
                continue
            self._tried.add(name)
            if not self._may_try(job.spec):
                continue
            nodes = self._nodes_for(job.spec)
            if nodes:
                del self.waiting[name]
                gpus = tuple(self._chosen_gpus(node, job.spec) for node in nodes)
                self.live[name] = Live(job.spec, nodes, self.now, gpus)
                self.placed.append((name, nodes))
                return True
            first_guarded = self._is_guarded(job) and key not in self._guarded
            if len(self.kept) < self.depth or first_guarded:
                is_kept = self._keep(job.spec)
                if is_kept and self._is_guarded(job):
                    self._guarded.add(key)
        return False

    # -- the order -----------------------------------------------------------------------------------------------------

    def _key(self, spec: m.Specification) -> tuple[str, str]:
        return (spec.team, spec.queue)

    def _queue(self, key: tuple[str, str]) -> m.QueueSet:
        return self.queues.get(key, m.QueueSet(by=""))

    def _team(self, name: str) -> m.TeamSet:
        return self.teams.get(name, m.TeamSet(by=""))

    def _turn(self, key: tuple[str, str]) -> tuple[Any, ...]:
        of_team = [live.spec for live in self.live.values() if live.spec.team == key[0]]
        of_queue = [spec for spec in of_team if spec.queue == key[1]]
        return (
            self._share(of_team) / self._team(key[0]).weight,
            key[0],
            self._share(of_queue) / self._queue(key).weight,
            key[1],
        )

    def _share(self, specs: list[m.Specification]) -> float:
        totals = self._totals()
        held = [sum(self._amount(spec, i) * spec.resources.nodes for spec in specs) for i in range(3)]
        return max(mine / (there or 1) for mine, there in zip(held, totals, strict=True))

    def _totals(self) -> list[int]:
        every = self.nodes.values()
        return [
            sum(round(node.cpus * 1000) for node in every),
            sum(node.memory_bytes for node in every),
            sum(node.gpus for node in every),
        ]

    def _place(self, job: Waiting) -> tuple[Any, ...]:
        policy = self._queue(self._key(job.spec)).policy
        estimate = order.estimate_s(job.spec.time_limit_s)
        if self._is_guarded(job):
            return (-job.priority, False, 0.0, job.at, job.rank)
        if policy not in ("sjf", "saf"):  # what lines cannot tell apart counts as the same
            estimate = order.shortest_of(order.bucket(estimate))
        score = order.score(policy, estimate=estimate, size=self._share([job.spec]), wait_s=self.now - job.at)
        return (-job.priority, True, score, job.at, job.rank)

    def _is_guarded(self, job: Waiting) -> bool:
        settings = self._queue(self._key(job.spec))
        wait_s = self.now - job.at
        return order.is_guarded(settings.policy, settings.guard, wait_s=wait_s, turn_s=self._turn_s())

    def _turn_s(self) -> float:
        """All the work that there is, over all machines, and the longest job."""
        jobs = [(job.spec, 0.0) for job in self.waiting.values()]
        jobs += [(live.spec, live.at) for live in self.live.values() if (live.spec.job, live.nodes) not in self.placed]
        # what was placed in this very round still counts as waiting: the moment of a round is fixed at its beginning
        new = [live.spec for live in self.live.values() if (live.spec.job, live.nodes) in self.placed]
        if not jobs and not new:
            return 0.0
        work = []
        for index, there in enumerate(self._totals()):
            wait = sum(self._work(job.spec, index) for job in self.waiting.values())
            wait += sum(self._work(spec, index) for spec in new)
            old = [live for live in self.live.values() if (live.spec.job, live.nodes) not in self.placed]
            left = sum(
                self._amount(live.spec, index)
                * live.spec.resources.nodes
                * (live.at + order.estimate_s(live.spec.time_limit_s) - self.now)
                for live in old
            )
            work.append((wait + max(0.0, left)) / (there or 1))
        longest = max(order.bucket(order.estimate_s(spec.time_limit_s)) for spec in [*new, *(spec for spec, _ in jobs)])
        return max(work) + order.shortest_of(longest)

    def _work(self, spec: m.Specification, index: int) -> float:
        return self._amount(spec, index) * spec.resources.nodes * order.estimate_s(spec.time_limit_s)

    def _amount(self, spec: m.Specification, index: int) -> float:
        """Of CPUs, memory, GPUs on one node: of a GPU the part that it has."""
        return spec.resources.gpus * spec.resources.gpu_milli / 1000 if index == 2 else self._need(spec)[index]

    # -- limits --------------------------------------------------------------------------------------------------------

    def _is_full(self, key: tuple[str, str]) -> bool:
        of_team = [live for live in self.live.values() if live.spec.team == key[0]]
        of_queue = [live for live in of_team if live.spec.queue == key[1]]
        limits = ((self._queue(key).running_max, of_queue), (self._team(key[0]).running_max, of_team))
        return any(limit is not None and len(held) >= limit for limit, held in limits)

    def _may_try(self, spec: m.Specification) -> bool:
        key = self._key(spec)
        queue, team = self._queue(key), self._team(key[0])
        of_team = [live.spec for live in self.live.values() if live.spec.team == key[0]]
        of_queue = [each for each in of_team if each.queue == key[1]]
        of_user = [each for each in of_queue if each.user == spec.user]
        asked = self._amount(spec, 2) * spec.resources.nodes
        scopes = {key: of_queue, (*key, spec.user): of_user, (key[0],): of_team}
        limits = {
            key: (queue.running_max, queue.gpus_max),
            (*key, spec.user): (queue.user_running_max, queue.user_gpus_max),
            (key[0],): (team.running_max, team.gpus_max),
        }
        for scope, held in scopes.items():
            running_max, gpus_max = limits[scope]
            if running_max is not None and len(held) + 1 > running_max:
                return False
            gpus = sum(self._amount(each, 2) * each.resources.nodes for each in held)
            if gpus_max is not None and asked and gpus + asked > gpus_max:
                if asked <= gpus_max and self._is_possible(spec):
                    self._blocked.add(scope)
                return False
        return not asked or not any(scope in self._blocked for scope in scopes)

    # -- nodes and time ------------------------------------------------------------------------------------------------

    def _need(self, spec: m.Specification) -> Amount:
        shape = shape_of(spec)
        return (shape.milli_cpus, shape.memory_bytes, shape.gpus, shape.launch_bytes)

    def _length_s(self, spec: m.Specification) -> float:
        return 2 * FAR_S if spec.time_limit_s is None else spec.time_limit_s

    def _free(self, node: str, at: float) -> Amount:
        """What of a node is free at a moment, if everything takes as long as it may."""
        capacity = self.nodes[node]
        whole = sum(left == 1000 for left in self._left(node, at).values())
        free = [round(capacity.cpus * 1000), capacity.memory_bytes, whole, 900 * 1024]
        for live in self.live.values():
            if node in live.nodes and self._end(live) > at:
                cpus, memory, _, launch = self._need(live.spec)
                free = [mine - its for mine, its in zip(free, (cpus, memory, 0, launch), strict=True)]
        for kept in self.kept:
            if node in kept.nodes and kept.at <= at < kept.until:
                free = [mine - its for mine, its in zip(free, kept.need, strict=True)]
        return (free[0], free[1], free[2], free[3])

    def _is_possible(self, spec: m.Specification) -> bool:
        """Whether an empty node would do."""
        need = self._need(spec)
        return any(
            self._suits(name, spec.on)
            and _covers((round(has.cpus * 1000), has.memory_bytes, self._fit_gpus(name), 900 * 1024), need)
            for name, has in self.nodes.items()
        )

    def _fit_gpus(self, node: str) -> int:
        return len(set(range(self.nodes[node].gpus)) - self.unfit.get(node, set()))

    def _left(self, node: str, at: float) -> dict[int, int]:
        """Thousandths of each GPU that are free at a moment."""
        left = dict.fromkeys(range(self.nodes[node].gpus), 1000)
        for live in self.live.values():
            if node in live.nodes and self._end(live) > at:
                for gpu in live.gpus[live.nodes.index(node)]:
                    left[gpu] -= live.spec.resources.gpu_milli
        return {gpu: much for gpu, much in left.items() if gpu not in self.unfit.get(node, ())}

    def _shared(self, node: str, spec: m.Specification) -> tuple[int, int] | None:
        """The GPU beside others that it would have a part of: what is left of it, and which it is."""
        milli = spec.resources.gpu_milli
        if milli == 1000:
            return None
        return min(
            ((left, gpu) for gpu, left in self._left(node, self.now).items() if milli <= left < 1000), default=None
        )

    def _beside(self, node: str, part: tuple[int, int] | None) -> int | None:
        """Its GPU, if the last of those beside whom it would be there is bound to some time by its limit."""
        if part is None:
            return None
        there = [
            live for live in self.live.values() if node in live.nodes and part[1] in live.gpus[live.nodes.index(node)]
        ]
        last = max(map(self._end, there))
        overdue = all(self._end(live) < last or self._is_overdue(live) for live in there)
        return None if overdue else part[1]

    def _is_overdue(self, live: Live) -> bool:
        limit_s = live.spec.time_limit_s
        return limit_s is not None and live.at + limit_s <= self.now

    def _chosen_gpus(self, node: str, spec: m.Specification) -> tuple[int, ...]:
        shared = self._shared(node, spec)
        if shared is not None:
            return (shared[1],)
        idle = [gpu for gpu, left in self._left(node, self.now).items() if left == 1000]
        return tuple(idle[: spec.resources.gpus])

    def _end(self, live: Live) -> float:
        end = self.now + FAR_S if live.spec.time_limit_s is None else live.at + live.spec.time_limit_s
        return end if end > self.now else self.now + OVERDUE_S

    def _moments(self) -> list[float]:
        """All at which anything changes, and now."""
        moments = {self.now, *(self._end(live) for live in self.live.values())}
        moments |= {moment for kept in self.kept for moment in (kept.at, kept.until)}
        return sorted(moment for moment in moments if moment >= self.now)

    def _lasts(self, node: str, need: Amount, begin: float, end: float, beside: int | None = None) -> bool:
        """`beside`: on this GPU, with others, so that it needs no other one until these are gone."""
        looks = [begin, *(moment for moment in self._moments() if begin < moment < end)]
        for at in looks:
            is_beside = beside is not None and self._left(node, at)[beside] < 1000
            if not _covers(self._free(node, at), (*need[:2], 0 if is_beside else need[2], need[3])):
                return False
        return True

    def _nodes_for(self, spec: m.Specification) -> tuple[str, ...]:
        """Where it can start now and delays nobody who has a reservation; empty: nowhere."""
        need, until = self._need(spec), self.now + self._length_s(spec)
        live_only = {name: self._really_free(name) for name in self.nodes}
        parts = {name: part for name in self.nodes if (part := self._shared(name, spec)) is not None}

        def place(name: str) -> tuple[Any, ...]:
            free = live_only[name]
            return (False, parts[name][0], free[0], name) if name in parts else (True, free[2], free[0], name)

        fit = [
            name
            for name in sorted(self.nodes, key=place)
            if _covers(live_only[name], (*need[:2], 0 if name in parts else need[2], need[3]))
            and (
                not any(name in kept.nodes for kept in self.kept)
                or self._lasts(name, need, self.now, until, self._beside(name, parts.get(name)))
            )
        ]
        for alternative in [[each] for each in spec.on] + [list(spec.on)]:
            suited = [name for name in fit if self._suits(name, alternative)]
            if len(suited) >= spec.resources.nodes:
                return tuple(suited[: spec.resources.nodes])
        return ()

    def _suits(self, node: str, alternatives: Sequence[m.Constraint]) -> bool:
        """One label a constraint, and each of its values is wanted, or each is not: all that small worlds have."""
        has = {"node": node, "gpu": self.nodes[node].gpu_model} | self.nodes[node].labels
        for constraint in alternatives:
            [(label, values)] = constraint.items()
            if values[0].startswith("!") != (has.get(label, "") in {value.removeprefix("!") for value in values}):
                return True
        return not alternatives

    def _really_free(self, node: str) -> Amount:
        kept, self.kept = self.kept, []
        free = self._free(node, self.now)
        self.kept = kept
        return free

    def _keep(self, spec: m.Specification) -> bool:
        """Reserve the earliest that it can have. False: nothing, ever."""
        need, length_s, count = self._need(spec), self._length_s(spec), spec.resources.nodes
        for at in self._moments():
            suited = [node for node in self.nodes if self._suits(node, spec.on)]
            nodes = [node for node in suited if self._lasts(node, need, at, at + length_s)]
            if len(nodes) >= count:
                best = sorted(nodes, key=lambda node: (self._lacking(node, need), node))[:count]
                self.kept.append(Kept(tuple(best), at, at + length_s, need))
                return True
        return False

    def _lacking(self, node: str, need: Amount) -> tuple[int, ...]:
        free = self._really_free(node)
        cpus, memory, gpus, launch = (max(0, its - mine) for mine, its in zip(free, need, strict=True))
        return (gpus, cpus, memory, launch)


def _covers(free: Amount, need: Amount) -> bool:
    """More GPUs may be promised than there are: who wants none does not mind."""
    return all(
        mine >= its or (what == "gpus" and not its)
        for what, mine, its in zip(("cpus", "memory", "gpus", "launch"), free, need, strict=True)
    )
