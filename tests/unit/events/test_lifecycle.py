"""The life of a job: every state has an answer to every fact, and old is not wrong."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import messages as m
from events.lifecycle import ENDS, HOLDS_RESOURCES, TABLE, Life, Outcome, State, advance

KINDS: tuple[type[m.JobFact], ...] = get_args(m.JobFact)
ALL_STATES = list(State)


def a_specification() -> m.Specification:
    return m.Specification(
        job="j-1",
        team="t",
        user="u",
        name="n",
        queue="q",
        tier="cpu",
        resources=m.Resources(cpus=1, memory_bytes=1),
        entrypoint=("true",),
    )


def a_fact(kind: type[m.JobFact], attempt: int = 1, outcome: m.Outcome = "succeeded") -> m.JobFact:
    """A fact of some kind; of that attempt, if it is about one."""
    facts: tuple[m.JobFact, ...] = (
        m.Accepted(specification=a_specification()),
        m.Rejected(user="u", problems=()),
        m.CancelRequested(by="u"),
        m.Held(by="u"),
        m.Released(by="u"),
        m.Reprioritised(by="u", priority=1),
        m.Moved(by="u"),
        m.Unfolded(term=1),
        m.Placed(term=1, attempt=attempt, allocations=()),
        m.Started(term=1, attempt=attempt, started_at=0.0),
        m.StopRequested(term=1, attempt=attempt, why=""),
        m.Requeued(term=1, attempt=attempt, why=""),
        m.Lost(term=1, attempt=attempt, node="n", why=""),
        m.Finished(term=1, attempt=attempt, outcome=outcome, reason=""),
    )
    return next(fact for fact in facts if type(fact) is kind)


def told(*facts: m.JobFact) -> tuple[list[Outcome], Life | None]:
    life: Life | None = None
    outcomes = []
    for fact in facts:
        outcome, life = advance(life, fact)
        outcomes.append(outcome)
    return outcomes, life


ATTEMPTS = st.integers(min_value=0, max_value=4)
FACTS = st.builds(a_fact, st.sampled_from(KINDS), ATTEMPTS, st.sampled_from(("succeeded", "failed", "cancelled")))
LIVES = st.builds(Life, st.sampled_from(ALL_STATES), ATTEMPTS, st.booleans())


# -- the table ---------------------------------------------------------------------------------------------------------


def test_every_state_is_in_the_table_also_those_without_exits() -> None:
    assert set(TABLE) == set(State)


@pytest.mark.parametrize("kind", KINDS)
def test_every_fact_has_a_row_somewhere_or_is_the_first_word_about_a_job(kind: type[m.JobFact]) -> None:
    assert any(kind in rows for rows in TABLE.values())


WAYS = [
    (state, kind, end)
    for state, rows in TABLE.items()
    for kind, row in rows.items()
    for end in (sorted(row.ends, key=str) or [row.to])
    if end is not None
]
"""Every row, once for each state that it can lead to."""


@pytest.mark.parametrize(("state", "kind", "to"), WAYS)
def test_every_row_can_be_taken(state: State, kind: type[m.JobFact], to: State) -> None:
    life = Life(state, 0 if state is State.QUEUED else 1)
    attempt = life.attempt + 1 if state is State.QUEUED and kind is m.Placed else life.attempt
    row = TABLE[state][kind]
    outcome, after = advance(life, a_fact(kind, attempt, to.value if kind is m.Finished else "failed"))
    assert outcome is row.outcome
    assert after is not None
    assert after.state is to
    if outcome is Outcome.REPEATED:
        assert after == life


@pytest.mark.parametrize("state", [State.QUEUED, State.UNFOLDING, State.PLACED, State.RUNNING, State.STOPPING])
def test_an_end_that_the_state_cannot_have_is_forbidden(state: State) -> None:
    life = Life(state, 1)
    for outcome in ("succeeded", "failed", "cancelled"):
        fact = a_fact(m.Finished, 1, outcome)
        allowed = State(outcome) in TABLE[state][m.Finished].ends
        assert advance(life, fact)[0] is (Outcome.APPLIED if allowed else Outcome.FORBIDDEN)


@pytest.mark.parametrize("end", sorted(ENDS, key=lambda state: state.value))
@pytest.mark.parametrize("kind", KINDS)
def test_an_end_is_final_and_holds_nothing(end: State, kind: type[m.JobFact]) -> None:
    life = Life(end, 2)
    outcome, after = advance(life, a_fact(kind, 2))
    assert after == life
    assert outcome is not Outcome.APPLIED
    assert end not in HOLDS_RESOURCES


# -- whatever comes ----------------------------------------------------------------------------------------------------


@given(st.none() | LIVES, FACTS)
def test_every_pair_has_an_answer_and_none_raises(life: Life | None, fact: m.JobFact) -> None:
    outcome, after = advance(life, fact)
    if outcome is not Outcome.APPLIED:
        assert after == life


@given(LIVES, FACTS)
def test_the_number_of_the_attempt_grows_by_one_with_placed_and_never_else(life: Life, fact: m.JobFact) -> None:
    outcome, after = advance(life, fact)
    assert after is not None
    grown = outcome is Outcome.APPLIED and isinstance(fact, m.Placed)
    assert after.attempt == life.attempt + (1 if grown else 0)


@given(LIVES, FACTS)
def test_what_was_applied_is_not_applied_as_an_end_twice(life: Life, fact: m.JobFact) -> None:
    outcome, after = advance(life, fact)
    if outcome is Outcome.APPLIED and after is not None and after.state in ENDS:
        assert advance(after, fact)[0] in (Outcome.REPEATED, Outcome.STALE)


@given(st.lists(FACTS, max_size=30))
def test_a_job_ends_at_most_once_whatever_is_said(facts: list[m.JobFact]) -> None:
    life: Life | None = None
    ends = 0
    for fact in facts:
        before = life
        outcome, life = advance(life, fact)
        if outcome is Outcome.APPLIED and life is not None and life.state in ENDS:
            ends += 1
            assert before is None or before.state not in ENDS
    assert ends <= 1


@given(
    LIVES.filter(lambda life: life.attempt > 0),
    st.sampled_from((m.Started, m.StopRequested, m.Requeued, m.Lost, m.Finished)),
)
def test_what_an_older_attempt_says_is_stale_in_every_state(life: Life, kind: type[m.JobFact]) -> None:
    assert advance(life, a_fact(kind, life.attempt - 1)) == (Outcome.STALE, life)


@given(LIVES, st.sampled_from((m.Started, m.StopRequested, m.Requeued, m.Lost, m.Finished)))
def test_what_an_attempt_says_that_was_never_placed_is_forbidden(life: Life, kind: type[m.JobFact]) -> None:
    assert advance(life, a_fact(kind, life.attempt + 1)) == (Outcome.FORBIDDEN, life)


# -- the road ----------------------------------------------------------------------------------------------------------


def test_a_job_goes_from_accepted_to_succeeded() -> None:
    outcomes, life = told(
        a_fact(m.Accepted), a_fact(m.Placed), a_fact(m.Started), a_fact(m.Finished, outcome="succeeded")
    )
    assert outcomes == [Outcome.APPLIED] * 4
    assert life == Life(State.SUCCEEDED, 1)


def test_a_lost_attempt_puts_its_job_back_and_the_next_one_has_the_next_number() -> None:
    _, life = told(a_fact(m.Accepted), a_fact(m.Placed), a_fact(m.Started), a_fact(m.Lost), a_fact(m.Placed, 2))
    assert life == Life(State.PLACED, 2)


def test_a_cancelled_job_that_waits_is_over_at_once() -> None:
    _, life = told(a_fact(m.Accepted), a_fact(m.CancelRequested))
    assert life == Life(State.CANCELLED)


def test_a_cancelled_job_that_runs_is_stopping_until_its_node_says_that_it_is_gone() -> None:
    facts = [a_fact(m.Accepted), a_fact(m.Placed), a_fact(m.Started), a_fact(m.CancelRequested)]
    assert told(*facts)[1] == Life(State.STOPPING, 1)
    assert told(*facts, a_fact(m.Finished, outcome="cancelled"))[1] == Life(State.CANCELLED, 1)


def test_holding_is_kept_while_other_things_happen_and_ends_with_release() -> None:
    facts = [m.Accepted(specification=a_specification(), held=True), a_fact(m.Reprioritised)]
    assert told(*facts)[1] == Life(State.QUEUED, 0, held=True)
    assert told(*facts, a_fact(m.Released))[1] == Life(State.QUEUED, 0, held=False)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (m.Accepted, m.Rejected)])
def test_nothing_but_the_door_speaks_first_about_a_job(kind: type[m.JobFact]) -> None:
    assert told(a_fact(kind)) == ([Outcome.FORBIDDEN], None)


@pytest.mark.parametrize("kind", [m.Held, m.Released, m.Reprioritised, m.Moved])
def test_a_job_that_holds_resources_cannot_be_held_or_moved(kind: type[m.JobFact]) -> None:
    for state in sorted(HOLDS_RESOURCES, key=lambda state: state.value):
        assert advance(Life(state, 1), a_fact(kind))[0] is Outcome.FORBIDDEN


@pytest.mark.parametrize("kind", [m.Started, m.StopRequested, m.Requeued, m.Lost, m.Placed])
def test_what_arrives_late_after_an_end_is_stale(kind: type[m.JobFact]) -> None:
    assert advance(Life(State.FAILED, 1), a_fact(kind))[0] is Outcome.STALE


def test_nobody_speaks_of_an_attempt_of_a_rejected_job() -> None:
    assert advance(Life(State.REJECTED), a_fact(m.Started, 0))[0] is Outcome.FORBIDDEN


def test_a_placement_that_skips_a_number_is_forbidden() -> None:
    assert advance(Life(State.QUEUED, 1), a_fact(m.Placed, 3))[0] is Outcome.FORBIDDEN
    assert advance(Life(State.QUEUED, 1), a_fact(m.Placed, 1))[0] is Outcome.STALE
