"""What a submit may ask of its queue, and what the queue gives it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.submission import core
from controlplane.submission.queues import Queues
from events import messages as m
from events import subjects
from events.entries import Entry
from tests.support.structs import values
from tests.support.submitting import CONFIG, accepted, incoming, rejected, told


def a_world(*, team: str = "vision", **queues: m.QueueFact) -> Queues:
    """The configured queues, of which some were set since."""
    known = Queues.configured(CONFIG)
    for sequence, (name, fact) in enumerate(queues.items(), start=10):
        known.apply(Entry(sequence, subjects.queue(team, name), fact, at=1000.0))
    return known


def a_queue(**settings: object) -> m.QueueSet:
    return m.QueueSet(by="ops", **settings)  # type: ignore[arg-type]


REMOVED = m.QueueRemoved(by="ops")


@pytest.mark.parametrize(
    ("fact", "fields", "path", "piece"),
    [
        (a_queue(draining=True), {}, "$.queue", "queue `night` is draining: it takes no new jobs send it to `default`"),
        (REMOVED, {}, "$.queue", "no queue `night` in team `vision` there are `default`"),
        (a_queue(tiers=("gpu1",)), {"tier": "gpu2"}, "$.tier", "queue `night` does not take tier `gpu2`"),
        (a_queue(tiers=("gpu1",)), {"tier": "gpu8"}, "$.tier", "team `vision` may not use tier `gpu8`"),
        (a_queue(tiers=("gpu8",)), {}, "$.queue", "allows no tier"),
        (a_queue(time_limit_s_max=60.0), {"time_limit_s": 61}, "$.time_limit_s", "to 60 seconds in queue `night`"),
        (a_queue(priority_max=3), {"priority": 4}, "$.priority", "to 3"),
    ],
)
def test_a_queue_refuses_what_its_settings_forbid(
    fact: m.QueueFact, fields: dict[str, object], path: str, piece: str
) -> None:
    decision = rejected(incoming(queue="night", **fields), a_world(night=fact))
    assert [problem.path for problem in decision.answer.problems] == [path]
    assert piece in " ".join((decision.answer.problems[0].message, decision.answer.problems[0].hint))
    assert decision.queue == "night"


def test_a_queue_gives_its_defaults_to_a_submit_that_says_nothing() -> None:
    night = a_queue(
        tiers=("gpu2", "gpu1"), time_limit_s_default=60.0, priority_default=2, priority_max=5, preemptible=True
    )
    got = accepted(incoming(queue="night"), a_world(night=night)).fact.specification
    assert (got.tier, got.time_limit_s, got.priority, got.preemptible) == ("gpu1", 60.0, 2, True)


def test_what_a_submit_says_goes_before_the_defaults_of_its_queue() -> None:
    night = a_queue(time_limit_s_default=60.0, priority_default=2, preemptible=True)
    asked = incoming(queue="night", tier="gpu1", time_limit_s=70, priority=0, preemptible=False)
    got = accepted(asked, a_world(night=night)).fact.specification
    assert (got.tier, got.time_limit_s, got.priority, got.preemptible) == ("gpu1", 70.0, 0, False)


def test_a_queue_with_a_highest_time_limit_and_no_default_gives_the_highest() -> None:
    got = accepted(incoming(queue="night"), a_world(night=a_queue(time_limit_s_max=90.0))).fact.specification
    assert got.time_limit_s == 90.0


def test_the_installation_s_default_time_limit_is_cut_to_what_the_queue_allows() -> None:
    config = msgspec.structs.replace(CONFIG, time_limit_s_default=3600.0)
    decision = core.decide_submit(incoming(queue="night"), config, a_world(night=a_queue(time_limit_s_max=90.0)))
    assert isinstance(decision, core.Accept)
    assert decision.fact.specification.time_limit_s == 90.0


def test_a_queue_that_nobody_configured_in_the_file_takes_jobs_once_it_is_set() -> None:
    asked = incoming(queue="big")
    rejected(asked)
    assert accepted(asked, a_world(big=a_queue())).fact.specification.queue == "big"


def test_a_submit_that_names_no_queue_goes_to_the_first_configured_one_that_exists() -> None:
    def goes_to(queues: Queues) -> str:
        return accepted(incoming(), queues).fact.specification.queue

    assert goes_to(a_world(big=a_queue())) == "default"
    assert goes_to(a_world(big=a_queue(), default=REMOVED)) == "night"
    assert goes_to(a_world(big=a_queue(), default=REMOVED, night=REMOVED)) == "big"


def test_a_team_without_any_queue_is_told_who_can_help() -> None:
    decision = rejected(incoming(), a_world(default=REMOVED, night=REMOVED))
    assert decision.answer.problems[0].path == "$.queue"
    assert "headrace queues create" in decision.answer.problems[0].hint


def test_the_settings_of_another_team_s_queue_of_the_same_name_do_not_count() -> None:
    accepted(incoming(), a_world(team="speech", default=a_queue(draining=True)))


def test_the_newest_fact_of_a_queue_counts_in_whatever_order_they_are_heard() -> None:
    facts = [Entry(n, subjects.queue("vision", "big"), a_queue(weight=float(n)), at=1000.0) for n in (30, 20, 40, 30)]
    queues = Queues.configured(CONFIG)
    for each in facts:
        queues.apply(each)
    assert queues.known("vision", "big") == (40, a_queue(weight=40.0))


@pytest.mark.parametrize(("priority", "verdict"), [(3, "applied"), (4, "refused")])
def test_a_job_is_not_given_more_priority_than_its_queue_allows(priority: int, verdict: str) -> None:
    job = accepted(incoming(queue="night")).fact
    body = msgspec.json.encode({"type": "reprioritise", "priority": priority})
    order = core.Ordered(team="vision", user="ada", job=job.specification.job, body=body, at=0.0)
    control, found = core.read_control(order, CONFIG)
    assert control is not None
    queues = a_world(night=a_queue(priority_max=3))
    decision = core.decide_control(order, control, told(job), [], 1.0, CONFIG, queues, found)
    if verdict == "applied":
        assert isinstance(decision, core.Apply)
    else:
        assert isinstance(decision, m.Answer)
        assert [(problem.path, problem.hint) for problem in decision.problems] == [("$.priority", "3 at most")]


@given(values(m.QueueSet), st.fixed_dictionaries({}, optional={"tier": st.sampled_from(["cpu", "gpu2", "gpu8"])}))
def test_whatever_a_queue_is_set_to_a_submit_has_an_answer_that_keeps_to_it(
    settings: m.QueueSet, fields: dict[str, object]
) -> None:
    decision = core.decide_submit(incoming(queue="night", **fields), CONFIG, a_world(night=settings))
    if isinstance(decision, core.Accept):
        got = decision.fact.specification
        assert not settings.draining
        assert not settings.tiers or got.tier in settings.tiers
        assert settings.priority_max is None or got.priority <= settings.priority_max
        if settings.time_limit_s_max is not None:
            assert got.time_limit_s is not None
            assert got.time_limit_s <= settings.time_limit_s_max
    else:
        assert decision.answer.problems
