"""Arrays: one record for what nobody has placed, and a job for each task that somebody has."""

from __future__ import annotations

import random
import sys

import pytest

from controlplane.scheduling.core import Core
from controlplane.scheduling.decisions import ROUND_MAX
from controlplane.scheduling.forecast import LIMIT_PART, starts
from controlplane.scheduling.jobs import Array
from controlplane.scheduling.replay import Arrival, Replay
from events import arrays, subjects
from events import messages as m
from events.lifecycle import State
from tests.support.worlds import SETTINGS, TEAM, World, a_capacity, a_job, a_world, an_end, named


def facts(world: World, job: str) -> list[m.Fact]:
    return [entry.fact for entry in world.ledger if entry.subject == subjects.job(TEAM, named(job))]


def last(world: World, job: str) -> m.Finished:
    fact = facts(world, job)[-1]
    assert isinstance(fact, m.Finished), fact
    return fact


def test_a_waiting_array_takes_no_more_however_many_tasks_it_has() -> None:
    sizes = []
    for array in ("0-9", "0-99999"):
        world = World()
        world.submit(a_job("a", array=array))
        sizes.append(len(world.core.snapshot()))
        assert world.core.counters()["jobs"] == 1
    assert sizes[1] - sizes[0] < 10
    held = Array(indices=arrays.parse("0-99999")[0], at_once=1)
    assert sum(map(sys.getsizeof, (held, held.taken, held.assumed, held.tasks))) < 900


def test_a_large_array_is_placed_in_full_rounds_in_the_order_of_its_indices() -> None:
    world = a_world(nodes=10, cpus=100)
    world.submit(a_job("a", array="0-9999"))
    round_ = world.core.decide(world.now)
    assert ROUND_MAX <= len(round_.decisions) <= ROUND_MAX + 1
    world.commit(round_)
    placed = [d.fact.task.index for d in round_.decisions if isinstance(d.fact, m.Placed) and d.fact.task]
    assert placed == list(range(len(placed)))
    world.decide()
    assert world.core.counters()["running"] == 1000  # a CPU each


def test_a_task_is_told_which_it_is_and_how_many_there_are() -> None:
    world = a_world()
    world.submit(a_job("a", array="3,5"))
    world.settle()
    launch = next(each for each in world.launches.values() if each.ref.job == named("a[5]"))
    assert launch.task == m.Task(array="a", index=5, size=2)


def test_what_was_decided_and_not_written_is_one_of_the_rest_again() -> None:
    world = a_world()
    world.submit(a_job("a", array="0-3"))
    before = world.core.snapshot()
    round_ = world.core.decide(world.now)
    world.core.check()
    assert world.core.snapshot() == before
    world.core.abandon(round_)
    world.core.check()
    assert world.core.snapshot() == before
    again = world.core.decide(world.now)
    assert [(each.subject, each.fact) for each in again.decisions] == [
        (each.subject, each.fact) for each in round_.decisions
    ]


def test_a_cancel_of_the_array_just_before_its_first_task_leaves_nothing_placed() -> None:
    world = a_world()
    world.submit(a_job("a", array="0-3"))
    round_ = world.core.decide(world.now)
    world.about("a", m.CancelRequested(by="ada"))
    guards = [world.last.get(each.subject, 0) == each.expect for each in round_.decisions]
    assert not all(guards)
    world.core.abandon(round_)
    world.core.check()
    assert world.settle() == []
    assert world.state("a") == "cancelled"


def test_a_cancel_of_a_task_just_before_it_is_placed_is_refused_to_the_scheduler_by_its_guard() -> None:
    world = a_world()
    world.submit(a_job("a", array="0-1"))
    round_ = world.core.decide(world.now)
    world.about("a[1]", m.CancelRequested(by="ada", task=m.Task(array="a", index=1)))
    assert [d for d in round_.decisions if world.last.get(d.subject, 0) != d.expect]
    world.core.abandon(round_)
    world.settle()
    assert (world.state("a[0]"), world.state("a[1]")) == ("running", "cancelled")


def test_an_array_of_which_all_is_cancelled_waits_for_nothing_any_more() -> None:
    world = a_world()
    after = (m.Dependency(job="first"),)
    world.submit(a_job("first"), a_job("a", array="0-1", begin_at=world.now + 90, after=after))
    for index in (0, 1):
        world.about(f"a[{index}]", m.CancelRequested(by="ada", task=m.Task(array="a", index=index)))
    restored = Core(world.settings)
    restored.restore(world.core.snapshot())
    restored.check()
    world.decide()
    assert (last(world, "a").outcome, last(world, "a").reason) == ("cancelled", "all tasks were cancelled")


def test_a_task_that_is_placed_while_its_array_is_cancelled_is_stopped() -> None:
    """The rounds of other tasks do not guard the subject of the array."""
    world = a_world()
    world.submit(a_job("a", array="0-3%1"))
    world.settle()
    world.end("a[0]", an_end())
    world.commit(world.core.decide(world.now))  # its end
    round_ = world.core.decide(world.now)
    assert any(isinstance(each.fact, m.Placed) for each in round_.decisions)
    world.about("a", m.CancelRequested(by="ada", why="wrong data"))
    world.commit(round_)
    world.settle()
    assert last(world, "a[1]").reason == "cancelled by ada: wrong data"
    assert (last(world, "a").outcome, last(world, "a").tasks) == ("cancelled", {"succeeded": 1, "cancelled": 1})


@pytest.mark.parametrize(
    ("causes", "outcome", "reason"),
    [
        ((0, 0), "succeeded", "all 2 tasks succeeded"),
        ((0, 1), "failed", "1 of 2 tasks failed"),
    ],
)
def test_an_array_ends_as_its_tasks_have(causes: tuple[int, int], outcome: str, reason: str) -> None:
    world = a_world()
    world.submit(a_job("a", array="0-1"), a_job("b", after=(m.Dependency(job="a"),)))
    world.settle()
    for index, code in enumerate(causes):
        assert world.state("b") == "queued"
        world.end(f"a[{index}]", an_end(exit_code=code))
        world.settle()
    assert (last(world, "a").outcome, last(world, "a").reason) == (outcome, reason)
    assert world.state("b") == ("running" if outcome == "succeeded" else "cancelled")


def test_what_cannot_begin_before_the_deadline_fails_the_array_once_the_others_are_over() -> None:
    world = a_world()
    world.submit(a_job("a", array="0-3%2", deadline_at=world.now + 100, time_limit_s=60))
    world.settle()
    world.now += 50
    world.settle()
    assert world.state("a") == "unfolding"
    world.end("a[0]", an_end())
    world.end("a[1]", an_end())
    world.settle()
    assert last(world, "a").outcome == "failed"
    assert "deadline" in last(world, "a").reason
    assert last(world, "a").tasks == {"succeeded": 2}


def test_a_task_is_retried_by_itself() -> None:
    world = a_world()
    world.submit(a_job("a", array="0-1%1", retries=1))
    world.settle()
    world.end("a[0]", an_end(exit_code=1))
    world.settle()
    assert world.state("a[0]") == "queued"
    assert facts(world, "a[1]") == []  # it counts as one that was placed
    world.now += 1
    world.settle()
    assert world.state("a[0]") == "running"


def test_a_new_leader_goes_on_where_the_old_one_was() -> None:
    world = a_world()
    world.submit(a_job("a", array="0-5%2"))
    world.settle()
    world.about("a[3]", m.CancelRequested(by="ada", task=m.Task(array="a", index=3)))
    restored = Core(world.settings)
    restored.restore(world.core.snapshot())
    restored.check()
    assert restored.snapshot() == world.core.snapshot()
    world.core.end_term()
    world.core = restored
    world.lead()
    for index in (0, 1, 2, 4, 5):
        world.settle()
        world.end(f"a[{index}]", an_end())
    world.settle()
    assert last(world, "a").reason == "1 of 6 tasks were cancelled, the others succeeded"


def test_the_end_that_a_deposed_leader_had_not_written_is_written_by_the_next() -> None:
    world = a_world()
    world.submit(a_job("a", array="0"))
    world.settle()
    world.end("a[0]", an_end())
    world.commit(world.core.decide(world.now))
    assert isinstance(world.core.decide(world.now).decisions[0].fact, m.Finished)  # lost with its term
    world.core.end_term()
    world.lead()
    world.decide()
    assert last(world, "a").outcome == "succeeded"


def test_a_priority_and_a_place_act_on_what_is_left() -> None:
    world = a_world(gpus=1)
    world.submit(a_job("a", tier="gpu1", array="0-1"), a_job("b", tier="gpu1"))
    world.settle()
    world.about("a", m.Reprioritised(by="ada", priority=-1))
    world.end("a[0]", an_end())
    world.settle()
    assert (world.state("b"), world.state("a")) == ("running", "unfolding")
    world.about("a", m.Moved(by="ada"))
    assert world.why("a").position == 1


def test_an_array_over_nothing_known_ends_the_term_rather_than_run_unseen() -> None:
    world = a_world()
    placed = m.Placed(term=1, attempt=1, allocations=(), task=m.Task(array="nobody", index=0))
    world.write(subjects.job(TEAM, "j-x"), placed, check=False)
    assert "of which nothing is known" in world.core._truth.broken


def test_the_life_of_an_array_is_in_the_table() -> None:
    world = a_world()
    world.submit(a_job("a", array="0-1%1"))
    assert world.core._truth.by_key[TEAM, "a"].life.state is State.QUEUED
    world.settle()
    assert world.core._truth.by_key[TEAM, "a"].life.state is State.UNFOLDING
    assert world.core.counters()["forbidden"] == 0


def test_a_forecast_knows_when_the_next_task_starts_and_who_waits_behind_them_all() -> None:
    world = a_world(gpus=1)
    world.queue("default", policy="fcfs")
    world.submit(a_job("a", tier="gpu1", array="0-3", time_limit_s=100), a_job("b", tier="gpu1", time_limit_s=100))
    world.settle()
    found = starts(world.core.snapshot(), world.settings, world.now, random.Random(1))
    first, last_ = found[subjects.job(TEAM, "a")], found[subjects.job(TEAM, "b")]
    assert world.now < first < world.now + 101
    assert last_ > first + 3 * 100 * LIMIT_PART[0] - 1


def test_a_replay_runs_each_task_of_an_array() -> None:
    replay = Replay(SETTINGS, {"n1": a_capacity(cpus=2)})
    arrivals = [Arrival(0.0, a_job("a", array="0-4"), 10.0), Arrival(1.0, a_job("b"), 10.0)]
    outcomes = [(each.arrival.specification.job, each.ended_at) for each in replay.run(arrivals)]
    assert sorted(outcomes) == [("a", 10.0), ("a", 10.0), ("a", 20.0), ("a", 20.0), ("a", 30.0), ("b", 30.0)]


@pytest.mark.parametrize(("where", "order"), [("before", ["zz", "z"]), ("after", ["z", "zz"])])
def test_beside_an_array_is_beside_its_tasks_that_wait_again_too(where: str, order: list[str]) -> None:
    world = a_world(cpus=1)
    world.queue(policy="fcfs")
    world.submit(a_job("z", array="0-3"))
    world.settle()
    world.end("z[0]", an_end("supervisor_lost"))
    world.decide()
    world.submit(a_job("other"), a_job("zz"))
    world.about("zz", m.Moved(by="ada", **{where: "z"}))
    places = {job: world.why(job).position for job in ("z", "zz", "z[0]")}
    assert sorted(("z", "zz"), key=lambda job: places[job]) == order
    assert (places["zz"] < places["z[0]"]) == (where == "before")
