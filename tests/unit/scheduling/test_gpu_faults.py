"""GPUs that are out of use: who is stopped, what is placed elsewhere, and how they come back."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from controlplane.scheduling import reports
from controlplane.scheduling.core import Core
from events import messages as m
from events import subjects
from tests.support.worlds import SETTINGS, TEAM, World, a_fault, a_job, a_world, an_end

N1 = subjects.node("n1")
XID_79 = m.GpuError(gpu=0, why="Xid 79 (the GPU has fallen off the bus)", at=1000.0, hardware=True)
XID_31 = m.GpuError(gpu=0, why="Xid 31 (memory page fault of the program)", at=1000.0)


def kinds(facts: list[m.Fact]) -> list[str]:
    return [str(type(fact).__struct_config__.tag) for fact in facts]


def found(world: World, *faults: m.GpuFault, node: str = "n1") -> list[m.Fact]:
    """The node's watch finds these, and all settles."""
    world.faults[node] = faults
    world.exchange(node)
    return world.settle()


def faults(world: World) -> list[tuple[int, str]]:
    return [(fault.gpu, fault.sign) for fault in world.core.nodes_view().nodes[0].faults]


def repaired(world: World, *gpus: int) -> list[m.Fact]:
    world.now += 5
    world.write(N1, m.NodeGpusRepaired(by="ops", gpus=gpus))
    return world.settle()


def test_nothing_is_placed_on_a_gpu_from_the_moment_in_which_its_node_speaks() -> None:
    world = a_world(gpus=2)
    world.faults["n1"] = (a_fault(0),)
    world.exchange()
    world.submit(a_job("a", tier="gpu1"), a_job("b", tier="gpu1"))
    facts = world.core.decide(world.now)
    assert kinds([one.fact for one in facts.decisions]) == ["node_gpus", "placed"]
    world.commit(facts)
    world.settle()
    assert world.gpus("a") == ("n1", (1,))
    assert world.state("b") == "queued"
    assert world.core.nodes_view().nodes[0].free.gpus == ()


def test_who_holds_it_is_stopped_once_loses_no_try_and_runs_on_another_while_the_others_run_on() -> None:
    world = a_world(gpus=3)
    world.submit(a_job("a", tier="gpu1", attempts_max=1), a_job("b", tier="gpu1"))
    world.settle()
    facts = found(world, a_fault(0))
    assert kinds(facts) == ["node_gpus", "stop_requested", "requeued", "placed", "started"]
    assert isinstance(stop := facts[1], m.StopRequested)
    assert stop.why == "GPU 0 of node n1 is out of use: Xid 79 (as a test has it)"
    assert isinstance(gpus := facts[0], m.NodeGpus)
    assert gpus.faults[0].jobs == (m.AttemptRef(team=TEAM, job="a", attempt=1),)
    assert (world.gpus("a"), world.gpus("b")) == (("n1", (2,)), ("n1", (1,)))
    world.end("a", an_end("supervisor_lost"))
    assert kinds(world.decide()) == ["finished"], "its one try is not used up before this"


def test_a_sign_that_needs_no_hurry_leaves_who_runs_alone() -> None:
    world = a_world(gpus=2)
    world.submit(a_job("a", tier="gpu1"))
    world.settle()
    assert kinds(found(world, a_fault(0, "rows to remap", stands=True, ends=False))) == ["node_gpus"]
    world.end("a", an_end())
    world.submit(a_job("b", tier="gpu1"), a_job("c", tier="gpu1"))
    world.settle()
    assert world.gpus("b") == ("n1", (1,))
    assert world.state("c") == "queued"


def test_all_who_share_it_are_stopped() -> None:
    world = a_world(gpus=2)
    world.submit(a_job("a", tier="half"), a_job("b", tier="half"), a_job("c", tier="half"))
    world.settle()
    found(world, a_fault(0))
    assert {world.gpus(name)[1] for name in ("a", "b")} >= {(1,)}
    assert [world.gpus(name) for name in ("a", "b", "c") if world.state(name) == "running"] == [("n1", (1,))] * 2
    assert world.core.nodes_view().nodes[0].shared == {1: 0}


def test_a_gang_is_stopped_whole_and_comes_back_whole() -> None:
    world = a_world(nodes=3, gpus=1)
    world.submit(a_job("a", tier="two"))
    world.settle()
    node = world.gpus("a")[0]
    facts = found(world, a_fault(0), node=node)
    assert kinds(facts).count("stop_requested") == kinds(facts).count("requeued") == 1
    assert world.state("a") == "running"
    placed = [entry.fact for entry in world.ledger if isinstance(entry.fact, m.Placed)][-1]
    assert node not in [each.node for each in placed.allocations]


def test_what_was_on_its_way_to_the_ledger_is_stopped_when_it_is_there() -> None:
    world = a_world(gpus=1)
    world.submit(a_job("a", tier="gpu1"))
    round_ = world.core.decide(world.now)
    world.faults["n1"] = (a_fault(0),)
    world.exchange()
    world.commit(round_)
    world.obey()
    assert kinds(world.settle()) == ["node_gpus", "stop_requested", "requeued"]


@pytest.mark.parametrize("cause", ["exited", "signalled"])
def test_a_program_that_fails_of_it_is_tried_again_for_nothing(cause: m.EndCause) -> None:
    world = a_world(gpus=2)
    world.submit(a_job("a", tier="gpu1", attempts_max=1))
    world.settle()
    how = {"exited": {"exit_code": 1}, "signalled": {"signal": 6}}[cause]
    world.faults["n1"] = (a_fault(0),)
    world.end("a", an_end(cause, gpu_errors=(XID_31, XID_79), **how))
    facts = world.settle()
    assert kinds(facts) == ["requeued", "node_gpus", "placed", "started"]
    assert isinstance(requeued := facts[0], m.Requeued)
    said = "exit code 1" if cause == "exited" else "killed by SIGABRT"
    assert requeued.why == f"{said}; GPU 0 reported {XID_79.why}; GPU 0 reported {XID_31.why}"
    assert world.gpus("a") == ("n1", (1,))
    world.end("a", an_end("supervisor_lost"))
    assert kinds(world.decide()) == ["finished"]


def test_an_error_of_the_program_is_a_part_of_its_reason_and_nothing_else() -> None:
    world = a_world(gpus=1)
    world.submit(a_job("a", tier="gpu1", attempts_max=3), a_job("b", tier="gpu1"))
    world.settle()
    world.end("a", an_end(exit_code=1, gpu_errors=(XID_31,)))
    facts = world.settle()
    assert kinds(facts) == ["finished", "placed", "started"]
    assert isinstance(finished := facts[0], m.Finished)
    assert (finished.outcome, finished.reason) == ("failed", f"exit code 1; GPU 0 reported {XID_31.why}")
    assert world.gpus("b") == ("n1", (0,))


def test_a_rank_whose_gpu_fails_decides_for_its_gang() -> None:
    world = a_world(nodes=2, gpus=1)
    world.submit(a_job("a", tier="two"))
    world.settle()
    nodes = [each.node for each in next(e.fact for e in world.ledger if isinstance(e.fact, m.Placed)).allocations]
    world.end("a", an_end(exit_code=1, exited_at=999.0), node=nodes[0])
    world.end("a", an_end(exit_code=1, exited_at=1000.0, gpu_errors=(XID_79,)), node=nodes[1])
    facts = world.decide()
    assert isinstance(requeued := facts[0], m.Requeued)
    assert requeued.why.startswith(f"rank 1 on {nodes[1]}: exit code 1; GPU 0 reported Xid 79")


# -- how it comes back -------------------------------------------------------------------------------------------------


def test_what_happened_is_forgotten_only_when_somebody_says_so() -> None:
    world = a_world(gpus=4)
    found(world, a_fault(3), a_fault(2))
    assert found(world) == [], "another life of the runner knows nothing of it"
    assert faults(world) == [(2, "Xid 79"), (3, "Xid 79")]
    found(world, a_fault(3))
    assert repaired(world, 3) == []
    assert faults(world) == [(2, "Xid 79")]
    assert kinds(found(world, a_fault(3, since_at=world.now + 1))) == ["node_gpus"], "it happened again"


def test_what_stands_goes_when_the_node_does_not_see_it_any_more() -> None:
    world = a_world(gpus=4)
    found(world, a_fault(3, "lost", stands=True), a_fault(3))
    assert kinds(repaired(world, 3)) == ["node_gpus"], "the node sees it still"
    assert faults(world) == [(3, "lost")]
    del world.faults["n1"]
    world.exchange()
    assert world.settle() == [], "nobody watches: nothing follows"
    assert kinds(found(world)) == ["node_gpus"]
    assert faults(world) == []


def test_a_machine_that_was_restarted_and_finds_nothing_is_fit() -> None:
    world = a_world(gpus=4)
    found(world, a_fault(3), a_fault(2))
    del world.faults["n1"]
    world.boots["n1"] = "b2"
    world.exchange()
    assert kinds(world.settle()) == ["node_joined"], "it has not looked yet"
    assert len(faults(world)) == 2
    found(world, a_fault(2, since_at=2000.0))
    assert faults(world) == [(2, "Xid 79")]
    assert found(world) == [], "that was in this boot"


def test_a_leader_that_follows_knows_it_and_stops_who_is_there() -> None:
    world = a_world(gpus=2)
    world.submit(a_job("a", tier="gpu1"))
    world.settle()
    world.faults["n1"] = (a_fault(0),)
    world.exchange()
    world.commit(world.core.decide(world.now))
    repaired(world)
    fresh = Core(SETTINGS)
    fresh.restore(world.core.snapshot())
    assert fresh.snapshot() == world.core.snapshot()
    again = Core(SETTINGS)
    for entry in world.ledger:
        again.apply(entry, entry.at)
    assert again.snapshot() == world.core.snapshot()
    world.core = fresh
    del world.faults["n1"]
    world.lead()
    world.obey()
    world.settle()
    assert world.gpus("a") == ("n1", (1,))
    assert [(fault.gpu, fault.since_at) for fault in fresh.nodes_view().nodes[0].faults] == [(0, 1000.0)]


def test_a_repair_is_remembered_by_a_snapshot() -> None:
    world = a_world(gpus=2)
    found(world, a_fault(0))
    repaired(world, 0)
    fresh = Core(SETTINGS)
    fresh.restore(world.core.snapshot())
    world.core = fresh
    world.lead()
    world.exchange()
    assert "node_gpus" not in kinds(world.settle())
    assert faults(world) == []


# -- what waits --------------------------------------------------------------------------------------------------------


def test_what_needs_it_waits_with_its_name_and_keeps_no_place() -> None:
    world = a_world(gpus=8)
    found(world, a_fault(3))
    world.submit(a_job("wide", tier="gpu8"), a_job("small", tier="gpu2"))
    world.settle()
    assert world.state("small") == "running"
    assert world.summary("wide") == ("it asks for 32 CPUs, 64 GiB and 8 GPUs, and GPU 3 of n1 is out of use (Xid 79)")
    world.end("small", an_end())
    repaired(world, 3)
    assert world.state("wide") == "running"


def test_a_reservation_counts_on_no_gpu_that_is_out_of_use() -> None:
    world = a_world(gpus=4)
    world.submit(a_job("first", tier="gpu2", time_limit_s=600.0), a_job("other", tier="gpu1", time_limit_s=6000.0))
    world.settle()
    found(world, a_fault(0, ends=False))
    three = m.Resources(cpus=1.0, memory_bytes=2**30, gpus=3)
    world.submit(a_job("wide", resources=three, time_limit_s=60.0), a_job("late", tier="gpu1", time_limit_s=3600.0))
    world.settle()
    assert world.state("wide") == "queued"
    assert world.gpus("late") == ("n1", (3,)), "`wide` gets its place when `other` ends, not when `first` does"


def test_nobody_is_preempted_for_a_gpu_that_is_out_of_use() -> None:
    world = a_world(gpus=3)
    world.submit(*(a_job(name, tier="gpu1", preemptible=name != "c", queue="low") for name in ("a", "b", "c")))
    world.queue("high", guaranteed_gpus=2)
    world.settle()
    world.now += 120
    found(world, a_fault(0, ends=False))
    world.submit(a_job("wide", tier="gpu2", queue="high"))
    world.settle()
    assert world.state("a") == world.state("b") == "running"
    world.submit(a_job("small", tier="gpu1", queue="high", priority=1))
    world.settle()
    assert (world.state("a"), world.gpus("small")) == ("running", ("n1", (1,)))


def test_nobody_joins_who_has_a_part_of_one_that_is_out_of_use() -> None:
    world = a_world(gpus=2)
    world.submit(a_job("a", tier="half"))
    world.settle()
    found(world, a_fault(0, ends=False))
    world.submit(a_job("b", tier="half"))
    world.settle()
    assert (world.gpus("b"), world.state("a")) == (("n1", (1,)), "running")
    assert world.core.nodes_view().nodes[0].shared == {1: 500}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda fault: msgspec.structs.replace(fault, gpu=-1), "$.gpu_health.faults[0].gpu"),
        (lambda fault: msgspec.structs.replace(fault, gpu=10**9), "$.gpu_health.faults[0].gpu"),
        (lambda fault: msgspec.structs.replace(fault, why="x" * 300), "$.gpu_health.faults[0].why"),
        (lambda fault: msgspec.structs.replace(fault, since_at=-1.0), "$.gpu_health.faults[0].since_at"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(change: Callable[[m.GpuFault], m.GpuFault], path: str) -> None:
    exchange = m.Exchange(
        node="n1",
        boot="b",
        runner="r",
        capacity=m.Capacity(cpus=1, memory_bytes=1, gpus=1),
        gpu_health=m.GpuHealth(faults=(change(a_fault(0)),)),
    )
    assert reports.problem(exchange).startswith(path)


def test_a_gpu_that_the_node_does_not_have_changes_nothing() -> None:
    world = a_world(gpus=2)
    found(world, a_fault(9))
    world.submit(a_job("a", tier="gpu2"))
    world.settle()
    assert world.state("a") == "running"
