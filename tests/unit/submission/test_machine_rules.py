"""What becomes of requests about machines, on the pure rules."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.submission import machine_rules
from controlplane.submission.machine_rules import MachineChange, MachineOrder
from events import messages as m
from events import subjects
from events.entries import Entry

NOW = 1_000_000.0
NODE = subjects.node("n1")
JOINED = m.NodeJoined(boot="b", capacity=m.Capacity(cpus=8, memory_bytes=1))


class World:
    """One machine, and what was said of it."""

    def __init__(self, *facts: m.Fact) -> None:
        self.history = [Entry(number, NODE, fact, NOW) for number, fact in enumerate(facts or (JOINED,), start=1)]

    def ask(self, kind: str, **fields: Any) -> m.NodeFact | str:
        """The fact, which is written; or the verdict, with the path and the words of the first problem."""
        order = MachineOrder("ops", "n1", json.dumps({"type": kind} | fields).encode())
        change, found = machine_rules.read(order)
        decision = (
            machine_rules.decide(order, change, self.history, NOW, found) if change else machine_rules.refused(found)
        )
        if isinstance(decision, MachineChange):
            assert decision.expect == self.history[-1].sequence
            self.history.append(Entry(decision.expect + 1, NODE, decision.fact, NOW))
            return decision.fact
        problems = [f" {problem.path} {problem.message} | {problem.hint}" for problem in decision.problems]
        return decision.verdict + "".join(problems[:1])


def test_each_request_becomes_its_fact_and_repeated_none() -> None:
    world = World()
    for kind, fields, fact in (
        ("cordon_node", {"why": "fans"}, m.NodeCordoned(by="ops", why="fans")),
        ("drain_node", {"why": "disks"}, m.NodeDraining(by="ops", why="disks")),
        ("drain_node", {"why": "disks", "stop": True}, m.NodeDraining(by="ops", why="disks", stop=True)),
        ("uncordon_node", {}, m.NodeUncordoned(by="ops")),
        (
            "maintain_node",
            {"begins_at": NOW, "ends_at": NOW + 60},
            m.NodeMaintenance(by="ops", begins_at=NOW, ends_at=NOW + 60),
        ),
        ("maintain_node", {}, m.NodeMaintenance(by="ops")),
        ("give_up_node", {"why": "fire"}, m.NodeGone(by="ops", why="given up by ops: fire")),
    ):
        assert world.ask(kind, **fields) == fact
        assert world.ask(kind, **fields) == "repeated"


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("cordon", {}, "$.type no request `cordon` here | did you mean `cordon_node`?"),
        ("cordon_node", {"reason": "x"}, "$.reason no field `reason` here"),
        ("cordon_node", {"why": 3}, "$.why must be text, not a number"),
        ("drain_node", {"stop": "yes"}, "$.stop must be true or false"),
        ("maintain_node", {"begins_at": "noon"}, "$.begins_at must be a number"),
        ("maintain_node", {"begins_at": NOW, "ends_at": NOW}, "$.ends_at must be later than `begins_at`"),
        ("maintain_node", {"begins_at": 1, "ends_at": 2}, "$.ends_at is over already"),
        ("maintain_node", {"begins_at": NOW, "ends_at": 2e9}, "$.ends_at is more than ten years ahead"),
    ],
)
def test_what_is_wrong_is_refused_with_the_path(kind: str, fields: dict[str, Any], said: str) -> None:
    assert str(World().ask(kind, **fields)).startswith(f"refused {said}")


def test_nobody_speaks_of_a_machine_that_never_was() -> None:
    world = World(m.NodeCleared(term=1))
    assert str(world.ask("cordon_node")).startswith("refused $.node no node `n1`")


def test_who_cordons_what_another_has_cordoned_is_heard_also_without_a_reason() -> None:
    """The pool opens what it closed itself; it must see that somebody wants it closed."""
    world = World(JOINED, m.NodeCordoned(by="kubernetes", why="cordoned in Kubernetes"))
    assert world.ask("cordon_node") == m.NodeCordoned(by="ops")
    assert world.ask("cordon_node") == "repeated"


def test_a_machine_that_is_gone_takes_nothing_until_it_joins_again() -> None:
    world = World(JOINED, m.NodeGone(why="silent", term=1))
    assert str(world.ask("cordon_node")).startswith("refused $ node `n1` is gone: silent")
    assert world.ask("give_up_node") == "repeated"
    world.history.append(Entry(3, NODE, JOINED, NOW))
    assert world.ask("cordon_node") == m.NodeCordoned(by="ops")


def test_a_suspected_machine_may_be_given_up() -> None:
    world = World(JOINED, m.NodeSuspected(term=1, since_at=1.0))
    assert world.ask("give_up_node") == m.NodeGone(by="ops", why="given up by ops")


# -- GPUs --------------------------------------------------------------------------------------------------------------


def a_fault(gpu: int, *, stands: bool = False) -> m.GpuFault:
    return m.GpuFault(gpu=gpu, sign="Xid 79", why="Xid 79 (it fell)", since_at=NOW, stands=stands)


def test_gpus_are_repaired_once_those_that_are_named_or_all() -> None:
    world = World(JOINED, m.NodeGpus(term=1, faults=tuple(map(a_fault, (1, 3, 5)))))
    assert world.ask("repair_node", gpus=[3, 0], why="new riser") == m.NodeGpusRepaired(
        by="ops", gpus=(3,), why="new riser"
    )
    assert world.ask("repair_node", gpus=[3]) == "repeated"
    assert world.ask("repair_node") == m.NodeGpusRepaired(by="ops", gpus=(1, 5))
    assert world.ask("repair_node") == "repeated"


def test_what_the_node_still_sees_cannot_be_talked_away() -> None:
    world = World(JOINED, m.NodeGpus(term=1, faults=(a_fault(1), a_fault(3, stands=True))))
    assert world.ask("repair_node", gpus=[3]).startswith(  # type: ignore[union-attr]
        "refused $.gpus the node still says of GPU 3: Xid 79 (it fell) | it comes back by itself"
    )
    assert world.ask("repair_node", gpus=[1]) == m.NodeGpusRepaired(by="ops", gpus=(1,))


@pytest.mark.parametrize("wrong", [3, "3", [-1], [1.5], ["3"], [1024], [None], list(range(2000))])
def test_gpus_are_a_list_of_indices(wrong: object) -> None:
    world = World(JOINED, m.NodeGpus(term=1, faults=(a_fault(1),)))
    assert str(world.ask("repair_node", gpus=wrong)).startswith("refused $.gpus")
