"""Reservations and the order of a queue, against an implementation that is as dumb as it is slow."""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.scheduling import order
from controlplane.scheduling.backfill import Plan
from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.replay import ALWAYS_HEARD, Arrival, Replay
from events import messages as m
from events import subjects
from tests.support.worlds import SETTINGS, TEAM, a_job, a_world

PROCESSORS = 8
LIMITS_S = (1.0, 599.0, 600.0, 601.0, 5000.0)


class Task(NamedTuple):
    at: int
    processors: int
    runs_s: int


TASKS = st.lists(
    st.builds(Task, st.integers(0, 60), st.integers(1, PROCESSORS), st.integers(1, 90)), min_size=1, max_size=24
)


def replayed(tasks: list[Task], policy: m.Policy, *, depth: int = 1) -> dict[str, float]:
    """When each task starts, by the core."""
    arrivals = []
    for number, task in enumerate(tasks):
        resources = m.Resources(cpus=float(task.processors), memory_bytes=0)
        job = a_job(f"j{number:03}", time_limit_s=float(task.runs_s))
        arrivals.append(Arrival(task.at, msgspec.structs.replace(job, resources=resources), float(task.runs_s)))
    replay = Replay(
        Settings(backfill_depth=depth, **ALWAYS_HEARD),
        {"n1": m.Capacity(cpus=float(PROCESSORS), memory_bytes=0)},
        {(TEAM, "default"): m.QueueSet(by="ops", policy=policy)},
    )
    started = {}
    for outcome in replay.run(arrivals):
        started[outcome.arrival.specification.job] = outcome.started_at
        replay.core.check()
    return started


def by_hand(tasks: list[Task], policy: str) -> dict[str, float]:
    """EASY as the textbook has it: at each time all ends, all submits, one pass; head and shadow chosen anew."""
    key = {"fcfs": lambda number: 0, "sjf": lambda number: tasks[number].runs_s}[policy]
    coming = sorted(range(len(tasks)), key=lambda number: tasks[number].at)
    waiting: list[int] = []
    running: dict[int, float] = {}
    started: dict[str, float] = {}
    while coming or running:
        now = min([tasks[number].at for number in coming[:1]] + list(running.values()))
        running = {number: end for number, end in running.items() if end > now}
        while coming and tasks[coming[0]].at <= now:
            waiting.append(coming.pop(0))
        free = PROCESSORS - sum(tasks[number].processors for number in running)
        head_at, extra = math.inf, 0
        for number in sorted(waiting, key=lambda number: (key(number), tasks[number].at, number)):
            task = tasks[number]
            if head_at is math.inf and task.processors > free:
                head_at, extra = _shadow(tasks, running, free, task.processors)
            elif task.processors <= free and (now + task.runs_s <= head_at or task.processors <= extra):
                if now + task.runs_s > head_at:
                    extra -= task.processors
                free -= task.processors
                running[number] = now + task.runs_s
                started[f"j{number:03}"] = now
                waiting.remove(number)
    return started


def _shadow(tasks: list[Task], running: dict[int, float], free: int, need: int) -> tuple[float, int]:
    """When there is enough for the head, and what is left over then."""
    for end in sorted(set(running.values())):
        free += sum(tasks[number].processors for number, at in running.items() if at == end)
        if free >= need:
            return end, free - need
    raise AssertionError("never")


@pytest.mark.parametrize("policy", ["fcfs", "sjf"])
@settings(deadline=None, max_examples=60)
@given(tasks=TASKS)
def test_it_is_easy_backfilling_as_the_textbook_has_it(policy: m.Policy, tasks: list[Task]) -> None:
    tasks = sorted(tasks)
    assert replayed(tasks, policy) == by_hand(tasks, policy)


@pytest.mark.parametrize("policy", order.POLICIES)
@settings(deadline=None, max_examples=60)
@given(tasks=TASKS, depth=st.integers(0, 5))
def test_every_job_starts_under_every_policy(policy: m.Policy, tasks: list[Task], depth: int) -> None:
    tasks = sorted(tasks)
    started = replayed(tasks, policy, depth=depth)
    assert len(started) == len(tasks)
    assert all(started[f"j{number:03}"] >= task.at for number, task in enumerate(tasks))


@settings(deadline=None, max_examples=60)
@given(tasks=TASKS)
def test_with_a_reservation_for_each_no_job_waits_longer_because_of_a_later_one(tasks: list[Task]) -> None:
    """Conservative backfilling: with exact limits, what comes later changes nothing for those before."""
    tasks = sorted(tasks)
    *earlier, _ = tasks
    depth = len(tasks)
    all_of_them, without_the_last = replayed(tasks, "fcfs", depth=depth), replayed(earlier, "fcfs", depth=depth)
    assert all(all_of_them[name] <= at for name, at in without_the_last.items())


@pytest.mark.parametrize(("depth", "state"), [(1, "running"), (2, "queued")])
def test_the_second_of_a_line_of_equal_jobs_has_a_reservation_where_two_may(depth: int, state: str) -> None:
    """The first is promised the node that is free first, the second the other one, where `small` could begin."""
    world = a_world(nodes=2, gpus=4, settings=msgspec.structs.replace(SETTINGS, backfill_depth=depth))
    world.queue(policy="fcfs", guard=None)
    for name, gpus, limit_s in (("first", 4, 200.0), ("second", 3, 300.0)):
        world.submit(a_job(name, resources=gpus_of(gpus), time_limit_s=limit_s))
        world.settle()
    world.submit(*(a_job(f"wide{number}", resources=gpus_of(4), time_limit_s=1000.0) for number in range(2)))
    world.submit(a_job("small", tier="gpu1", time_limit_s=1000.0))
    world.settle()
    assert [world.state(name) for name in ("wide0", "wide1", "small")] == ["queued", "queued", state]


@pytest.mark.parametrize(("limit_s", "state"), [(590.0, "running"), (610.0, "queued")])
def test_a_job_of_another_queue_fills_the_gap_if_it_is_over_before_what_is_promised(limit_s: float, state: str) -> None:
    """As long as the gap and not longer; also where none of that queue may have a reservation of its own."""
    world = a_world(nodes=1, gpus=4)
    for name in ("default", "night"):
        world.queue(name, policy="fcfs", guard=None)
    world.submit(a_job("runs", queue="night", resources=gpus_of(2), time_limit_s=600.0))
    world.settle()
    world.submit(a_job("wide", resources=gpus_of(4)))
    world.settle()
    world.submit(a_job("fills", queue="night", resources=gpus_of(1), time_limit_s=limit_s))
    world.settle()
    assert [world.state(name) for name in ("wide", "fills")] == ["queued", state]


def test_a_window_is_as_long_as_the_longest_job_that_is_admitted() -> None:
    """Also where what is kept is kept from now on, for who preempted, and not from some time on."""
    world = a_world(nodes=2, gpus=4)
    world.submit(a_job("runs", resources=gpus_of(1), time_limit_s=600.0))
    world.settle()
    world.submit(*(a_job(name, resources=gpus_of(4)) for name in ("kept", "reserved")))
    world.submit(*(a_job(str(limit_s), resources=gpus_of(1), time_limit_s=limit_s) for limit_s in LIMITS_S))
    fleet, jobs = world.core._truth.fleet, world.core._truth.by_key
    idle, busy = sorted(fleet.nodes.values(), key=lambda node: len(node.jobs))
    plan = Plan(fleet, world.now)
    plan.pin(jobs[TEAM, "kept"], (idle.name,))
    plan.reserve(jobs[TEAM, "reserved"])
    small = [jobs[TEAM, str(limit_s)] for limit_s in LIMITS_S]
    windows = {node.name: window_s for window_s, node in plan.windows(small[0].shape)}
    assert windows == {busy.name: 600.0, idle.name: 0.0}
    for node in (busy, idle):
        assert [plan.admits(node, job) for job in small] == [limit_s <= windows[node.name] for limit_s in LIMITS_S]


def test_a_window_is_as_long_as_what_is_admitted_beside_who_has_outlived_a_limit() -> None:
    """A part of a GPU on a node with a maintenance ahead and nothing kept: only the maintenance counts there."""
    world = a_world(nodes=1, gpus=2)
    part = m.Resources(cpus=1.0, memory_bytes=0, gpus=1, gpu_milli=300)
    world.submit(a_job("late", resources=part, time_limit_s=60.0), a_job("full", resources=gpus_of(1)))
    world.settle()
    begins_at = world.now + 3 * 3600
    world.write(subjects.node("n1"), m.NodeMaintenance(by="ada", begins_at=begins_at, ends_at=begins_at + 60, why=""))
    world.now += 70
    world.exchange("n1")
    world.submit(a_job("short", resources=part, time_limit_s=600.0))
    truth = world.core._truth
    plan, job = Plan(truth.fleet, world.now), truth.by_key[TEAM, "short"]
    node = truth.fleet.nodes["n1"]
    assert plan.admits(node, job)
    assert list(plan.windows(job.shape)) == [(begins_at - world.now, node)]
    world.now = begins_at
    plan = Plan(truth.fleet, world.now)
    assert not plan.admits(node, job)
    assert list(plan.windows(job.shape)) == [(0.0, node)]


def gpus_of(count: int) -> m.Resources:
    return m.Resources(cpus=1.0, memory_bytes=0, gpus=count)
