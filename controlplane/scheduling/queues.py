"""The queues: who waits in which order, and what each queue holds. Pure.

A queue keeps all its waiting jobs by rank (a move needs that), and those that may run now once more in *lines*: jobs of
one priority, one shape and about one estimate, which neither a node nor the queue's policy can tell apart but by age.
Only heads of lines are looked at, so the cost of a decision grows with the number of lines, and not with the number of
jobs that wait.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Final, NamedTuple

import msgspec
from sortedcontainers import SortedList

from controlplane.scheduling import order
from controlplane.scheduling.backfill import length_s
from controlplane.scheduling.jobs import Job, Key, Rank, Shape
from controlplane.scheduling.nodes import Totals
from controlplane.scheduling.shares import Account, Guarantee, Held
from events import messages as m

QueueKey = tuple[str, str]

SPARE_S: Final = 0.001
"""A job that is longer than a window by less than this is looked at: sums of times are rounded."""


class LineKey(NamedTuple):
    """What the jobs of a line have in common."""

    priority: int
    """Negative: the highest comes first."""
    shape: Shape
    bucket: int
    """Of their estimates (`order.bucket`)."""
    preemptible: bool
    user: str
    """Empty where the queue has no limits for each user."""


Standing = tuple[int, float, float, Rank, str, Job]
"""How jobs of one line are sorted: moved to the front, by what the policy sorts a line by, by since when their wait
counts (a job that waited for another one came later than its rank says), by rank, by id."""


class Moment(NamedTuple):
    """What an order goes by beside the jobs: the time, what there is in all, and how long all the work takes."""

    now: float
    totals: Totals
    turn_s: float
    """`Backlog.turn_s`."""


class Head(NamedTuple):
    """A job that could be next, and the line in which it stands. Sorts as the queue does."""

    priority: int
    front: int
    is_unguarded: bool
    score: float
    since: float
    rank: Rank
    id: str
    job: Job
    line: LineKey
    place: int
    """Its place in that line."""


class Team(msgspec.Struct, eq=False):
    """One team: the level between the organisation and its queues."""

    name: str
    settings: m.TeamSet
    sequence: int = 0
    """Of its newest fact; 0: nobody has configured it."""
    account: Account = msgspec.field(default_factory=Account)
    queues: list[Queue] = msgspec.field(default_factory=list)
    counted: int = 0
    """How often what somebody of it holds has changed."""
    guarantee: Guarantee = Guarantee()
    is_promised: bool = False
    """Whether there is a guarantee. This and the next are asked of each queue in each round."""
    is_limited: bool = False

    def set(self, settings: m.TeamSet, sequence: int) -> None:
        """Another configuration."""
        self.settings, self.sequence, self.guarantee = settings, sequence, guarantee_of(settings)
        self.is_promised, self.is_limited = bool(self.guarantee), is_limited(settings)


class Queue(msgspec.Struct, eq=False):
    """One queue of one team."""

    team: str
    name: str
    settings: m.QueueSet
    sequence: int = 0
    """Of its newest fact; 0: nobody has configured it."""
    removed: bool = False
    """Its newest fact says so. Its settings are the defaults until nothing of it waits or runs."""
    waiting: Any = msgspec.field(default_factory=SortedList)
    """(−priority, rank, id) of every queued job, also of those that cannot run now."""
    lines: dict[LineKey, Any] = msgspec.field(default_factory=dict)
    """`Standing` of each of those that can; no line is empty."""
    shapes: dict[Shape, dict[LineKey, Any]] = msgspec.field(default_factory=dict)
    """The same lines by their shapes."""
    priorities: dict[int, dict[LineKey, Any]] = msgspec.field(default_factory=dict)
    """The same lines by their priorities, negative as in their keys."""
    lengths: dict[LineKey, dict[float, int]] = msgspec.field(default_factory=dict)
    """Of each line, how many of its jobs may take so long (`backfill.length_s`)."""
    shortest: dict[Shape, float] = msgspec.field(default_factory=dict)
    """The least of these of each shape; where it is not known, it is to be looked up."""
    unlike: int = 0
    """How many jobs in its lines have their places by another estimate than their own."""
    preemptible: dict[Key, Job] = msgspec.field(default_factory=dict)
    """Its jobs that hold resources, by the ledger, and may be preempted."""
    preemptible_of: dict[int, int] = msgspec.field(default_factory=dict)
    """How many of them there are of each priority."""
    unknown: dict[Key, Job] = msgspec.field(default_factory=dict)
    """Those of them of which nobody can tell how long they run."""
    guarantee: Guarantee = Guarantee()
    is_promised: bool = False
    """Whether there is a guarantee. This and the next are asked of each queue in each round."""
    is_limited: bool = False
    disturbed: int = 0
    """See `Holdings.disturbed`."""
    moves: int = 0
    """How often somebody has entered one of its lines, or left it, or what is kept for one of its jobs has changed."""
    oldest: float | None = None
    """The earliest moment from which on the wait of a head of its lines counts; None: to be looked up."""
    account: Account = msgspec.field(default_factory=Account)
    users: dict[str, Held] = msgspec.field(default_factory=dict)
    """What each user's live jobs in it hold; only users who have any."""

    @property
    def key(self) -> QueueKey:
        return (self.team, self.name)

    # -- the order -------------------------------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        """It waits from now on."""
        self.waiting.add((-job.priority, job.rank, job.id))
        job.waits = True

    def remove(self, job: Job) -> None:
        """It does not wait any more. It must have left its line."""
        self.waiting.remove((-job.priority, job.rank, job.id))
        job.waits = False

    def position(self, job: Job, moment: Moment) -> int:
        """Its place among those that may run, from 1, were it one of them."""
        mine = self._head(job, self.line_key(job), 0, moment)[:7]
        return 1 + sum(self._ahead(key, mine, moment) for key in self.lines)

    def in_order(self, moment: Moment) -> Iterator[Job]:
        """Those that may run, the first one first. To be used up before anything changes."""
        heads = self.heads(moment)
        heapq.heapify(heads)
        while heads:
            yield heads[0].job
            behind = self.behind(heads[0], moment)
            if behind is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, behind)

    def _ahead(self, key: LineKey, mine: tuple[Any, ...], moment: Moment) -> int:
        """How many jobs of a line come before one that would stand so. Inside a line the order is the policy's, too."""
        line = self.lines[key]
        low, high = 0, len(line)
        while low < high:
            middle = (low + high) // 2
            if self._head(line[middle][-1], key, middle, moment)[:7] < mine:
                low = middle + 1
            else:
                high = middle
        return low

    def rank_beside(self, other: Job | None, *, after: bool) -> Rank:
        """A rank directly before or after another waiting job of its priority; None: before all of the queue."""
        if other is None:
            return min((rank for _, rank, _ in self._firsts()), default=0) - 1
        index = self.waiting.bisect_left((-other.priority, other.rank, other.id))
        step = 1 if after else -1
        beside = index + step
        while 0 <= beside < len(self.waiting) and self.waiting[beside][:2] == (-other.priority, other.rank):
            beside += step  # an array and those of its tasks that wait again stand at one place
        if 0 <= beside < len(self.waiting) and self.waiting[beside][0] == -other.priority:
            return Fraction(self.waiting[beside][1] + other.rank) / 2
        return other.rank + (1 if after else -1)

    def _firsts(self) -> list[tuple[int, Rank, str]]:
        """The first of each priority."""
        firsts = []
        index = 0
        while index < len(self.waiting):
            first = self.waiting[index]
            firsts.append(first)
            index = self.waiting.bisect_left((first[0] + 1,))
        return firsts

    # -- the lines -------------------------------------------------------------------------------------------------

    def enter(self, job: Job) -> None:
        """It may run from now on."""
        key = self.line_key(job)
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = SortedList()
            self.shapes.setdefault(key.shape, {})[key] = line
            self.priorities.setdefault(key.priority, {})[key] = line
            self.lengths[key] = {}
        line.add(self._standing(job))
        self._count(key, job, 1)
        job.in_line, self.oldest = True, None
        self.moves += 1

    def leave(self, job: Job) -> None:
        """It may not, for now."""
        key = self.line_key(job)
        line = self.lines[key]
        line.remove(self._standing(job))
        self._count(key, job, -1)
        if not line:
            self._close(key)
        job.in_line, self.oldest = False, None
        self.moves += 1

    def _count(self, key: LineKey, job: Job, sign: int) -> None:
        """It stands in this line from now on; with −1 it does not any more."""
        self.unlike += sign * _is_unlike(job)
        takes_s, lengths = length_s(job), self.lengths[key]
        lengths[takes_s] = lengths.get(takes_s, 0) + sign
        if not lengths[takes_s]:
            del lengths[takes_s]
        if takes_s <= self.shortest.get(key.shape, math.inf):
            self.shortest.pop(key.shape, None)

    def _close(self, key: LineKey) -> None:
        """Nobody stands in this line any more."""
        of_shape, of_priority = self.shapes[key.shape], self.priorities[key.priority]
        del self.lines[key], self.lengths[key], of_shape[key], of_priority[key]
        if not of_shape:
            del self.shapes[key.shape]
        if not of_priority:
            del self.priorities[key.priority]

    def _shortest_of(self, shape: Shape) -> float:
        """How long the shortest of its jobs of this shape may take."""
        known = self.shortest.get(shape)
        if known is None:
            known = self.shortest[shape] = min(min(self.lengths[key]) for key in self.shapes[shape])
        return known

    def _standing(self, job: Job) -> Standing:
        first = order.within_line(self.settings.policy, job.order_s)
        return (job.front, first, job.order_at, job.rank, job.id, job)

    def set(self, settings: m.QueueSet, sequence: int) -> None:
        """Another configuration. Lines are made anew where the policy is another one, or users count now."""
        standing = [entry[-1] for line in self.lines.values() for entry in line]
        is_other = settings.policy != self.settings.policy or _counts_users(settings) != _counts_users(self.settings)
        for job in standing if is_other else ():
            self.leave(job)
        self.settings, self.sequence, self.removed = settings, sequence, False
        self.guarantee = guarantee_of(settings)
        self.is_promised, self.is_limited = bool(self.guarantee), is_limited(settings)
        for job in standing if is_other else ():
            self.enter(job)

    def remove_settings(self, sequence: int) -> None:
        """It is not there any more, but for the jobs that it has."""
        self.set(m.QueueSet(by=""), sequence)
        self.removed = True

    @property
    def is_shown(self) -> bool:
        """Whether it is there, for a person."""
        return not self.removed or bool(self.waiting) or self.account.held.running > 0

    def heads(self, moment: Moment, reach: Mapping[Shape, float] | None = None, above: int | None = None) -> list[Head]:
        """The head of each line; with `reach` only of those shapes, and of jobs that take no longer than it says, and
        those of a priority above this.
        """
        lines = self.lines if reach is None else self._lines_within(reach) | self._lines_above(above)
        if self.settings.policy == "slowdown":
            return self._heads_by_slowdown(lines, moment)
        return [self._head(_first(line), key, 0, moment) for key, line in lines.items()]

    def has_above(self, above: int | None) -> bool:
        """Whether there are any of a priority above this, at a glance."""
        return above is not None and any(-priority > above for priority in self.priorities)

    def has_within(self, reach: Mapping[Shape, float]) -> bool:
        """Whether there may be any of those shapes that take no longer than it says, at a glance."""
        return any(
            self._shortest_of(shape) <= longest_s + SPARE_S
            for shape, longest_s in reach.items()
            if shape in self.shapes
        )

    def _lines_within(self, reach: Mapping[Shape, float]) -> dict[LineKey, Any]:
        found: dict[LineKey, Any] = {}
        for shape, longest_s in reach.items():
            if shape not in self.shapes or self._shortest_of(shape) > longest_s + SPARE_S:
                continue
            lines = self.shapes[shape]
            if longest_s == math.inf:
                found |= lines
                continue
            for key, line in lines.items():
                is_short = order.shortest_of(key.bucket) <= longest_s or (self.unlike and _is_unlike(_first(line)))
                if is_short and min(self.lengths[key]) <= longest_s + SPARE_S:
                    found[key] = line
        return found

    def _lines_above(self, above: int | None) -> dict[LineKey, Any]:
        if above is None:
            return {}
        found = (lines for priority, lines in self.priorities.items() if -priority > above)
        return {key: line for lines in found for key, line in lines.items()}

    def _heads_by_slowdown(self, lines: Mapping[LineKey, Any], moment: Moment) -> list[Head]:
        """The same as `_head` says of each line: most of what is looked at is looked at here."""
        now, heads = moment.now, []
        guard = self.settings.guard
        guard_s = math.inf if guard is None else order.guard_s(guard, moment.turn_s)
        for key, line in lines.items():
            job = _first(line)
            since = job.order_at
            wait_s = max(0.0, now - since)
            is_unguarded = wait_s < guard_s
            score = order.slowdown(wait_s, order.shortest_of(key.bucket)) if is_unguarded else 0.0
            heads.append(Head(key.priority, job.front, is_unguarded, score, since, job.rank, job.id, job, key, 0))
        return heads

    def may_be_guarded(self, moment: Moment) -> bool:
        """Whether the starvation guard puts any head of its lines in front."""
        if self.oldest is None:
            self.oldest = min((_first(line).order_at for line in self.lines.values()), default=math.inf)
        wait_s = max(0.0, moment.now - self.oldest)
        return order.is_guarded(self.settings.policy, self.settings.guard, wait_s=wait_s, turn_s=moment.turn_s)

    def lowest_preemptible(self) -> int | None:
        """The lowest priority of those of its own that may be preempted."""
        return min(self.preemptible_of, default=None)

    def may_preempt_own(self, priority: int) -> bool:
        """Whether a job of this priority comes before one of its own that may be preempted."""
        return any(its < priority for its in self.preemptible_of)

    def behind(self, head: Head, moment: Moment, within_s: float = math.inf) -> Head | None:
        """The next one in the line of a head that stays where it is, of those that may take no longer than this."""
        line = self.lines[head.line]
        if min(self.lengths[head.line]) > within_s + SPARE_S:
            return None
        for place, entry in enumerate(line.islice(head.place + 1), head.place + 1):
            if length_s(entry[-1]) <= within_s + SPARE_S:
                return self._head(entry[-1], head.line, place, moment)
        return None

    def after_leaving(self, head: Head, moment: Moment) -> Head | None:
        """Who stands now where a head stood that has left its line."""
        line = self.lines.get(head.line)
        if line is None or head.place >= len(line):
            return None
        return self._head(line[head.place][-1], head.line, head.place, moment)

    def _head(self, job: Job, key: LineKey, place: int, moment: Moment) -> Head:
        policy, wait_s = self.settings.policy, max(0.0, moment.now - job.order_at)
        if order.is_guarded(policy, self.settings.guard, wait_s=wait_s, turn_s=moment.turn_s):
            return Head(key.priority, job.front, False, 0.0, job.order_at, job.rank, job.id, job, key, place)
        estimate = job.order_s if order.within_line(policy, 1.0) else order.shortest_of(key.bucket)
        size = moment.totals.share(key.shape) * key.shape.nodes if policy in order.BY_SIZE else 0.0
        score = order.score(policy, estimate=estimate, size=size, wait_s=wait_s)
        return Head(key.priority, job.front, True, score, job.order_at, job.rank, job.id, job, key, place)

    def line_key(self, job: Job) -> LineKey:
        user = job.specification.user if _counts_users(self.settings) else ""
        bucket = order.bucket(job.order_s)
        return LineKey(-job.priority, job.shape, bucket, job.specification.preemptible, user)

    # -- what it holds ---------------------------------------------------------------------------------------------

    def count_preemptible(self, job: Job, sign: int = 1) -> None:
        """The job runs, and may be preempted; with −1 it does not any more. Meanwhile its priority stays what it is."""
        if sign > 0:
            self.preemptible[job.key] = job
        else:
            del self.preemptible[job.key]
        count = self.preemptible_of.get(job.priority, 0) + sign
        if count:
            self.preemptible_of[job.priority] = count
        else:
            del self.preemptible_of[job.priority]

    def take(self, job: Job, sign: int = 1) -> None:
        """The job holds its resources from now on; with −1 it does not any more."""
        preemptible, user = job.specification.preemptible, job.specification.user
        self.account.held.take(job.shape, preemptible=preemptible, sign=sign)
        held = self.users.get(user)
        if held is None:
            held = self.users[user] = Held()
        held.take(job.shape, preemptible=preemptible, sign=sign)
        if not held.running:
            del self.users[user]


def _first(line: Any) -> Job:
    """Who is at the head of a line."""
    job: Job = line[0][-1]
    return job


def _is_unlike(job: Job) -> bool:
    """Whether its place goes by another estimate than its own: a prediction, or that of a job it was moved beside."""
    return job.order_s != job.estimate_s


def guarantee_of(settings: m.QueueSet | m.TeamSet) -> Guarantee:
    return Guarantee(settings.guaranteed_gpus, round(settings.guaranteed_cpus * 1000))


def is_limited(settings: m.QueueSet | m.TeamSet) -> bool:
    """Whether there is any limit on what it or its users may hold."""
    limits: tuple[int | None, ...] = (settings.running_max, settings.gpus_max)
    if isinstance(settings, m.QueueSet):
        limits += (settings.user_running_max, settings.user_gpus_max)
    return any(limit is not None for limit in limits)


def _counts_users(settings: m.QueueSet) -> bool:
    return settings.user_running_max is not None or settings.user_gpus_max is not None
