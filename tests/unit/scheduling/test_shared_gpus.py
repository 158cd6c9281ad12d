"""Parts of GPUs: who shares one delays nobody, and what nobody can have is in nobody's way."""

from __future__ import annotations

import random

import msgspec
import pytest

from events import messages as m
from tests.support.worlds import GIB, SETTINGS, World, a_job, a_world, an_end

PATIENT = msgspec.structs.replace(SETTINGS, suspect_s=1e8, lease_s=1e9)


def part(milli: int = 1000, cpus: float = 1.0) -> m.Resources:
    return m.Resources(cpus=cpus, memory_bytes=GIB, gpus=1, gpu_milli=milli)


def test_a_part_that_preemption_freed_is_kept() -> None:
    """Also while somebody beside it stays, and though its own victims would fit into what is free meanwhile."""
    world = World(settings=SETTINGS)
    world.lead()
    world.node("n1", gpus=1)
    world.queue("prod", guaranteed_gpus=1)
    world.queue("other")
    world.submit(a_job("firm", queue="prod", resources=part(300), time_limit_s=100_000.0))
    world.settle()
    borrowed = {"queue": "other", "resources": part(350), "preemptible": True, "time_limit_s": 50_000.0}
    world.submit(a_job("v1", **borrowed), a_job("v2", grace_s=50.0, **borrowed))
    world.settle()
    world.now += 100
    world.submit(a_job("want", queue="prod", resources=part(700), time_limit_s=5000.0))
    world.decide()
    world.end("v1", an_end("stopped", signal=15))
    world.decide()
    assert world.state("v1") == "queued"
    world.now += 20
    world.end("v2", an_end("stopped", signal=15))
    world.decide()
    assert world.state("want") == "placed"


def test_short_parts_do_not_slide_past_a_whole_gpu() -> None:
    """Each is ended by its limit, two seconds late, as a grace takes, and the next one would start meanwhile."""
    world = a_world(nodes=1, gpus=1, settings=PATIENT)
    world.queue(policy="fcfs", guard=None)
    world.submit(a_job("p0", resources=part(500), time_limit_s=50.0))
    world.settle()
    world.now += 1
    world.submit(a_job("whole", resources=part(), time_limit_s=1000.0))
    world.submit(*(a_job(f"p{number}", resources=part(500), time_limit_s=50.0) for number in range(1, 20)))
    world.settle()
    (promised,) = [each.at for each in world.why("whole").hindrances if each.kind == "reservation"]
    assert promised is not None
    ends_at = {"p0": 1052.0}
    while world.state("whole") == "queued":
        world.now = min(ends_at.values()) - 1
        world.settle()
        world.now += 1
        for job in [job for job, at in ends_at.items() if at == world.now]:
            del ends_at[job]
            world.end(job, an_end("time_limit"))
        world.settle()
        running = [job for _, job in world.attempts["n1"] if job not in ends_at and world.state(job) == "running"]
        ends_at |= {job: world.now + 52 for job in running if job != "whole"}
        assert ends_at or world.state("whole") != "queued"
    assert world.now <= promised + 3


def played(seed: int) -> str:
    """A world of parts and wholes that end exactly at their limits; what went wrong with the first that waited."""
    dice = random.Random(seed)
    depth, nodes, gpus = dice.choice((1, 1, 3)), dice.choice((1, 2)), dice.choice((1, 2))
    world = a_world(nodes=nodes, gpus=gpus, cpus=8, settings=msgspec.structs.replace(PATIENT, backfill_depth=depth))
    world.queue(policy="fcfs", guard=None)
    milli, cpus, limits = (300, 400, 500, 600, 700, 1000, 1000), (0.5, 1.0, 3.0), (50.0, 100.0, 150.0, 200.0, 400.0)
    jobs = [
        a_job(f"j{n}", resources=part(dice.choice(milli), dice.choice(cpus)), time_limit_s=dice.choice(limits))
        for n in range(dice.randint(6, 14))
    ]
    arrivals = sorted((1000.0 + dice.choice((0, 0, 10, 20, 55, 80)), n) for n in range(len(jobs)))
    ends: dict[str, float] = {}
    promised: dict[str, float] = {}
    order: list[str] = []
    moments = {at for at, _ in arrivals}
    while moments:
        world.now = min(moments)
        for job in sorted(job for job, at in ends.items() if at == world.now):
            node, _ = world.gpus(job)
            world.end(job, an_end(), node=node)
        for at, n in arrivals:
            if at == world.now:
                world.submit(jobs[n])
                order.append(jobs[n].job)
        world.settle()
        for job in order:
            if job not in ends and world.state(job) != "queued":
                ends[job] = world.now + (next(each for each in jobs if each.job == job).time_limit_s or 0)
                if world.now > promised.get(job, world.now) + 0.5:
                    return f"{job} started at {world.now}, and {promised[job]} was promised"
        waiting = [job for job in order if job not in ends]
        if waiting:
            kept = [each for each in world.why(waiting[0]).hindrances if each.kind == "reservation"]
            if kept and kept[0].at is not None:
                promised.setdefault(waiting[0], kept[0].at)
        moments = {at for at in (*ends.values(), *(at for at, _ in arrivals)) if at > world.now}
    return "" if len(ends) == len(jobs) else "some never started"


@pytest.mark.parametrize("seed", range(60))
def test_the_first_that_waits_starts_when_it_was_promised(seed: int) -> None:
    """Shared or whole, with limits that are kept, under FCFS and EASY."""
    assert played(seed) == ""


def test_what_no_node_can_run_is_in_nobodys_way() -> None:
    world = a_world(nodes=1, gpus=8)
    world.queue(gpus_max=4, policy="fcfs")
    world.submit(*(a_job(f"r{number}", tier="gpu1") for number in range(3)))
    world.settle()
    world.submit(a_job("nowhere", tier="gpu2", on=({"gpu": ("H100",)},)), a_job("small", tier="gpu1"))
    world.settle()
    assert world.state("small") == "running"


def test_what_no_node_can_run_takes_no_guard_from_others() -> None:
    world = a_world(nodes=1, gpus=8, settings=msgspec.structs.replace(PATIENT, backfill_depth=0))
    world.queue(guard=1.0)
    world.submit(a_job("nowhere", tier="gpu1", on=({"gpu": ("H100",)},), time_limit_s=60.0))
    world.submit(a_job("runs", tier="gpu1", time_limit_s=3600.0))
    world.settle()
    world.submit(a_job("wide", tier="gpu8", time_limit_s=3600.0))
    world.now += 30 * 86_400
    world.settle()
    assert [each.kind for each in world.why("wide").hindrances if not each.ok] == ["resources", "reservation"]
