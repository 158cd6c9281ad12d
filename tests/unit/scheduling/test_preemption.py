"""Preemption: who ends for whom, what is kept, and that it comes to rest."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.scheduling.core import Core
from controlplane.scheduling.waiting import CLAIM_S
from events import messages as m
from events import subjects
from tests.support.worlds import SETTINGS, World, a_job, a_world, an_end


def a_full_world(*, guaranteed: int = 2) -> World:
    """Eight GPUs, all borrowed by preemptible jobs of queue `default`; `sure` is guaranteed some of them."""
    world = a_world()
    world.queue("sure", guaranteed_gpus=guaranteed)
    for n in range(8):
        world.submit(a_job(f"p{n}", tier="gpu1", preemptible=True))
        world.settle()
        world.now += 10
    world.now += 100
    world.exchange()
    return world


def stopped(world: World) -> list[str]:
    return [entry.subject.split(".")[-1] for entry in world.ledger if isinstance(entry.fact, m.StopRequested)]


def test_a_job_within_a_guarantee_reclaims_what_others_borrowed() -> None:
    world = a_full_world()
    world.submit(a_job("mine", tier="gpu1", queue="sure"))
    facts = world.settle()
    assert stopped(world) == ["p7"]  # the one that loses least
    assert world.state("mine") == "running"
    requeued = next(fact for fact in facts if isinstance(fact, m.Requeued))
    assert requeued.why == "preempted for job mine of queue vision/sure, within what is guaranteed to it"


def test_beyond_its_guarantee_a_queue_reclaims_nothing() -> None:
    world = a_full_world(guaranteed=1)
    world.submit(*(a_job(f"m{n}", tier="gpu1", queue="sure", preemptible=True) for n in range(3)))
    world.settle()
    assert len(stopped(world)) == 1


def test_a_preempted_job_keeps_its_age_and_waits_for_no_backoff() -> None:
    world = a_full_world()
    world.submit(a_job("later", tier="gpu1", preemptible=True))
    world.submit(a_job("mine", tier="gpu1", queue="sure"))
    world.settle()
    assert world.why("p7").position == 1  # and not behind the one that came after it
    world.end("p0", an_end())
    world.settle()
    assert world.state("p7") == "running"


def test_an_attempt_that_was_preempted_is_none_of_its_tries() -> None:
    world = a_world()
    world.queue("sure", guaranteed_gpus=8)
    world.submit(a_job("victim", tier="gpu8", preemptible=True, attempts_max=1))
    for n in range(3):
        world.settle()
        assert world.state("victim") == "running"
        world.now += 100
        world.exchange()
        world.submit(a_job(f"m{n}", tier="gpu8", queue="sure"))
        world.settle()
        assert world.state("victim") == "queued"
        world.end(f"m{n}", an_end())
    world.settle()
    assert world.state("victim") == "running"
    world.end("victim", an_end("supervisor_lost"))
    facts = world.settle()
    assert any(isinstance(fact, m.Finished) and fact.reason.endswith("(it was its only attempt)") for fact in facts)


def test_nobody_is_preempted_before_it_has_run_for_its_time() -> None:
    world = a_world()
    world.queue("sure", guaranteed_gpus=8)
    world.submit(a_job("victim", tier="gpu8", preemptible=True))
    world.settle()
    world.submit(a_job("mine", tier="gpu8", queue="sure"))
    world.settle()
    assert stopped(world) == []
    began = world.now
    assert world.core.wake_at() is not None
    world.now = began + 59
    world.exchange()
    world.settle()
    assert stopped(world) == []
    world.now = began + 60
    world.settle()
    assert stopped(world) == ["victim"]


def test_the_scheduler_wakes_when_a_victim_has_run_for_its_time() -> None:
    world = a_world()
    world.queue("sure", guaranteed_gpus=8)
    world.submit(a_job("victim", tier="gpu8", preemptible=True))
    world.settle()
    world.now += 50
    world.exchange()
    world.submit(a_job("mine", tier="gpu8", queue="sure"))
    world.settle()
    assert world.core.wake_at() == pytest.approx(world.now + 10)


def test_who_saved_its_work_lately_loses_least() -> None:
    world = a_full_world()
    world.saved("p3", world.now - 1)
    world.submit(a_job("mine", tier="gpu1", queue="sure"))
    world.settle()
    assert stopped(world) == ["p3"]


def test_of_two_nodes_the_one_where_less_is_lost() -> None:
    world = a_world(nodes=2)
    world.queue("sure", guaranteed_gpus=8)
    world.submit(a_job("old", tier="gpu8", preemptible=True))
    world.settle()
    world.now += 50
    world.submit(a_job("new", tier="gpu8", preemptible=True))
    world.settle()
    world.now += 60
    for name in ("n1", "n2"):
        world.exchange(name)
    world.submit(a_job("mine", tier="gpu1", queue="sure"))
    world.settle()
    assert stopped(world) == ["new"]


def test_no_more_end_than_must() -> None:
    world = a_world()
    world.queue("sure", guaranteed_gpus=4)
    world.submit(a_job("four", tier="gpu2", preemptible=True))
    for n in range(3):
        world.now += 10
        world.submit(a_job(f"p{n}", tier="gpu2", preemptible=True))
        world.settle()
    world.now += 100
    world.exchange()
    world.submit(a_job("mine", tier="gpu2", queue="sure"))
    world.settle()
    assert stopped(world) == ["p2"]


def test_a_higher_priority_takes_from_lower_ones_of_its_queue_alone() -> None:
    world = a_world()
    world.submit(a_job("low", tier="gpu8", preemptible=True))
    world.settle()
    world.now += 100
    world.exchange()
    world.submit(a_job("same", tier="gpu8"), a_job("other", tier="gpu8", queue="other", priority=9))
    world.settle()
    assert stopped(world) == []
    world.submit(a_job("high", tier="gpu8", priority=1))
    world.settle()
    assert stopped(world) == ["low"]
    assert world.state("high") == "running"


def test_what_cannot_be_preempted_is_not() -> None:
    world = a_world()
    world.submit(a_job("firm", tier="gpu8"))
    world.settle()
    world.now += 1000
    world.exchange()
    world.submit(a_job("high", tier="gpu8", priority=1))
    world.settle()
    assert stopped(world) == []


def test_what_was_freed_is_kept_for_whom_it_was_freed() -> None:
    """Scenario 4 of the nasty ones: a third queue must not take it."""
    world = a_world()
    world.queue("sure", guaranteed_gpus=8)
    world.submit(
        a_job("a", tier="gpu2", preemptible=True), *(a_job(f"p{n}", tier="gpu2", preemptible=True) for n in range(3))
    )
    world.settle()
    world.now += 100
    world.exchange()
    world.submit(a_job("mine", tier="gpu8", queue="sure"))
    world.decide()
    assert sorted(stopped(world)) == ["a", "p0", "p1", "p2"]
    world.queue("third", weight=1000.0)
    world.submit(a_job("thief", tier="gpu1", queue="third", preemptible=True))
    world.end("a", an_end("stopped", signal=15))
    world.decide()  # two GPUs are free now, and the rest still ends
    assert world.state("thief") == "queued"
    world.settle()
    assert world.state("mine") == "running"
    assert len(stopped(world)) == 4


def test_what_was_freed_for_a_job_that_is_gone_is_anybodys() -> None:
    world = a_full_world()
    world.submit(a_job("mine", tier="gpu1", queue="sure"))
    world.decide()
    world.about("mine", m.CancelRequested(by="ada"))
    world.settle()
    assert stopped(world) == ["p7"]
    assert world.state("p7") == "running"


def test_what_is_kept_for_a_job_that_cannot_have_it_is_given_up_after_a_while() -> None:
    world = a_full_world()
    world.submit(a_job("mine", tier="gpu1", queue="sure"))
    world.decide()
    world.queue("sure", guaranteed_gpus=2, paused=True)
    world.settle()
    assert world.state("p7") == "queued"
    world.now += CLAIM_S + 10
    world.exchange()
    world.settle()
    assert world.state("p7") == "running"


def test_a_new_leader_keeps_what_was_freed() -> None:
    world = a_full_world()
    world.submit(a_job("mine", tier="gpu1", queue="sure"))
    world.decide()
    before = world.core.snapshot()
    world.core = Core(SETTINGS)
    world.core.restore(before)
    assert world.core.snapshot() == before
    world.lead()
    world.submit(a_job("thief", tier="gpu1", queue="third", preemptible=True))
    world.exchange()
    world.settle()
    assert world.state("mine") == "running"
    assert stopped(world) == ["p7"]


def test_a_victim_that_is_cancelled_meanwhile_ends_cancelled() -> None:
    world = a_full_world()
    world.submit(a_job("mine", tier="gpu1", queue="sure"))
    world.decide()
    world.about("p7", m.CancelRequested(by="ada"))
    world.settle()
    assert world.state("p7") == "cancelled"


def test_a_victim_that_succeeds_within_its_grace_has_succeeded() -> None:
    world = a_full_world()
    world.submit(a_job("mine", tier="gpu1", queue="sure"))
    world.decide()
    world.end("p7", an_end())
    world.settle()
    assert world.state("p7") == "succeeded"


@pytest.mark.parametrize("seed", range(5))
def test_three_queues_in_a_ring_come_to_rest(seed: int) -> None:
    """Scenario 5: A preempts B, B preempts C, C preempts A. With all guarantees filled nobody ends for anybody."""
    dice = random.Random(seed)
    world = a_world()
    sizes = dice.choice([(2, 2, 4), (4, 4, 0), (1, 2, 3)])
    for name, size in zip("abc", sizes, strict=True):
        world.queue(name, guaranteed_gpus=size)
    for n in range(12):
        queue = dice.choice("abc")
        world.submit(a_job(f"{queue}{n}", tier=dice.choice(["gpu1", "gpu2"]), queue=queue, preemptible=True))
        world.settle()
        world.now += dice.choice([1.0, 70.0])
        world.exchange()
        world.settle()
    for _ in range(5):
        world.now += 100
        world.exchange()
        world.settle()
    count = len(stopped(world))
    for _ in range(10):
        world.now += 100
        world.exchange()
        world.settle()
    assert len(stopped(world)) == count
    held = {view.queue: view.gpus for view in world.core.queues_view().queues}
    waiting = {view.queue: view.waiting for view in world.core.queues_view().queues}
    for name, size in zip("abc", sizes, strict=True):
        assert held[name] >= size - 1 or not waiting[name], (held, waiting, sizes)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda sizes: sum(sizes) <= 16),
    borrowers=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=24),
    wanted=st.tuples(st.integers(0, 10), st.integers(0, 10)),
)
def test_what_is_guaranteed_can_always_be_had(
    sizes: tuple[int, int], borrowers: list[tuple[str, bool]], wanted: tuple[int, int]
) -> None:
    """Whatever others hold before: after the minimum run time and a grace, or at once."""
    world = a_world(nodes=2)
    for name, size in zip("ab", sizes, strict=True):
        world.queue(name, guaranteed_gpus=size)
    for n, (queue, preemptible) in enumerate(borrowers):
        world.submit(a_job(f"{queue}-old{n}", tier="gpu1", queue=queue, preemptible=preemptible))
        world.settle()
    for name, count in zip("ab", wanted, strict=True):
        world.submit(*(a_job(f"{name}-new{n}", tier="gpu1", queue=name) for n in range(count)))
    for _ in range(4):
        world.settle()
        world.now += SETTINGS.preempt_min_run_s
        for node in ("n1", "n2"):
            world.exchange(node)
    world.settle()
    views = {view.queue: view for view in world.core.queues_view().queues}
    for name, size in zip("ab", sizes, strict=True):
        asked = sum(queue == name for queue, _ in borrowers) + wanted["ab".index(name)]
        assert views[name].gpus >= min(size, asked)


def gpus(count: int, *, cpus: float = 1.0) -> m.Resources:
    return m.Resources(cpus=cpus, memory_bytes=1, gpus=count)


def running(world: World, *jobs: str) -> set[str]:
    return {job for job in jobs if world.state(job) == "running"}


def test_a_node_with_room_that_is_kept_for_another_is_no_place_to_preempt_for() -> None:
    """Found in review: it cost nothing, was chosen for ever, and nobody ended."""
    world = a_world(nodes=1)
    world.queue(policy="fcfs")
    world.submit(a_job("firm", resources=gpus(2), time_limit_s=7200))
    world.settle()
    world.node("n2", gpus=4)
    world.submit(a_job("low", resources=gpus(4), preemptible=True, time_limit_s=90_000))
    world.settle()
    assert (world.gpus("firm")[0], world.gpus("low")[0]) == ("n1", "n2")
    world.now += 100
    world.exchange("n1"), world.exchange("n2")
    world.submit(a_job("wide", resources=gpus(7), priority=9, time_limit_s=3600))
    world.submit(a_job("mine", resources=gpus(2), priority=5, time_limit_s=90_000))
    world.settle()
    assert stopped(world) == ["low"]
    assert running(world, "wide", "mine") == {"mine"}


def test_searches_that_find_nothing_do_not_starve_the_others() -> None:
    world = a_world(nodes=2)
    for n in (1, 2):
        world.submit(a_job(f"firm{n}", resources=gpus(5)))
        world.submit(*(a_job(f"lent{n}{k}", tier="gpu1", preemptible=True) for k in range(3)))
        world.settle()
    world.queue("g", guaranteed_gpus=8)
    world.now += 100
    world.exchange("n1"), world.exchange("n2")
    world.submit(*(a_job(f"wide{n:02}", tier="gpu8", queue="g", priority=10 + n) for n in range(20)))
    world.submit(a_job("small", tier="gpu1", queue="g"))
    for _ in range(5):  # it wakes by itself for the searches that a round had no room for
        world.settle()
        world.now = max(world.now, world.core.wake_at() or 0.0)
    assert world.state("small") == "running"
    assert len(stopped(world)) == 1


def test_a_guarantee_of_gpus_puts_no_cpu_job_in_front() -> None:
    world = a_world(nodes=1, gpus=8, cpus=4)
    world.queue("a", guaranteed_gpus=8)
    world.submit(*(a_job(f"a{n}", queue="a") for n in range(4)), *(a_job(f"b{n}", queue="b") for n in range(4)))
    world.settle()
    assert len(running(world, *(f"a{n}" for n in range(4)))) == 2


def test_what_is_kept_for_a_preemptor_takes_no_reservation_from_the_first_that_waits() -> None:
    world = a_world(nodes=2)
    world.queue(policy="fcfs")
    world.queue("sure", guaranteed_gpus=8, policy="fcfs")
    world.submit(a_job("lent", tier="gpu8", preemptible=True, grace_s=600))
    world.settle()
    world.submit(a_job("half", resources=gpus(4), time_limit_s=3600))
    world.settle()
    world.now += 100
    world.exchange("n1"), world.exchange("n2")
    world.submit(a_job("first", tier="gpu8", time_limit_s=3600, preemptible=True))
    world.submit(a_job("long", resources=gpus(4), time_limit_s=36_000, preemptible=True))
    world.decide()
    assert world.state("long") == "queued"  # it would delay the first one
    world.submit(a_job("mine", tier="gpu8", queue="sure", time_limit_s=3600))
    world.decide()
    assert stopped(world) == ["lent"]
    assert world.state("long") == "queued"


def test_a_claim_is_the_ledgers_and_not_the_clocks() -> None:
    """A leader and whoever follows the same ledger keep the same, whatever the time is for them."""
    world = a_world()
    world.queue("sure", guaranteed_gpus=8)
    world.submit(a_job("lent", tier="gpu8", preemptible=True, grace_s=60))
    world.settle()
    world.submit(a_job("mine", tier="gpu8", queue="sure", begin_at=world.now + 70))
    world.now += 100
    world.exchange()
    world.decide()
    assert stopped(world) == ["lent"]
    world.about("mine", m.Reprioritised(by="ada", priority=3))
    follower = Core(SETTINGS)
    for entry in world.ledger:
        follower.apply(entry, 0.0)
    assert follower.snapshot() == world.core.snapshot()


def test_what_was_freed_is_not_taken_into_a_maintenance() -> None:
    world = a_world()
    world.queue("sure", guaranteed_gpus=8)
    world.submit(a_job("lent", tier="gpu8", preemptible=True, grace_s=60, time_limit_s=500))
    world.settle()
    world.now += 100
    world.exchange()
    closed = m.NodeMaintenance(by="ops", begins_at=world.now + 1000, ends_at=world.now + 2000)
    world.write(subjects.node("n1"), closed)
    world.submit(a_job("mine", tier="gpu8", queue="sure", time_limit_s=990))
    world.decide()
    assert stopped(world) == ["lent"]
    world.now += 60
    world.settle()
    assert world.state("mine") == "queued"


def test_so_many_victims_that_they_fit_into_no_round_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.scheduling.preemption.VICTIMS_MAX", 3)
    world = a_full_world(guaranteed=8)
    world.submit(a_job("mine", resources=gpus(4), queue="sure"), a_job("less", resources=gpus(3), queue="sure"))
    world.settle()
    assert len(stopped(world)) == 3
    assert running(world, "mine", "less") == {"less"}
