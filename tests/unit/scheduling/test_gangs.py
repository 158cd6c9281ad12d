"""Gangs: all or nothing, in placement, in reservations, in preemption, and in their ends."""

from __future__ import annotations

import pytest

from events import messages as m
from tests.support.worlds import TEAM, World, a_job, a_world, an_end


def placed(world: World, job: str) -> tuple[str, ...]:
    """The nodes of its newest placement."""
    facts = [e.fact for e in world.ledger if e.subject.endswith(f".{job}") and isinstance(e.fact, m.Placed)]
    return tuple(allocation.node for allocation in facts[-1].allocations) if facts else ()


def last(world: World, job: str) -> m.Fact:
    return [entry.fact for entry in world.ledger if entry.subject.endswith(f".{job}")][-1]


def tell_all(world: World) -> None:
    for name in sorted(world.attempts):
        world.exchange(name)
    world.settle()


def test_a_gang_gets_all_of_its_nodes_at_once_or_none() -> None:
    world = a_world(nodes=2)
    world.submit(a_job("small", tier="gpu1"))
    world.settle()
    world.submit(a_job("gang", tier="pair"))
    world.settle()
    assert placed(world, "gang") == ()
    world.end("small", an_end(), node=placed(world, "small")[0])
    world.settle()
    assert placed(world, "gang") == ("n1", "n2")
    assert world.state("gang") == "running"


def test_two_gangs_that_need_all_nodes_run_one_after_the_other() -> None:
    """Scenario 1 of the nasty ones: they must not each hold a half."""
    world = a_world(nodes=4)
    four = m.Resources(cpus=1.0, memory_bytes=1, gpus=8, nodes=4)
    world.submit(*(a_job(name, resources=four) for name in ("a", "b")))
    world.settle()
    assert sorted(world.state(name) for name in "ab") == ["queued", "running"]
    for node in placed(world, "a"):
        world.end("a", an_end(), node=node)
    world.settle()
    assert world.state("b") == "running"


def test_a_gang_has_started_when_all_of_its_parts_run() -> None:
    world = a_world(nodes=2)
    world.submit(a_job("gang", tier="pair"))
    world.decide()
    for name in ("n1", "n2", "n1", "n2"):  # laid out, and told of it
        world.obey(name)
    world.obey("n1")
    world.exchange("n1")
    assert world.decide() == []
    world.exchange("n2")
    assert [type(fact) for fact in world.decide()] == [m.Started]


def test_a_part_that_ends_well_waits_for_the_others() -> None:
    world = a_world(nodes=2)
    world.submit(a_job("gang", tier="pair"))
    world.settle()
    world.end("gang", an_end(), node="n1")
    world.settle()
    assert world.state("gang") == "running"
    assert world.attempts["n2"][(TEAM, "gang")].state == "running"
    world.end("gang", an_end(), node="n2")
    world.settle()
    assert world.state("gang") == "succeeded"


def test_a_part_that_fails_ends_the_others_and_is_named() -> None:
    world = a_world(nodes=3)
    world.submit(a_job("gang", tier="three"))
    world.settle()
    nodes = placed(world, "gang")
    world.end("gang", an_end(exit_code=3, message="no such file"), node=nodes[1])
    world.settle()
    assert world.state("gang") == "failed"
    end = last(world, "gang")
    assert isinstance(end, m.Finished)
    assert end.reason == f"rank 1 on {nodes[1]}: exit code 3: no such file"
    assert all(not attempts for attempts in world.attempts.values())


def test_nothing_of_a_gang_is_free_while_a_part_of_it_lives() -> None:
    world = a_world(nodes=2)
    world.submit(a_job("gang", tier="pair"))
    world.settle()
    world.end("gang", an_end(exit_code=1), node="n1")
    world.submit(a_job("next", tier="gpu8"))
    world.decide()
    assert world.state("next") == "queued"  # n1 is idle, and n2 in its grace
    world.settle()
    assert world.state("next") == "running"


def test_a_gang_whose_node_is_lost_waits_again_once_its_other_parts_are_over() -> None:
    world = a_world(nodes=2)
    world.submit(a_job("gang", tier="pair"))
    world.settle()
    world.boots["n2"], world.attempts["n2"] = "b2", {}  # it was restarted
    world.exchange("n2")
    world.decide()
    assert world.state("gang") == "running"
    world.settle()
    world.now += 10
    tell_all(world)
    assert any(isinstance(entry.fact, m.Lost) and entry.fact.node == "n2" for entry in world.ledger)
    assert world.state("gang") == "running"
    assert placed(world, "gang") == ("n1", "n2")


def test_a_part_that_never_arrived_is_over_when_another_broke_off() -> None:
    world = a_world(nodes=2)
    world.submit(a_job("gang", tier="pair"))
    world.decide()  # neither node has heard of it
    world.boots["n1"] = "b2"
    world.exchange("n1")
    world.decide()
    assert world.exchange("n2").attempts == ()  # and never will
    world.exchange("n2")
    assert any(isinstance(fact, m.Lost) and fact.node == "n1" for fact in world.decide())


def test_a_silent_node_takes_its_gang_with_it_and_no_other_part_lives_on() -> None:
    world = a_world(nodes=3)
    world.submit(a_job("gang", tier="pair"))
    world.settle()
    silent, other = placed(world, "gang")[1], placed(world, "gang")[0]
    quiet = world.attempts.pop(silent)
    for _ in range(60):
        world.now += 5
        tell_all(world)
    assert quiet
    assert any(isinstance(entry.fact, m.Lost) and entry.fact.node == silent for entry in world.ledger)
    assert silent not in placed(world, "gang")
    assert world.state("gang") == "running"
    refs = [live.ref for live in world.attempts[other].values()]
    assert [ref.attempt for ref in refs] == [2]


def test_a_gang_has_a_reservation_on_as_many_nodes_as_it_needs() -> None:
    world = a_world(nodes=3)
    world.submit(*(a_job(f"s{n}", tier="gpu8", time_limit_s=100.0 * (n + 1)) for n in range(3)))
    world.settle()
    world.submit(a_job("gang", tier="pair", time_limit_s=1000.0))
    world.end("s0", an_end(), node=placed(world, "s0")[0])  # one is free now, the second after 200 s
    world.settle()
    world.submit(a_job("long", tier="gpu8", time_limit_s=500.0), a_job("short", tier="gpu8", time_limit_s=150.0))
    world.settle()
    assert (world.state("long"), world.state("short")) == ("queued", "running")


def test_a_gang_preempts_on_all_of_its_nodes_or_on_none() -> None:
    world = a_world(nodes=2)
    world.queue("sure", guaranteed_gpus=16)
    world.submit(a_job("a", tier="gpu8", preemptible=True))
    world.settle()
    world.now += 50
    world.submit(a_job("b", tier="gpu8", preemptible=True))
    world.settle()
    world.now += 20
    tell_all(world)
    world.submit(a_job("gang", tier="pair", queue="sure"))
    world.settle()
    assert not any(isinstance(entry.fact, m.StopRequested) for entry in world.ledger)  # b has not run for its time
    world.now += 50
    tell_all(world)
    assert world.state("gang") == "running"
    assert {world.state("a"), world.state("b")} == {"queued"}


def test_a_gang_that_is_preempted_ends_whole_and_comes_back_whole() -> None:
    world = a_world(nodes=2)
    world.queue("sure", guaranteed_gpus=1)
    world.submit(a_job("gang", tier="pair", preemptible=True))
    world.settle()
    world.now += 100
    tell_all(world)
    world.submit(a_job("mine", tier="gpu1", queue="sure"))
    world.settle()
    assert world.state("gang") == "queued"
    assert all((TEAM, "gang") not in attempts for attempts in world.attempts.values())
    world.end("mine", an_end(), node=placed(world, "mine")[0])
    world.settle()
    assert placed(world, "gang") == ("n1", "n2")
    assert world.state("gang") == "running"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_gang_that_is_cancelled_ends_cancelled_when_its_last_part_has_ended(when: str) -> None:
    world = a_world(nodes=2)
    world.submit(a_job("gang", tier="pair"))
    world.settle()
    if when == "before":
        world.end("gang", an_end(), node="n1")
    world.about("gang", m.CancelRequested(by="ada"))
    world.obey("n1")
    world.decide()
    assert world.state("gang") == "stopping"
    world.settle()
    assert world.state("gang") == "cancelled"


def test_a_gang_larger_than_the_pool_waits_and_is_in_nobodys_way() -> None:
    world = a_world(nodes=2)
    world.submit(a_job("gang", tier="three"), a_job("small"))
    world.settle()
    assert (world.state("gang"), world.state("small")) == ("queued", "running")
