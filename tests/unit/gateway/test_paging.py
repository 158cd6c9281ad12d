"""A list in pages gives every job once, in one order, wherever each job is when its page is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from controlplane.gateway.paging import Cursor, Part, cursor, merged, place
from controlplane.gateway.views import JobRecord
from events.lifecycle import Life, State

LIFE = Life(State.SUCCEEDED, 1)


def part(jobs: Sequence[Cursor], behind: Cursor | None, limit: int) -> Part:
    """What a ledger or an archive answers that holds these jobs."""
    left = sorted((each for each in jobs if behind is None or each < behind), reverse=True)
    records = [
        JobRecord(job=each.job, team="vision", life=LIFE, submitted_at=each.submitted_at) for each in left[:limit]
    ]
    return Part(records, left[limit - 1] if len(left) > limit else None)


JOBS = st.lists(
    st.builds(Cursor, st.integers(1, 4).map(float), st.sampled_from("abcdefgh")), unique_by=lambda at: at.job
)


@settings(max_examples=300)
@example([Cursor(4.0, "a"), Cursor(3.0, "b"), Cursor(1.0, "c")], 4, 1, [0, 0])
@given(JOBS, st.integers(1, 4), st.integers(1, 4), st.lists(st.integers(0, 7), max_size=8))
def test_whatever_is_archived_between_two_pages_each_job_is_shown_once(
    near: list[Cursor], limit: int, fits: int, moves: list[int]
) -> None:
    jobs = list(near)
    far = [near.pop(move % len(near)) for move in moves[:3] if near]
    shown: list[Cursor] = []
    behind: Cursor | None = None
    while True:
        page = merged(part(near, behind, limit), part(far, behind, min(limit, fits)), limit)
        shown += map(place, page.jobs)
        assert len(page.jobs) <= limit
        behind = page.end
        if behind is None:
            break
        if moves and near:
            far.append(near.pop(moves.pop() % len(near)))
    assert shown == sorted(jobs, reverse=True)


def test_a_job_that_is_just_being_archived_is_shown_once_as_the_ledger_has_it() -> None:
    [near], [far] = part([Cursor(1.0, "a")], None, 1).jobs, part([Cursor(1.0, "a")], None, 1).jobs
    [shown] = merged(Part([near]), Part([far]), 5).jobs
    assert shown is near


@given(st.floats(0, 2e9), st.text(min_size=1))
def test_a_cursor_is_what_it_was(at: float, job: str) -> None:
    assert cursor(str(Cursor(at, job))) == Cursor(at, job)


@pytest.mark.parametrize("text", ["", "~", "1~", "~j-1", "nan~j-1", "inf~j-1", "j-abcdefghij23", "train"])
def test_what_is_no_cursor_is_none(text: str) -> None:
    assert cursor(text) is None
