"""When a job may start at all: dependencies and times, on the pure core."""

from __future__ import annotations

import pytest

from controlplane.submission import core
from events.identity import job_id
from events.lifecycle import State
from tests.support.submitting import CONFIG, accepted, incoming, rejected

A, B = "j-abcdefghij23", "j-bcdefghij234"
NOW = 1000.0


def decided(
    states: dict[str, State | None], *, now: float = NOW, may_wait: bool = False, **fields: object
) -> core.Accept | core.Reject | core.Wait:
    request = incoming(after=[{"job": job} for job in states], **fields)._replace(may_wait=may_wait, tries=3)
    return core.decide_dependent(request, accepted(request), states, now, CONFIG)


def test_what_has_ended_already_is_written_down_and_what_has_not_is_left_to_the_ledger() -> None:
    decision = decided({A: State.SUCCEEDED, B: State.RUNNING})
    assert isinstance(decision, core.Accept)
    assert [(each.job, each.ended) for each in decision.fact.specification.after] == [(A, "succeeded"), (B, "")]


def test_a_job_that_failed_already_is_no_reason_to_refuse_one_after_it() -> None:
    """What a script does must not hang on how soon the first job failed: the second ends as cancelled either way."""
    decision = decided({A: State.FAILED})
    assert isinstance(decision, core.Accept)
    assert decision.fact.specification.after[0].ended == "failed"


def test_a_job_that_is_not_there_is_refused_with_the_path_and_a_hint() -> None:
    decision = decided({A: State.RUNNING, B: None})
    assert isinstance(decision, core.Reject)
    assert [(problem.path, problem.message) for problem in decision.answer.problems] == [
        ("$.after[1].job", f"no job `{B}` in team `vision`")
    ]
    assert decision.answer.problems[0].hint
    assert decision.fact is not None
    assert decision.fact.problems == decision.answer.problems


def test_a_job_that_was_rejected_is_refused_too() -> None:
    decision = decided({A: State.REJECTED})
    assert isinstance(decision, core.Reject)
    assert "never runs" in decision.answer.problems[0].message


def test_what_may_still_be_on_its_way_is_waited_for_but_not_for_ever() -> None:
    assert decided({A: None}, may_wait=True, now=NOW + 1) == core.Wait(core.CONTROL_WAIT_S_FIRST * 4)
    assert isinstance(decided({A: None}, may_wait=True, now=NOW + CONFIG.control_wait_s), core.Reject)
    assert isinstance(decided({A: None}, may_wait=False), core.Reject)


def test_there_is_no_circle_since_a_job_cannot_name_itself_nor_one_that_is_not_there_yet() -> None:
    """A circle needs a job that depends on a later one; ids can be computed ahead, so both are tried."""
    first, second = (job_id(team="vision", user="ada", client_id=each) for each in ("first", "second"))
    itself = rejected(incoming(id="first", after=[{"job": first}]))
    assert [problem.path for problem in itself.answer.problems] == ["$.after[0].job"]
    request = incoming(id="first", after=[{"job": second}])
    assert isinstance(core.decide_dependent(request, accepted(request), {second: None}, NOW, CONFIG), core.Reject)


@pytest.mark.parametrize(
    ("path", "piece", "fields"),
    [
        ("$.deadline_at", "is over", {"deadline_at": NOW}),
        ("$.deadline_at", "less than its time limit of 60 s", {"deadline_at": NOW + 60, "time_limit_s": 60}),
        ("$.deadline_at", "from its begin time on", {"begin_at": NOW + 50, "deadline_at": NOW + 50}),
        ("$.begin_at", "more than a year ahead", {"begin_at": NOW + 4e7}),
    ],
)
def test_times_that_cannot_be_kept_are_refused(path: str, piece: str, fields: dict[str, float]) -> None:
    problems = rejected(incoming(**fields)).answer.problems
    assert [problem.path for problem in problems] == [path]
    assert piece in problems[0].message
    assert problems[0].hint


def test_a_begin_time_that_is_over_is_worth_a_warning() -> None:
    assert [warning.path for warning in accepted(incoming(begin_at=NOW - 1)).fact.warnings] == ["$.begin_at"]


def test_a_deadline_that_can_just_be_met_is_taken() -> None:
    accepted(incoming(deadline_at=NOW + 61, time_limit_s=60))
