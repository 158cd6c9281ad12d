"""Settings of queues and teams, as the ledger tells of them."""

from __future__ import annotations

from controlplane.scheduling import snapshots
from controlplane.scheduling.core import Core
from events import messages as m
from events import subjects
from tests.support.worlds import SETTINGS, TEAM, World, a_job


def a_world() -> World:
    world = World()
    world.lead()
    world.node()
    return world


def shown(world: World) -> list[str]:
    return [view.queue for view in world.core.queues_view().queues]


def test_a_removed_queue_is_not_shown_any_more() -> None:
    world = a_world()
    world.queue("night", weight=3.0)
    world.queue()
    world.remove_queue("night")
    assert shown(world) == ["default"]


def test_a_job_that_overtook_the_removal_of_its_queue_runs_under_the_defaults() -> None:
    world = a_world()
    world.queue("night", paused=True, running_max=0)
    world.remove_queue("night")
    world.submit(a_job(queue="night"))
    assert shown(world) == ["night"]
    world.settle()
    assert world.state("j1") == "running"
    world.end("j1", m.AttemptEnd(cause="exited", ended_at=world.now, exit_code=0))
    world.settle()
    assert shown(world) == []


def test_a_removed_queue_that_is_set_again_is_there_again() -> None:
    world = a_world()
    world.queue("night")
    world.remove_queue("night")
    world.queue("night", weight=2.0)
    assert [(view.queue, view.weight) for view in world.core.queues_view().queues] == [("night", 2.0)]


def test_a_team_is_shown_with_what_its_queues_hold_together() -> None:
    world = a_world()
    world.queue("night", paused=True)
    world.queue("gone")
    world.remove_queue("gone")
    world.team("blue", weight=3.0)
    world.submit(a_job("a", tier="gpu2"), a_job("b", tier="gpu1"), a_job("c", queue="night"))
    world.settle()
    view = world.core.teams_view()
    assert view.sequence == len(world.ledger)
    assert view.teams == (
        m.TeamView(team="blue", weight=3.0, by="ada"),
        m.TeamView(team=TEAM, queues=2, waiting=1, running=2, gpus=3, cpus=12.0),
    )


def test_a_queue_is_shown_with_all_that_it_was_set_to() -> None:
    world = a_world()
    settings = m.QueueSet(
        by="ada", weight=2.0, draining=True, guaranteed_cpus=4.0, tiers=("cpu",), time_limit_s_max=60.0, guard=None
    )
    world.write(subjects.queue(TEAM, "night"), settings)
    (view,) = world.core.queues_view().queues
    assert {name: getattr(view, name) for name in settings.__struct_fields__} == {
        name: getattr(settings, name) for name in settings.__struct_fields__
    }


def test_a_snapshot_keeps_settings_of_teams_and_what_was_removed() -> None:
    world = a_world()
    world.team(weight=2.0, guaranteed_gpus=8)
    world.queue("night", guaranteed_gpus=4, tiers=("gpu1",))
    world.queue("day")
    world.remove_queue("day")
    again = Core(SETTINGS)
    again.restore(world.core.snapshot())
    assert again.snapshot() == world.core.snapshot()
    assert snapshots.described(again.snapshot())[f"team {TEAM}"] == (
        m.TeamSet(by="ada", weight=2.0, guaranteed_gpus=8),
        world.last[subjects.team(TEAM)],
    )
    world.core = again
    assert shown(world) == ["night"]
