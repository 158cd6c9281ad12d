"""Equal parts of jobs are one object, however the jobs became known."""

from __future__ import annotations

import msgspec

from controlplane.scheduling.core import Core
from controlplane.scheduling.jobs import Job
from events import messages as m
from tests.support.worlds import SETTINGS, TEAM, World, a_job, a_world

PARTS = ("team", "user", "queue", "tier", "source", "folder", "environment", "resources", "env", "labels")


def test_what_two_jobs_have_in_common_is_kept_once() -> None:
    world = a_world()
    for name in ("one", "two"):
        given = a_job(name, environment="sha256:" + 64 * "e")
        program = ("python", "train.py", f"--name={name}")
        given = msgspec.structs.replace(given, entrypoint=program, folder="/work/vision", source="sha256:" + 64 * "a")
        fact = m.Accepted(specification=given)
        world.submit(msgspec.json.decode(msgspec.json.encode(fact), type=m.Accepted).specification)
    assert_shared(world)
    restored = Core(SETTINGS)
    restored.restore(world.core.snapshot())
    assert restored.snapshot() == world.core.snapshot()
    world.core = restored
    assert_shared(world)


def assert_shared(world: World) -> None:
    one, two = (_job(world, name) for name in ("one", "two"))
    assert one.shape is two.shape
    assert one.life is two.life
    for part in PARTS:
        assert getattr(one.specification, part) is getattr(two.specification, part), part
    (interpreter, script, mine), (its_interpreter, its_script, its) = (
        job.specification.entrypoint for job in (one, two)
    )
    assert interpreter is its_interpreter
    assert script is its_script
    assert (mine, its) == ("--name=one", "--name=two")


def _job(world: World, name: str) -> Job:
    return world.core._truth.by_key[TEAM, name]
