"""A queue of which nothing came is not looked at again until something changes. No decision is another one for it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from controlplane.scheduling.placing import Placing
from controlplane.scheduling.waiting import CLAIM_S
from events import messages as m
from tests.support.worlds import SETTINGS, World, a_job, a_world, an_end

QUEUES = ("default", "night", "sure")
STEPS = 60


class Twice:
    """The same things happen in two worlds; one of them looks at every queue each time."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._dice = random.Random(seed)
        self._monkeypatch = monkeypatch
        settings = msgspec.structs.replace(
            SETTINGS, backfill_depth=self._pick((0, 1, 2)), preempt_min_run_s=self._pick((0.0, 0.0, 30.0))
        )
        nodes, gpus = self._pick((1, 2, 3)), self._pick((2, 4))
        self.worlds = [a_world(nodes=nodes, gpus=gpus, settings=settings) for _ in range(2)]
        for world in self.worlds:
            world.queue("sure", guaranteed_gpus=1)
        self.jobs: list[str] = []
        self.decided = self.quiet = 0

    def _pick(self, options: Sequence[Any]) -> Any:
        return options[self._dice.randrange(len(options))]

    def step(self) -> None:
        happens = self._pick((self._submit, self._submit, self._submit, self._end, self._time, self._control))
        happens()
        self._decide()

    def _submit(self) -> None:
        pick = self._pick
        self.jobs.append(f"j{len(self.jobs):03}")
        job = a_job(
            self.jobs[-1],
            queue=pick(QUEUES),
            tier=pick(("cpu", "gpu1", "gpu1", "gpu2")),
            priority=pick((0, 0, 1, 2)),
            preemptible=pick((True, True, False)),
            time_limit_s=pick((60.0, 600.0, 7200.0)),
        )
        for world in self.worlds:
            world.submit(job)

    def _end(self) -> None:
        world = self.worlds[0]
        live = [
            (node, job) for node in world.attempts for _, job in world.attempts[node] if world.state(job) == "running"
        ]
        if live:
            node, job = self._pick(sorted(live))
            for world in self.worlds:
                world.end(job, an_end(), node=node)

    def _time(self) -> None:
        later_s = self._pick((0.2, 1.0, 10.0, 31.0, 100.0))
        for world in self.worlds:
            world.now += later_s

    def _control(self) -> None:
        if not self.jobs:
            return
        job, priority = self._pick(self.jobs[-12:]), self._pick((0, 3))
        paused, weight = self._pick((True, False, False)), self._pick((1.0, 3.0))
        is_about_a_job = self._pick((True, True, False))
        for world in self.worlds:
            if is_about_a_job and world.state(job) in ("queued", "running"):
                world.about(job, m.Reprioritised(by="ada", priority=priority))
            elif not is_about_a_job:
                world.queue("night", paused=paused, weight=weight)

    def _decide(self) -> None:
        facts = [self._settled(self.worlds[0])]
        with self._monkeypatch.context() as patch:
            patch.setattr(Placing, "_is_quiet", lambda *_: False)
            facts.append(self._settled(self.worlds[1]))
        assert facts[0] == facts[1]
        self.decided += len(facts[0])
        self.quiet += len(self.worlds[0].core._truth.quiet)

    def _settled(self, world: World) -> list[m.Fact]:
        facts: list[m.Fact] = world.decide()
        for name in world.attempts:
            world.obey(name)
            facts += world.decide()
        return facts


@pytest.mark.parametrize("first", range(0, 30, 6))
def test_what_is_passed_over_changes_no_decision(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = quiet = 0
    for seed in range(first, first + 6):
        twice = Twice(seed, monkeypatch)
        for _ in range(STEPS):
            twice.step()
        decided, quiet = decided + twice.decided, quiet + twice.quiet
    assert decided > 200
    assert quiet > 20


def test_who_has_others_ended_is_looked_at_again_when_that_came_to_nothing() -> None:
    """The victim never ends; after the time that is kept for its successor, another one is looked for."""
    world = a_world(
        nodes=2, gpus=1, settings=msgspec.structs.replace(SETTINGS, backfill_depth=0, preempt_min_run_s=0.0)
    )
    for name in ("p0", "p1"):
        world.submit(a_job(name, tier="gpu1", preemptible=True))
        world.settle()
        world.now += 10
    world.submit(a_job("first", tier="gpu1", priority=1))
    stopped = [fact for fact in world.decide() if isinstance(fact, m.StopRequested)]
    world.now += CLAIM_S + 100
    stopped += [fact for fact in world.decide() if isinstance(fact, m.StopRequested)]
    assert len(stopped) == 2
