"""Recorded facts, replayed: as it is gives what was, and another policy what would have been."""

from __future__ import annotations

import msgspec
import pytest

from controlplane.scheduling.decisions import Settings
from controlplane.whatif.compare import Compared, compare, jain
from controlplane.whatif.policy import read
from controlplane.whatif.recorded import Recorded
from events import messages as m
from events import subjects
from events.ledger import Entry
from tests.support.worlds import TEAM, World, a_job, a_world, an_end


def recorded(world: World) -> Recorded:
    found = Recorded()
    for entry in world.ledger:
        found.apply(Entry(*entry))
    return found


def run(world: World, *jobs: tuple[str, float, float, str], policy: m.Policy = "fcfs", nodes: int = 1) -> None:
    """Jobs of one CPU of a machine with one: (name, comes at, takes, user); the nodes do what they are told."""
    world.queue(policy=policy)
    begun, left, ends = world.now, sorted(jobs, key=lambda job: job[1]), dict[str, float]()
    takes = {name: runs_s for name, _, runs_s, _ in jobs}
    while left or ends or any(world.state(name) == "queued" for name in takes):
        world.now = min([begun + job[1] for job in left[:1]] + list(ends.values()))
        for name in [name for name, at in ends.items() if at <= world.now]:
            node = world.gpus(name)[0]
            world.end(name, an_end(), node=node)
            del ends[name]
        while left and begun + left[0][1] <= world.now:
            name, _, runs_s, user = left.pop(0)
            world.submit(msgspec.structs.replace(a_job(name, time_limit_s=runs_s), user=user))
        world.settle()
        for name, runs_s in takes.items():
            if name not in ends and not any(name == job[0] for job in left) and world.state(name) == "running":
                ends[name] = world.now + runs_s


JOBS = (("long", 0.0, 1000.0, "ada"), ("longer", 1.0, 2000.0, "ada"), ("short", 2.0, 10.0, "eve"))


def by_team(world: World, policy: str, *, since: float = 0.0) -> dict[str, Compared]:
    found = compare(recorded(world), read(policy, "p.toml"), Settings(), since=since, until=world.now, origin="p.toml")
    return {each.team: each for each in found}


def test_as_it_is_gives_what_was_and_another_policy_what_would_have_been() -> None:
    world = a_world(cpus=1)
    run(world, *JOBS)
    team = by_team(world, '[queues."*"]\npolicy = "sjf"')[TEAM]
    assert team.recorded is not None
    assert team.policy is not None
    assert team.recorded == team.replayed
    assert team.recorded.jobs == 3
    assert team.recorded.wait_s_mean == pytest.approx((0 + 999 + 2998) / 3, abs=0.001)
    assert team.policy.wait_s_mean == pytest.approx((0 + 998 + 1009) / 3, abs=0.001)
    assert team.policy.wait_s_p95 == 1009
    assert team.policy.slowdown < team.recorded.slowdown
    assert team.policy.fairness > team.recorded.fairness


def test_all_together_come_first_and_utilisation_is_of_all_machines() -> None:
    world = a_world(cpus=1, gpus=0)
    run(world, *JOBS)
    found = compare(recorded(world), read("", "p"), Settings(), since=world.now - 3010, until=world.now, origin="p")
    assert [each.team for each in found] == ["", TEAM]
    assert found[0].recorded is not None
    assert found[0].recorded.utilisation == pytest.approx(1.0, abs=0.001)
    more = compare(
        recorded(world),
        read("[nodes]\nmore = {n1 = 1}", "p"),
        Settings(),
        since=world.now - 3010,
        until=world.now,
        origin="p",
    )
    assert more[0].policy is not None
    assert more[0].policy.utilisation == pytest.approx(0.5, abs=0.001)
    assert more[0].policy.wait_s_mean < 400


def test_only_jobs_since_then_count_and_those_before_are_in_the_way() -> None:
    world = a_world(cpus=1)
    begun = world.now
    run(world, *JOBS)
    team = by_team(world, "", since=begun + 1.5)[TEAM]
    assert team.replayed is not None
    assert team.replayed.jobs == 1
    assert team.replayed.wait_s_mean == 2998


def test_a_wait_begins_when_a_job_could_have_run() -> None:
    world = a_world(cpus=1)
    begun = world.now
    world.write(subjects.environment("ab"), m.EnvironmentBuilding(builder="e"))
    world.submit(a_job("built", environment="sha256:ab", time_limit_s=100.0))
    world.submit(a_job("held", time_limit_s=100.0), held=True)
    world.submit(a_job("never"))
    world.about("never", m.CancelRequested(by="ada"))
    world.now += 500
    ready = m.EnvironmentReady(lock="sha256:cd", python="3.11", platform="linux", packages=1)
    world.write(subjects.environment("ab"), ready)
    world.settle()
    world.now += 100
    world.end("built", an_end())
    world.about("held", m.Released(by="ada"))
    world.settle()
    world.now += 50
    world.end("held", an_end())
    world.settle()
    arrivals = {one.specification.job: (one.at - begun, one.runs_s) for one in recorded(world).arrivals(world.now)}
    assert arrivals == {"built": (500, 100), "held": (600, 50)}
    team = by_team(world, "")[TEAM]
    assert team.recorded == team.replayed
    assert team.recorded is not None
    assert team.recorded.wait_s_mean == 0


def test_tasks_of_an_array_are_jobs_in_whatever_order_they_are_told() -> None:
    world = a_world(cpus=1)
    begun = world.now
    world.submit(a_job("sweep", time_limit_s=100.0, array="0-2"))
    for _ in range(3):
        world.settle()
        world.now += 50
        [(_, running)] = world.attempts["n1"]
        world.end(running, an_end())
    world.settle()
    jobs = [entry for entry in world.ledger if ".job." in entry.subject]
    for is_first in (True, False):  # the array before its tasks, and behind them
        found = Recorded()
        for entry in sorted(jobs, key=lambda entry: entry.subject.endswith("sweep") != is_first):
            found.apply(Entry(*entry))
        arrivals = [(one.at - begun, one.runs_s) for one in found.arrivals(world.now)]
        assert arrivals == [(0, 50), (0, 50), (0, 50)]
    team = by_team(world, "")[TEAM]
    assert team.recorded == team.replayed
    assert team.recorded is not None
    assert (team.recorded.jobs, team.recorded.wait_s_mean) == (3, 50)


def test_jains_index() -> None:
    assert jain([3.0, 3.0, 3.0]) == 1.0
    assert jain([1.0, 0.0, 0.0, 0.0]) == 0.25
