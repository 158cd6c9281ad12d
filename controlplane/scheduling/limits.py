"""Who may hold one more job: limits of queues, teams and users, and what guarantees leave to others. Pure.

A job that can be preempted may use what is guaranteed to others while they do not; one that cannot may not: beyond the
guarantee of its own queue or team it takes only of what is guaranteed to nobody. So a guarantee can always be had.
"""

from __future__ import annotations

from typing import NamedTuple

from controlplane.scheduling.jobs import Job, Shape
from controlplane.scheduling.packing import MILLI
from controlplane.scheduling.queues import Moment, Queue, Team
from controlplane.scheduling.shares import Guarantee, Held
from controlplane.scheduling.truth import Truth


class Refusal(NamedTuple):
    """A limit that a job does not fit under now, for a person: `who` holds `held` of at most `limit` of `what`."""

    who: str
    what: str
    held: float
    limit: float
    asked: float
    never: bool = False
    """It would not fit under it if nothing else were held."""


class Limits:
    """What may be held at one moment; goes by what is held, also what is decided only."""

    def __init__(self, truth: Truth, moment: Moment) -> None:
        self._truth = truth
        self._moment = moment
        self._blocked: dict[tuple[str, ...], Job] = {}
        """Whom limits on GPUs hold back: nothing later passes under them in this round."""
        self._could_fit: dict[Shape, bool] = {}
        self._idle: int | None = None
        self._firm: dict[bool, tuple[int, int]] = {}
        """Of GPUs, and of CPUs: as of which count, and the sum."""
        self._firm_of: dict[tuple[bool, str], tuple[int, int]] = {}
        """The same of each team."""
        self._guarantees, self._all = _promised(truth)

    def is_full(self, queue: Queue) -> bool:
        """Whether no job at all may start from this queue now."""
        team = self._truth.team(queue.team)
        return _is_full(queue.settings.running_max, queue.account.held) or _is_full(
            team.settings.running_max, team.account.held
        )

    def has_gpu_limit(self, queue: Queue) -> bool:
        """Whether a limit on GPUs may come to hold back a job of the queue in this round, and with it later ones."""
        if queue.settings.user_gpus_max is not None:
            return True
        limits = self._gpu_limits(queue)
        if not limits:
            return False
        more = self._idle_gpus() + max((shape.milli_gpus * shape.nodes for shape in queue.shapes), default=0)
        return any(held.milli_gpus + more > limit * MILLI for limit, held in limits)

    def marks(self, queue: Queue) -> bool:
        """Whether a limit on GPUs may hold back a job of the queue, and with it all later ones under that limit."""
        return queue.settings.user_gpus_max is not None or any(
            held.milli_gpus + shape.milli_gpus * shape.nodes > limit * MILLI
            for limit, held in self._gpu_limits(queue)
            for shape in queue.shapes
        )

    def _gpu_limits(self, queue: Queue) -> list[tuple[int, Held]]:
        """Those of the queue and of its team, each with what is held under it."""
        team = self._truth.team(queue.team)
        if not queue.is_limited and not team.is_limited:
            return []
        both = ((queue.settings.gpus_max, queue.account.held), (team.settings.gpus_max, team.account.held))
        return [(limit, held) for limit, held in both if limit is not None]

    def _idle_gpus(self) -> int:
        """Thousandths that nobody held at the first look: in what is left of the round no more is placed."""
        if self._idle is None:
            held = sum(team.account.held.milli_gpus for team in self._truth.teams.values())
            self._idle = max(0, self._moment.totals.gpus * MILLI - held)
        return self._idle

    def may_try(self, queue: Queue, job: Job) -> bool:
        """Whether limits let the job start, and hold back none that was tried before it."""
        refusal, scope = self.refused(queue, job)
        if refusal is not None:
            if refusal.what == "GPUs" and not refusal.never and self._could_ever_fit(job.shape):
                self._blocked.setdefault(scope, job)
            return False
        return self.behind(queue, job) is None

    def _could_ever_fit(self, shape: Shape) -> bool:
        """Whether there is a node for it: whoever waits for none is in nobody's way."""
        found = self._could_fit.get(shape)
        if found is None:
            found = self._could_fit[shape] = self._truth.fleet.could_fit(shape)
        return found

    def behind(self, queue: Queue, job: Job) -> Job | None:
        """Whom a limit on GPUs holds back, so that this job, which would fit under it, waits as well; None: nobody."""
        if not job.shape.gpus:
            return None
        return next((self._blocked[scope] for scope in _scopes(queue, job) if scope in self._blocked), None)

    def refusal(self, queue: Queue, job: Job) -> Refusal | None:
        """The first limit that the job does not fit under now."""
        return self.refused(queue, job)[0]

    def refused(self, queue: Queue, job: Job) -> tuple[Refusal | None, tuple[str, ...]]:
        """The first limit that the job does not fit under now, and whose it is: of a team, a queue of it, a user there;
        empty: what is guaranteed to others.
        """
        team, user = self._truth.team(queue.team), job.specification.user
        of_queue, of_team = queue.settings, team.settings
        of_user = queue.users.get(user) or Held()
        if not queue.is_limited and not team.is_limited:
            return self._beyond_guarantees(queue, job), ()
        for scope, who, held, running_max, gpus_max in (
            (_of_queue(queue), f"queue {queue.name}", queue.account.held, of_queue.running_max, of_queue.gpus_max),
            (
                _of_user(queue, user),
                f"{user} in queue {queue.name}",
                of_user,
                of_queue.user_running_max,
                of_queue.user_gpus_max,
            ),
            (_of_team(queue), f"team {team.name}", team.account.held, of_team.running_max, of_team.gpus_max),
        ):
            asked, has = job.shape.milli_gpus * job.shape.nodes, held.milli_gpus
            if running_max is not None and held.running + 1 > running_max:
                return Refusal(who, "jobs", held.running, running_max, 1, running_max < 1), scope
            if gpus_max is not None and asked and has + asked > gpus_max * MILLI:
                never = asked > gpus_max * MILLI
                return Refusal(who, "GPUs", has / MILLI, gpus_max, asked / MILLI, never), scope
        return self._beyond_guarantees(queue, job), ()

    # -- guarantees ------------------------------------------------------------------------------------------------

    def is_guaranteed(self, queue: Queue, shape: Shape) -> bool:
        """Whether one more job of this shape is within what the queue or its team can always have."""
        team = self._truth.team(queue.team)
        return (queue.is_promised and queue.guarantee.covers(queue.account.held, shape)) or (
            team.is_promised and team.guarantee.covers(team.account.held, shape)
        )

    def is_any_guaranteed(self, queue: Queue) -> bool:
        """Whether this is so of anything that waits in the queue."""
        if not queue.is_promised and not self._truth.team(queue.team).is_promised:
            return False
        return any(self.is_guaranteed(queue, shape) for shape in queue.shapes)

    def comes_first(self, holder: Queue | Team, queue: Queue) -> bool:
        """Whether something that waits in this queue is within what the queue, or its team, can always have."""
        return holder.is_promised and any(holder.guarantee.covers(holder.account.held, shape) for shape in queue.shapes)

    def _beyond_guarantees(self, queue: Queue, job: Job) -> Refusal | None:
        """Jobs that cannot be preempted must leave what is guaranteed to others."""
        shape = job.shape
        if not self._all or job.specification.preemptible or self.is_guaranteed(queue, shape):
            return None
        totals = self._moment.totals
        asked = shape.milli_gpus * shape.nodes if shape.gpus else shape.milli_cpus * shape.nodes
        there, promised = totals.milli_cpus, self._all.milli_cpus
        if shape.gpus:
            there, promised = totals.gpus * MILLI, self._all.gpus * MILLI
        if not promised:
            return None
        firm = self._all_firm_beyond(shape)
        if firm + asked <= max(0, there - promised):
            return None
        what = "GPUs" if shape.gpus else "CPUs"
        limit = max(0, there - promised)
        who = "what cannot be preempted, beyond guarantees,"
        return Refusal(who, what, firm / MILLI, limit / MILLI, asked / MILLI, never=asked > limit)

    def _all_firm_beyond(self, shape: Shape) -> int:
        """What the jobs of all teams that cannot be preempted hold beyond guarantees: summed anew once that changes."""
        is_gpu = bool(shape.gpus)
        at, firm = self._firm.get(is_gpu, (-1, 0))
        if at != self._truth.counted:
            firm = sum(self._firm_beyond(team, shape) for team in self._guarantees)
            self._firm[is_gpu] = (self._truth.counted, firm)
        return firm

    def _firm_beyond(self, team: str, shape: Shape) -> int:
        """What a team's jobs that cannot be preempted hold beyond its guarantees: added up anew once that changes."""
        holder, key = self._truth.team(team), (bool(shape.gpus), team)
        at, beyond = self._firm_of.get(key, (-1, 0))
        if at == holder.counted:
            return beyond
        over, promised = 0, 0
        for queue in holder.queues:
            firm = queue.account.held.firm_milli_gpus if shape.gpus else queue.account.held.firm_milli_cpus
            mine = queue.guarantee.gpus * MILLI if shape.gpus else queue.guarantee.milli_cpus
            over += max(0, firm - mine)
            promised += mine
        of_team = self._guarantees[team]
        whole = of_team.gpus * MILLI if shape.gpus else of_team.milli_cpus
        beyond = max(0, over - (whole - promised))
        self._firm_of[key] = (holder.counted, beyond)
        return beyond


def _promised(truth: Truth) -> tuple[dict[str, Guarantee], Guarantee]:
    """What each team can always have: its own, or all that of its queues, where that is more; and all together."""
    found: dict[str, Guarantee] = {}
    everybody = Guarantee()
    for team in truth.teams.values():
        of_queues = Guarantee()
        for queue in team.queues:
            if queue.is_promised:
                of_queues = of_queues.plus(queue.guarantee)
        found[team.name] = of_queues.larger(team.guarantee) if team.is_promised else of_queues
        everybody = everybody.plus(found[team.name])
    return found, everybody


def _is_full(running_max: int | None, held: Held) -> bool:
    return running_max is not None and held.running >= running_max


def _of_team(queue: Queue) -> tuple[str, ...]:
    return (queue.team,)


def _of_queue(queue: Queue) -> tuple[str, ...]:
    return (queue.team, queue.name)


def _of_user(queue: Queue, user: str) -> tuple[str, ...]:
    return (queue.team, queue.name, user)


def _scopes(queue: Queue, job: Job) -> tuple[tuple[str, ...], ...]:
    return (_of_queue(queue), _of_user(queue, job.specification.user), _of_team(queue))
