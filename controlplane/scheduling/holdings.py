"""What there is, and who holds it: nodes, teams and their queues, environments. Pure.

Each change keeps every sum and index right: what a team, a queue and a user hold, what they have used, what is free of
a node, how much work there is.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from controlplane.scheduling import attained
from controlplane.scheduling.backlog import Backlog
from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.jobs import Array, Job, Key
from controlplane.scheduling.nodes import Fleet, Node, Totals
from controlplane.scheduling.queues import Moment, Queue, QueueKey, Team
from events import messages as m


class Environment(msgspec.Struct, eq=False):
    """One environment request, and the live jobs that want it."""

    state: str = "wanted"
    """wanted, building, ready, failed."""
    lock: str = ""
    python: str = ""
    reason: str = ""
    jobs: dict[Key, Job] = msgspec.field(default_factory=dict)


class Holdings:
    """See the top of this file."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.jobs: dict[str, Job] = {}
        """By subject: those that have not ended."""
        self.by_key: dict[Key, Job] = {}
        self.queues: dict[QueueKey, Queue] = {}
        self.teams: dict[str, Team] = {}
        self.environments: dict[str, Environment] = {}
        self.fleet = Fleet()
        self.backlog = Backlog()
        self.preemptible: dict[Key, Job] = {}
        """Those that hold resources, by the ledger, and may be preempted."""
        self.counted = 0
        """How often what somebody holds has changed."""
        self.due: dict[Key, Job] = {}
        """In the order of arrival: jobs about which there may be something to write."""
        self.nodes_due: dict[str, Node] = {}
        self.changed: dict[str, bool] = {}
        """Nodes that should be told their list again, in order: True at once, since something must stop or a gang may
        start; False by and by.
        """
        self.broken = ""
        self._totals: Totals | None = None
        self._disturbed_at = 0
        """Up to which change of the fleet `Queue.disturbed` is right."""

    # -- finding -------------------------------------------------------------------------------------------------------

    def totals(self) -> Totals:
        """What all known nodes have together."""
        if self._totals is None:
            self._totals = self.fleet.totals()
        return self._totals

    def moment(self, now: float) -> Moment:
        return Moment(now, self.totals(), self.backlog.turn_s(self.totals(), now))

    def team(self, name: str) -> Team:
        """The team of that name; one that nobody has configured has no limits."""
        team = self.teams.get(name)
        if team is None:
            team = self.teams[name] = Team(name, m.TeamSet(by=""))
        return team

    def queue(self, team: str, name: str) -> Queue:
        """The queue of that name; one that nobody has configured has no limits."""
        queue = self.queues.get((team, name))
        if queue is None:
            queue = self.queues[(team, name)] = Queue(team, name, m.QueueSet(by=""))
            self.team(team).queues.append(queue)
        return queue

    def queue_of(self, job: Job) -> Queue:
        return self.queue(job.specification.team, job.specification.queue)

    def disturbed(self, queue: Queue) -> int:
        """After this change of the fleet no node has changed on which something preemptible of the queue runs.

        Looked up for all queues at once: it costs what has changed since the last question.
        """
        fleet = self.fleet
        if self._disturbed_at != fleet.changes:
            names = fleet.changed_since(self._disturbed_at)
            nodes = fleet.nodes.values() if names is None else [fleet.nodes[name] for name in set(names)]
            for node in nodes:
                for job in node.jobs.values():
                    if job.specification.preemptible:
                        self.queue_of(job).disturbed = fleet.changes
            self._disturbed_at = fleet.changes
        return queue.disturbed

    def array_of(self, job: Job) -> Iterator[tuple[Job, Array]]:
        """The array that a task is of; nothing for what is no task."""
        of = self.by_key.get((job.specification.team, job.task.array)) if job.task is not None else None
        if of is not None and of.array is not None:
            yield of, of.array

    def environment(self, digest: str) -> Environment:
        """The environment of a request's digest (hexadecimal), whether or not anybody wanted it yet."""
        found = self.environments.get(digest)
        if found is None:
            found = self.environments[digest] = Environment()
        return found

    def environment_of(self, job: Job) -> Environment | None:
        """None: the node's own interpreter will do."""
        wanted = job.specification.environment
        return self.environment(hexadecimal(wanted)) if wanted else None

    # -- taking and giving back ----------------------------------------------------------------------------------------

    def _take(self, job: Job, allocations: tuple[m.Allocation, ...]) -> None:
        self._count(job, 1)
        for allocation in allocations:
            node = self.fleet.node(allocation.node)
            if not self.fleet.take(node, job, allocation):
                self.broken = f"{job.subject} got GPUs {allocation.gpus} of {allocation.node}, of which one was held"

    def _count(self, job: Job, sign: int) -> None:
        self.counted += 1
        queue = self.queue_of(job)
        queue.take(job, sign)
        team = self.team(queue.team)
        team.counted += 1
        team.account.held.take(job.shape, preemptible=job.specification.preemptible, sign=sign)

    def _use(self, job: Job, at: float | None = None, sign: int = 1) -> None:
        """What the ledger says is used: from `at` on, or as a snapshot has settled it."""
        queue = self.queue_of(job)
        for account in (queue.account, self.team(queue.team).account):
            if at is not None:
                account.average.settle(at, self.settings.fair_half_life_s)
            account.average.hold(job.shape, sign)
        if job.specification.preemptible and sign > 0:
            self.preemptible[job.key] = job
            queue.count_preemptible(job)
            if attained.is_unknown(job.specification, job.predicted_s):
                queue.unknown[job.key] = job
        elif job.specification.preemptible:
            del self.preemptible[job.key]
            queue.count_preemptible(job, -1)
            queue.unknown.pop(job.key, None)

    def _give_back(self, job: Job, at: float) -> None:
        self._release(job, job.allocations)
        self._use(job, at, -1)
        self.backlog.run(job.shape, job.placed_at, job.estimate_s, -1)
        for allocation in job.allocations:
            self.changed.setdefault(allocation.node, False)
        job.allocations = ()

    def _release(self, job: Job, allocations: tuple[m.Allocation, ...]) -> None:
        self._count(job, -1)
        for allocation in allocations:
            node = self.fleet.node(allocation.node)
            self.fleet.give_back(node, job, allocation)
            if not node.jobs or (node.claims is not None and node.claims.boot != node.boot):
                self.nodes_due[node.name] = node  # what waited for its attempts to be over

    def _touch_nodes(self, job: Job) -> None:
        """It may end there at another time than before."""
        for allocation in job.allocations:
            self.fleet.touch(self.fleet.node(allocation.node))


def hexadecimal(digest: str) -> str:
    return digest.removeprefix("sha256:")
