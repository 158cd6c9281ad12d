"""The pool beside a dumb KubeRay, with machines that come and go."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kuberay import World

STEPS = 300


def play(seed: int, *, counted: bool, wants: float = 0.3) -> World:
    world = World(random.Random(seed), counted=counted, wants=wants)
    for _ in range(STEPS):
        world.step()
        assert world.at_once <= 1, f"two nodes are down for an upgrade: {world.upgraded}"
        assert not world.wrong, f"KubeRay chose whom to delete: {world.wrong}"
        assert not world.busy_deleted, f"deleted while jobs ran there: {world.busy_deleted}"
    world.calm_down()
    assert world.at_once <= 1
    return world


@pytest.mark.parametrize("counted", [True, False])
@given(seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_every_machine_that_is_of_use_has_a_pod_in_the_end_and_no_other(counted, seed):
    world = play(seed, counted=counted)
    good = {name for name, node in world.nodes.items() if world.takes(name) and not node["cordoned"] and node["ready"]}
    standing = [pod.node for pod in world.pods.values()]
    assert len(standing) == len(set(standing)), "two pods on one machine"
    assert good <= set(standing), "a machine without a pod"
    left = {name for name in set(standing) - good if world.nodes[name]["cordoned"] or world.nodes[name]["notice"]}
    assert not left, "a pod on a machine that was to be let go"
    assert not any(pod.node == "" for pod in world.pods.values()), "a pod that pends for ever"
    assert all(map(world.is_current, world.pods.values())), "a pod by an older template"
    assert not any(world.standing[name].is_upgraded for name in good if name in world.standing), "never opened again"
    assert all(not group["scaleStrategy"]["workersToDelete"] for group in world.cluster["spec"]["workerGroupSpecs"])


@pytest.mark.parametrize("counted", [True, False])
def test_a_long_walk(counted):
    for seed in range(100):
        play(seed, counted=counted)


@pytest.mark.parametrize("counted", [True, False])
def test_a_walk_in_which_another_image_is_wanted_all_the_time(counted):
    upgrades = sum(play(seed, counted=counted, wants=3.0).upgrades for seed in range(40))
    assert upgrades > 40
