"""A queue of which nothing came is not looked at again until something changes. No decision is another one for it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from controlplane.scheduling.placing import Placing
from controlplane.scheduling.preemption import Search
from controlplane.scheduling.waiting import CLAIM_S
from events import messages as m
from events import subjects
from tests.support.worlds import SETTINGS, TEAM, World, a_job, a_world, an_end

QUEUES = ("default", "night", "sure")
STEPS = 60


def gpus(count: int, nodes: int = 1) -> m.Resources:
    return m.Resources(cpus=1.0, memory_bytes=0, gpus=count, nodes=nodes)


class Twice:
    """The same things happen in two worlds; one of them looks at every queue each time."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._dice = random.Random(seed)
        self._monkeypatch = monkeypatch
        settings = msgspec.structs.replace(
            SETTINGS, backfill_depth=self._pick((0, 1, 2)), preempt_min_run_s=self._pick((0.0, 0.0, 30.0))
        )
        nodes, gpus = self._pick((1, 2, 3, 6)), self._pick((2, 4))
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
            resources=pick((gpus(0), gpus(1), gpus(1), gpus(2), gpus(1, nodes=2))),
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
        running_max = self._pick((None, None, 1, 3))
        is_about_a_job = self._pick((True, True, False))
        for world in self.worlds:
            if is_about_a_job and world.state(job) in ("queued", "running"):
                world.about(job, m.Reprioritised(by="ada", priority=priority))
            elif not is_about_a_job:
                world.queue("night", paused=paused, weight=weight, running_max=running_max)

    def _decide(self) -> None:
        facts = [self._settled(self.worlds[0])]
        with self._monkeypatch.context() as patch:
            patch.setattr(Placing, "_is_quiet", lambda *_: False)
            patch.setattr(Search, "_is_known_to_fail", lambda *_: False)
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


# -- what it must be woken by: worlds in which nothing else happens ----------------------------------------------------


NOW = msgspec.structs.replace(SETTINGS, backfill_depth=0, preempt_min_run_s=0.0)


def on(*nodes: str) -> tuple[m.Constraint, ...]:
    return ({"node": nodes},)


@pytest.mark.parametrize("is_lifted", [True, False])
def test_a_maintenance_that_is_lifted_or_over(is_lifted: bool) -> None:
    world = a_world(nodes=1, gpus=1, settings=NOW)
    world.submit(a_job("low", tier="gpu1", preemptible=True, time_limit_s=36_000.0))
    world.settle()
    world.now += 10
    begins_at = world.now + 100
    world.write(subjects.node("n1"), m.NodeMaintenance(by="ada", begins_at=begins_at, ends_at=begins_at + 400, why=""))
    world.submit(a_job("high", tier="gpu1", priority=1, time_limit_s=3600.0))
    world.settle()
    assert world.state("high") == "queued"
    if is_lifted:
        world.write(subjects.node("n1"), m.NodeMaintenance(by="ada", begins_at=0, ends_at=0, why=""))
    else:
        world.now += 600
        world.exchange("n1")
    world.settle()
    assert world.state("high") == "running"


def test_a_reservation_that_was_in_the_way_of_a_gang_is_another_one_now() -> None:
    """It wants a node that is free, and reserved, and one where somebody may end."""
    world = a_world(nodes=3, gpus=2, settings=msgspec.structs.replace(NOW, backfill_depth=1))
    for queue, weight in (("a", 1.0), ("z", 0.01), ("hold", 1.0)):
        world.queue(queue, policy="fcfs", guard=None, weight=weight)
    for job in (
        a_job("victim", resources=gpus(2), queue="z", preemptible=True, on=on("n2"), time_limit_s=36_000.0),
        a_job("half", resources=gpus(1), queue="hold", on=on("n1"), time_limit_s=1000.0),
        a_job("whole", resources=gpus(2), queue="hold", on=on("n3"), time_limit_s=1000.0),
        a_job("reserved", resources=gpus(2), queue="a", on=on("n1")),
        a_job("next", resources=gpus(2), queue="a", on=on("n3")),
        a_job("gang", resources=gpus(1, 2), queue="z", priority=1, on=on("n1", "n2"), time_limit_s=36_000.0),
    ):
        world.submit(job)
        world.settle()
        world.now += 5
    assert world.state("gang") == "queued"
    world.about("reserved", m.CancelRequested(by="ada"))
    world.settle()
    assert world.state("gang") == "running"


def test_a_decision_that_is_forgotten() -> None:
    """Whoever is about to be said to run cannot end; whoever is not, can."""
    world = a_world(nodes=1, gpus=1, settings=NOW)
    world.submit(a_job("victim", tier="gpu1", preemptible=True))
    world.decide()
    world.push("n1")
    world.submit(a_job("high", tier="gpu1", priority=1))
    world.exchange("n1")
    assert [type(decision.fact) for decision in world.core.decide(world.now).decisions] == [m.Started]
    world.core.end_term()
    world.core.begin_term(world.now)
    assert [type(decision.fact) for decision in world.core.decide(world.now).decisions] == [m.StopRequested]


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_what_is_kept_for_another_is_not_any_more(is_cancelled: bool) -> None:
    """Cancelled, or over at this very moment."""
    world = a_world(nodes=1, gpus=2, settings=NOW)
    for name, queue in (("a", "night"), ("b", "default")):
        world.submit(a_job(name, tier="gpu1", queue=queue, preemptible=True))
        world.settle()
        world.now += 10
    world.submit(a_job("first", tier="gpu1", queue="night", priority=1))
    world.decide()
    if is_cancelled:
        world.submit(a_job("second", tier="gpu1", priority=1))
        assert not world.decide()
        world.about("first", m.CancelRequested(by="ada"))
    else:
        world.now = world.core._truth.claims[TEAM, "first"].until
        world.exchange("n1")
        world.submit(a_job("second", tier="gpu1", priority=1))
    assert m.StopRequested in map(type, world.decide())


def test_a_limit_that_begins_to_hold_back_within_a_round() -> None:
    """A is placed; the limit holds B back from then on, and C, which is behind B and would fit, with it."""
    world = a_world(nodes=2, gpus=4, settings=NOW)
    world.queue("other", policy="fcfs", guard=None)
    for node in ("n1", "n2"):
        world.submit(a_job(f"on-{node}", resources=gpus(2), queue="other", on=on(node)))
        world.settle()
    world.queue(policy="fcfs", guard=None, gpus_max=4)
    world.submit(*(a_job(name, resources=gpus(count)) for name, count in (("a", 2), ("b", 3), ("c", 1))))
    world.settle()
    assert [world.state(name) for name in "abc"] == ["running", "queued", "queued"]
    assert world.summary("c") == "job b comes first: queue default holds 2 of at most 4 GPUs, it asks for 3"


def test_a_limit_that_leaves_room_again_far_from_whoever_may_end() -> None:
    """The one who ends runs on a node on which nobody of the queue could be preempted."""
    world = a_world(nodes=2, gpus=1, settings=NOW)
    world.queue(running_max=2)
    world.submit(
        a_job("low", tier="gpu1", preemptible=True, on=on("n1")),
        a_job("other", tier="gpu1", on=on("n2")),
    )
    world.settle()
    world.now += 10
    world.submit(a_job("high", tier="gpu1", priority=1, on=on("n1")))
    world.settle()
    assert world.state("high") == "queued"
    world.end("other", an_end(), node="n2")
    world.settle()
    assert world.state("high") == "running"


@pytest.mark.parametrize("is_question", [False, True])
@pytest.mark.parametrize("fails_before", [False, True])
def test_what_a_round_keeps_for_a_gang_and_is_never_written(is_question: bool, fails_before: bool) -> None:
    """It would have been kept on a node on which nobody ends; the gang had freed something before, and lost it."""
    world = a_world(nodes=4, gpus=2, settings=NOW)
    world.queue("a", weight=100.0)
    world.queue("z", weight=0.01)
    for job in (
        a_job("w", resources=gpus(1), queue="z", preemptible=True, on=on("n1")),
        a_job("va", resources=gpus(2), queue="a", preemptible=True, on=on("n2")),
        a_job("v3", resources=gpus(2), queue="a", preemptible=True, on=on("n3")),
        a_job("stays", resources=gpus(2), queue="z", on=on("n4")),
    ):
        world.submit(job)
        world.settle()
        world.now += 5
    world.submit(a_job("gang", resources=gpus(1, 2), queue="a", priority=1, on=on("n1", "n2")))
    gang = m.Preemptor(team=TEAM, job="gang", nodes=("n3",))
    world.about("v3", m.StopRequested(term=world.core.term, attempt=1, why="x", preemptor=gang))
    world.submit(a_job("earlier", resources=gpus(2), queue="z", priority=1, on=on("n3")))
    for _ in range(2):
        world.now += 1
        assert not world.decide()
    world.now += CLAIM_S + 100
    for name in ("n1", "n2", "n3", "n4"):
        world.exchange(name)
    if fails_before:  # in the same round, of another search
        world.submit(a_job("in-vain", resources=gpus(2), queue="a", priority=2, on=on("n4")))
    world.submit(a_job("j", resources=gpus(2), queue="z", priority=1, on=on("n1")))
    if is_question:
        world.why("j")
    else:
        world.core.abandon(world.core.decide(world.now))
    world.about("gang", m.CancelRequested(by="ada"))
    assert m.StopRequested in map(type, world.decide())


def test_an_array_whose_task_has_got_what_was_kept_for_it() -> None:
    """Nothing of its queue has moved: whom it ended was cancelled meanwhile. The next task may end another one."""
    world = a_world(nodes=2, gpus=2, settings=NOW)
    for name in ("v1", "v2"):
        world.submit(a_job(name, resources=gpus(2), preemptible=True))
        world.settle()
        world.now += 5
    world.submit(a_job("sweep", resources=gpus(2), priority=1, array="0-1"))
    stopped = [fact for fact in world.decide() if isinstance(fact, m.StopRequested)]
    assert len(stopped) == 1
    victim = next(name for name in ("v1", "v2") if world.core._truth.by_key[TEAM, name].stop_at)
    world.about(victim, m.CancelRequested(by="ada"))
    world.settle()
    assert [world.state(f"sweep[{index}]") for index in range(2)] == ["running", "running"]


def test_a_clock_that_is_ahead() -> None:
    """By it a job has saved its work in our future: it gives way from half a minute before that on."""
    world = a_world(nodes=3, gpus=1, settings=NOW)
    world.submit(a_job("v", resources=gpus(1), priority=1, preemptible=True, on=on("n1")))
    world.submit(a_job("w", resources=gpus(1), preemptible=True, on=on("n2")))
    world.settle()
    world.now += 4000
    for name in ("n1", "n2", "n3"):
        world.exchange(name)
    world.saved("v", world.now + 40)
    world.settle()
    world.submit(a_job("earlier", resources=gpus(1), priority=1, time_limit_s=9e4, on=on("n1")))
    for _ in range(2):
        world.now += 1
        assert not world.decide()
    world.submit(a_job("j", resources=gpus(1), priority=1, preemptible=True, on=on("n1")))
    assert m.StopRequested not in map(type, world.decide())
    world.now = world.core.wake_at() or world.now
    for name in ("n1", "n2", "n3"):
        world.exchange(name)
    world.now += 15
    assert m.StopRequested in map(type, world.settle())


def test_another_queue_that_comes_to_hold_more_than_is_guaranteed_to_it() -> None:
    """Whoever is within a guarantee of its own may end others since then; nothing has changed where its own run."""
    world = a_world(nodes=3, gpus=1, settings=NOW)
    world.queue("sure", guaranteed_gpus=1)
    world.queue(guaranteed_gpus=1)
    world.submit(a_job("p", tier="gpu1", preemptible=True, on=on("n2")))
    world.settle()
    world.now += 10
    world.submit(a_job("want", tier="gpu1", queue="sure", on=on("n2")))
    world.settle()
    assert world.state("want") == "queued"
    world.submit(a_job("more", tier="gpu1", preemptible=True, on=on("n3")))
    world.settle()
    assert world.state("want") == "running"
