"""Fair shares: who comes first, by what is held and what was."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.scheduling.jobs import Shape
from controlplane.scheduling.nodes import Totals
from controlplane.scheduling.shares import Account, Average
from events import messages as m
from tests.support.worlds import GIB, SETTINGS, World, a_job, an_end

SHAPE = Shape(milli_cpus=4000, memory_bytes=8 * GIB, gpus=1, nodes=1, launch_bytes=1024)
TOTALS = Totals(milli_cpus=64_000, memory_bytes=512 * GIB, gpus=8)
HALF_LIFE_S = 3600.0


def a_world(**settings: object) -> World:
    world = World(settings=msgspec.structs.replace(SETTINGS, **settings))
    world.lead()
    world.node(gpus=8)
    return world


def placed(facts: list[m.Fact], world: World) -> list[str]:
    """Jobs in the order in which they got their place."""
    subjects = {id(entry.fact): entry.subject.split(".")[-1] for entry in world.ledger}
    return [subjects[id(fact)] for fact in facts if isinstance(fact, m.Placed)]


# -- the average -------------------------------------------------------------------------------------------------------

changes = st.lists(st.tuples(st.floats(0, 1e5), st.booleans()), max_size=20)


@given(changes=changes, looks=st.lists(st.floats(0, 2e6), max_size=20), shift=st.sampled_from([0.0, 1e6]))
def test_an_average_is_the_same_however_often_it_is_settled(
    changes: list[tuple[float, bool]], looks: list[float], shift: float
) -> None:
    often, rarely, at = Average(), Average(), 0.0
    often.at = shift
    for pause, takes in changes:
        for look in sorted(looks):
            if at < look < at + pause:
                often.settle(shift + look, HALF_LIFE_S)
        at += pause
        for average, moment in ((often, shift + at), (rarely, at)):
            average.settle(moment, HALF_LIFE_S)
            average.hold(SHAPE, 1 if takes else -1)
    assert often.now(shift + at + 60, HALF_LIFE_S) == pytest.approx(
        rarely.now(at + 60, HALF_LIFE_S), rel=1e-9, abs=1e-3
    )


def test_what_is_held_for_a_half_life_is_averaged_to_half_of_it() -> None:
    average = Average()
    average.hold(SHAPE)
    assert average.now(HALF_LIFE_S, HALF_LIFE_S) == pytest.approx((2000, 4 * GIB, 0.5))
    average.settle(HALF_LIFE_S, HALF_LIFE_S)
    average.hold(SHAPE, -1)
    assert average.now(3 * HALF_LIFE_S, HALF_LIFE_S)[2] == pytest.approx(0.125)


def test_a_share_is_that_of_the_scarcest_resource_for_the_weight() -> None:
    account = Account()
    account.held.take(SHAPE, preemptible=False)
    assert account.share(1.0, TOTALS, 0.0, 0.0) == 1 / 8
    assert account.share(2.0, TOTALS, 0.0, 0.0) == 1 / 16


# -- whose turn it is --------------------------------------------------------------------------------------------------


def test_queues_get_gpus_by_their_weights() -> None:
    world = a_world()
    world.queue("light", weight=1.0)
    world.queue("heavy", weight=3.0)
    world.submit(*(a_job(f"l{n}", tier="gpu1", queue="light") for n in range(8)))
    world.submit(*(a_job(f"h{n}", tier="gpu1", queue="heavy") for n in range(8)))
    order = placed(world.decide(), world)
    assert sorted(name[0] for name in order) == ["h"] * 6 + ["l"] * 2


def test_a_team_with_many_queues_gets_no_more_than_one_with_a_single_queue() -> None:
    world = a_world()
    for n in range(8):
        world.submit(a_job(f"m{n}", tier="gpu1", team="many", queue=f"q{n}"))
        world.submit(a_job(f"o{n}", tier="gpu1", team="one"))
    order = placed(world.decide(), world)
    assert sorted(name[0] for name in order) == ["m"] * 4 + ["o"] * 4


def test_what_a_team_does_not_use_is_anothers() -> None:
    world = a_world()
    world.team("idle", weight=100.0)
    world.submit(*(a_job(f"j{n}", tier="gpu1") for n in range(8)))
    assert len(placed(world.decide(), world)) == 8


@pytest.mark.parametrize(("half_life_s", "first"), [(3600.0, "fresh"), (0.0, "used")])
def test_who_used_much_lately_comes_later(half_life_s: float, first: str) -> None:
    world = a_world(fair_half_life_s=half_life_s)
    world.submit(a_job("big", tier="gpu8", queue="used"))
    world.settle()
    world.now += 1800
    world.end("big", an_end())
    world.settle()
    world.submit(a_job("used", tier="gpu8", queue="used"))
    world.submit(a_job("fresh", tier="gpu8", queue="zfresh"))  # by name alone it would be the second
    assert placed(world.decide(), world) == [first]


def test_use_that_is_long_ago_counts_no_more() -> None:
    world = a_world(fair_half_life_s=60.0)
    world.submit(a_job("big", tier="gpu8", queue="used"))
    world.settle()
    world.now += 60
    world.end("big", an_end())
    world.settle()
    world.submit(a_job("other", tier="gpu1", queue="zother"))
    world.settle()
    world.now += 3600  # 60 half-lives: the running job has more by now
    world.end("other", an_end())
    world.submit(a_job("used", tier="gpu8", queue="used"))
    world.submit(a_job("zother", tier="gpu8", queue="zother"))
    world.obey()
    assert placed(world.decide(), world) == ["used"]


# -- limits of users and teams ----------------------------------------------------------------------------------------


def test_a_users_limit_holds_back_that_user_alone() -> None:
    world = a_world()
    world.queue(user_running_max=1)
    world.submit(*(a_job(f"a{n}", user="ada") for n in range(3)), *(a_job(f"b{n}", user="bob") for n in range(3)))
    assert sorted(placed(world.decide(), world)) == ["a0", "b0"]
    assert world.summary("a1") == "ada in queue default runs 1 of at most 1 jobs"
    world.queue(user_running_max=2)
    assert sorted(placed(world.decide(), world)) == ["a1", "b1"]


def test_a_users_limit_on_gpus_holds_back_that_users_gpu_jobs() -> None:
    world = a_world()
    world.queue(user_gpus_max=2)
    world.submit(a_job("a0", tier="gpu1"), a_job("a1", tier="gpu2"), a_job("a2", tier="gpu1"), a_job("a3"))
    world.submit(a_job("b0", tier="gpu2", user="bob"))
    assert sorted(placed(world.decide(), world)) == ["a0", "a3", "b0"]
    assert world.summary("a1") == "ada in queue default holds 1 of at most 2 GPUs, it asks for 2"


def test_a_teams_limit_counts_over_its_queues() -> None:
    world = a_world()
    world.team(gpus_max=3)
    world.submit(*(a_job(f"j{n}", tier="gpu1", queue=f"q{n}") for n in range(5)))
    assert len(placed(world.decide(), world)) == 3
    assert world.summary("j4") == "team vision holds 3 of at most 3 GPUs, it asks for 1"


# -- guarantees --------------------------------------------------------------------------------------------------------


def test_who_has_less_than_is_guaranteed_comes_first() -> None:
    world = a_world()
    world.queue("sure", guaranteed_gpus=4)
    world.submit(*(a_job(f"s{n}", tier="gpu1", queue="sure") for n in range(6)))
    world.submit(*(a_job(f"o{n}", tier="gpu1", queue="another", preemptible=True) for n in range(8)))
    assert placed(world.decide(), world)[:4] == ["s0", "s1", "s2", "s3"]


def test_what_cannot_be_preempted_leaves_what_is_guaranteed_to_others() -> None:
    world = a_world()
    world.queue("sure", guaranteed_gpus=4)
    world.submit(*(a_job(f"f{n}", tier="gpu1", time_limit_s=600.0) for n in range(6)))
    world.submit(*(a_job(f"p{n}", tier="gpu1", time_limit_s=600.0, preemptible=True) for n in range(6)))
    order = placed(world.decide(), world)
    assert sorted(order) == ["f0", "f1", "f2", "f3", "p0", "p1", "p2", "p3"]
    world.submit(a_job("s0", tier="gpu1", queue="sure"))
    assert (
        world.summary("f4") == "what cannot be preempted, beyond guarantees, holds 4 of at most 4 GPUs, it asks for 1; "
        "a preemptible job may have more (--preemptible)"
    )


def test_a_guarantee_of_a_team_is_for_all_of_its_queues() -> None:
    world = a_world()
    world.team(guaranteed_gpus=8)
    world.submit(*(a_job(f"o{n}", tier="gpu1", team="other") for n in range(3)))
    assert placed(world.decide(), world) == []
    world.submit(*(a_job(f"j{n}", tier="gpu1", queue=f"q{n % 2}") for n in range(8)))
    assert len(placed(world.decide(), world)) == 8
