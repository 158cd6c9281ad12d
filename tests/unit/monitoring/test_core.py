"""When numbers and output are complete, and when they are sealed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.monitoring.core import RESEAL_S, WAIT_S_MAX, Core, Seal
from events import messages as m
from tests.support.monitoring import accepted, finished, placed

KEY = ("vision", "j-1")


def a_core(*facts: m.JobFact, at: float = 100.0) -> Core:
    core = Core()
    for fact in facts:
        core.apply(KEY, fact, at)
        core.check()
    return core


def drain(core: Core, attempt: int = 1, spools: tuple[str, ...] = ("a",)) -> None:
    for stream in ("stdout", "stderr"):
        core.on_output(KEY, attempt, stream, whole=True)
    for spool in spools:
        core.on_spool(KEY, attempt, spool, drained=True)


def test_a_job_is_complete_when_it_is_over_and_all_has_arrived() -> None:
    core = a_core(accepted("j-1"), placed())
    drain(core)
    assert not core.is_complete(KEY, 1e9)
    core.apply(KEY, finished(), 100.0)
    assert core.is_complete(KEY, 100.0)
    assert core.decide(100.0) == [Seal(KEY)]
    assert core.decide(100.0) == []
    core.check()


@pytest.mark.parametrize("missing", ["a spool", "an output"])
def test_what_is_missing_is_waited_for_and_not_for_ever(missing: str) -> None:
    core = a_core(placed(), finished())
    drain(core)
    if missing == "a spool":
        core.on_spool(KEY, 1, "b", drained=False)
    else:
        core.on_output(KEY, 1, "stderr", whole=False)
    assert not core.is_complete(KEY, 100.0 + WAIT_S_MAX - 1)
    assert core.wake_at() == 100.0 + WAIT_S_MAX
    assert core.is_complete(KEY, 100.0 + WAIT_S_MAX)


def test_each_node_of_a_gang_is_waited_for() -> None:
    core = a_core(placed(nodes=2), finished())
    drain(core, spools=("vision/j-1/1/a", "vision/j-1/1/b"))
    assert not core.is_complete(KEY, 100.0 + WAIT_S_MAX - 1)
    core.on_output(KEY, 1, "stdout-1", whole=True)
    core.on_output(KEY, 1, "stderr-1", whole=True)
    assert not core.is_complete(KEY, 100.0 + WAIT_S_MAX - 1)
    core.on_spool(KEY, 1, "vision/j-1/1/1:none", drained=True)
    assert core.is_complete(KEY, 100.0)


def test_an_attempt_that_logged_nothing_says_so_and_is_waited_for_until_then() -> None:
    """Found by the campaign, seed 2012: all that said that there were points was lost with the power of two servers."""
    core = a_core(placed(), finished())
    drain(core, spools=())
    assert not core.is_complete(KEY, 100.0 + WAIT_S_MAX - 1)
    core.on_spool(KEY, 1, "j-1/1/none", drained=True)
    assert core.is_complete(KEY, 100.0)


@pytest.mark.parametrize(
    "fact",
    [
        m.Lost(term=1, attempt=1, node="n1", why="gone"),
        m.Requeued(term=1, attempt=1, why="x", end=m.AttemptEnd(cause="source_failed", ended_at=1.0)),
    ],
)
def test_nothing_is_expected_of_an_attempt_that_is_lost_or_never_ran(fact: Any) -> None:
    core = a_core(placed(1), fact, placed(2), finished(2))
    drain(core, attempt=2)
    assert core.is_complete(KEY, 100.0)


def test_how_long_output_was_counts_once_nothing_more_is_expected() -> None:
    end = m.AttemptEnd(cause="exited", ended_at=2.0, started_at=1.0, exit_code=0, output_bytes={"stdout": 27})
    core = a_core(placed(), m.Finished(term=1, attempt=1, outcome="succeeded", reason="exit code 0", end=end))
    assert core.settled_outputs(KEY, 100.0 + WAIT_S_MAX - 1) == {}
    assert core.settled_outputs(KEY, 100.0 + WAIT_S_MAX) == {(1, "stdout"): 27}
    assert core.settled_outputs(("vision", "never heard of"), 1e9) == {}


def test_a_cancel_in_the_queue_ends_a_job_that_ran_before() -> None:
    core = a_core(placed(1), m.Lost(term=1, attempt=1, node="n1", why="gone"), m.CancelRequested(by="ada"))
    assert core.is_over(KEY)
    assert core.decide(100.0) == [Seal(KEY)]


def test_a_sealed_job_is_forgotten_and_what_comes_late_seals_it_again() -> None:
    core = a_core(placed(), finished())
    drain(core)
    core.decide(100.0)
    record = core.on_sealed(KEY, 101.0)
    assert KEY not in core.jobs
    assert core.wake_at() is None
    core.load(KEY, record)
    core.on_late(KEY)
    assert core.wake_at() == 101.0 + RESEAL_S
    assert core.decide(101.0 + RESEAL_S) == [Seal(KEY)]
    core.check()


def test_what_comes_while_a_job_is_sealed_seals_it_again() -> None:
    core = a_core(placed(), finished())
    drain(core)
    core.decide(100.0)
    core.on_late(KEY)
    assert core.on_sealed(KEY, 101.0).late
    assert core.wake_at() == 101.0 + RESEAL_S


def test_a_seal_that_failed_is_tried_again_later() -> None:
    core = a_core(placed(), finished())
    drain(core)
    core.decide(100.0)
    core.on_seal_failed(KEY, 100.0)
    assert core.decide(100.0) == []
    assert core.decide(100.0 + RESEAL_S) == [Seal(KEY)]


def test_numbers_that_come_before_the_placement_are_kept_for_it() -> None:
    core = Core()
    core.on_spool(KEY, 1, "a", drained=True)
    core.check()
    core.apply(KEY, placed(), 100.0)
    core.apply(KEY, finished(), 100.0)
    drain(core, spools=())
    assert core.is_complete(KEY, 100.0)


def test_facts_of_a_job_that_was_never_placed_are_not_kept() -> None:
    core = a_core(accepted("j-1"), m.CancelRequested(by="ada"))
    assert core.jobs == {}


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["placed", "finished", "spool", "output", "late", "decide", "sealed", "failed", "archived"]),
        st.integers(0, 3),
        st.booleans(),
        st.floats(0, 100),
    ),
    max_size=60,
)


@given(MOVES)
def test_the_next_seal_is_known_whatever_happens_in_whatever_order(moves: list[tuple[str, int, bool, float]]) -> None:
    core, now = Core(), 0.0
    sealing: set[tuple[str, str]] = set()
    for what, number, yes, passes in moves:
        key = ("vision", f"j-{number}")
        now += passes
        if what in ("placed", "finished"):
            core.apply(key, placed() if what == "placed" else finished(), now)
        elif what == "spool":
            core.on_spool(key, 1, "a", drained=yes)
        elif what == "output":
            core.on_output(key, 1, "stdout" if yes else "stderr", whole=True)
        elif what == "late":
            core.on_late(key)
        elif what == "archived":
            core.on_archived(key, m.Archived(state="succeeded", attempt=1), now)
        elif what == "decide":
            due = {key for key, at in list_of_due(core).items() if at <= now}
            assert {seal.key for seal in core.decide(now)} == due
            sealing |= due
        elif sealing:
            one = sorted(sealing)[0]
            sealing.discard(one)
            if what == "sealed":
                core.on_sealed(one, now)
            else:
                core.on_seal_failed(one, now)
        core.check()


def list_of_due(core: Core) -> dict[tuple[str, str], float]:
    """The same without an agenda."""
    return {key: at for key in core.jobs if (at := core._due_at(key)) is not None}


def test_news_about_a_job_cost_the_same_however_many_others_wait() -> None:
    core = Core()
    for number in range(20_000):
        key = ("vision", f"j-{number}")
        core.apply(key, placed(), 100.0)
        core.apply(key, finished(), 100.0 + number)
    looked = 0
    real = core._due_at

    def counting(key: tuple[str, str]) -> float | None:
        nonlocal looked
        looked += 1
        return real(key)

    core._due_at = counting  # type: ignore[method-assign]
    core.on_output(("vision", "j-0"), 1, "stdout", whole=True)
    assert core.decide(100.0) == []
    core.wake_at()
    assert looked < 10
