"""Packing by fragmentation: against the definition, word by word, and in the scheduler."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from controlplane.scheduling.packing import MILLI, Fragmentation, Room, Want
from tests.support.worlds import SETTINGS, World, a_job

MODELS = ("", "A100", "T4")
cpus = st.integers(0, 8).map(lambda n: 1000 * n)
shares = st.builds(Want, cpus, st.just(1), st.sampled_from((250, 500, 600)), st.sampled_from(((), ("A100",))))
wholes = st.builds(Want, cpus, st.integers(0, 4), st.just(MILLI), st.sampled_from(((), ("A100", "T4"))))
wants = st.one_of(shares, wholes)
rooms = st.builds(
    Room, cpus, st.lists(st.sampled_from((0, 250, 500, 750, MILLI)), max_size=4).map(tuple), st.sampled_from(MODELS)
)
kinds = st.dictionaries(wants, st.integers(1, 9), min_size=1, max_size=6)


def by_definition(room: Room, kinds: dict[Want, int]) -> float:
    """Section 3 of the paper: a kind that does not fit, or wants no GPU, finds all of it fragmented."""
    expected = 0.0
    for want, count in kinds.items():
        if want.gpus and room.takes(want):
            fragments = sum(left for left in room.gpus if left < want.gpu_milli)
        else:
            fragments = sum(room.gpus)
        expected += count * fragments
    return expected / sum(kinds.values())


@given(rooms, kinds)
def test_fragmentation_is_as_defined(room: Room, kinds: dict[Want, int]) -> None:
    assert math.isclose(Fragmentation(kinds).of(room), by_definition(room, kinds), abs_tol=1e-6)


@given(st.lists(st.tuples(rooms, wants), max_size=6), kinds)
def test_a_better_score_is_less_fragmentation_on_the_best_device(
    asked: list[tuple[Room, Want]], kinds: dict[Want, int]
) -> None:
    measure = Fragmentation(kinds)
    for room, want in asked:
        if not room.takes(want):
            continue
        score, device = measure.fit(room, want)
        is_share = want.gpus == 1 and want.gpu_milli < MILLI
        assert (device is not None) == is_share
        devices = [index for index, left in enumerate(room.gpus) if left >= want.gpu_milli] if is_share else [None]
        growths = {one: by_definition(room.without(want, one), kinds) - by_definition(room, kinds) for one in devices}
        assert growths[device] <= min(growths.values()) + 41, "to within one step of the scores"
        assert abs(score - 100 / (1 + math.exp(growths[device] / MILLI))) <= 1.001


@given(rooms, wants)
def test_what_a_job_takes_is_gone_and_nothing_else(room: Room, want: Want) -> None:
    if room.takes(want):
        device = next((i for i, left in enumerate(room.gpus) if left >= want.gpu_milli), None)
        left = room.without(want, device if want.gpus == 1 and want.gpu_milli < MILLI else None)
        assert left.milli_cpus == room.milli_cpus - want.milli_cpus
        assert sum(room.gpus) - sum(left.gpus) == want.gpus * want.gpu_milli
        assert min(left.gpus, default=0) >= 0


def a_world(packing: str) -> World:
    """Two nodes: one has more GPUs, and CPUs for one job with one; the other is the tighter fit."""
    world = World(settings=msgspec.structs.replace(SETTINGS, packing=packing))
    world.lead()
    world.node("narrow", gpus=4, cpus=4)
    world.node("wide", gpus=2, cpus=64)
    return world


def test_fgd_leaves_gpus_where_the_work_that_there_is_can_use_them() -> None:
    """Many jobs want 2 GPUs and 8 CPUs, one a GPU and 4: best fit spoils the node that the others can use."""
    nodes = {}
    for packing in ("best_fit", "fgd"):
        world = a_world(packing)
        world.submit(*(a_job(f"pair{number}", tier="gpu2") for number in range(5)), held=True)
        world.submit(a_job("one", tier="gpu1"))
        world.decide()
        nodes[packing] = world.gpus("one")[0]
    assert nodes == {"best_fit": "wide", "fgd": "narrow"}


def test_the_same_work_gives_the_same_packing_from_a_snapshot() -> None:
    world = a_world("fgd")
    world.submit(*(a_job(f"j{number}", tier=("gpu1", "gpu2")[number % 2]) for number in range(6)))
    other = World(settings=world.settings)
    other.core.restore(world.core.snapshot())
    other.core.begin_term(world.now)
    round_ = world.core.decide(world.now)
    assert other.core.decide(world.now).decisions == round_.decisions
    world.commit(round_)


def test_a_job_without_gpus_goes_by_best_fit_in_any_case() -> None:
    world = a_world("fgd")
    world.submit(a_job("cpu"))
    world.decide()
    assert world.gpus("cpu")[0] == "wide"
