"""Small builders for tests of the scheduler: jobs, nodes, and a ledger that lives in memory.

`World` plays the part of the shell: it gives facts sequences, checks every guard as the store would, applies them to
the core and, after each step, lets the core check itself.
"""

from __future__ import annotations

import msgspec

from controlplane.scheduling.core import Core
from controlplane.scheduling.decisions import Round, Settings
from events import arrays, subjects
from events import messages as m
from events.entries import Entry
from events.identity import task_id

GIB = 1024**3
TEAM = "vision"
TIERS = {
    "cpu": m.Resources(cpus=1.0, memory_bytes=GIB),
    "gpu1": m.Resources(cpus=4.0, memory_bytes=8 * GIB, gpus=1),
    "half": m.Resources(cpus=2.0, memory_bytes=4 * GIB, gpus=1, gpu_milli=500),
    "third": m.Resources(cpus=1.0, memory_bytes=2 * GIB, gpus=1, gpu_milli=300),
    "gpu2": m.Resources(cpus=8.0, memory_bytes=16 * GIB, gpus=2),
    "gpu8": m.Resources(cpus=32.0, memory_bytes=64 * GIB, gpus=8),
    "pair": m.Resources(cpus=32.0, memory_bytes=64 * GIB, gpus=8, nodes=2),
    "two": m.Resources(cpus=4.0, memory_bytes=8 * GIB, gpus=1, nodes=2),
    "three": m.Resources(cpus=4.0, memory_bytes=8 * GIB, gpus=1, nodes=3),
}
QUIET_ROUNDS = 4
"""What a node started it tells in its next exchange; what it misses, in the one after that. A gang takes two more: its
parts are ready, and told so.
"""
SETTINGS = Settings(heartbeat_s=5, suspect_s=20, lease_s=100, margin_s=10, preempt_min_run_s=60)


class GuardFailed(AssertionError):
    """The store would have refused this write."""


def a_job(
    name: str = "j1",
    *,
    tier: str = "cpu",
    queue: str = "default",
    team: str = TEAM,
    priority: int = 0,
    attempts_max: int = 3,
    environment: str = "",
    time_limit_s: float | None = None,
    grace_s: float = 5.0,
    called: str = "",
    user: str = "ada",
    preemptible: bool = False,
    after: tuple[m.Dependency, ...] = (),
    begin_at: float | None = None,
    deadline_at: float | None = None,
    retries: int = 0,
    resources: m.Resources | None = None,
    array: str = "",
    on: tuple[m.Constraint, ...] = (),
) -> m.Specification:
    return m.Specification(
        job=name,
        team=team,
        user=user,
        name=called or name,
        queue=queue,
        tier=tier,
        resources=resources or TIERS[tier],
        entrypoint=("python", "train.py"),
        environment=environment,
        priority=priority,
        attempts_max=attempts_max,
        time_limit_s=time_limit_s,
        grace_s=grace_s,
        preemptible=preemptible,
        after=after,
        begin_at=begin_at,
        deadline_at=deadline_at,
        retries=retries,
        array=str(arrays.parse(array)[0]) if array else "",
        array_at_once=arrays.parse(array)[1] if array else 0,
        on=on,
    )


def named(job: str) -> str:
    """The id that `sweep[7]` stands for: of a task of the array `sweep`; any other is one."""
    array, _, index = job.removesuffix("]").partition("[")
    return task_id(array, int(index)) if index else job


def a_capacity(
    *, gpus: int = 8, cpus: float = 64, gpu_model: str = "", labels: dict[str, str] | None = None
) -> m.Capacity:
    return m.Capacity(
        cpus=float(cpus), memory_bytes=512 * GIB, gpus=gpus, gpu_model=gpu_model, labels=dict(labels or {})
    )


def an_end(cause: m.EndCause = "exited", **more: object) -> m.AttemptEnd:
    if cause == "exited":
        more = {"exit_code": 0} | more
    return m.AttemptEnd(cause=cause, ended_at=1000.0, started_at=999.0, **more)  # type: ignore[arg-type]


def a_fault(gpu: int = 3, sign: str = "Xid 79", *, since_at: float = 1000.0, **more: object) -> m.GpuFault:
    return m.GpuFault(gpu=gpu, sign=sign, why=f"{sign} (as a test has it)", since_at=since_at, **more)  # type: ignore[arg-type]


class World:
    """A scheduler with a ledger in memory, and a clock that the test moves."""

    def __init__(self, core: Core | None = None, settings: Settings = SETTINGS) -> None:
        self.settings = settings
        self.now = 1000.0
        self.ledger: list[Entry] = []
        self.last: dict[str, int] = {}
        self.core = core or Core(settings)
        self.attempts: dict[str, dict[tuple[str, str], m.LiveAttempt]] = {}
        """By node: what really lives there."""
        self.launches: dict[tuple[str, m.AttemptRef], m.Launch] = {}
        """By node and attempt: all that were ever told."""
        self.boots: dict[str, str] = {}
        self.capacities: dict[str, m.Capacity] = {}
        self.faults: dict[str, tuple[m.GpuFault, ...]] = {}
        """By node: what its watch over its GPUs has found. Of others nobody watches them."""
        self.ports = 20_000
        """The last that a gang was offered."""

    # -- the ledger ------------------------------------------------------------------------------------------------

    def write(self, subject: str, fact: m.Fact, *, check: bool = True) -> Entry:
        """A fact that somebody writes, and that the core hears of at once."""
        entry = Entry(len(self.ledger) + 1, subject, fact, self.now)
        self.ledger.append(entry)
        self.last[subject] = entry.sequence
        self.core.apply(entry, self.now)
        if check:
            self.core.check()
        return entry

    def lead(self) -> None:
        self.write(subjects.TERM, m.Led(leader="s1"))
        self.core.begin_term(self.now)
        self.core.check()

    def submit(self, *specifications: m.Specification, held: bool = False) -> None:
        for one in specifications:
            self.write(subjects.job(one.team, one.job), m.Accepted(specification=one, held=held), check=False)
        self.core.check()

    def about(self, job: str, fact: m.JobFact, *, team: str = TEAM) -> None:
        self.write(subjects.job(team, named(job)), fact)

    def queue(self, name: str = "default", *, team: str = TEAM, **settings: object) -> None:
        self.write(subjects.queue(team, name), m.QueueSet(by="ada", **settings))  # type: ignore[arg-type]

    def remove_queue(self, name: str = "default", *, team: str = TEAM) -> None:
        self.write(subjects.queue(team, name), m.QueueRemoved(by="ada"))

    def team(self, name: str = TEAM, **settings: object) -> None:
        self.write(subjects.team(name), m.TeamSet(by="ada", **settings))  # type: ignore[arg-type]

    def commit(self, round_: Round) -> None:
        """What the store does with a round: all or nothing, under its guards."""
        for decision in round_.decisions:
            if self.last.get(decision.subject, 0) != decision.expect:
                raise GuardFailed(f"{decision} expects {decision.expect}, is {self.last.get(decision.subject, 0)}")
        self.core.landed(round_, self.now)
        for decision in round_.decisions:
            self.write(decision.subject, decision.fact, check=False)
        self.core.check()

    def decide(self, *, rounds_max: int = 20) -> list[m.Fact]:
        """Decide and commit until there is nothing more to decide; gives the facts."""
        facts: list[m.Fact] = []
        for _ in range(rounds_max):
            round_ = self.core.decide(self.now)
            self.core.check()
            if not round_.decisions:
                return facts
            self.commit(round_)
            facts += [decision.fact for decision in round_.decisions]
        raise AssertionError("the core never comes to rest")

    # -- nodes -----------------------------------------------------------------------------------------------------

    def node(
        self,
        name: str = "n1",
        *,
        gpus: int = 8,
        cpus: float = 64,
        boot: str = "b1",
        gpu_model: str = "",
        labels: dict[str, str] | None = None,
    ) -> None:
        """A node that is there from now on, and has joined."""
        capacity = a_capacity(gpus=gpus, cpus=cpus, gpu_model=gpu_model, labels=labels)
        self.boots[name], self.capacities[name] = boot, capacity
        self.attempts.setdefault(name, {})
        self.exchange(name)
        self.decide()

    def exchange(self, name: str = "n1") -> m.Desired:
        """The node says what it has, and does what it is told."""
        self.core.hear(
            m.Exchange(
                node=name,
                boot=self.boots[name],
                runner="r1",
                capacity=self.capacities[name],
                attempts=tuple(self.attempts[name].values()),
                gpu_health=m.GpuHealth(faults=self.faults[name]) if name in self.faults else None,
            ),
            self.now,
        )
        self.core.check()
        return self.core.desired(name, self.now)

    def obey(self, name: str = "n1") -> m.Desired:
        """Exchange, and let the node start what it should and forget what is recorded."""
        return self.follow(self.exchange(name))

    def push(self, name: str = "n1") -> m.Desired:
        """The node is told its list without having asked."""
        return self.follow(self.core.desired(name, self.now))

    def follow(self, desired: m.Desired) -> m.Desired:
        """The node does what it is told."""
        mine = self.attempts[desired.node]
        for launch in desired.attempts:
            self.launches[desired.node, launch.ref] = launch
            key = (launch.ref.team, launch.ref.job)
            known = mine.get(key)
            if known is None or known.ref.attempt < launch.ref.attempt:
                mine[key] = self._begun(launch)
            elif launch.gang is not None and launch.gang.meeting is not None:
                mine[key] = self._met(launch, known, launch.gang.meeting)
        wanted = {launch.ref for launch in desired.attempts}
        for key, live in list(mine.items()):
            if live.state != "ended" and live.ref not in wanted:
                mine[key] = m.LiveAttempt(ref=live.ref, state="ended", end=an_end("stopped", signal=15))
            elif live.ref in desired.recorded:
                del mine[key]
        return desired

    def _begun(self, launch: m.Launch) -> m.LiveAttempt:
        """It runs; a part of a gang is ready, and rank 0 of it says where they meet: never twice at one port."""
        if launch.gang is None:
            return self._running(launch)
        self.ports += 1
        offered = m.Meeting(address=launch.allocation.node, port=self.ports)
        return m.LiveAttempt(ref=launch.ref, state="ready", meeting=None if launch.gang.rank else offered)

    def _met(self, launch: m.Launch, known: m.LiveAttempt, meeting: m.Meeting) -> m.LiveAttempt:
        """A part that is ready begins; one that has begun otherwise ends."""
        if known.state == "ready":
            return self._running(launch, meeting)
        if known.state == "ended" or known.meeting == meeting:
            return known
        return m.LiveAttempt(ref=launch.ref, state="ended", end=an_end("stopped", signal=15), meeting=known.meeting)

    def _running(self, launch: m.Launch, meeting: m.Meeting | None = None) -> m.LiveAttempt:
        return m.LiveAttempt(ref=launch.ref, state="running", started_at=self.now, meeting=meeting)

    def end(self, job: str, end: m.AttemptEnd, *, node: str = "n1", team: str = TEAM) -> None:
        """The attempt ends, and the node says so."""
        key = (team, named(job))
        live = self.attempts[node][key]
        self.attempts[node][key] = m.LiveAttempt(ref=live.ref, state="ended", end=end, meeting=live.meeting)
        self.exchange(node)

    def saved(self, job: str, at: float, *, node: str = "n1", team: str = TEAM) -> None:
        """A job said that it had saved its work, and the node tells."""
        live = self.attempts[node][(team, job)]
        self.attempts[node][(team, job)] = msgspec.structs.replace(live, checkpoint_at=at)
        self.exchange(node)

    def settle(self) -> list[m.Fact]:
        """Let nodes and scheduler talk until nothing changes; gives the facts that were written."""
        facts: list[m.Fact] = []
        quiet = 0
        for _ in range(40):
            before = len(facts)
            facts += self.decide()
            for name in self.attempts:
                self.obey(name)
                facts += self.decide()
            quiet = quiet + 1 if len(facts) == before else 0
            if quiet == QUIET_ROUNDS:
                return facts
        raise AssertionError("the world never comes to rest")

    # -- looking ---------------------------------------------------------------------------------------------------

    def state(self, job: str, *, team: str = TEAM) -> str:
        why = self.core.why(team, named(job), self.now)
        assert why is not None
        return why.state

    def why(self, job: str, *, team: str = TEAM) -> m.Why:
        why = self.core.why(team, named(job), self.now)
        assert why is not None
        return why

    def summary(self, job: str, *, team: str = TEAM) -> str:
        return self.why(job, team=team).summary

    def gpus(self, job: str, *, team: str = TEAM) -> tuple[str, tuple[int, ...]]:
        """Where the newest placement of a job is."""
        subject = subjects.job(team, job)
        placed = [e.fact for e in self.ledger if e.subject == subject and isinstance(e.fact, m.Placed)]
        allocation = placed[-1].allocations[0]
        return allocation.node, allocation.gpus


def a_world(*, nodes: int = 1, gpus: int = 8, cpus: float = 64, settings: Settings = SETTINGS) -> World:
    """A leader and some nodes `n1`, `n2`, …"""
    world = World(settings=settings)
    world.lead()
    for number in range(1, nodes + 1):
        world.node(f"n{number}", gpus=gpus, cpus=cpus)
    return world
