"""Whose attempts end so that another job can start: the cheapest set, found before anyone is touched. Pure.

Two rights, as Kueue has them (https://kueue.sigs.k8s.io/docs/concepts/preemption/): a job within the guarantee of its
queue or team reclaims what others borrowed, that is hold beyond their own guarantees; and a job may end those of
lower priority in its own queue. A third is that of `attained`: where nobody can tell how long jobs run, and their
priorities are even, those that have had much give way to those that have had little. Only attempts of preemptible
jobs that have run for `min_run_s` end. No right leads in a circle: what reclaims is within its guarantee and cannot
be reclaimed, priorities only fall, and what a job has had only grows.

The cost of a victim is what it loses: its share of the machines, times the time since it last said that it had saved
its work. A node is chosen by the cheapest set that frees enough of it; one that is kept for another job is left alone.
The whole set ends, or nobody; a victim that is a gang ends on all of its nodes.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from controlplane.scheduling import attained
from controlplane.scheduling.backfill import Plan, free_of, length_s, need_of
from controlplane.scheduling.jobs import Job, Key, Shape
from controlplane.scheduling.nodes import Node, held_by, indices
from controlplane.scheduling.packing import MILLI
from controlplane.scheduling.queues import Moment, Queue, QueueKey
from controlplane.scheduling.shares import Held
from controlplane.scheduling.truth import Basis, Fruitless, FruitlessKey, Truth
from events.lifecycle import State

VICTIMS_MAX: Final = 400
"""For one job: they end in one round, or nobody does."""
FRUITLESS_MAX: Final = 10_000
PAUSE_S: Final = 1.0
"""Before a search that failed is made again, though something has changed, where there are too many of them."""


class Victims(NamedTuple):
    """What ends, and where that makes room."""

    nodes: tuple[Node, ...]
    jobs: tuple[Job, ...]
    why: str


class Search:
    """Looks for victims, in one round."""

    def __init__(self, truth: Truth, plan: Plan, moment: Moment, min_run_s: float) -> None:
        self._truth = truth
        self._plan = plan
        self._moment = moment
        self._min_run_s = min_run_s
        self.until = math.inf
        """When what was asked of it may get another answer, though nothing changes; for who asks to begin anew."""
        self.is_own = True
        """Whether what was asked of it since then went by nothing but the queue's own (`Basis`)."""
        self._later: list[float] = []
        """When more will be possible than now, of the newest search."""
        self._gives_way: dict[QueueKey, bool] = {}
        """Looked up once in a round."""
        self._settled = (-1, -1, False)
        """Pins and changes of claims when it was last looked whether each pin is for a claim, and what came of it."""
        self._lapses: tuple[int, float | None] = (-1, None)
        """Changes of claims when it was last looked when the first of them lapses, and when."""
        self.wake_at: float | None = None
        """When somebody will have run for long enough, where that was what was missing."""

    def begin(self) -> None:
        """Another queue asks."""
        self.until, self.is_own = math.inf, True

    def _is_known_to_fail(self, queue: Queue, key: FruitlessKey) -> bool:
        """Whether a search for the same has failed, and nothing has changed that it went by.

        Where there are more searches than a round may make, one that failed pauses in any case, for others to be made.
        """
        truth, now = self._truth, self._moment.now
        failed = truth.fruitless.get(key)
        if failed is None:
            return False
        if now < failed.until and truth.holds(failed.basis, queue):
            self.until = min(self.until, failed.until)
            self.is_own &= failed.basis.is_own
            self.wake_later([failed.until])
            return True
        paused_until = min(truth.crowded_at, failed.at) + PAUSE_S
        if now < paused_until:
            self.until = min(self.until, paused_until)
            self.wake_later([failed.at + PAUSE_S])
            return True
        return False

    def is_worth_it(self, queue: Queue, job: Job, *, within_guarantee: bool) -> bool:
        """Whether there is anybody who could end for this job, at a glance."""
        if not within_guarantee and not queue.may_preempt_own(job.priority) and not self._may_outlast(queue, job):
            return False
        if self._has_claim(job):
            self.until = min(self.until, self._truth.claims[job.key].until)
            return False
        key = self._key(queue, job, within_guarantee=within_guarantee)
        return bool(self._truth.preemptible) and not self._is_known_to_fail(queue, key)

    def _has_claim(self, job: Job) -> bool:
        """Whether something is kept for it that it has freed."""
        claim = self._truth.claims.get(job.key)
        return claim is not None and claim.until > self._moment.now

    def gives_way(self, queue: Queue) -> bool:
        """Whether something that runs in it should end for a job of it that has had less (`attained`)."""
        known = self._gives_way.get(queue.key)
        if known is None:
            now = self._moment.now
            known = any(attained.gives_way(job, now) for job in queue.unknown.values())
            self._gives_way[queue.key] = known
        return known

    def _may_outlast(self, queue: Queue, job: Job) -> bool:
        return attained.has_had_little(job) and self.gives_way(queue)

    def victims(self, queue: Queue, job: Job, *, within_guarantee: bool) -> Victims | None:
        """Who should end so that this job can start; None: there are too few who may."""
        rights = _Rights(self._truth, queue, job, self._moment.now, within_guarantee=within_guarantee)
        found = self._found(rights, job)
        if found is None:
            self._note_failure(queue, job, within_guarantee=within_guarantee)
            return None
        nodes, victims = found
        reason = "within what is guaranteed to it" if within_guarantee else f"of priority {job.priority}"
        if not within_guarantee and all(victim.priority >= job.priority for victim in victims):
            reason = "which has had less, just after it had saved its work"
        why = f"preempted for job {job.id} of queue {queue.team}/{queue.name}, {reason}"
        return Victims(nodes, victims, why)

    def _found(self, rights: _Rights, job: Job) -> tuple[tuple[Node, ...], tuple[Job, ...]] | None:
        shape = job.shape
        open_nodes = [
            node
            for node in self._worth_looking(rights, shape)
            if node.is_open
            and node.could_fit(shape)
            and node.name not in self._plan.pinned
            and not node.is_closed(self._moment.now, length_s(job))
        ]
        chosen: list[Node] = []
        victims: dict[Key, Job] = {}
        now = self._moment.now
        self._later = self._first_lapse()
        opens_at = self._truth.fleet.opens_at(now)
        if opens_at is not None:
            self._later.append(opens_at)
        self._later += rights.later()
        for _ in range(shape.nodes):
            best: tuple[float, int, str, Node, list[Job]] | None = None
            for node in open_nodes:
                if node in chosen:
                    continue
                more = self._cheapest(node, shape, victims, rights)
                if more or (more is not None and self._plan.admits(node, job)):
                    offer = (sum(map(self._cost, more)), len(more), node.name, node, more)
                    best = offer if best is None or offer[:3] < best[:3] else best
            if best is None:
                self.wake_later(self._later)
                return None
            *_, node, more = best
            chosen.append(node)
            for victim in more:
                victims[victim.key] = victim
                rights.remove(victim)
        return (tuple(chosen), tuple(victims.values())) if 0 < len(victims) <= VICTIMS_MAX else None

    def _note_failure(self, queue: Queue, job: Job, *, within_guarantee: bool) -> None:
        truth, key = self._truth, self._key(queue, job, within_guarantee=within_guarantee)
        if job.shape.nodes > 1 and self._plan.restricts:
            self.until = self._moment.now  # for want of a node that is free, and reserved: nobody tells when it is not
            return
        if len(truth.fruitless) >= FRUITLESS_MAX:
            truth.fruitless.clear()
        until = min(self._later, default=math.inf)
        is_own = job.shape.nodes == 1 and not within_guarantee and self._is_settled()
        basis = Basis(truth.changes, is_own=is_own)
        self.until = min(self.until, until)
        self.is_own &= basis.is_own
        truth.fruitless[key] = Fruitless(basis, until, self._moment.now)

    def _is_settled(self) -> bool:
        """Whether all that is kept is kept by the ledger's word, and nothing by this very round, which may fail."""
        pins, changes = self._plan.pins, self._truth.claims_changes
        if self._settled[:2] != (pins, changes):
            self._settled = (pins, changes, all(map(self._has_claim, self._plan.pinned.values())))
        return self._settled[2]

    def _first_lapse(self) -> list[float]:
        """When the first claim lapses, if there is any."""
        changes = self._truth.claims_changes
        if self._lapses[0] != changes:
            now = self._moment.now
            untils = (claim.until for claim in self._truth.claims.values() if claim.until > now)
            self._lapses = (changes, min(untils, default=None))
        return [] if self._lapses[1] is None else [self._lapses[1]]

    def _key(self, queue: Queue, job: Job, *, within_guarantee: bool) -> FruitlessKey:
        """What searches have in common that find the same."""
        takes_s = length_s(job) if self._truth.fleet.closing else 0.0
        return (queue.key, job.shape, job.priority, takes_s, attained.has_had_little(job), within_guarantee)

    def _worth_looking(self, rights: _Rights, shape: Shape) -> list[Node]:
        """The nodes that have room already, or somebody who may end, by name: no other can be made to have room."""
        fleet = self._truth.fleet
        found = {node.name: node for node in fleet.with_room(shape)}
        for job in rights.candidates():
            if _can_end(job) and rights.may_end(job):
                found |= {allocation.node: fleet.nodes[allocation.node] for allocation in job.allocations}
        return [node for _, node in sorted(found.items())]

    def wake_later(self, later: list[float]) -> None:
        if later:
            self.wake_at = min(later) if self.wake_at is None else min(self.wake_at, min(later))

    def _cheapest(self, node: Node, shape: Shape, chosen: dict[Key, Job], rights: _Rights) -> list[Job] | None:
        """Which further attempts must end for this shape on this node; None: those who may are not enough."""
        room = _Cleared(node)
        for key in chosen.keys() & node.jobs.keys():
            room.count(chosen[key])
        candidates = []
        for job in node.jobs.values():
            if job.key not in chosen and _can_end(job) and rights.may_end(job):
                if (at := job.begun_at + self._min_run_s) > self._moment.now:
                    self._later.append(at)
                else:
                    candidates.append(job)
        for job in candidates:
            room.count(job)
        if not room.takes(shape):
            return None
        for job in candidates:
            room.count(job, -1)
        trial = rights.trial()
        more: list[Job] = []
        for job in sorted(candidates, key=lambda job: (self._cost(job), job.id)):
            if room.takes(shape):
                break
            if trial.may_end(job):
                trial.remove(job)
                more.append(job)
                room.count(job)
        if not room.takes(shape):
            return None
        for job in reversed(list(more)):  # what the dearest freed may have made a cheaper one needless
            room.count(job, -1)
            if room.takes(shape):
                more.remove(job)
            else:
                room.count(job)
        return more

    def _cost(self, job: Job) -> float:
        since = max(job.begun_at, job.saved_at or 0.0)
        return max(0.0, self._moment.now - since) * self._moment.totals.share(job.shape) * job.shape.nodes


class _Cleared:
    """What would be free of a node without some of its jobs."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._free = free_of(node)
        self._gpus = Counter(dict.fromkeys(indices(node.free_gpus), MILLI) | node.shared)
        """Thousandths, by index."""

    def count(self, job: Job, sign: int = 1) -> None:
        """Without this one, too; with −1 with it again."""
        need = need_of(job.shape)
        self._free += need if sign > 0 else -need
        for each in held_by(job):
            if each.node == self._node.name:
                for index in each.gpus:
                    self._gpus[index] += sign * each.gpu_milli

    def takes(self, shape: Shape) -> bool:
        unfit, gpus = self._node.unfit_gpus, self._node.capacity.gpus
        there = (left for index, left in self._gpus.items() if index < gpus and not unfit >> index & 1)
        has_gpus = not shape.gpus or sum(left >= shape.gpu_milli for left in there) >= shape.gpus
        return has_gpus and self._free.cover(need_of(shape)._replace(gpus=0))


class _Rights:
    """Whom a job may end, given who has been chosen already."""

    def __init__(self, truth: Truth, queue: Queue, job: Job, now: float, *, within_guarantee: bool) -> None:
        self._truth = truth
        self._queue = queue
        self._job = job
        self._now = now
        self._has_had_little = attained.has_had_little(job)
        self._reclaims = within_guarantee
        self._own_guarantee = queue.guarantee.covers(queue.account.held, job.shape)
        """Then also from the other queues of its team."""
        self._held: dict[QueueKey | str, Held] = {}

    def trial(self) -> _Rights:
        other = copy.copy(self)
        other._held = {key: copy.copy(held) for key, held in self._held.items()}
        return other

    def candidates(self) -> Iterable[Job]:
        """All of whom some may end."""
        return (self._truth if self._reclaims else self._queue).preemptible.values()

    def may_end(self, victim: Job) -> bool:
        queue = self._truth.queue_of(victim)
        if queue is self._queue:
            is_even = self._has_had_little and victim.priority == self._job.priority
            return victim.priority < self._job.priority or (is_even and attained.gives_way(victim, self._now))
        if not self._reclaims or not queue.guarantee.is_exceeded(self._of(queue), victim.shape):
            return False
        if queue.team == self._queue.team:
            return self._own_guarantee
        team = self._truth.team(queue.team)
        return team.guarantee.is_exceeded(self._of_team(queue), victim.shape)

    def later(self) -> list[float]:
        """When somebody gives way who has saved his work in our future: the clock of his node is ahead."""
        asked = self._queue.unknown.values() if self._has_had_little else ()
        return [at for at in map(attained.fresh_from, asked) if at > self._now]

    def remove(self, victim: Job) -> None:
        queue, preemptible = self._truth.queue_of(victim), victim.specification.preemptible
        self._of(queue).take(victim.shape, preemptible=preemptible, sign=-1)
        self._of_team(queue).take(victim.shape, preemptible=preemptible, sign=-1)

    def _of(self, queue: Queue) -> Held:
        return self._copied(queue.key, queue.account.held)

    def _of_team(self, queue: Queue) -> Held:
        return self._copied(queue.team, self._truth.team(queue.team).account.held)

    def _copied(self, key: QueueKey | str, held: Held) -> Held:
        mine = self._held.get(key)
        if mine is None:
            mine = self._held[key] = copy.copy(held)
        return mine


def _can_end(job: Job) -> bool:
    return job.specification.preemptible and job.decided is None and job.life.state in (State.PLACED, State.RUNNING)
