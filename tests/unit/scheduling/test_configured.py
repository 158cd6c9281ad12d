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
