"""How the parts of a gang come to start together: each is laid out and says so, then all are told where they meet."""

from __future__ import annotations

import msgspec
import pytest

from controlplane.scheduling.core import Core
from events import messages as m
from tests.support.worlds import TEAM, World, a_job, a_world, an_end

KEY = (TEAM, "gang")


def a_placed_gang(nodes: int = 3) -> World:
    """A gang over all of these nodes, of which no node has heard."""
    world = a_world(nodes=nodes)
    world.submit(a_job("gang", resources=m.Resources(cpus=1.0, memory_bytes=1, gpus=8, nodes=nodes)))
    world.decide()
    return world


def told(world: World, node: str) -> m.GangPart:
    """What the node would be told of its part now."""
    (launch,) = world.core.desired(node, world.now).attempts
    assert launch.gang is not None
    return launch.gang


def live(world: World, node: str) -> m.LiveAttempt:
    return world.attempts[node][KEY]


def test_each_part_is_told_its_rank_and_how_many_there_are() -> None:
    world = a_placed_gang()
    assert [(told(world, node).rank, told(world, node).size) for node in ("n1", "n2", "n3")] == [(0, 3), (1, 3), (2, 3)]


def test_a_job_on_one_node_is_no_part_of_anything() -> None:
    world = a_world()
    world.submit(a_job())
    world.decide()
    (launch,) = world.core.desired("n1", world.now).attempts
    assert launch.gang is None


def test_no_part_starts_before_all_are_ready_and_then_all_meet_where_rank_0_says() -> None:
    world = a_placed_gang()
    for node in ("n3", "n1"):
        world.obey(node)
        world.exchange(node)
        assert told(world, node).meeting is None
    assert world.core.take_changed(urgent=True) == []
    world.obey("n2")
    world.exchange("n2")
    offered = live(world, "n1").meeting
    assert offered is not None
    assert world.core.take_changed(urgent=True) == ["n1", "n2", "n3"]
    assert [told(world, node).meeting for node in ("n1", "n2", "n3")] == [offered] * 3


def test_all_are_told_at_once_when_the_last_is_ready_that_was_long_laid_out() -> None:
    world = a_placed_gang()
    for node in ("n1", "n2", "n3"):
        world.obey(node)
    ready = live(world, "n2")
    world.attempts["n2"][KEY] = m.LiveAttempt(ref=ready.ref, state="starting")
    for node in ("n1", "n2", "n3"):
        world.exchange(node)
    assert world.core.take_changed(urgent=True) == []
    world.attempts["n2"][KEY] = ready
    world.exchange("n2")
    assert world.core.take_changed(urgent=True) == ["n1", "n2", "n3"]


def test_another_port_of_rank_0_is_told_at_once() -> None:
    world = a_placed_gang()
    for node in ("n1", "n2", "n3"):
        world.obey(node)
        world.exchange(node)
    world.core.take_changed(urgent=True)
    proven = m.Meeting(address="n1", port=9)
    world.attempts["n1"][KEY] = msgspec.structs.replace(live(world, "n1"), meeting=proven)
    world.exchange("n1")
    assert world.core.take_changed(urgent=True) == ["n1", "n2", "n3"]
    assert told(world, "n3").meeting == proven


def test_while_it_starts_one_can_ask_for_whom_the_others_wait() -> None:
    world = a_placed_gang()
    for node in ("n1", "n3"):
        world.obey(node)
        world.exchange(node)
    assert world.summary("gang") == "attempt 1 on nodes n1, n2, n3 is starting, once it is laid out on n2"
    world.obey("n2")
    world.exchange("n2")
    assert world.summary("gang") == "attempt 1 on nodes n1, n2, n3 is starting"


def test_nothing_of_it_is_in_the_ledger() -> None:
    world = a_placed_gang()
    facts = world.settle()
    assert [type(fact) for fact in facts] == [m.Started]


def test_a_part_that_cannot_be_laid_out_ends_those_that_wait_for_it() -> None:
    world = a_placed_gang()
    for node in ("n1", "n2", "n3"):
        world.obey(node)
    failed = an_end("environment_failed", message="no wheel of torch")
    world.end("gang", failed, node="n2")
    world.exchange("n1")
    world.exchange("n3")
    assert {node: live(world, node).state for node in ("n1", "n3")} == {"n1": "ready", "n3": "ready"}
    facts = world.settle()
    (requeued,) = (fact for fact in facts if isinstance(fact, m.Requeued))
    assert requeued.why == "rank 1 on n2: the environment could not be built on the node: no wheel of torch"
    assert all(each.state != "running" for each in world.attempts["n1"].values())


def test_a_new_leader_finds_all_ready_and_goes_on() -> None:
    world = a_placed_gang()
    for node in ("n1", "n2", "n3"):
        world.obey(node)
    world.exchange("n1")
    world.exchange("n2")
    world.core.end_term()
    fresh = Core(world.settings)
    for entry in world.ledger:
        fresh.apply(entry, world.now)
    world.core = fresh
    world.lead()
    world.exchange("n2")
    world.exchange("n3")
    assert told(world, "n2").meeting is None
    world.exchange("n1")
    assert told(world, "n2").meeting == live(world, "n1").meeting
    world.settle()
    assert world.state("gang") == "running"


def test_a_new_leader_sends_the_rest_where_the_first_have_begun() -> None:
    world = a_placed_gang()
    for node in ("n1", "n2", "n3"):
        world.obey(node)
        world.exchange(node)
    world.push("n2")
    begun = live(world, "n2").meeting
    assert (live(world, "n2").state, live(world, "n1").state) == ("running", "ready")
    world.core.end_term()
    world.lead()
    world.attempts["n1"][KEY] = msgspec.structs.replace(live(world, "n1"), meeting=m.Meeting(address="n1", port=9))
    for node in ("n1", "n2", "n3"):
        world.exchange(node)
    assert [told(world, node).meeting for node in ("n1", "n2", "n3")] == [begun] * 3


def test_a_runner_that_lost_what_it_had_laid_out_is_waited_for_again() -> None:
    world = a_placed_gang()
    world.obey("n1")
    world.exchange("n1")
    del world.attempts["n1"][KEY]
    world.exchange("n1")  # the next runner of this node, which knows of nothing
    for node in ("n2", "n3"):
        world.obey(node)
        world.exchange(node)
    assert told(world, "n2").meeting is None
    world.settle()
    assert world.state("gang") == "running"
    assert len({live(world, node).meeting for node in ("n1", "n2", "n3")}) == 1


def test_parts_that_began_apart_are_stopped_and_begin_again_together() -> None:
    world = a_placed_gang()
    for node in ("n1", "n2", "n3"):
        world.obey(node)
    for node, port in (("n1", 1), ("n3", 2)):
        met = m.Meeting(address="n1", port=port)
        world.attempts[node][KEY] = m.LiveAttempt(ref=live(world, node).ref, state="running", meeting=met)
    facts = world.settle()
    (requeued,) = (fact for fact in facts if isinstance(fact, m.Requeued))
    assert "stopped" in requeued.why
    world.now += 10
    world.settle()
    assert world.state("gang") == "running"
    assert len({live(world, node).meeting for node in ("n1", "n2", "n3")}) == 1


def test_a_gang_that_comes_back_meets_anew() -> None:
    world = a_placed_gang()
    world.settle()
    first = live(world, "n1").meeting
    world.end("gang", an_end("supervisor_lost"), node="n3")
    world.settle()
    world.now += 10
    world.settle()
    assert world.state("gang") == "running"
    assert live(world, "n1").ref.attempt == 2
    assert live(world, "n1").meeting != first


@pytest.mark.parametrize(("crashed_at", "kind"), [(990.1, m.Requeued), (989.0, m.Finished)])
def test_who_fails_because_others_were_preempted_sooner_does_not_end_the_job(
    crashed_at: float, kind: type[m.Fact]
) -> None:
    world = a_placed_gang()
    world.settle()
    world.about("gang", m.StopRequested(term=1, attempt=1, why="preempted by urgent"))
    world.end("gang", an_end("stopped", signal=15, exited_at=990.0), node="n1")
    world.end("gang", an_end(exit_code=1, exited_at=crashed_at), node="n2")  # it had not heard of the stop yet
    world.exchange("n3")
    world.follow(world.core.desired("n3", world.now))
    world.exchange("n3")
    facts = world.decide()
    (end,) = (fact for fact in facts if isinstance(fact, m.Requeued | m.Finished))
    assert type(end) is kind


def test_those_who_fail_because_one_was_lost_do_not_end_the_job() -> None:
    world = a_placed_gang()
    world.settle()
    world.end("gang", an_end(exit_code=1, exited_at=990.0), node="n1")
    world.end("gang", an_end("supervisor_lost"), node="n3")
    facts = world.settle()
    (requeued,) = (fact for fact in facts if isinstance(fact, m.Requeued))
    assert requeued.why.startswith("rank 2 on n3: its node lost it")


def test_the_first_entrypoint_to_fail_is_named_though_what_it_left_running_ended_last() -> None:
    world = a_placed_gang()
    world.settle()
    last_words = ("Traceback (most recent call last):", "MemoryError")
    lingering = an_end(exit_code=1, exited_at=990.0, last_lines=last_words)
    world.end("gang", an_end(exit_code=134, message="", exited_at=995.0), node="n1")
    world.end("gang", msgspec.structs.replace(lingering, ended_at=1004.0), node="n3")
    facts = world.settle()
    (finished,) = (fact for fact in facts if isinstance(fact, m.Finished))
    assert finished.reason == (
        "rank 2 on n3: exit code 1; its last lines: Traceback (most recent call last): | MemoryError"
    )
