"""What becomes of a control, on the pure core."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.submission import core
from controlplane.submission.queues import Queues
from events import messages as m
from tests.support.submitting import CONFIG, QUEUES, accepted, incoming, told

ACCEPTED = accepted(incoming(id="a")).fact
JOB = ACCEPTED.specification.job
OTHER = accepted(incoming(id="b")).fact
ELSEWHERE = accepted(incoming(id="c", queue="night")).fact
PLACED = m.Placed(term=1, attempt=1, allocations=())
STARTED = m.Started(term=1, attempt=1, started_at=5.0)
FINISHED = m.Finished(term=1, attempt=1, outcome="succeeded", reason="exit code 0")
CANCEL = m.CancelRequested(by="ada")


def order(*, at: float = 1000.0, tries: int = 1, may_wait: bool = True, job: str = JOB, **body: Any) -> core.Ordered:
    content = json.dumps(body).encode()
    return core.Ordered(team="vision", user="eve", job=job, body=content, at=at, tries=tries, may_wait=may_wait)


def decide(
    asked: core.Ordered,
    history: list[core.Told],
    other: list[core.Told] | None = None,
    now: float = 1001.0,
    queues: Queues = QUEUES,
) -> core.Apply | core.Wait | m.Answer:
    control, found = core.read_control(asked, CONFIG)
    assert control is not None, found.problems
    return core.decide_control(asked, control, history, other or [], now, CONFIG, queues, found)


@pytest.mark.parametrize(
    ("history", "body", "fact"),
    [
        ([ACCEPTED], {"type": "cancel", "why": "wrong data"}, m.CancelRequested(by="eve", why="wrong data")),
        ([ACCEPTED, PLACED, STARTED], {"type": "cancel"}, m.CancelRequested(by="eve")),
        ([ACCEPTED], {"type": "hold"}, m.Held(by="eve")),
        ([ACCEPTED, m.Held(by="ada")], {"type": "release"}, m.Released(by="eve")),
        ([ACCEPTED], {"type": "reprioritise", "priority": 7}, m.Reprioritised(by="eve", priority=7)),
        ([ACCEPTED], {"type": "move"}, m.Moved(by="eve")),
    ],
)
def test_a_control_that_the_table_allows_becomes_a_fact(
    history: list[m.JobFact], body: dict[str, Any], fact: m.JobFact
) -> None:
    decision = decide(order(**body), told(*history))
    assert isinstance(decision, core.Apply)
    assert decision.fact == fact


@pytest.mark.parametrize(
    ("history", "body", "why"),
    [
        ([ACCEPTED, PLACED, STARTED], {"type": "hold"}, "only a queued job takes a hold; this one is running"),
        ([ACCEPTED, PLACED], {"type": "move"}, "only a queued job takes a move; this one is placed"),
        ([ACCEPTED, PLACED, STARTED, FINISHED], {"type": "cancel"}, "the job is over: succeeded"),
        ([ACCEPTED, PLACED, STARTED, FINISHED], {"type": "release"}, "the job is over: succeeded"),
        ([m.Rejected(user="ada", problems=())], {"type": "cancel"}, "the job is over: rejected"),
    ],
)
def test_a_control_that_the_table_forbids_is_refused_with_the_reason(
    history: list[m.JobFact], body: dict[str, Any], why: str
) -> None:
    decision = decide(order(**body), told(*history))
    assert isinstance(decision, m.Answer)
    assert decision.verdict == "refused"
    assert decision.problems[0].message == why
    assert decision.problems[0].hint


@pytest.mark.parametrize(
    ("history", "body"),
    [
        ([ACCEPTED, m.Held(by="ada")], {"type": "hold"}),
        ([ACCEPTED], {"type": "release"}),
        ([ACCEPTED], {"type": "reprioritise", "priority": 0}),
        ([ACCEPTED, m.Reprioritised(by="ada", priority=7)], {"type": "reprioritise", "priority": 7}),
        ([ACCEPTED, CANCEL], {"type": "cancel"}),
        ([ACCEPTED, PLACED, STARTED, CANCEL], {"type": "cancel"}),
        ([ACCEPTED, m.Moved(by="eve")], {"type": "move"}),
    ],
)
def test_a_control_that_changes_nothing_is_answered_as_repeated(history: list[m.JobFact], body: dict[str, Any]) -> None:
    decision = decide(order(**body), told(*history))
    assert isinstance(decision, m.Answer)
    assert (decision.verdict, decision.sequence) == ("repeated", 10 * len(history))


def test_a_move_that_is_asked_for_again_later_is_a_move_of_its_own() -> None:
    decision = decide(order(type="move", at=1001.0), told(ACCEPTED, m.Moved(by="eve")))
    assert isinstance(decision, core.Apply)


def test_a_job_does_not_move_beside_one_of_another_priority() -> None:
    other = told(OTHER, m.Reprioritised(by="ada", priority=5))
    decision = decide(order(type="move", before=OTHER.specification.job), told(ACCEPTED), other)
    assert isinstance(decision, m.Answer)
    assert decision.verdict == "refused"
    assert "has priority 5, this one 0" in decision.problems[0].message


def test_a_cancel_on_top_of_a_preemption_is_a_fact_of_its_own() -> None:
    preempted = m.StopRequested(term=1, attempt=1, why="preempted")
    assert isinstance(decide(order(type="cancel"), told(ACCEPTED, PLACED, STARTED, preempted)), core.Apply)


def test_a_control_that_overtook_its_submit_waits_longer_and_longer_and_is_refused_in_the_end() -> None:
    waits = [decide(order(type="cancel", tries=tries), []) for tries in (1, 2, 3, 1000)]
    assert waits == [core.Wait(0.05), core.Wait(0.1), core.Wait(0.2), core.Wait(5.0)]
    late = decide(order(type="cancel"), [], now=1000.0 + CONFIG.control_wait_s)
    assert isinstance(late, m.Answer)
    assert late.problems[0].message == f"no job `{JOB}` in team `vision`"


def test_who_asks_and_waits_for_the_answer_is_refused_at_once() -> None:
    assert isinstance(decide(order(type="cancel", may_wait=False), []), m.Answer)


@pytest.mark.parametrize(
    ("before", "other", "why"),
    [
        (JOB, told(ACCEPTED), "is the job itself"),
        ("j-abcdefghij23", [], "no job `j-abcdefghij23` in this team"),
        (OTHER.specification.job, told(OTHER, PLACED), "it is placed"),
        (ELSEWHERE.specification.job, told(ELSEWHERE), "is in queue `night`"),
    ],
)
def test_a_job_moves_only_beside_a_queued_job_of_its_own_queue(before: str, other: list[core.Told], why: str) -> None:
    decision = decide(order(type="move", before=before), told(ACCEPTED), other)
    assert isinstance(decision, m.Answer)
    assert decision.problems[0].path == "$.before"
    assert why in decision.problems[0].message


def test_a_job_moves_beside_another_one() -> None:
    decision = decide(order(type="move", after=OTHER.specification.job), told(ACCEPTED), told(OTHER))
    assert isinstance(decision, core.Apply)
    assert decision.fact == m.Moved(by="eve", after=OTHER.specification.job)


def test_a_control_without_a_trace_of_its_own_stays_in_the_trace_of_its_job() -> None:
    of_the_job = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    decision = decide(order(type="cancel"), [core.Told(10, ACCEPTED, of_the_job)])
    assert isinstance(decision, core.Apply)
    assert decision.traceparent == of_the_job


@pytest.mark.parametrize(
    ("asked", "path", "piece"),
    [
        (order(type="cansel"), "$.type", "did you mean `cancel`?"),
        (order(), "$.type", "one of `cancel`"),
        (order(type=["cancel"]), "$.type", "must be text"),
        (order(type="reprioritise"), "$.priority", "is missing"),
        (order(type="reprioritise", priority=10**9), "$.priority", "out of range"),
        (order(type="move", before="x"), "$.before", "not the id of a job"),
        (order(type="move", before=JOB, after=JOB), "$.after", "only one"),
        (order(type="cancel", why="x" * 1000), "$.why", "at most 500"),
        (order(type="cancel", job="*"), "$", "not the id of a job"),
        (order(type="cancel")._replace(body=b"\xff"), "$", "not UTF-8"),
        (order(type="cancel")._replace(team="nobody"), "$", "no team"),
    ],
)
def test_a_malformed_control_is_refused_with_its_path(asked: core.Ordered, path: str, piece: str) -> None:
    control, found = core.read_control(asked, CONFIG)
    assert control is None
    assert [problem.path for problem in found.problems] == [path]
    assert piece in found.problems[0].message + found.problems[0].hint
