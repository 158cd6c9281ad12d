"""Which environment requests are to be solved, by whom, and for what: pure, like every core.

A request is `wanted` until somebody says `building` on its subject (guarded, so exactly one does), and then becomes
`ready` or `failed`. A builder that is gone is replaced: its `building` is followed by another one, and whatever the
old one still writes meets the guard. A failed request that is wanted again is solved again: what was not on the index
yesterday, or could not be reached, may be today.

What a request is solved for comes from the nodes: their interpreters and their platform. Nothing is decided before any
node is known.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from controlplane.environments import requests
from events import messages as m
from events import subjects
from events.lifecycle import Outcome

BUILDS_MAX: Final = 2
"""At once, of one service: each keeps a core busy for seconds and holds hundreds of MB."""
PROBE_EVERY_S: Final = 10.0
"""How often the builder of a build that is not ours is asked whether it still lives."""
TAKEOVER_S: Final = 1_800.0
"""A build this old is taken over whatever its builder says: longer than all of its tries may take."""
NEVER: Final = float("-inf")
AGAIN_S: Final = 5.0
"""Until a build is begun again that was dropped because its fact could not be written."""
RETRY_PAUSES_S: Final = (2.0, 10.0)
"""Between the tries of a build that failed for a passing reason (a network, a store)."""
DEFAULT_PLATFORM: Final = "x86_64-manylinux_2_28"
"""For nodes that do not say theirs."""


class Wanted(msgspec.Struct, frozen=True):
    request: m.EnvironmentRequest
    since_at: float


class Building(msgspec.Struct, frozen=True):
    request: m.EnvironmentRequest
    since_at: float
    """When it was wanted."""
    builder: str
    begun_at: float


class Ready(msgspec.Struct, frozen=True):
    fact: m.EnvironmentReady


class Failed(msgspec.Struct, frozen=True):
    fact: m.EnvironmentFailed


Stage = Wanted | Building | Ready | Failed


class Target(msgspec.Struct, frozen=True):
    """What to solve, and for what."""

    request: m.EnvironmentRequest
    python: str
    platform: str


class Build(msgspec.Struct, frozen=True):
    """Say `building` if `expect` still is the last fact of the subject; then solve."""

    subject: str
    expect: int
    target: Target


class Fail(msgspec.Struct, frozen=True):
    """Say `failed`: no solving can help."""

    subject: str
    expect: int
    reason: str


class Probe(msgspec.Struct, frozen=True):
    """Ask a builder whether it still lives."""

    builder: str


Decision = Build | Fail | Probe


class BrokenInvariant(Exception):
    """A bug of ours."""


class Core:
    """All environment requests, as far as the facts applied so far tell."""

    def __init__(self, *, me: str, builds_max: int = BUILDS_MAX) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self._me = me
        self._builds_max = builds_max
        self._stages: dict[str, Stage] = {}
        self._sequences: dict[str, int] = {}
        self._open: dict[str, None] = {}
        """Subjects that are wanted or building, in the order in which they were wanted."""
        self._nodes: dict[str, m.Capacity] = {}
        self._mine: set[str] = set()
        """Being built here, or on the way to it."""
        self._not_before: dict[str, float] = {}
        self._gone: set[str] = set()
        self._probed_at: dict[str, float] = {}

    # -- in ----------------------------------------------------------------------------------------------------------

    def apply(self, subject: str, sequence: int, fact: m.Fact, at: float) -> Outcome:
        """Take in a fact of the ledger."""
        if isinstance(fact, m.NodeJoined | m.NodeGone):
            outcome = self._on_node(subject, fact)
        elif sequence <= self._sequences.get(subject, 0):
            outcome = Outcome.REPEATED
        else:
            outcome = self._on_environment(subject, fact, at)
            self._sequences[subject] = sequence
        self.outcomes[outcome] += 1
        return outcome

    def on_dropped(self, subject: str, now: float) -> None:
        """A build of ours ended without a fact of ours: a guard did not hold, or the store could not be reached."""
        self._mine.discard(subject)
        self._not_before[subject] = now + AGAIN_S

    def on_probed(self, builder: str, *, alive: bool) -> None:
        if not alive:
            self._gone.add(builder)

    def _on_node(self, subject: str, fact: m.NodeJoined | m.NodeGone) -> Outcome:
        if isinstance(fact, m.NodeJoined):
            self._nodes[subject] = fact.capacity
            return Outcome.APPLIED
        return Outcome.APPLIED if self._nodes.pop(subject, None) else Outcome.REPEATED

    def _on_environment(self, subject: str, fact: m.Fact, at: float) -> Outcome:
        stage = self._stages.get(subject)
        match fact, stage:
            case m.EnvironmentWanted(), Wanted() | Building() | Ready():
                return Outcome.REPEATED
            case m.EnvironmentWanted(request=request), _:
                self._stages[subject] = Wanted(request, at)
                self._open[subject] = None
            case m.EnvironmentBuilding(builder=builder), Wanted() | Building():
                self._stages[subject] = Building(stage.request, stage.since_at, builder, at)
                self._gone.discard(builder)  # it writes, so it lives, though it did not answer once
                if builder != self._me:
                    self._mine.discard(subject)
            case m.EnvironmentReady(), Wanted() | Building():
                self._close(subject, Ready(fact))
            case m.EnvironmentFailed(), Wanted() | Building():
                self._close(subject, Failed(fact))
            case m.EnvironmentBuilding() | m.EnvironmentReady() | m.EnvironmentFailed(), _:
                return Outcome.FORBIDDEN
            case _:
                return Outcome.STALE
        return Outcome.APPLIED

    def _close(self, subject: str, stage: Ready | Failed) -> None:
        self._stages[subject] = stage
        self._open.pop(subject, None)
        self._mine.discard(subject)
        self._not_before.pop(subject, None)

    # -- out ---------------------------------------------------------------------------------------------------------

    def decide(self, now: float) -> list[Decision]:
        """What to do now. A `Build` counts as begun from here on, until a fact or `on_dropped` tells otherwise."""
        decisions: list[Decision] = []
        probes: set[str] = set()
        for subject in self._open:
            stage = self._stages[subject]
            if subject in self._mine or self._not_before.get(subject, 0.0) > now:
                continue
            self._not_before.pop(subject, None)
            if isinstance(stage, Building) and not self._may_take_over(stage, now):
                probes.add(stage.builder)
                continue
            decision = self._begin(subject)
            if isinstance(decision, Build):
                if len(self._mine) >= self._builds_max:
                    continue
                self._mine.add(subject)
            elif decision is not None:
                self._not_before[subject] = now + AGAIN_S  # the shell has that long to write it
            if decision is not None:
                decisions.append(decision)
        for builder in sorted(probes):
            if now >= self._probed_at.get(builder, NEVER) + PROBE_EVERY_S:
                self._probed_at[builder] = now
                decisions.append(Probe(builder))
        return decisions

    def wake_at(self) -> float | None:
        """When to ask again though nothing happens; None: when something does."""
        moments = []
        for subject in self._open:
            stage = self._stages[subject]
            if subject in self._mine:
                continue
            if subject in self._not_before:
                moments.append(self._not_before[subject])  # nobody is probed about it before that, either
            elif isinstance(stage, Building) and stage.builder not in {self._me, *self._gone}:
                moments.append(self._probed_at.get(stage.builder, NEVER) + PROBE_EVERY_S)
        return min(moments, default=None)

    def view(self, digest: str) -> m.EnvironmentView | None:
        """What is known of a request, for people; None if nobody wanted it yet."""
        match self._stages.get(subjects.environment(digest)):
            case None:
                return None
            case Ready(fact=fact):
                return m.EnvironmentView(
                    environment=digest,
                    state="ready",
                    lock=fact.lock,
                    python=fact.python,
                    platform=fact.platform,
                    packages=fact.packages,
                    took_s=fact.took_s,
                    log=fact.log,
                )
            case Failed(fact=fact):
                return m.EnvironmentView(environment=digest, state="failed", reason=fact.reason, log=fact.log)
            case Building(request=request):
                return m.EnvironmentView(environment=digest, state="building", python=request.python)
            case Wanted(request=request):
                reason = "" if self._nodes else "no node has joined yet: what it is to be built for is not known"
                return m.EnvironmentView(environment=digest, state="wanted", python=request.python, reason=reason)

    def count(self) -> dict[str, int]:
        """How many requests stand where."""
        stages = Counter(type(stage).__name__.lower() for stage in self._stages.values())
        return {name: stages[name] for name in ("wanted", "building", "ready", "failed")} | {"here": len(self._mine)}

    def check(self) -> None:
        """Raise BrokenInvariant if what is kept contradicts itself."""
        unfinished = {key for key, stage in self._stages.items() if isinstance(stage, Wanted | Building)}
        if unfinished != self._open.keys():
            raise BrokenInvariant(f"open {sorted(self._open)}, but unfinished {sorted(unfinished)}")
        if not self._mine <= unfinished:
            raise BrokenInvariant(f"built here, but finished: {sorted(self._mine - unfinished)}")
        if len(self._mine) > self._builds_max:
            raise BrokenInvariant(f"{len(self._mine)} builds at once, at most {self._builds_max}")

    # -- judging -----------------------------------------------------------------------------------------------------

    def _may_take_over(self, stage: Building, now: float) -> bool:
        if stage.builder == self._me:
            return True  # we said so, and nothing of it runs here any more
        return stage.builder in self._gone or now >= stage.begun_at + TAKEOVER_S

    def _begin(self, subject: str) -> Build | Fail | None:
        """Build it, refuse it, or wait for a node (None)."""
        stage, expect = self._stages[subject], self._sequences[subject]
        assert isinstance(stage, Wanted | Building)
        request = stage.request
        if wrong := requests.problems(request):
            return Fail(subject, expect, "; ".join(f"{each.path}: {each.message}" for each in wrong[:3]))
        if not self._nodes:
            return None
        python = requests.minor(request.python)
        able = [
            node for node in self._nodes.values() if not node.pythons or python in map(requests.minor, node.pythons)
        ]
        if not able:
            return Fail(subject, expect, self._without_python(python))
        fitting = [node for node in able if not request.platform or node.platform in {"", request.platform}]
        if not fitting:
            have = ", ".join(sorted({node.platform for node in able}))
            return Fail(subject, expect, f"no node with Python {python} is a {request.platform}; there are {have}")
        platforms = Counter(node.platform for node in fitting if node.platform)
        common = min(platforms, key=lambda name: (-platforms[name], name), default=DEFAULT_PLATFORM)
        return Build(subject, expect, Target(request, python, request.platform or common))

    def _without_python(self, python: str) -> str:
        versions = {version for node in self._nodes.values() for version in node.pythons}
        have = sorted(versions, key=lambda version: [int(part) for part in version.split(".") if part.isdigit()])
        listed = " and ".join(filter(None, [", ".join(have[:-1]), have[-1]]))
        return f"no node has Python {python}; nodes have {listed}: choose one with --python"
