"""Expected starts: where everything is known they are what happens; and the page of the queue in its order."""

from __future__ import annotations

import math
import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.scheduling import order
from controlplane.scheduling.core import Core
from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.forecast import Dice, Expected, forecast, gathered, starts, told
from controlplane.scheduling.replay import ALWAYS_HEARD, Arrival, Replay
from events import messages as m
from events import subjects
from tests.support.worlds import SETTINGS, TEAM, World, a_job, a_world


class Exact:
    """Every job takes all of its limit."""

    def gauss(self, mu: float, sigma: float) -> float:
        return math.inf

    def uniform(self, a: float, b: float) -> float:
        return b


def dice(count: int = 5) -> list[Dice]:
    return [random.Random(f"a die {number}") for number in range(count)]


def expected(world: World, name: str, dice_: list[Dice] | None = None) -> Expected | None:
    found = forecast(world.core.excerpt(1000), SETTINGS, world.now, dice_ or [Exact()])
    return found.starts.get(subjects.job(TEAM, name))


@settings(deadline=None, max_examples=60)
@given(
    tasks=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8), st.integers(1, 90)), min_size=1, max_size=20),
    policy=st.sampled_from(order.POLICIES),
    depth=st.integers(0, 3),
)
def test_where_everything_is_known_the_forecast_is_what_happens(
    tasks: list[tuple[int, int, int]], policy: m.Policy, depth: int
) -> None:
    """Limits that are exact, and nobody who comes later: asked when the last one has come."""
    arrivals = []
    for number, (at, processors, runs_s) in enumerate(sorted(tasks)):
        job = a_job(f"j{number:03}", time_limit_s=float(runs_s))
        resources = m.Resources(cpus=float(processors), memory_bytes=0)
        arrivals.append(Arrival(at, msgspec.structs.replace(job, resources=resources), float(runs_s)))
    replay = Replay(
        Settings(backfill_depth=depth, **ALWAYS_HEARD),
        {"n1": m.Capacity(cpus=8.0, memory_bytes=0)},
        {(TEAM, "default"): m.QueueSet(by="ops", policy=policy)},
    )
    said: dict[str, float] = {}

    def asking() -> object:
        yield from arrivals
        said.update(starts(replay.core.excerpt(1000), replay.core.settings, arrivals[-1].at, Exact()))

    started = {}
    for outcome in replay.run(asking()):  # type: ignore[arg-type]
        started[subjects.job(TEAM, outcome.arrival.specification.job)] = outcome.started_at
    assert said
    assert all(started[subject] == at for subject, at in said.items())


def test_the_same_dice_give_the_same_forecast() -> None:
    world = a_world()
    world.submit(*(a_job(f"j{number}", tier="gpu8", time_limit_s=600.0) for number in range(5)))
    world.settle()
    content = world.core.excerpt(1000)
    first = forecast(content, SETTINGS, world.now, dice())
    assert first == forecast(content, SETTINGS, world.now, dice())
    assert len(first.starts) == 4
    assert all(one.earliest_at <= one.at <= (one.latest_at or math.inf) for one in first.starts.values())
    assert first.starts[subjects.job(TEAM, "j1")].at < first.starts[subjects.job(TEAM, "j4")].at


def test_what_may_not_start_has_no_expected_start() -> None:
    world = a_world()
    world.queue("closed", paused=True)
    world.submit(a_job("held", tier="gpu1"), held=True)
    world.submit(a_job("paused", tier="gpu1", queue="closed"), a_job("too-large", tier="pair"))
    world.settle()
    assert [expected(world, name) for name in ("held", "paused", "too-large")] == [None] * 3


def test_an_environment_is_taken_to_be_ready_at_once() -> None:
    world = a_world()
    world.write(subjects.environment("ab"), m.EnvironmentBuilding(builder="e"))
    world.submit(a_job("j1", environment="sha256:ab"))
    world.settle()
    found = expected(world, "j1")
    assert found is not None
    assert found.at == world.now


def test_of_an_array_the_start_of_its_next_task_is_expected() -> None:
    world = a_world()
    world.submit(a_job("sweep", tier="gpu8", time_limit_s=600.0, array="0-9"))
    world.settle()
    found = expected(world, "sweep")
    assert found is not None
    assert found.at == world.now + 600


def test_a_job_that_has_outlived_its_prediction_may_need_all_of_its_limit() -> None:
    world = a_world()
    world.submit(a_job("past", called="train", tier="gpu8", time_limit_s=1000.0))
    world.settle()
    world.now += 10
    world.end("past", m.AttemptEnd(cause="exited", ended_at=world.now, exit_code=0))
    world.settle()
    world.submit(a_job("j1", called="train", tier="gpu8", time_limit_s=1000.0))
    world.settle()
    began = world.now
    world.submit(a_job("j2", tier="gpu8", time_limit_s=100.0))
    soon = expected(world, "j2", dice())
    assert soon is not None
    assert soon.at < began + 100
    world.now += 900
    late = expected(world, "j2", dice())
    assert late is not None
    assert began + 900 < late.earliest_at < late.at < (late.latest_at or 0.0) <= began + 1000
    longest = expected(world, "j2")
    assert longest is not None
    assert longest.at == began + 1000


def test_several_runs_give_the_middle_and_the_spread() -> None:
    found = gathered(0.0, [{"a": 30.0, "b": 1.0}, {"a": 10.0}, {"a": 20.0, "b": 2.0, "c": 5.0}]).starts
    assert found == {"a": Expected(20.0, 10.0, 30.0), "b": Expected(2.0, 1.0, None)}


def test_no_moment_of_an_answer_is_over() -> None:
    view = m.Why(job="j1", state="queued")
    seen = told(view, TEAM, gathered(0.0, [{subjects.job(TEAM, "j1"): at} for at in (10.0, 20.0, 30.0)]), 25.0)
    assert (seen.expected_at, seen.earliest_at, seen.latest_at) == (25.0, 25.0, 30.0)
    assert told(view, TEAM, None, 25.0) == view


def test_an_excerpt_is_what_counts_from_now_on() -> None:
    world = a_world()
    world.queue("other")
    world.submit(*(a_job(f"a{number}", tier="gpu8") for number in range(5)))
    world.submit(*(a_job(f"b{number}", tier="gpu8", queue="other") for number in range(5)))
    world.settle()
    core = Core(SETTINGS)
    core.restore(world.core.excerpt(4))
    core.check()
    left = sorted(job.id for job in core.jobs.values())
    assert len(left) == 5
    assert [name for name in left if name != "a0"] == ["a1", "a2", "b0", "b1"]


# -- the page ----------------------------------------------------------------------------------------------------------


def places(page: m.QueuePage) -> list[tuple[int, str]]:
    return [(view.place, view.job) for view in page.jobs]


def test_the_queue_is_in_the_order_in_which_jobs_are_placed() -> None:
    world = a_world(cpus=1)
    world.submit(a_job("now", time_limit_s=60.0))
    world.settle()
    world.submit(a_job("a", time_limit_s=7200.0), a_job("b", time_limit_s=60.0), a_job("c", priority=1))
    world.submit(a_job("d"), held=True)
    world.submit(a_job("of-others", team="nlp"))
    page = world.core.queue_page(m.AskQueue(team=TEAM), world.now)
    assert places(page) == [(1, "c"), (2, "b"), (3, "a"), (4, "d")]
    assert [world.why(job).position for job in "cba"] == [1, 2, 3]
    assert (page.waiting, page.next) == (4, 0)
    assert [view.kind for view in page.jobs] == ["resources", "resources", "resources", "hold"]


@settings(deadline=None, max_examples=40)
@given(
    jobs=st.lists(
        st.tuples(st.sampled_from((60.0, 600.0, None)), st.integers(0, 2), st.booleans(), st.sampled_from("xy")),
        max_size=12,
    ),
    limit=st.integers(1, 5),
    policy=st.sampled_from(order.POLICIES),
)
def test_pages_together_are_the_whole_queue(
    jobs: list[tuple[float | None, int, bool, str]], limit: int, policy: m.Policy
) -> None:
    world = a_world(cpus=1)
    for name in "xy":
        world.queue(name, policy=policy)
    world.submit(a_job("now", time_limit_s=60.0))
    world.settle()
    for number, (limit_s, priority, held, queue) in enumerate(jobs):
        job = a_job(f"j{number:02}", time_limit_s=limit_s, priority=priority, queue=queue)
        world.submit(job, held=held)
        world.now += 100
    whole, pages, after = places(world.core.queue_page(m.AskQueue(team=TEAM, limit=100), world.now)), [], 0
    while True:
        page = world.core.queue_page(m.AskQueue(team=TEAM, limit=limit, after=after), world.now)
        pages += places(page)
        after = page.next
        if not after:
            break
    assert pages == whole
    assert sorted(name for _, name in whole) == [f"j{number:02}" for number in range(len(jobs))]
    free = [(place, name) for place, name in whole if all(h.ok for h in world.why(name).hindrances if h.kind == "hold")]
    assert all(world.why(name).position == place for place, name in free)
