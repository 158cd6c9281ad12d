"""Jobs of which nobody can tell how long they run: who has had little comes first, and who has had much gives way."""

from __future__ import annotations

import msgspec
import pytest

from controlplane.scheduling.attained import FRESH_S, LITTLE_S
from controlplane.scheduling.core import Core
from controlplane.scheduling.order import UNKNOWN_S
from events import messages as m
from tests.support.worlds import SETTINGS, TEAM, World, a_job, a_world, an_end

IMMEDIATE = msgspec.structs.replace(SETTINGS, preempt_min_run_s=0.0)


def unknown(name: str, **more: object) -> m.Specification:
    return a_job(name, tier="gpu1", **{"preemptible": True} | more)  # type: ignore[arg-type]


def with_one_that_has_had_much(*, saved_before_s: float | None = 1.0, **more: object) -> World:
    """One GPU, which `long` has had for two hours; it saved its work so long ago."""
    world = a_world(gpus=1, settings=IMMEDIATE)
    world.submit(unknown("long", **more))
    world.settle()
    world.now += 2 * LITTLE_S
    if saved_before_s is not None:
        world.saved("long", world.now - saved_before_s)
    return world


def order_s(world: World, job: str) -> float:
    return world.core._truth.by_key[(TEAM, job)].order_s


def test_it_gives_way_at_its_checkpoint_to_one_that_has_had_little() -> None:
    world = with_one_that_has_had_much()
    world.submit(unknown("new"))
    facts = world.settle()
    assert (world.state("new"), world.state("long")) == ("running", "queued")
    requeued = next(fact for fact in facts if isinstance(fact, m.Requeued))
    assert requeued.why == (
        "preempted for job new of queue vision/default, which has had less, just after it had saved its work"
    )
    assert order_s(world, "long") == UNKNOWN_S


def test_it_does_so_when_it_saves_its_work_later() -> None:
    """Nothing else has happened: what was searched in vain is searched again."""
    world = with_one_that_has_had_much(saved_before_s=None)
    world.submit(unknown("new"), unknown("other"))
    world.settle()
    assert world.state("new") == "queued"
    world.now += 5
    world.saved("long", world.now)
    world.settle()
    assert world.state("new") == "running"


@pytest.mark.parametrize(
    ("victim", "waits"),
    [
        ({"saved_before_s": FRESH_S + 60}, {}),
        ({"saved_before_s": None}, {}),
        ({"preemptible": False}, {}),
        ({"time_limit_s": 86_400.0}, {}),
        ({"priority": 1}, {}),
        ({"queue": "night"}, {}),
        ({}, {"time_limit_s": 60.0}),
        ({}, {"preemptible": False}),
    ],
    ids=str,
)
def test_nobody_gives_way_otherwise(victim: dict[str, object], waits: dict[str, object]) -> None:
    """Not long after a checkpoint, nor without one; not who may not be preempted or has a limit; not to such."""
    world = with_one_that_has_had_much(**victim)  # type: ignore[arg-type]
    world.submit(unknown("new", **waits))
    world.settle()
    assert world.state("new") == "queued"


def test_who_has_had_little_does_not_give_way() -> None:
    world = a_world(gpus=1, settings=IMMEDIATE)
    world.submit(unknown("short"))
    world.settle()
    world.now += LITTLE_S / 2
    world.saved("short", world.now)
    world.submit(unknown("new"))
    world.settle()
    assert world.state("new") == "queued"


def test_what_earlier_attempts_have_had_counts_and_survives_a_snapshot() -> None:
    world = with_one_that_has_had_much()
    world.submit(unknown("new"))
    world.settle()
    world.end("new", an_end())
    world.settle()
    assert world.state("long") == "running"
    fresh = Core(IMMEDIATE)
    fresh.restore(world.core.snapshot())
    job = fresh._truth.by_key[(TEAM, "long")]
    assert job.attained_s == pytest.approx(2 * LITTLE_S, rel=0.01)
    assert fresh.snapshot() == world.core.snapshot()
    world.now += 1
    world.saved("long", world.now)
    world.submit(unknown("newer"))
    world.settle()
    assert world.state("newer") == "running"  # at once, for it has had enough before


@pytest.mark.parametrize(
    ("more", "expected_s"),
    [({}, LITTLE_S), ({"preemptible": False}, UNKNOWN_S), ({"time_limit_s": 600.0}, 600.0)],
    ids=str,
)
def test_the_place_of_one_that_is_unknown(more: dict[str, object], expected_s: float) -> None:
    """It pays to say how long; and who says nothing must give way, to be taken for a short one."""
    world = a_world(gpus=1)
    world.submit(unknown("blocks"))
    world.settle()
    world.submit(unknown("new", **more))
    assert order_s(world, "new") == expected_s


def test_a_gpu_hour_is_half_an_hour_of_two() -> None:
    world = a_world(gpus=2, settings=IMMEDIATE)
    world.submit(unknown("long", resources=m.Resources(cpus=1.0, memory_bytes=0, gpus=2)))
    world.settle()
    world.now += 0.6 * LITTLE_S
    world.saved("long", world.now)
    world.submit(unknown("new"))
    world.settle()
    assert world.state("new") == "running"


def test_two_that_have_had_much_do_not_take_turns() -> None:
    world = with_one_that_has_had_much()
    world.submit(unknown("new"))
    world.settle()
    world.now += 2 * LITTLE_S
    world.saved("new", world.now)
    world.settle()
    assert (world.state("new"), world.state("long")) == ("running", "queued")
