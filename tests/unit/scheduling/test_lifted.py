"""A limit that is lifted lets run what it held back, at once, and one that is set holds for what waits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.worlds import World, a_job

Change = Callable[[World], None]


def held(world: World) -> list[str]:
    return [job for job in ("j1", "j2", "j3") if world.state(job) == "queued"]


@pytest.mark.parametrize(
    ("limit", "waiting", "lift"),
    [
        (lambda w: w.queue(paused=True), 3, lambda w: w.queue()),
        (lambda w: w.queue(running_max=1), 2, lambda w: w.queue(running_max=3)),
        (lambda w: w.queue(gpus_max=2), 2, lambda w: w.queue(gpus_max=6)),
        (lambda w: w.queue(user_running_max=2), 1, lambda w: w.queue()),
        (lambda w: w.queue(user_gpus_max=2), 2, lambda w: w.queue()),
        (lambda w: w.queue(gpus_max=2), 2, lambda w: w.remove_queue()),
        (lambda w: w.team(gpus_max=4), 1, lambda w: w.team()),
        (lambda w: w.team(running_max=1), 2, lambda w: w.team(running_max=None, weight=2.0)),
    ],
)
def test_a_lifted_limit_lets_run_what_it_held_back(limit: Change, waiting: int, lift: Change) -> None:
    world = World()
    world.lead()
    world.node()
    limit(world)
    world.submit(*(a_job(name, tier="gpu2") for name in ("j1", "j2", "j3")))
    world.settle()
    assert len(held(world)) == waiting
    lift(world)
    world.decide()
    assert held(world) == []


@pytest.mark.parametrize(
    "limit",
    [
        lambda w: w.queue(paused=True),
        lambda w: w.queue(running_max=0),
        lambda w: w.queue(gpus_max=0),
        lambda w: w.queue(user_running_max=0),
        lambda w: w.team(running_max=0),
        lambda w: w.team(gpus_max=1),
    ],
)
def test_a_limit_that_is_set_while_jobs_wait_holds_for_them_and_ends_nothing_that_runs(limit: Change) -> None:
    world = World()
    world.lead()
    world.node("n1", gpus=4)
    world.submit(*(a_job(name, tier="gpu2") for name in ("j1", "j2", "j3")))
    world.settle()
    assert held(world) == ["j3"]
    limit(world)
    world.node("n2", gpus=8)
    world.settle()
    assert held(world) == ["j3"]
    assert (world.state("j1"), world.state("j2")) == ("running", "running")
