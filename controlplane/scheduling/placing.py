"""The policy: which waiting job gets which nodes. Pure.

1. What was freed for a job by preemption is its own.
2. Of several teams the one with the least share comes first, of its queues the one with the least share (`shares`);
   whoever has less than it is guaranteed comes before all others.
3. In a queue: priority, what was moved to the front, then the queue's policy (`order`).
4. The first `depth` jobs that do not fit now have a reservation (`backfill`), and in each queue the first that the
   starvation guard puts in front and the first within a guarantee; later ones go where they delay none.
5. A job that a limit on GPUs holds back holds back the later GPU jobs under the same limit, unless it could never run
   under it.
6. A job that is larger than every node waits, and is in nobody's way.
7. A job that does not fit and is within a guarantee, or has a higher priority than others of its queue, may take what
   preemptible jobs hold (`preemption`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from controlplane.scheduling.arrays import first_said, next_task
from controlplane.scheduling.backfill import Plan, length_s
from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.jobs import Job, Shape
from controlplane.scheduling.limits import Limits
from controlplane.scheduling.nodes import Node, allocate
from controlplane.scheduling.order import shortest_of
from controlplane.scheduling.preemption import Search, Victims
from controlplane.scheduling.queues import Head, Moment, Queue, QueueKey, Team
from controlplane.scheduling.truth import Basis, Changes, Quiet, Truth
from events import labels
from events import messages as m
from events.lifecycle import State

SEARCHES_MAX: Final = 8
"""For victims, in one round: each looks at all nodes. The others are made in the next one, at once."""


class Choice(NamedTuple):
    """This job gets these nodes now."""

    job: Job
    nodes: tuple[Node, ...]
    why: str

    def facts(self, term: int) -> Iterator[tuple[Job, m.JobFact]]:
        """What to write about it. Goes by what is free now."""
        job = self.job
        if job.array is not None:
            if job.life.state is State.QUEUED and job.decided is None:
                yield job, m.Unfolded(term=term)
            job = next_task(job)
        allocations = tuple(allocate(node, job.shape) for node in self.nodes)
        yield (
            job,
            m.Placed(
                term=term, attempt=job.life.attempt + 1, allocations=allocations, why=self.why, task=first_said(job)
            ),
        )


class Preempt(NamedTuple):
    """These attempts end so that this job gets these nodes."""

    job: Job
    nodes: tuple[Node, ...]
    victims: tuple[Job, ...]
    why: str

    def facts(self, term: int) -> Iterator[tuple[Job, m.JobFact]]:
        """What to write about the victims."""
        team, name = self.job.key
        preemptor = m.Preemptor(team=team, job=name, nodes=tuple(node.name for node in self.nodes))
        for victim in self.victims:
            attempt = victim.life.attempt
            yield victim, m.StopRequested(term=term, attempt=attempt, why=self.why, preemptor=preemptor)


Turn = tuple[bool, float, str, bool, float, str]
"""What sorts queues: has it all that is guaranteed to it, its share, its name; first of the team, then of the queue."""
TeamTurn = tuple[bool, float, str]
"""The first half of it."""


class _Contender:
    """A queue with what is left to try of it in this round."""

    def __init__(self, queue: Queue, heads: list[Head], *, is_whole: bool) -> None:
        """`is_whole`: all heads of it take part."""
        self.queue = queue
        self.heads = heads
        self.is_whole = is_whole
        self.changes: Changes | None = None
        """What there was when it was found that it can only preempt among its own."""
        self.is_limited = False
        """Whether limits held back anything of it."""
        heapq.heapify(self.heads)
        self.reserved_guarded = False
        self.reserved_guaranteed = False


class Placing:
    """One pass over the queues. The caller takes what each choice says before it asks for the next one.

    With `whole` it goes on when no shape has room any more, so that all reservations are known: for who asks why.
    """

    def __init__(self, truth: Truth, moment: Moment, settings: Settings, *, whole: bool = False) -> None:
        self._truth = truth
        self._fleet = truth.fleet
        self._moment = moment
        self._settings = settings
        self._whole = whole
        truth.fleet.pack(truth.backlog.kinds() if settings.packing == "fgd" else None)
        self.limits = Limits(truth, moment)
        self._contenders: dict[QueueKey, _Contender] = {}
        """Made when their turn comes: most have nothing that could be tried."""
        self._shares: dict[QueueKey | str, float] = {}
        """Of queues and teams, as long as they get nothing more."""
        self.plan = Plan(truth.fleet, moment.now)
        self._search = Search(truth, self.plan, moment, settings.preempt_min_run_s)
        self._searches = 0
        self._is_crowded = False
        """Whether there are more searches to make than a round may."""
        self._in_team: dict[str, list[Queue]] = {}
        """The queues that take part."""
        waiting: dict[Shape, None] = {}
        for queue in truth.queues.values():
            if queue.lines and not queue.settings.paused:
                self._in_team.setdefault(queue.team, []).append(queue)
                waiting.update(dict.fromkeys(queue.shapes))
        self._room = dict.fromkeys(shape for shape in waiting if self.room_for(shape))
        """Shapes that open nodes have room for."""
        self._reach: dict[Shape, float] = {}
        """How long jobs of each of these may take at the most, as of now; empty: to be looked up."""
        self._windows: dict[Shape, float] = {}
        """The same on nodes with something ahead (`Plan.window_s`)."""
        self._refused: dict[Shape, float] = {}
        """Jobs of each of these that may take so long or longer have no place, as of now."""

    @property
    def wake_at(self) -> float | None:
        """When an attempt will have run for long enough to be preempted for a job that found too few, or something is
        kept no more; None: never.
        """
        times = [claim.until for claim in self._truth.claims.values() if claim.until > self._moment.now]
        if self._search.wake_at is not None:
            times.append(self._search.wake_at)
        if self._is_crowded:
            times.append(self._moment.now)
        return min(times, default=None)

    def choices(self) -> Iterator[Choice | Preempt]:
        """What should be placed, and what should end, one after the other."""
        yield from self._claimed()
        order = self._order()
        while order and (self._room or self._whole or self._may_preempt):
            turn, key = heapq.heappop(order)
            if isinstance(key, str):
                for queue in filter(self._may_matter, self._in_team[key]):
                    heapq.heappush(order, (self._turn(queue), queue.key))
                continue
            queue = self._truth.queues[key]
            now = self._turn(queue)
            if now > turn:  # its team or itself got something meanwhile
                heapq.heappush(order, (now, key))
                continue
            if not self._may_matter(queue):
                continue
            contender = self._contender(queue)
            self._search.begin()
            choice = self._next(contender)
            if choice is None:
                self._note_quiet(contender)
                continue
            yield choice
            if isinstance(choice, Choice):
                self._placed(contender, choice)
            heapq.heappush(order, (self._turn(queue), key))

    def _order(self) -> list[tuple[Turn | TeamTurn, QueueKey | str]]:
        """A heap of whose turn it is: queues; and, where nothing is guaranteed in a team, the team for all of them.

        A team's turn sorts before those of its queues, and stands for them until it comes.
        """
        order: list[tuple[Turn | TeamTurn, QueueKey | str]] = []
        for name, queues in self._in_team.items():
            team = self._truth.team(name)
            if team.guarantee or any(queue.guarantee for queue in queues):
                order += [(self._turn(queue), queue.key) for queue in queues]
            else:
                order.append(((True, self._share(name, team), name), name))
        heapq.heapify(order)
        return order

    def _contender(self, queue: Queue) -> _Contender:
        contender = self._contenders.get(queue.key)
        if contender is not None and contender.is_whole:
            return contender
        is_whole = self._matters_wholly(queue)
        if contender is None or is_whole:
            reach = None if is_whole else self._reaches()
            heads = queue.heads(self._moment, reach, self._above(queue))
            contender = self._contenders[queue.key] = _Contender(queue, heads, is_whole=is_whole)
            if reach is not None and not self.limits.has_gpu_limit(queue) and not queue.has_within(reach):
                contender.changes = self._truth.changes
        return contender

    def _note_quiet(self, contender: _Contender) -> None:
        """Nothing came of this queue, from its first head to its last. Nothing will, until something changes."""
        queue, until, changes = contender.queue, self._search.until, self._truth.changes
        if contender.changes == changes and until > self._moment.now:
            is_own = self._search.is_own and not contender.is_limited
            self._truth.quiet[queue.key] = Quiet(Basis(changes, is_own), queue.moves, until)

    def _is_quiet(self, queue: Queue) -> bool:
        known = self._truth.quiet.get(queue.key)
        if known is None or known.moves != queue.moves or self._moment.now >= known.until:
            return False
        if not self._truth.holds(known.basis, queue):
            return False
        self._search.wake_later([known.until])
        return True

    def _may_matter(self, queue: Queue) -> bool:
        """False: nothing of it could be placed, end others, or hold others back, also when its turn comes later."""
        return (
            queue.key in self._contenders
            or self._matters_wholly(queue)
            or self.limits.has_gpu_limit(queue)
            or queue.has_within(self._reaches())
            or (queue.has_above(self._above(queue)) and not self._is_quiet(queue))
        )

    def _above(self, queue: Queue) -> int | None:
        """Jobs of a priority above this may end others of their queue; None: nobody may."""
        return queue.lowest_preemptible() if self._may_preempt else None

    def _matters_wholly(self, queue: Queue) -> bool:
        """Whether any job of it that cannot be placed now may have a reservation, end others, or hold others back.

        If not, then only those count that there is room for, and that may end others of their own queue.
        """
        return (
            self._whole
            or len(self.plan.reservations) < self._settings.backfill_depth
            or queue.may_be_guarded(self._moment)
            or self.limits.is_any_guaranteed(queue)
            or self._search.gives_way(queue)
            or self.limits.marks(queue)
        )

    def _reaches(self) -> dict[Shape, float]:
        """Of each shape that there is room for."""
        if not self._reach:
            self._reach = {shape: self.plan.reach_s(shape) for shape in self._room}
        return self._reach

    def _turn(self, queue: Queue) -> Turn:
        team = self._truth.team(queue.team)
        own, its = not self.limits.comes_first(queue, queue), not self.limits.comes_first(team, queue)
        its_share, own_share = self._share(team.name, team), self._share(queue.key, queue)
        return (own and its, its_share, queue.team, own, own_share, queue.name)

    def _share(self, key: QueueKey | str, holder: Queue | Team) -> float:
        known = self._shares.get(key)
        if known is None:
            totals, half_life_s = self._moment.totals, self._settings.fair_half_life_s
            known = holder.account.share(holder.settings.weight, totals, self._moment.now, half_life_s)
            self._shares[key] = known
        return known

    def _got(self, queue: Queue) -> None:
        """Something of it was placed."""
        self._shares.pop(queue.key, None)
        self._shares.pop(queue.team, None)

    def _claimed(self) -> Iterator[Choice]:
        """What was freed for a job by preemption is placed, or kept for it until all of it is free."""
        for key, claim in list(self._truth.claims.items()):
            job = self._truth.by_key.get(key)
            if job is None or not job.in_line or claim.until <= self._moment.now:
                continue
            queue = self._truth.queue_of(job)
            nodes = tuple(self._fleet.nodes[name] for name in claim.nodes if name in self._fleet.nodes)
            fits = len(nodes) == len(claim.nodes) and all(self._takes(node, job) for node in nodes)
            if fits and not queue.settings.paused and self.limits.refusal(queue, job) is None:
                yield Choice(job, nodes, f"has what was freed for it, attempt {job.life.attempt + 1}")
                self._got(queue)
            else:
                self.plan.pin(job, claim.nodes)

    def _takes(self, node: Node, job: Job) -> bool:
        """Whether the node has room for its part of the job now, and until it is over."""
        return node.fits(job.shape) and node.is_open and not node.is_closed(self._moment.now, length_s(job))

    def _next(self, contender: _Contender) -> Choice | Preempt | None:
        """The first job of the queue that can be placed now, or for which others should end; None: no other."""
        queue = contender.queue
        while contender.heads:
            if self.limits.is_full(queue):
                contender.is_limited = True
                return None
            head = contender.heads[0]
            if not self.limits.may_try(queue, head.job):
                contender.is_limited = True
            else:
                nodes = self.nodes_for(head.job) if head.job.shape in self._room else None
                if nodes is not None:
                    return Choice(head.job, nodes, why(head.job, queue, nodes))
                victims = self._victims(queue, head.job)
                if victims is not None:
                    self.plan.pin(head.job, tuple(node.name for node in victims.nodes))
                    self._plan_changed()
                    self._drop(contender, head)
                    return Preempt(head.job, victims.nodes, victims.jobs, victims.why)
                if self._hold_back(contender, head):
                    self._drop(contender, head, self._within_s(contender, head))
                    continue
            heapq.heappop(contender.heads)
        return None

    def _drop(self, contender: _Contender, head: Head, within_s: float = math.inf) -> None:
        """This head stays where it is: look at the one behind it in its line that may take no longer than this."""
        behind = contender.queue.behind(head, self._moment, within_s)
        if behind is None:
            heapq.heappop(contender.heads)
        else:
            heapq.heapreplace(contender.heads, behind)

    def _within_s(self, contender: _Contender, head: Head) -> float:
        """How long those behind a head that was held back may take at the most, for anything to come of them.

        Wherever it cannot be told without a look at each of them: any time.
        """
        shape, queue = head.job.shape, contender.queue
        may_be_reserved = len(self.plan.reservations) < self._settings.backfill_depth or not (
            contender.reserved_guarded or (head.is_unguarded and not head.job.front)
        )
        is_guaranteed = self.limits.is_guaranteed(queue, shape)
        may_search = is_guaranteed or queue.may_preempt_own(head.job.priority)
        if (
            self._whole
            or may_be_reserved
            or (is_guaranteed and not contender.reserved_guaranteed)
            or (may_search and (self._truth.claims or self._fleet.closing))
            or self._search.gives_way(queue)
            or self.limits.has_gpu_limit(queue)
        ):
            return math.inf
        return self._window_s(shape) if shape in self._room else -math.inf

    def _window_s(self, shape: Shape) -> float:
        """As `Plan.window_s`, looked up once until something changes."""
        known = self._windows.get(shape)
        if known is None:
            known = self._windows[shape] = self.plan.window_s(shape)
        return known

    def taken_back(self) -> None:
        """What was placed in this pass was not meant: there is room for it again."""
        self._plan_changed()

    def _plan_changed(self) -> None:
        self._reach.clear()
        self._windows.clear()
        self._refused.clear()

    def nodes_for(self, job: Job) -> tuple[Node, ...] | None:
        """Where a job can start now, delays no reservation, and ends before any maintenance."""
        shape, takes_s = job.shape, length_s(job)
        if takes_s >= self._refused.get(shape, math.inf):
            return None
        admits = (lambda node: self.plan.admits(node, job)) if self.plan.restricts else None
        nodes = self.room_for(shape, admits)
        if nodes is None:
            self._refused[shape] = takes_s
        return nodes

    def room_for(self, shape: Shape, admits: Callable[[Node], bool] | None = None) -> tuple[Node, ...] | None:
        """Open nodes that have room for a job of this shape now, of those that are admitted."""
        if shape.nodes > 1:
            return self._fleet.several(shape, admits)
        node = self._fleet.best(shape, admits)
        return None if node is None else (node,)

    @property
    def _may_preempt(self) -> bool:
        """Whether one more search could be made in this round."""
        return bool(self._truth.preemptible) and not self._is_crowded

    def _victims(self, queue: Queue, job: Job) -> Victims | None:
        within_guarantee = self.limits.is_guaranteed(queue, job.shape)
        if not self._search.is_worth_it(queue, job, within_guarantee=within_guarantee):
            return None
        if self._searches >= SEARCHES_MAX:
            self._truth.crowded_at = self._moment.now
            self._is_crowded = True
            self._search.until = self._moment.now
            return None
        self._searches += 1
        return self._search.victims(queue, job, within_guarantee=within_guarantee)

    def _hold_back(self, contender: _Contender, head: Head) -> bool:
        """Reserve for a head that cannot be placed now. Gives whether the one behind it in its line is to be looked at:
        it may have a reservation as well, or be so short that it delays none.
        """
        plan, shape = self.plan, head.job.shape
        is_guaranteed = self.limits.is_guaranteed(contender.queue, shape)
        if (
            len(plan.reservations) < self._settings.backfill_depth
            or (not head.is_unguarded and not contender.reserved_guarded)
            or (is_guaranteed and not contender.reserved_guaranteed)
        ):
            self._plan_changed()
            if plan.reserve(head.job) is None:
                return False
            contender.reserved_guarded |= not head.is_unguarded
            contender.reserved_guaranteed |= is_guaranteed
            return True
        return shape in self._room and shortest_of(head.line.bucket) <= self._window_s(shape)

    def _placed(self, contender: _Contender, choice: Choice) -> None:
        """The job left its line: another one stands there now. And there may be room for less than before."""
        after = contender.queue.after_leaving(contender.heads[0], self._moment)
        if after is None:
            heapq.heappop(contender.heads)
        else:
            heapq.heapreplace(contender.heads, after)
        self._got(contender.queue)
        self._plan_changed()
        for node in choice.nodes:
            self.plan.changed(node.name)
        if not self.room_for(choice.job.shape):
            self._room.pop(choice.job.shape, None)


def why(job: Job, queue: Queue, nodes: tuple[Node, ...]) -> str:
    """Why this job, now, and there: one line for a person."""
    rest = len(queue.waiting)
    tries = f", attempt {job.life.attempt + 1}" if job.life.attempt else ""
    return f"first that fits of {rest} in queue {queue.name}{tries}{_instead(job.shape, nodes)}"


def _instead(shape: Shape, nodes: tuple[Node, ...]) -> str:
    """Which of its alternatives it got, where that is not the first."""
    got = next((one for one in shape.on if all(node.meets(one) for node in nodes)), None)
    if got is None or got == shape.on[0]:
        return ""
    return f", on {labels.text([got])}: no room on {labels.text(shape.on[: shape.on.index(got)])}"
