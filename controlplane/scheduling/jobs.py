"""A job that has not ended, as the scheduler knows it, and the shape that makes jobs alike. Pure.

What the ledger says (the upper part of `Job`) is in every snapshot. The lower part is this leader's own: what nodes
have told and what was decided and is not in the ledger yet. It may be forgotten at any time, and is heard again.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final, NamedTuple

import msgspec

from controlplane.scheduling.order import estimate_s
from controlplane.scheduling.parts import Part, meeting
from events import labels
from events import messages as m
from events.arrays import Indices
from events.lifecycle import HOLDS_RESOURCES, Life, State

Key = tuple[str, str]
"""Team and job id."""
Rank = int | Fraction
"""Place among jobs of one priority: the sequence of `accepted`, or something between two others after a move."""

LAUNCH_BYTES_MIN: Final = 1024
"""What a launch takes in a message to a node, its entrypoint and environment variables aside, rounded up."""
LAUNCH_BYTES_MAX: Final = 768 * 1024
"""No launch takes more, since its submit is at most 512 KiB long: so every job fits into a message to a node."""
BACKOFF_S_MAX: Final = 60.0


class Shape(NamedTuple):
    """All that can make one job fit where another does not. Jobs of one shape are interchangeable for a node."""

    milli_cpus: int
    memory_bytes: int
    gpus: int
    nodes: int
    launch_bytes: int
    """How much of a node's message it takes, rounded up to a power of two."""
    on: tuple[labels.Pairs, ...] = ()
    """Which nodes will do, in order of preference. Empty: any."""
    gpu_milli: int = m.GPU_MILLI
    """Thousandths of each GPU; fewer only of one."""

    @property
    def shares_gpu(self) -> bool:
        """Whether it has a part of a GPU, beside others."""
        return self.gpus > 0 and self.gpu_milli < m.GPU_MILLI

    @property
    def milli_gpus(self) -> int:
        """Of one node."""
        return self.gpus * self.gpu_milli


class Array(msgspec.Struct, eq=False, kw_only=True):
    """What an array is beside its own job (`arrays`)."""

    indices: Indices
    at_once: int
    first: int = 0
    """Of the positions in `indices`: all before it have a fact of their own."""
    taken: set[int] = msgspec.field(default_factory=set)
    """Those behind it that have one, too."""
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    tasks: dict[Key, Job] = msgspec.field(default_factory=dict)
    """Those that were taken and have not ended, also what is decided only."""

    # -- not in the ledger ------------------------------------------------------------------------------------------
    assumed: set[int] = msgspec.field(default_factory=set)
    """Positions of tasks that are decided only."""
    cursor: int = 0
    """No position before it is free."""

    @property
    def rest(self) -> int:
        """How many tasks the ledger does not know."""
        return len(self.indices) - self.first - len(self.taken)

    @property
    def may_go_on(self) -> bool:
        """Whether one more task may be placed."""
        return self.rest > len(self.assumed) and len(self.tasks) < self.at_once

    def next(self) -> int:
        """The first position that is free. There must be one."""
        self.cursor = max(self.cursor, self.first)
        while self.cursor in self.taken or self.cursor in self.assumed:
            self.cursor += 1
        return self.cursor

    def take(self, position: int) -> bool:
        """A task has a fact from now on. False: it had one."""
        if position < self.first or position in self.taken:
            return False
        self.taken.add(position)
        while self.first in self.taken:
            self.taken.remove(self.first)
            self.first += 1
        return True

    def fold(self, task: m.Task) -> None:
        """What was decided about a task did not come about, or is in the ledger."""
        position = self.indices.position(task.index)
        if position is not None:
            self.assumed.discard(position)
            self.cursor = min(self.cursor, position)

    def count(self, state: State) -> None:
        """A task has ended so."""
        self.succeeded += state is State.SUCCEEDED
        self.failed += state is State.FAILED
        self.cancelled += state is State.CANCELLED


class Job(msgspec.Struct, eq=False, kw_only=True):
    """A job that was accepted and has not ended."""

    specification: m.Specification
    subject: str
    shape: Shape
    life: Life
    sequence: int
    """The last of its subject that was seen: the guard of what is written next."""
    accepted: int
    """Sequence of its `accepted`."""
    rank: Rank
    priority: int
    queued_at: float
    front: int = 0
    """Below zero: it was moved to the front, the last one that was the furthest."""
    order_at: float = 0.0
    """From when its wait counts in the order of its queue: its own, or that of the job it was moved beside."""
    order_s: float = 0.0
    """The estimate that counts there."""
    attained_s: float = 0.0
    """What its attempts that are over have had (`attained`)."""
    predicted_s: float | None = None
    """How long it will probably run (`predictions`); None: nobody could tell when it came."""
    running_at: float | None = None
    """When the ledger heard that its newest attempt runs."""
    traceparent: str = ""
    array: Array | None = None
    """Set: it is an array."""
    task: m.Task | None = None
    """Set: it is a task of one."""
    not_before: float = 0.0
    """Its begin time; after an attempt that broke off, a little later than that."""
    early: bool = False
    """That time has not come, as far as anybody has looked."""
    after: tuple[m.Dependency, ...] = ()
    """Those of its dependencies that have not ended."""
    unmet: str = ""
    """Which of them ended otherwise than it had to, for a person; empty: none."""
    failures: int = 0
    """How often the program itself has failed."""
    allocations: tuple[m.Allocation, ...] = ()
    placed_at: float = 0.0
    started_at: float | None = None
    cancelled_by: str = ""
    """Empty: nobody wants it cancelled."""
    cancel_why: str = ""
    stop_why: str = ""
    """Why its attempt is to be stopped, for no fault of its own; empty: nobody wants that."""
    excused: int = 0
    """Attempts that were stopped so: they are no tries."""
    stop_at: float = 0.0
    """When its attempt was first asked to end; 0: it was not."""
    stop_final: bool = False
    """It is not queued again once it has stopped."""

    # -- not in the ledger ------------------------------------------------------------------------------------------
    decided: m.Fact | None = None
    """What was decided and has not come back from the ledger."""
    landed: bool = False
    """The ledger took what was decided, though it has not come back yet."""
    parts: dict[str, Part] | None = None
    """What each of its nodes says of its newest attempt."""
    is_overdue: bool = False
    """Its deadline is over, or, while it is queued, so near that it cannot make it."""
    waits: bool = False
    """It stands in its queue."""
    in_line: bool = False
    """It stands in a line of its queue: it could run now."""
    launches: dict[str, m.Launch] | None = None
    """By node; made when they are first asked for."""

    @property
    def id(self) -> str:
        return self.specification.job

    @property
    def key(self) -> Key:
        return (self.specification.team, self.specification.job)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Where its newest attempt is, also if that is decided only: in the order of its ranks."""
        held = self.decided.allocations if isinstance(self.decided, m.Placed) else self.allocations
        return tuple(allocation.node for allocation in held)

    def part(self, node: str) -> Part:
        """What this node says of it."""
        if self.parts is None:
            self.parts = {}
        found = self.parts.get(node)
        if found is None:
            found = self.parts[node] = Part()
        return found

    @property
    def meeting(self) -> m.Meeting | None:
        """Of a gang: where its parts meet; None: they must not start yet."""
        return meeting(self.part(node) for node in self.nodes)

    @property
    def attempt(self) -> int:
        """Number of its newest attempt, also if that is decided only."""
        return self.decided.attempt if isinstance(self.decided, m.Placed) else self.life.attempt

    @property
    def estimate_s(self) -> float:
        """How long it is taken to run, where a number is needed. Its place may go by another one: `order_s`."""
        return estimate_s(self.specification.time_limit_s)

    def expected_end_at(self, now: float) -> float | None:
        """When what runs of it will probably be over; None: nobody can tell. An outlived prediction says nothing."""
        limit_s = self.specification.time_limit_s
        limit_at = None if limit_s is None else self.begun_at + limit_s
        at = limit_at if self.predicted_s is None else self.held_from + self.predicted_s
        at = at if at is not None and at > now else limit_at
        return at if at is not None and at > now else None

    @property
    def held_from(self) -> float:
        """When its newest attempt began, by the ledger's clock alone."""
        return self.running_at if self.running_at is not None else self.placed_at

    @property
    def saved_at(self) -> float | None:
        """When all parts of its attempt had last saved their work, as they say themselves; None: one never has."""
        said = [part.reported.checkpoint_at for part in (self.parts or {}).values() if part.reported is not None]
        times = [at for at in said if at is not None]
        return min(times) if times and len(times) == len(self.allocations) else None

    @property
    def tries(self) -> int:
        """How many of its attempts count against `attempts_max`, the newest among them."""
        return self.life.attempt - self.failures - self.excused

    @property
    def last_at(self) -> float | None:
        """When it is too late for it: to start, while it is queued; to run on, later. None: never."""
        deadline_at, limit_s = self.specification.deadline_at, self.specification.time_limit_s
        return deadline_at if deadline_at is None or self.is_live else deadline_at - (limit_s or 0.0)

    @property
    def is_live(self) -> bool:
        """Whether an attempt of it holds resources, by the ledger."""
        return self.life.state in HOLDS_RESOURCES and self.array is None

    @property
    def is_queued(self) -> bool:
        """Whether it waits to be placed, by the ledger, or the rest of it does."""
        if self.array is not None:
            return self.life.state in (State.QUEUED, State.UNFOLDING) and self.array.rest > 0
        return self.life.state is State.QUEUED

    @property
    def waiting(self) -> int:
        """How many jobs of its shape wait in its place."""
        return self.array.rest if self.array is not None else 1

    def is_wanted_on(self, node: str) -> bool:
        """Whether its newest attempt should live on this node of its."""
        if isinstance(self.decided, m.Placed):
            return self.landed
        if self.life.state not in (State.PLACED, State.RUNNING):
            return False
        parts = self.parts or {}
        here = parts.get(node)
        if here is not None and (here.missing or here.gone_why):
            return False
        return not any(part.is_broken for where, part in parts.items() if where != node)

    @property
    def begun_at(self) -> float:
        """Since when its attempt runs, or is about to."""
        return self.started_at if self.started_at is not None else self.placed_at

    def ref(self) -> m.AttemptRef:
        return m.AttemptRef(team=self.specification.team, job=self.specification.job, attempt=self.attempt)


def shape_of(specification: m.Specification) -> Shape:
    """The shape of a job: milli-CPUs, so that sums stay exact."""
    resources = specification.resources
    told = sum(map(len, specification.entrypoint)) + sum(len(k) + len(v) + 6 for k, v in specification.env.items())
    launch_bytes = LAUNCH_BYTES_MIN
    while launch_bytes < LAUNCH_BYTES_MIN // 2 + 2 * told:  # twice: a character may take more than one byte
        launch_bytes *= 2
    launch_bytes = min(launch_bytes, LAUNCH_BYTES_MAX)
    return Shape(
        milli_cpus=round(resources.cpus * 1000),
        memory_bytes=resources.memory_bytes,
        gpus=resources.gpus,
        nodes=resources.nodes,
        launch_bytes=launch_bytes,
        on=tuple(map(labels.pairs, specification.on)),
        gpu_milli=resources.gpu_milli,
    )


def backoff_s(attempt: int) -> float:
    """How long a job waits after its n-th attempt broke off: 1, 2, 4 … 60 s."""
    return float(min(2 ** min(attempt - 1, 10), BACKOFF_S_MAX))
