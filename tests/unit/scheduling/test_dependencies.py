"""Dependencies where the ledger has forgotten: only what it says at the time counts."""

from __future__ import annotations

import pytest

from controlplane.scheduling.core import Core
from events import messages as m
from events import subjects
from tests.support.worlds import TEAM, World, a_job, a_world, an_end

AFTER_A = (m.Dependency(job="a"),)


def finished(world: World, job: str) -> m.Finished:
    facts = [entry.fact for entry in world.ledger if entry.subject == subjects.job(TEAM, job)]
    assert isinstance(facts[-1], m.Finished), facts
    return facts[-1]


def archived(world: World, job: str, state: str = "succeeded") -> None:
    world.write(subjects.job(TEAM, job), m.Archived(state=state, attempt=1))  # type: ignore[arg-type]


@pytest.mark.parametrize(("ended", "state"), [("succeeded", "running"), ("failed", "cancelled")])
def test_the_end_that_accepted_tells_of_needs_nobodys_memory(ended: str, state: str) -> None:
    world = a_world()
    world.submit(a_job("b", after=(m.Dependency(job="a", ended=ended),)))  # type: ignore[arg-type]
    world.settle()
    assert world.state("b") == state


def test_a_dependency_that_left_the_ledger_frees_by_the_state_that_its_mark_tells() -> None:
    """The mark replaced every fact before it, so who reads from the beginning sees the dependant first."""
    world = World()
    world.submit(a_job("b", after=AFTER_A), a_job("c", after=(m.Dependency(job="a", on="notok"),)))
    archived(world, "a")
    world.lead()
    world.node("n1")
    world.settle()
    assert world.state("b") == "running"
    assert finished(world, "c").outcome == "cancelled"


def test_a_job_after_one_that_nobody_knows_any_more_is_cancelled_and_told_so() -> None:
    world = a_world()
    world.submit(a_job("b", after=AFTER_A))
    world.settle()
    assert "of which nothing is known" in finished(world, "b").reason


def test_what_ended_and_was_archived_in_between_has_been_heard_by_a_live_scheduler() -> None:
    world = a_world()
    world.submit(a_job("a"), a_job("b", after=AFTER_A), a_job("held", after=AFTER_A), held=False)
    world.about("held", m.Held(by="ada"))
    world.settle()
    world.end("a", an_end())
    world.settle()
    archived(world, "a")
    world.about("held", m.Released(by="ada"))
    world.settle()
    assert (world.state("b"), world.state("held")) == ("running", "running")


def test_a_dependant_that_is_cancelled_waits_for_nothing_any_more() -> None:
    world = a_world()
    world.submit(a_job("a"), a_job("b", after=AFTER_A))
    world.about("b", m.CancelRequested(by="ada"))
    world.settle()
    world.end("a", an_end())
    world.core.check()
    assert world.state("b") == "cancelled"


def test_its_wait_counts_from_when_it_could_have_run() -> None:
    """Or a job that waited a week for another one would pass everybody the moment that one ends."""
    world = a_world(gpus=1)
    world.queue("default", policy="slowdown", guard=None)
    world.submit(a_job("a", tier="gpu1", time_limit_s=60))
    world.settle()
    world.submit(a_job("late", tier="gpu1", time_limit_s=60, after=AFTER_A))
    world.now += 500
    world.submit(a_job("early", tier="gpu1", time_limit_s=60))
    world.now += 500
    world.end("a", an_end())
    world.settle()
    assert (world.state("early"), world.state("late")) == ("running", "queued")


def test_a_snapshot_knows_who_waits_for_whom_and_until_when() -> None:
    world = a_world()
    world.submit(a_job("a"), a_job("b", after=AFTER_A), a_job("c", begin_at=2000.0), a_job("d", deadline_at=3000.0))
    restored = Core(world.settings)
    restored.restore(world.core.snapshot())
    restored.check()
    assert restored.snapshot() == world.core.snapshot()
    restored.begin_term(world.now)
    assert restored.why(TEAM, "b", world.now) == world.core.why(TEAM, "b", world.now)


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_the_core_wakes_for_a_deadline_though_nothing_happens() -> None:
    world = a_world()
    world.submit(a_job("a", tier="gpu8"))
    world.settle()
    world.submit(a_job("b", tier="gpu8", deadline_at=world.now + 15, time_limit_s=5))
    world.settle()
    assert world.core.wake_at() == world.now + 10
    world.now += 10
    world.decide()
    assert "by its deadline" in finished(world, "b").reason


def test_a_deadline_that_comes_while_a_job_is_being_requeued_is_not_lost() -> None:
    world = a_world()
    world.submit(a_job("a", deadline_at=world.now + 50))
    world.settle()
    world.end("a", an_end("supervisor_lost"))
    world.decide()
    world.now += 50
    world.decide()
    assert "by its deadline" in finished(world, "a").reason


def test_a_program_that_ends_well_within_its_grace_has_succeeded_all_the_same() -> None:
    world = a_world()
    world.submit(a_job("a", deadline_at=world.now + 10))
    world.settle()
    world.now += 10
    world.decide()
    world.end("a", an_end())
    world.decide()
    assert finished(world, "a").outcome == "succeeded"
