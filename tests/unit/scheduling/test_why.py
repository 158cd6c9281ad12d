"""What `why` says is what the placing would do: its reservations hold, its advice works, and asking changes nothing."""

from __future__ import annotations

import random
import runpy
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.scheduling import snapshots
from controlplane.scheduling.core import Core
from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.jobs import shape_of
from controlplane.scheduling.order import estimate_s
from controlplane.scheduling.replay import ALWAYS_HEARD, Arrival, Replay
from events import messages as m
from events import subjects
from tests.support.campaign import Campaign
from tests.support.reasons import SCENES, SETTINGS
from tests.support.worlds import TEAM, World, a_job, a_world

ROOT = Path(__file__).resolve().parents[3]


def kinds(why: m.Why) -> list[str]:
    return [hindrance.kind for hindrance in why.hindrances if not hindrance.ok]


def test_the_transcripts_are_what_the_core_says() -> None:
    page = ROOT / "docs" / "concepts" / "why.md"
    generate = runpy.run_path(str(ROOT / "scripts" / "why_page.py"))["page"]
    assert page.read_text() == generate(page.read_text()), "run python scripts/why_page.py"


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.title)
def test_every_reason_is_told_as_data(scene: object) -> None:
    world, job = scene.play()  # type: ignore[attr-defined]
    why = world.why(job)
    assert why.state in ("queued", "unfolding")
    assert kinds(why)
    assert why.summary == next(hindrance.message for hindrance in why.hindrances if not hindrance.ok)
    for hindrance in why.hindrances:
        assert hindrance.kind == "delay" or hindrance.held_by == tuple(holder.job for holder in hindrance.holders)


def test_who_is_in_the_way_is_told_with_the_ends_of_their_limits() -> None:
    world = a_world()
    world.submit(a_job("one", tier="gpu2", time_limit_s=600.0), a_job("two", tier="gpu2", time_limit_s=60.0))
    world.settle()
    world.submit(a_job("big", tier="gpu8", time_limit_s=60.0))
    world.settle()
    [reservation] = [hindrance for hindrance in world.why("big").hindrances if hindrance.kind == "reservation"]
    assert (reservation.nodes, reservation.at) == (("n1",), world.now + 600)
    assert [(h.job, h.gpus, h.until_at) for h in reservation.holders] == [
        ("two", 2, world.now + 60),
        ("one", 2, world.now + 600),
    ]


def test_only_who_is_among_the_first_has_a_reservation() -> None:
    world = a_world()
    world.queue(policy="fcfs")
    world.submit(a_job("one", tier="gpu2", time_limit_s=600.0))
    world.settle()
    world.submit(*(a_job(name, tier="gpu8", time_limit_s=600.0) for name in ("big", "bigger")))
    world.settle()
    assert kinds(world.why("big")) == ["resources", "reservation"]
    assert kinds(world.why("bigger")) == ["resources"]


# -- properties --------------------------------------------------------------------------------------------------------

JOBS = st.lists(
    st.tuples(
        st.sampled_from(("cpu", "gpu1", "gpu2", "gpu8")),
        st.sampled_from((None, 120.0, 600.0, 3600.0, 7200.0)),
        st.sampled_from(("", "", "n1", "n2", "!n1", "n3")),
    ),
    min_size=1,
    max_size=14,
)


def crowded(jobs: list[tuple[str, float | None, str]], policy: str, limit: int | None) -> World:
    """Jobs come one by one; those that fit run, the others wait."""
    world = World(settings=SETTINGS)
    world.lead()
    world.node("n1")
    world.node("n2", gpus=2, cpus=16)
    world.queue(policy=policy, gpus_max=limit)
    for number, (tier, time_limit_s, node) in enumerate(jobs):
        on = ({"node": (node,)},) if node else ()
        world.submit(a_job(f"j{number:02}", tier=tier, time_limit_s=time_limit_s, on=on))
        world.settle()
        world.now += 10
    return world


def waiting(world: World) -> list[str]:
    names = sorted({subjects.tokens(entry.subject)[2] for entry in world.ledger if ".job." in entry.subject})
    return [name for name in names if world.state(name) == "queued"]


def if_it_were(world: World, name: str, sooner: m.Sooner) -> tuple[str, ...]:
    """Where the next round places the job if it had been submitted as the advice says."""
    truth = snapshots.decode(world.core.snapshot(), SETTINGS)
    job = truth.by_key[(TEAM, name)]
    tiers = {tier.name: tier.resources for tier in SETTINGS.tiers}
    changes = {
        "time_limit": {"time_limit_s": sooner.time_limit_s},
        "tier": {"resources": tiers.get(sooner.tier), "on": ()},
        "on": {"on": ()},
    }[sooner.kind]
    job.specification = msgspec.structs.replace(job.specification, **changes)
    job.shape, job.order_s = shape_of(job.specification), estimate_s(job.specification.time_limit_s)
    core = Core(SETTINGS)
    core.restore(snapshots.encode(truth))
    core.begin_term(world.now)
    placed = {decision.subject: decision.fact for decision in core.decide(world.now).decisions}
    fact = placed.get(subjects.job(TEAM, name))
    return tuple(one.node for one in fact.allocations) if isinstance(fact, m.Placed) else ()


@settings(deadline=None, max_examples=120)
@given(jobs=JOBS, policy=st.sampled_from(("fcfs", "slowdown", "sjf")), limit=st.sampled_from((None, 6)))
def test_advice_works(jobs: list[tuple[str, float | None, str]], policy: str, limit: int | None) -> None:
    world = crowded(jobs, policy, limit)
    for name in waiting(world):
        for sooner in world.why(name).sooner:
            assert if_it_were(world, name, sooner) == sooner.nodes, (name, sooner)


def test_there_is_advice() -> None:
    """Lest the property above is about nothing."""
    jobs = [("gpu2", 3600.0), ("gpu2", 3600.0), ("gpu8", 3600.0), ("gpu2", None), ("cpu", None)]
    world = crowded([(*job, "n3" if job[0] == "cpu" else "") for job in jobs], "fcfs", None)
    advice = [(name, sooner) for name in waiting(world) for sooner in world.why(name).sooner]
    assert {sooner.kind for _, sooner in advice} == {"time_limit", "tier", "on"}
    assert all(if_it_were(world, name, sooner) == sooner.nodes for name, sooner in advice)


@settings(deadline=None, max_examples=80)
@given(
    tasks=st.lists(
        st.tuples(st.integers(0, 60), st.integers(1, 8), st.integers(1, 90), st.integers(0, 60)), max_size=20
    )
)
def test_a_reservation_that_was_told_is_kept(tasks: list[tuple[int, int, int, int]]) -> None:
    """Whenever jobs end, within their limits, and whatever comes behind. With one reservation, as EASY promises."""
    arrivals = []
    for number, (at, processors, runs_s, more_s) in enumerate(sorted(tasks)):
        job = a_job(f"j{number:03}", time_limit_s=float(runs_s + more_s))
        resources = m.Resources(cpus=float(processors), memory_bytes=0)
        arrivals.append(Arrival(at, msgspec.structs.replace(job, resources=resources), float(runs_s)))
    replay = Replay(
        Settings(**ALWAYS_HEARD),
        {"n1": m.Capacity(cpus=8.0, memory_bytes=0)},
        {(TEAM, "default"): m.QueueSet(by="ops", policy="fcfs")},
    )
    told: dict[str, float] = {}
    started: dict[str, float] = {}
    for outcome in replay.run(arrivals):
        started[outcome.arrival.specification.job] = outcome.started_at
        for arrival in arrivals:
            why = replay.core.why(TEAM, arrival.specification.job, outcome.ended_at)
            for hindrance in why.hindrances if why is not None else ():
                if hindrance.kind == "reservation" and hindrance.at is not None:
                    told.setdefault(arrival.specification.job, hindrance.at)
    assert all(started[job] <= at for job, at in told.items())


def test_asking_changes_nothing() -> None:
    def campaign(*, ask: bool) -> Campaign:
        dice = random.Random("asked")
        campaign = Campaign()
        campaign.judge = lambda: None  # type: ignore[method-assign] # it asks, too
        for _ in range(200):
            campaign.step(lambda options: options[dice.randrange(len(options))])
            for number in range(1, campaign.count + 1) if ask else ():
                campaign.world.core.why(TEAM, f"j{number}", campaign.world.now)
        return campaign

    asked, unasked = campaign(ask=True).world, campaign(ask=False).world
    assert [(entry.subject, entry.fact) for entry in asked.ledger] == [(e.subject, e.fact) for e in unasked.ledger]
    assert asked.core.snapshot() == unasked.core.snapshot()


def test_who_comes_first_is_counted_where_all_was_only_tried() -> None:
    """What a look tries and takes back leaves its room to whom the next question is about."""
    world = a_world(nodes=1, gpus=8)
    for name, gpus, priority in (("whole", 8, 9), ("half", 4, 8), ("pair", 2, 7), ("other", 2, 6)):
        resources = m.Resources(cpus=1.0, memory_bytes=0, gpus=gpus)
        world.submit(a_job(name, resources=resources, priority=priority))
    assert [world.summary(name) for name in ("whole", "half", "pair", "other")] == [
        "about to be placed",
        "one job of its queue comes first",
        "2 jobs of its queue come first",
        "3 jobs of its queue come first",
    ]
