"""How long a job will probably run: what counts, what it decides, and what it never decides."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.scheduling import predictions
from controlplane.scheduling.core import Core
from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.predictions import History
from controlplane.scheduling.replay import ALWAYS_HEARD, Arrival, Replay
from events import messages as m
from tests.support.worlds import TEAM, World, a_job, a_world, an_end


def of(
    name: str = "train", *, source: str = "", user: str = "ada", time_limit_s: float | None = None
) -> m.Specification:
    job = a_job("j1", called=name, time_limit_s=time_limit_s)
    return msgspec.structs.replace(job, source=source, user=user)


def test_the_mean_of_the_last_two_counts() -> None:
    history = History()
    assert history.predict(of()) is None
    for runs_s, predicted_s in ((100, 100), (200, 150), (600, 400), (600, 600)):
        history.learn(of(), runs_s)
        assert history.predict(of()) == predicted_s
    assert history.predict(of(time_limit_s=60)) == 60
    assert history.predict(of(user="eve")) is None


def test_a_new_name_goes_by_its_source() -> None:
    history = History()
    history.learn(of("train", source="sha256:ab"), 100)
    assert history.predict(of("other", source="sha256:ab")) == 100
    assert history.predict(of("other", source="sha256:cd")) is None
    history.learn(of("other", source="sha256:ab"), 300)
    assert history.predict(of("train", source="sha256:ab")) == 100
    assert history.predict(of("other", source="sha256:ab")) == 300


def test_who_was_not_used_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "KEYS_MAX", 2)
    history = History()
    history.learn(of("a"), 10)
    history.learn(of("b"), 20)
    assert history.predict(of("a")) == 10
    history.learn(of("c"), 30)
    assert [history.predict(of(name)) for name in "abc"] == [10, None, 30]


def after_runs(world: World, *runs: tuple[str, float, str]) -> None:
    """Jobs of these names ran for so long, and ended so."""
    for number, (name, runs_s, cause) in enumerate(runs):
        world.submit(a_job(f"past-{number}", called=name, time_limit_s=10_000))
        world.settle()
        world.now += runs_s
        world.end(f"past-{number}", an_end(cause) if cause == "exited" else an_end(cause, signal=9))  # type: ignore[arg-type]
        world.settle()


def test_the_order_goes_by_what_earlier_runs_took() -> None:
    world = a_world(cpus=1)
    after_runs(world, ("quick", 50.0, "exited"), ("slow", 5000.0, "exited"))
    world.queue(policy="sjf")
    world.submit(a_job("now", time_limit_s=100))
    world.settle()
    world.submit(a_job("a", called="slow", time_limit_s=6000), a_job("b", called="quick", time_limit_s=7000))
    world.submit(a_job("c", time_limit_s=3000))
    assert [world.why(job).position for job in "abc"] == [3, 1, 2]


def test_a_queue_can_go_by_limits_alone() -> None:
    world = a_world(cpus=1)
    after_runs(world, ("quick", 50.0, "exited"))
    world.queue(policy="sjf", predictions=False)
    world.submit(a_job("now", time_limit_s=100))
    world.settle()
    world.submit(a_job("a", time_limit_s=6000), a_job("b", called="quick", time_limit_s=7000))
    assert [world.why(job).position for job in "ab"] == [1, 2]


def test_only_runs_that_succeeded_count() -> None:
    world = a_world()
    after_runs(world, ("train", 50.0, "signalled"))
    world.submit(a_job("next", called="train"))
    world.settle()
    assert expected_end(world, "next") is None


def expected_end(world: World, name: str) -> float | None:
    """What a job that waits for it is told."""
    world.queue("behind", running_max=0)
    world.queue(running_max=1)
    world.submit(a_job(f"behind-{name}-{world.now:g}"))
    [holder] = world.why(f"behind-{name}-{world.now:g}").hindrances[0].holders
    world.about(f"behind-{name}-{world.now:g}", m.CancelRequested(by="ada"))
    world.queue()
    assert holder.job == name
    return holder.expected_at


def test_a_prediction_that_was_outlived_says_nothing_any_more() -> None:
    world = a_world()
    after_runs(world, ("train", 100.0, "exited"))
    world.submit(a_job("j", called="train", time_limit_s=1000))
    world.settle()
    begun = world.now
    assert expected_end(world, "j") == begun + 100
    world.now += 100
    assert expected_end(world, "j") == begun + 1000


def test_a_reservation_goes_by_the_limit() -> None:
    world = a_world()
    after_runs(world, ("train", 100.0, "exited"))
    world.submit(a_job("j", tier="gpu2", called="train", time_limit_s=1000))
    world.settle()
    world.submit(a_job("big", tier="gpu8", time_limit_s=60))
    world.settle()
    [reservation] = [hindrance for hindrance in world.why("big").hindrances if hindrance.kind == "reservation"]
    assert reservation.at == world.now + 1000
    [holder] = reservation.holders
    assert (holder.until_at, holder.expected_at) == (world.now + 1000, world.now + 100)


def test_a_snapshot_holds_what_was_learnt() -> None:
    world = a_world()
    after_runs(world, ("a", 100.0, "exited"), ("b", 50.0, "exited"), ("a", 300.0, "exited"))
    other = Core(world.settings)
    other.restore(world.core.snapshot())
    assert other.snapshot() == world.core.snapshot()
    world.core = other
    world.submit(a_job("j", called="a"))
    world.core.begin_term(world.now)
    world.settle()
    assert expected_end(world, "j") == world.now + 200


@settings(deadline=None, max_examples=60)
@given(
    tasks=st.lists(
        st.tuples(
            st.integers(0, 60), st.integers(1, 8), st.integers(1, 90), st.integers(0, 60), st.sampled_from("abc")
        ),
        max_size=20,
    ),
    policy=st.sampled_from(("fcfs", "sjf", "slowdown")),
)
def test_a_wrong_prediction_ends_nothing_and_delays_no_head(
    tasks: list[tuple[int, int, int, int, str]], policy: m.Policy
) -> None:
    """Every job starts and runs to its own end; in the order of arrival, nothing at all changes."""

    def ends(predicted: bool) -> dict[str, tuple[float, float]]:
        arrivals = []
        for number, (at, processors, runs_s, more_s, name) in enumerate(sorted(tasks)):
            job = a_job(f"j{number:03}", called=name, time_limit_s=float(runs_s + more_s))
            resources = m.Resources(cpus=float(processors), memory_bytes=0)
            arrivals.append(Arrival(at, msgspec.structs.replace(job, resources=resources), float(runs_s)))
        replay = Replay(
            Settings(**ALWAYS_HEARD),
            {"n1": m.Capacity(cpus=8.0, memory_bytes=0)},
            {(TEAM, "default"): m.QueueSet(by="ops", policy=policy, predictions=predicted)},
        )
        found = {}
        for outcome in replay.run(arrivals):
            found[outcome.arrival.specification.job] = (outcome.started_at, outcome.ended_at)
            assert outcome.ended_at - outcome.started_at == outcome.arrival.runs_s
            replay.core.check()
        return found

    with_them, without = ends(True), ends(False)
    assert with_them.keys() == without.keys()
    assert len(with_them) == len(tasks)
    if policy == "fcfs":
        assert with_them == without
