"""Who waits, and for what: a queued job stands in the line of its queue unless something parks it. Pure.

Parked is what is held, whose environment is not ready, what waits for another job, for its begin time or for the pause
after a broken attempt, and what can never run at all: that is doomed, and will be finished.
"""

from __future__ import annotations

import heapq
from typing import Final, Literal, NamedTuple

from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.dependencies import Dependencies
from controlplane.scheduling.ends import cancelled, clock, span
from controlplane.scheduling.holdings import Holdings
from controlplane.scheduling.jobs import Job, Key
from events import messages as m

TIMERS_SPARE: Final = 1000
"""Timers that may be there for jobs that do not need them any more, beside as many as there are jobs."""

CLAIM_S: Final = 60.0
"""For so long after the last grace the freed nodes are kept for the job that they were freed for."""


class Doom(NamedTuple):
    """Why a job can never run, and how it ends by that."""

    reason: str
    kind: Literal["environment", "node", "dependency", "time", "hold"]
    outcome: Literal["failed", "cancelled"] = "failed"


class Claim(NamedTuple):
    """What was freed for a job by preemption and is kept for it, until it has it or the time is over."""

    nodes: tuple[str, ...]
    until: float


class Waiting(Holdings):
    """See the top of this file."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.claims: dict[Key, Claim] = {}
        """By the job that preempted, the oldest first."""
        self.claims_changes = 0
        self.dependencies = Dependencies()
        self.timers: list[tuple[float, int, str]] = []
        """(when, sequence, subject): a heap of when to look at a job again. Some may be of no use any more."""

    def settle(self, job: Job) -> None:
        """Put a job into its line or take it out, as it may run now or not. Doomed ones become due."""
        if not job.is_queued or isinstance(job.decided, m.Placed):
            return
        if self.doom(job):
            self.due[job.key] = job
        may_run = self.parked(job) == ""
        if may_run and not job.in_line:
            self.queue_of(job).enter(job)
        elif job.in_line and not may_run:
            self.queue_of(job).leave(job)

    def parked(self, job: Job) -> str:
        """What a queued job waits for before it may wait for resources; empty: nothing."""
        if job.life.held:
            return "held"
        if self.doom(job):
            return "doomed"
        environment = self.environment_of(job)
        if environment is not None and environment.state != "ready":
            return "environment"
        if job.after:
            return "dependency"
        if job.array is not None and not job.array.may_go_on:
            return "tasks"
        return "early" if job.early else ""

    def doom(self, job: Job) -> Doom | None:
        """Why the job can never run; None: it can, as far as is known."""
        if job.task is not None and job.cancelled_by:
            return Doom(cancelled(job), "hold", "cancelled")
        if job.unmet:
            return Doom(job.unmet, "dependency", "cancelled")
        lost = next((each.job for each in job.after if (job.specification.team, each.job) not in self.by_key), "")
        if lost:
            return Doom(f"it was to run after {lost}, of which nothing is known any more", "dependency", "cancelled")
        if job.is_overdue and job.specification.deadline_at is not None:
            limit_s = job.specification.time_limit_s
            within = f" within its time limit of {span(limit_s)}" if limit_s else ""
            return Doom(f"it cannot end{within} by its deadline, {clock(job.specification.deadline_at)}", "time")
        environment = self.environment_of(job)
        if environment is not None and environment.state == "failed":
            return Doom(f"its environment could not be made: {environment.reason}", "environment")
        return None

    # -- in and out of the queue ---------------------------------------------------------------------------------------

    def keep(self, key: Key, claim: Claim) -> None:
        """From now on this is kept for the job."""
        self.claims[key] = claim
        self._on_claim_changed(key, claim)

    def let_go(self, key: Key) -> Claim | None:
        """Nothing is kept for the job any more. Gives what was."""
        claim = self.claims.pop(key, None)
        if claim is not None:
            self._on_claim_changed(key, claim)
        return claim

    def _on_claim_changed(self, key: Key, claim: Claim) -> None:
        self.claims_changes += 1
        if key in self.by_key:
            self.queue_of(self.by_key[key]).moves += 1  # whom the job itself may end is another question now
        for name in claim.nodes:
            if name in self.fleet.nodes:
                self.fleet.touch(self.fleet.nodes[name])  # and whom others may end there

    def _add_to_queue(self, job: Job) -> None:
        self.queue_of(job).add(job)
        self.backlog.wait(job.shape, job.estimate_s, job.waiting)

    def _take_from_queue(self, job: Job) -> None:
        queue = self.queue_of(job)
        if job.in_line:
            queue.leave(job)
        queue.remove(job)
        self.let_go(job.key)
        self.backlog.wait(job.shape, job.estimate_s, -job.waiting)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _set_timers(self, job: Job) -> None:
        """Look at the job again at its begin time, and when its deadline is over."""
        if len(self.timers) > 2 * len(self.jobs) + TIMERS_SPARE:
            self.timers = [timer for timer in self.timers if timer[2] in self.jobs]
            heapq.heapify(self.timers)
        for at in (job.not_before if job.early else None, job.last_at):
            if at is not None:
                heapq.heappush(self.timers, (at, job.sequence, job.subject))

    def on_time(self, now: float) -> None:
        """Jobs whose begin time has come may run; those whose deadline is over become due."""
        while self.timers and self.timers[0][0] <= now:
            job = self.jobs.get(heapq.heappop(self.timers)[2])
            if job is None:
                continue
            job.early = job.early and job.not_before > now
            if not job.is_overdue and job.last_at is not None and job.last_at <= now:
                job.is_overdue = True
                self.due[job.key] = job
            self.settle(job)
