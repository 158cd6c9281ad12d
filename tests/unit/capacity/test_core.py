"""Capacity decides which nodes lack a runner."""

from __future__ import annotations

from controlplane.capacity.core import RUNNER_S_MAX, TWICE, UNLISTED, Capacity, SeenNode, mistakes

NONE: frozenset[str] = frozenset()


def a_node(name: str = "n1", *, alive: bool = True) -> SeenNode:
    return SeenNode(name=name, ray_id=f"ray-{name}", alive=alive, cpus=2.0, gpus=0, memory_bytes=1)


def started(core: Capacity, nodes: list[SeenNode], runners: frozenset[str], now: float) -> list[str]:
    return [start.node.name for start in core.decide(nodes, runners, now)]


def test_every_live_node_without_a_runner_gets_one() -> None:
    assert started(Capacity(), [a_node("b"), a_node("a"), a_node("c")], frozenset({"c"}), 0.0) == ["a", "b"]


def test_dead_and_foreign_nodes_get_none() -> None:
    assert started(Capacity(), [a_node(alive=False), a_node("")], NONE, 0.0) == []


def test_runner_that_is_coming_is_not_asked_for_again() -> None:
    core = Capacity()
    assert started(core, [a_node()], NONE, 0.0) == ["n1"]
    assert started(core, [a_node()], NONE, RUNNER_S_MAX - 1) == []
    assert started(core, [a_node()], NONE, RUNNER_S_MAX) == ["n1"]


def test_runner_that_died_is_asked_for_at_once() -> None:
    core = Capacity()
    assert started(core, [a_node()], NONE, 0.0) == ["n1"]
    assert started(core, [a_node()], frozenset({"n1"}), 1.0) == []
    assert started(core, [a_node()], NONE, 2.0) == ["n1"]


def test_two_nodes_of_one_name_are_named() -> None:
    assert mistakes([a_node(), a_node(), a_node("n2"), a_node("n2", alive=False)]) == {"n1": TWICE}


def test_who_is_not_listed_gets_no_runner_and_is_named() -> None:
    nodes = [a_node("a"), a_node("b"), a_node(""), a_node("c", alive=False)]
    assert [start.node.name for start in Capacity().decide(nodes, NONE, 0.0, listed={"a", "c"})] == ["a"]
    assert mistakes(nodes, listed={"a", "c"}) == {"b": UNLISTED}
    assert mistakes(nodes) == {}
