"""What operators say of machines: cordoned, drained, closed for maintenance, gone."""

from __future__ import annotations

from controlplane.scheduling.core import Core
from events import messages as m
from events import subjects
from tests.support.worlds import SETTINGS, World, a_job, a_world, an_end

DRAIN = m.NodeDraining(by="ops", stop=True, why="new disks")


def kinds(facts: list[m.Fact]) -> list[str]:
    return [str(type(fact).__struct_config__.tag) for fact in facts]


def about_n1(world: World, fact: m.Fact) -> None:
    world.write(subjects.node("n1"), fact)


def test_a_drain_also_stops_what_was_just_found_to_run() -> None:
    world = a_world()
    world.submit(a_job("a"))
    world.decide()
    world.obey()
    about_n1(world, DRAIN)
    world.exchange()
    round_ = world.core.decide(world.now)
    assert kinds([one.fact for one in round_.decisions]) == ["started"]
    world.commit(round_)
    assert kinds(world.decide()) == ["stop_requested"]


def test_what_a_drain_stops_loses_no_try_however_often() -> None:
    world = a_world(nodes=2, gpus=1)
    world.submit(a_job("a", tier="gpu1", attempts_max=2))
    for _ in range(4):
        world.settle()
        node, _gpus = world.gpus("a")
        world.write(subjects.node(node), DRAIN)
        facts = world.settle()
        assert kinds(facts) == ["stop_requested", "requeued", "placed", "started"]
        world.write(subjects.node(node), m.NodeUncordoned(by="ops"))
    fresh = Core(SETTINGS)
    fresh.restore(world.core.snapshot())
    assert fresh.snapshot() == world.core.snapshot()
    for kind in ("requeued", "finished"):
        world.end("a", an_end("supervisor_lost"), node=world.gpus("a")[0])
        assert kinds(world.decide()) == [kind]
        world.now += 60
        world.settle()


def test_who_cordons_a_node_and_who_drains_it_are_two_each_with_their_own_words() -> None:
    world = a_world()
    about_n1(world, DRAIN)
    about_n1(world, m.NodeCordoned(by="ada", why="bad disk"))
    fresh = Core(SETTINGS)
    fresh.restore(world.core.snapshot())
    for core in (world.core, fresh):
        (view,) = core.nodes_view().nodes
        assert (view.state, view.by, view.why) == ("drained", "ops", "new disks")
        assert (view.cordoned_by, view.cordoned_why) == ("ada", "bad disk")
        assert (view.draining_by, view.draining_why) == ("ops", "new disks")
    about_n1(world, m.NodeUncordoned(by="ada"))
    (view,) = world.core.nodes_view().nodes
    assert (view.state, view.cordoned_by, view.draining_by, view.cordoned_why, view.why) == ("ready", "", "", "", "")


def test_a_drained_program_that_ends_well_in_its_grace_is_not_run_again() -> None:
    world = a_world()
    world.submit(a_job("a"))
    world.settle()
    about_n1(world, DRAIN)
    world.decide()
    world.end("a", an_end())
    assert kinds(world.settle()) == ["finished"]


def test_who_is_cancelled_during_a_drain_is_cancelled() -> None:
    world = a_world()
    world.submit(a_job("a"))
    world.settle()
    about_n1(world, DRAIN)
    world.decide()
    world.about("a", m.CancelRequested(by="ada"))
    world.settle()
    assert world.state("a") == "cancelled"


def test_the_view_says_who_closed_a_node_and_why_and_for_how_long() -> None:
    world = a_world()
    about_n1(world, DRAIN)
    about_n1(world, m.NodeMaintenance(by="bob", begins_at=2000.0, ends_at=3000.0, why="fans"))
    (view,) = world.core.nodes_view().nodes
    assert (view.state, view.by, view.why) == ("drained", "ops", "new disks")
    assert view.maintenance == m.Span(begins_at=2000.0, ends_at=3000.0, by="bob", why="fans")
    about_n1(world, m.NodeMaintenance(by="bob"))
    assert world.core.nodes_view().nodes[0].maintenance is None


def test_the_scheduler_wakes_when_a_maintenance_is_over() -> None:
    world = a_world(gpus=1)
    about_n1(world, m.NodeMaintenance(by="ops", begins_at=1000.0, ends_at=1010.0))
    world.submit(a_job("a"))
    assert world.decide() == []
    assert world.summary("a") == "n1 is closed until 00:16 UTC for maintenance"
    wake_at = world.core.wake_at()
    assert wake_at == 1010.0
    world.now = wake_at
    assert kinds(world.decide()) == ["placed"]


def test_a_job_may_end_in_the_very_moment_in_which_a_maintenance_begins() -> None:
    world = a_world()
    about_n1(world, m.NodeMaintenance(by="ops", begins_at=1100.0, ends_at=1200.0))
    world.submit(a_job("late", time_limit_s=100.5), a_job("exact", time_limit_s=100.0))
    facts = world.decide()
    assert kinds(facts) == ["placed"]
    assert world.state("exact") == "placed"
    assert world.summary("late").startswith(
        "n1 is closed from 00:18 UTC for maintenance: its limit of 100.5 s does not"
    )


def test_a_reservation_behind_a_maintenance_begins_when_it_is_over() -> None:
    world = a_world(gpus=8)
    about_n1(world, m.NodeMaintenance(by="ops", begins_at=1100.0, ends_at=1200.0))
    world.submit(a_job("wide", tier="gpu8", time_limit_s=3600.0), a_job("endless", tier="gpu1"))
    world.submit(a_job("short", tier="gpu1", time_limit_s=50.0))
    facts = world.decide()
    assert kinds(facts) == ["placed"]
    world.settle()
    world.end("short", an_end())
    assert world.decide()[1:] == []
    world.now = 1200.0
    world.settle()
    assert world.gpus("wide") == ("n1", (0, 1, 2, 3, 4, 5, 6, 7))
