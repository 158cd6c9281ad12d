"""Which job of a queue comes first."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.scheduling import order
from controlplane.scheduling.backlog import Backlog
from controlplane.scheduling.jobs import Shape
from controlplane.scheduling.nodes import Totals
from events import messages as m
from tests.support.worlds import GIB, World, a_job, a_world

HOUR = 3600.0
SHAPE = Shape(milli_cpus=1000, memory_bytes=GIB, gpus=1, nodes=1, launch_bytes=1024)
TOTALS = Totals(milli_cpus=8000, memory_bytes=8 * GIB, gpus=4)


def a_full_world(policy: m.Policy, **more: object) -> World:
    """One node whose only GPU is taken, and a queue that waits for it."""
    world = a_world(gpus=1)
    world.queue(policy=policy, **more)
    world.submit(a_job("first", tier="gpu1", time_limit_s=60 * HOUR))
    world.settle()
    return world


def next_of(world: World) -> str:
    """Who comes when the one that runs has ended."""
    running = next(live.ref.job for live in world.attempts["n1"].values())
    world.end(running, m.AttemptEnd(cause="exited", exit_code=0, ended_at=world.now, started_at=world.now))
    return next(str(live.ref.job) for live in (world.settle(), world.attempts["n1"].values())[1])


def by_position(world: World, *jobs: str) -> list[str]:
    """Jobs in the order of their positions, which `why` tells."""
    positions = {job: world.why(job).position for job in jobs}
    assert sorted(positions.values()) == list(range(1, len(jobs) + 1))
    return sorted(jobs, key=lambda job: positions[job])


def submit_three(world: World) -> None:
    """A long one, then a short one, then one in between, ten minutes apart."""
    for job, hours in (("long", 40.0), ("short", 1.0), ("middle", 8.0)):
        world.submit(a_job(job, tier="gpu1", time_limit_s=hours * HOUR))
        world.now += 600
    world.decide()


def test_each_policy_has_its_own_order() -> None:
    expected = {
        "slowdown": ["short", "middle", "long"],
        "fcfs": ["long", "short", "middle"],
        "sjf": ["short", "middle", "long"],
        "saf": ["short", "middle", "long"],
        "wfp3": ["short", "middle", "long"],
    }
    for policy in order.POLICIES:
        world = a_full_world(policy)
        submit_three(world)
        assert by_position(world, "long", "short", "middle") == expected[policy], policy
        assert next_of(world) == expected[policy][0], policy


def test_a_wait_outgrows_a_long_limit() -> None:
    world = a_full_world("slowdown", guard=None)
    world.submit(a_job("long", tier="gpu1", time_limit_s=40 * HOUR))
    world.now += 50 * HOUR
    world.submit(a_job("short", tier="gpu1", time_limit_s=HOUR))
    world.decide()
    assert by_position(world, "long", "short") == ["long", "short"]


def test_the_smallest_area_is_time_and_size() -> None:
    world = a_world(gpus=2)
    world.queue(policy="saf")
    world.submit(a_job("first", tier="gpu2", time_limit_s=60 * HOUR))
    world.settle()
    world.submit(a_job("wide", tier="gpu2", time_limit_s=3 * HOUR), a_job("narrow", tier="gpu1", time_limit_s=4 * HOUR))
    assert by_position(world, "wide", "narrow") == ["narrow", "wide"]
    world.submit(a_job("shorter", tier="gpu2", time_limit_s=HOUR))
    assert by_position(world, "wide", "narrow", "shorter") == ["shorter", "narrow", "wide"]


def test_wfp3_weighs_the_wait_to_the_third_power_with_the_size() -> None:
    """Waits over limits 1 : 2 and sizes 4 : 1, so 4 : 8; with the wait as it is it would be 4 : 2."""
    world = a_world(gpus=4, cpus=16)
    world.queue(policy="wfp3")
    four = m.Resources(cpus=16.0, memory_bytes=GIB, gpus=4)
    world.submit(a_job("first", resources=four, time_limit_s=60 * HOUR))
    world.settle()
    world.submit(a_job("narrow", tier="gpu1", time_limit_s=HOUR))
    world.now += HOUR
    world.submit(a_job("wide", resources=four, time_limit_s=HOUR))
    world.now += HOUR
    assert by_position(world, "narrow", "wide") == ["narrow", "wide"]


def test_priority_and_the_front_come_before_every_policy() -> None:
    world = a_full_world("sjf")
    submit_three(world)
    world.about("middle", m.Moved(by="ada"))
    assert by_position(world, "long", "short", "middle") == ["middle", "short", "long"]
    world.about("long", m.Moved(by="ada"))
    assert by_position(world, "long", "short", "middle") == ["long", "middle", "short"]
    world.about("short", m.Reprioritised(by="ada", priority=1))
    assert by_position(world, "long", "short", "middle") == ["short", "long", "middle"]


def test_a_job_that_was_moved_beside_another_stays_beside_it() -> None:
    for policy in order.POLICIES:
        world = a_full_world(policy)
        submit_three(world)
        world.about("long", m.Moved(by="ada", before="short"))
        among = by_position(world, "long", "short", "middle")
        assert among.index("short") == among.index("long") + 1, policy
        world.about("long", m.Moved(by="ada", after="middle"))
        among = by_position(world, "long", "short", "middle")
        assert among.index("long") == among.index("middle") + 1, policy


def test_another_policy_counts_at_once() -> None:
    world = a_full_world("fcfs")
    submit_three(world)
    world.queue(policy="sjf")
    assert by_position(world, "long", "short", "middle") == ["short", "middle", "long"]


def test_a_job_that_waited_much_longer_than_in_turn_is_served_next() -> None:
    world = a_full_world("slowdown", guard=1.0)
    world.submit(a_job("long", tier="gpu1", time_limit_s=500 * HOUR))
    for hour in range(20):
        world.submit(a_job(f"short{hour}", tier="gpu1", time_limit_s=HOUR / 2))
        world.now += HOUR
    in_turn_s = (60 + 500 + 20 / 2 + 500) * HOUR
    assert world.why("long").position > 1
    world.now += in_turn_s
    assert world.why("long").position == 1
    world.queue(policy="slowdown", guard=None)
    assert world.why("long").position > 1


@settings(deadline=None)
@given(data=st.data())
def test_the_backlog_is_what_is_left_in_whatever_order_it_came(data: st.DataObject) -> None:
    works = data.draw(st.lists(st.tuples(st.booleans(), st.floats(1, 1e6)), max_size=20))
    gone = data.draw(st.lists(st.sampled_from(works), unique_by=id)) if works else []
    backlog = Backlog()
    for work in works:
        count(backlog, *work)
    rest = list(works)
    for work in gone:
        count(backlog, *work, sign=-1)
        rest.remove(work)
    fresh = Backlog()
    for work in reversed(rest):
        count(fresh, *work)
    assert backlog.turn_s(TOTALS, 0.0) == fresh.turn_s(TOTALS, 0.0)


def count(backlog: Backlog, waits: bool, seconds: float, *, sign: int = 1) -> None:
    if waits:
        backlog.wait(SHAPE, seconds, sign)
    else:
        backlog.run(SHAPE, 0.0, seconds, sign)


def test_the_backlog_is_counted_in_what_is_scarcest() -> None:
    backlog = Backlog()
    backlog.wait(SHAPE, 100.0)
    backlog.run(SHAPE, 980.0, 70.0)
    assert backlog.seconds(TOTALS, 1000.0) == (100.0 + 50.0) / 4
    assert backlog.seconds(TOTALS, 2000.0) == 100.0 / 4
