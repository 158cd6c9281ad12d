"""Which jobs leave the ledger, and when: values in, values out."""

from __future__ import annotations

import pytest

from controlplane.monitoring.archiver import core
from controlplane.monitoring.archiver.core import ENDED_MAX, JOBS_MAX, Core
from events import messages as m
from tests.support.worlds import a_job

A, B, C = ("t", "a"), ("t", "b"), ("t", "c")


def a_core(after_s: float = 100.0) -> Core:
    return Core(after_s=after_s)


def test_a_job_is_due_when_it_has_been_over_for_long_enough_and_others_had_time_to_join() -> None:
    archiver = a_core()
    archiver.on_end(A, 1, at=0.0)
    archiver.on_end(B, 2, at=20.0)
    assert archiver.wake_at() == 125.0
    assert archiver.due(124.9) == []
    assert archiver.due(125.0) == [A, B]


def test_a_full_part_does_not_wait_for_others() -> None:
    archiver = a_core()
    for number in range(JOBS_MAX + 5):
        archiver.on_end(("t", f"j{number}"), number, at=0.0)
    assert archiver.due(100.0) == [("t", f"j{number}") for number in range(JOBS_MAX)]


def test_too_many_ended_jobs_leave_sooner_but_not_within_their_first_minute() -> None:
    archiver = a_core(after_s=86_400.0)
    for number in range(ENDED_MAX + JOBS_MAX):
        archiver.on_end(("t", f"j{number}"), number, at=0.0)
    assert archiver.due(core.EARLY_S - 1) == []
    assert len(archiver.due(core.EARLY_S)) == JOBS_MAX


def test_an_end_that_was_none_is_forgotten_until_the_next_one() -> None:
    archiver = a_core()
    archiver.on_end(A, 1, at=0.0)
    archiver.on_not_over(A)
    assert (archiver.due(1e6), archiver.wake_at()) == ([], None)
    archiver.on_end(A, 2, at=50.0)
    assert archiver.due(1e6) == [A]


@pytest.mark.parametrize("move", [m.Moved(by="u", before="a"), m.Moved(by="u", after="a")])
def test_a_job_whose_place_was_taken_up_stays_until_the_others_are_gone(move: m.Moved) -> None:
    archiver = a_core()
    archiver.on_moved(B, move)
    archiver.on_moved(C, m.Moved(by="u", before="b"))
    for number, key in enumerate((A, B, C)):
        archiver.on_end(key, number, at=0.0)
    assert archiver.due(1e6) == [C]
    archiver.on_archived(C)
    assert archiver.due(1e6) == [B]
    archiver.on_archived(B)
    assert archiver.due(1e6) == [A]


def test_a_job_whose_end_another_one_waited_for_stays_until_that_one_is_gone() -> None:
    """A ledger that forgot the end first would never free the other one again."""
    archiver = a_core()
    open_, over = m.Dependency(job="a"), m.Dependency(job="c", ended="succeeded")
    archiver.on_accepted(B, m.Accepted(specification=a_job("b", team="t", after=(open_, over))))
    for number, key in enumerate((A, B, C)):
        archiver.on_end(key, number, at=0.0)
    assert archiver.due(1e6) == [B, C]
    archiver.on_archived(B)
    assert A in archiver.due(1e6)


def test_a_job_of_another_team_holds_nobody() -> None:
    archiver = a_core()
    archiver.on_moved(("other", "b"), m.Moved(by="u", before="a"))
    archiver.on_end(A, 1, at=0.0)
    assert archiver.due(1e6) == [A]


def test_nothing_is_due_where_archiving_is_off() -> None:
    archiver = a_core(after_s=0.0)
    archiver.on_end(A, 1, at=0.0)
    assert (archiver.due(1e9), archiver.wake_at()) == ([], None)


# -- arrays ------------------------------------------------------------------------------------------------------------

ARRAY, T0, T1 = ("t", "array"), ("t", "t0"), ("t", "t1")


def test_a_task_stays_until_its_array_is_over_and_the_array_until_its_tasks_have_left() -> None:
    """Or a replay would place its index once more, or not know what it is."""
    archiver = a_core()
    archiver.on_unfolded(ARRAY)
    for index, task in enumerate((T0, T1)):
        archiver.on_task(task, m.Task(array="array", index=index))
        archiver.on_end(task, index, at=0.0)
    assert archiver.due(1e6) == []
    assert archiver.wake_at() is None
    archiver.on_end(ARRAY, 9, at=5.0)
    archiver.on_over(ARRAY)
    assert archiver.due(1e6) == [T0, T1]
    archiver.on_archived(T0)
    assert archiver.due(1e6) == [T1]
    archiver.on_archived(T1)
    assert archiver.due(1e6) == [ARRAY]


def test_the_tasks_of_an_array_that_goes_on_do_not_fill_what_is_remembered() -> None:
    """The archiver stops reading when too many jobs are over: it would never hear of the array's end."""
    archiver = a_core()
    archiver.on_unfolded(ARRAY)
    for number in range(ENDED_MAX * 3):
        archiver.on_task(("t", f"j{number}"), m.Task(array="array", index=number))
        archiver.on_end(("t", f"j{number}"), number, at=0.0)
    assert len(archiver.ended) == 0


def test_the_cancel_of_an_array_that_has_begun_is_not_its_end() -> None:
    archiver = a_core()
    archiver.on_unfolded(ARRAY)
    archiver.on_task(T0, m.Task(array="array", index=0))
    archiver.on_end(ARRAY, 3, at=0.0)
    archiver.on_cancelled(ARRAY)
    archiver.on_end(T0, 4, at=1.0)
    assert archiver.due(1e6) == []
    archiver.on_end(ARRAY, 5, at=2.0)
    archiver.on_over(ARRAY)
    assert archiver.due(1e6) == [T0]


def test_the_cancel_of_an_array_that_has_not_begun_frees_the_tasks_that_were_cancelled_before() -> None:
    archiver = a_core()
    archiver.on_task(T0, m.Task(array="array", index=0))
    archiver.on_end(T0, 2, at=0.0)
    assert archiver.due(1e6) == []
    archiver.on_end(ARRAY, 3, at=1.0)
    archiver.on_cancelled(ARRAY)
    assert archiver.due(1e6) == [T0]
