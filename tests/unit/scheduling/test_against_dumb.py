"""The scheduler decides as a second, deliberately dumb implementation of its policy does (`tests/support/dumb.py`)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.scheduling import order
from events import messages as m
from events import subjects
from tests.support.dumb import Dumb
from tests.support.worlds import SETTINGS, TEAM, World, a_capacity, a_fault, a_job, an_end

Pick = Callable[[Sequence[Any]], Any]
QUEUES = ("default", "night")
TEAMS = (TEAM, TEAM, "speech")
A100, V100 = {"gpu": ("A100",)}, {"gpu": ("V100",)}
ON = ((), (), (), (V100,), (A100, V100), ({"node": ("!n1",)},), ({"node": ("n2", "n3")}, A100))
STEPS_MAX = 40


class Small:
    """A small world, in which one thing happens after the other, and both are asked each time."""

    def __init__(self, pick: Pick, *, later_s: float = 0.0, backwards: bool = False) -> None:
        """`later_s`: everything happens so much later; `backwards`: queues are made in the other order."""
        self._pick = pick
        self.depth = pick((0, 1, 1, 2, 8))
        always = {"suspect_s": math.inf, "lease_s": 0.0}
        self.world = World(
            settings=msgspec.structs.replace(SETTINGS, fair_half_life_s=0.0, backfill_depth=self.depth, **always)
        )
        self.world.now += later_s
        self.world.write(subjects.TERM, m.Led(leader="s1"))
        self.nodes = [f"n{number}" for number in range(1, 1 + pick((1, 2, 3)))]
        for name in self.nodes:
            has = a_capacity(gpus=pick((0, 2, 8)), cpus=pick((8, 64)), gpu_model=pick(("A100", "V100")))
            joined = m.NodeJoined(boot="b", capacity=has, term=1)
            self.world.write(subjects.node(name), joined)
        drawn = [(team, queue, self._drawn_settings()) for team in sorted(set(TEAMS)) for queue in QUEUES]
        for team, queue, drawn_settings in reversed(drawn) if backwards else drawn:
            self.world.queue(queue, team=team, **drawn_settings)
        self.world.core.begin_term(self.world.now)
        self.count = 0
        self.placements = 0
        self.log: list[tuple[str, tuple[str, ...]]] = []
        self.live: dict[str, str] = {}
        self.waiting: dict[str, str] = {}

    def _drawn_settings(self) -> dict[str, Any]:
        pick = self._pick
        return {
            "weight": pick((1.0, 1.0, 3.0)),
            "policy": pick(order.POLICIES),
            "guard": pick((None, 1.2)),
            "paused": pick((False, False, False, True)),
            "running_max": pick((None, None, 2)),
            "gpus_max": pick((None, None, 4)),
            "user_running_max": pick((None, None, 1)),
            "user_gpus_max": pick((None, None, 2)),
        }

    def step(self) -> None:
        happen = self._pick((self._submit, self._submit, self._submit, self._end, self._end, self._time, self._other))
        happen()
        self.compare()

    def _submit(self) -> None:
        pick = self._pick
        self.count += 1
        name, team = f"j{self.count:03}", pick(TEAMS)
        job = a_job(
            name,
            team=team,
            queue=pick(QUEUES),
            user=pick(("ada", "bob")),
            tier=pick(("cpu", "cpu", "gpu1", "gpu2", "gpu8", "two", "half", "third")),
            priority=pick((0, 0, 0, 1)),
            time_limit_s=pick((None, 60.0, 64.0, 68.0, 72.0, 76.0, 80.0, 600.0, 640.0, 7200.0)),
            on=pick(ON),
        )
        self.waiting[name] = team
        self.world.submit(job)

    def _end(self) -> None:
        if self.live:
            name = self._pick(sorted(self.live))
            fact = m.Finished(term=1, attempt=1, outcome="succeeded", reason="", end=an_end())
            self.world.about(name, fact, team=self.live.pop(name))

    def _time(self) -> None:
        self.world.now += self._pick((1.0, 4.0, 4.0, 30.0, 61.0, 4000.0, 100_000.0))

    def _other(self) -> None:
        pick = self._pick
        if pick((True, False, False)):
            faults = tuple(a_fault(gpu, ends=False) for gpu in pick(((), (), (0,), (1, 2), (7,))))
            self.world.write(subjects.node(pick(self.nodes)), m.NodeGpus(term=1, faults=faults))
        elif pick((True, False)):
            self.world.queue(pick(QUEUES), team=pick(TEAMS), **self._drawn_settings())
        elif self.waiting:
            name = pick(sorted(self.waiting))
            team = self.waiting[name]
            if pick((True, False)):
                self.world.about(name, m.Reprioritised(by="ada", priority=pick((0, 2))), team=team)
            else:
                self.world.about(name, m.CancelRequested(by="ada"), team=self.waiting.pop(name))

    def compare(self) -> None:
        expected = Dumb(self.world.ledger, self.world.now, self.depth).decide()
        round_ = self.world.core.decide(self.world.now)
        placed = [
            (subjects.tokens(decision.subject)[2], tuple(each.node for each in decision.fact.allocations))
            for decision in round_.decisions
            if isinstance(decision.fact, m.Placed)
        ]
        assert placed == expected
        self.world.commit(round_)
        for name, _ in placed:
            self.live[name] = self.waiting.pop(name)
        self.placements += len(placed)
        self.log += placed


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_it_places_what_a_dumb_scheduler_places(data: st.DataObject) -> None:
    small = Small(lambda options: data.draw(st.sampled_from(list(options))))
    for _ in range(data.draw(st.integers(1, STEPS_MAX))):
        small.step()


@pytest.mark.parametrize("seed", range(12))
def test_it_does_so_for_long(seed: int) -> None:
    dice = random.Random(seed)
    small = Small(lambda options: options[dice.randrange(len(options))])
    for _ in range(120):
        small.step()
    assert small.placements > 5


@pytest.mark.parametrize("seed", range(6))
def test_neither_the_hour_nor_the_order_in_which_queues_were_made_changes_a_decision(seed: int) -> None:
    logs = []
    for later_s, backwards in ((0.0, False), (2.0**21, False), (0.0, True)):  # a power of two: no time is rounded
        dice = random.Random(seed)
        small = Small(
            lambda options, dice=dice: options[dice.randrange(len(options))], later_s=later_s, backwards=backwards
        )
        for _ in range(60):
            small.step()
        logs.append(small.log)
    assert logs[0] == logs[1] == logs[2]
    assert logs[0]
