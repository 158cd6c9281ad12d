"""Desired minus actual."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.messages import Allocation, AttemptRef, Desired, GangPart, Launch, Meeting
from runtime.desired import Actual, Forget, Go, Instruction, Phase, Seen, Start, Stop, decide, heed


def a_ref(job: str = "j-1", attempt: int = 1) -> AttemptRef:
    return AttemptRef(team="vision", job=job, attempt=attempt)


def a_launch(job: str = "j-1", attempt: int = 1, gpus: tuple[int, ...] = ()) -> Launch:
    return Launch(
        ref=a_ref(job, attempt),
        user="ada",
        name=job,
        allocation=Allocation(node="n1", cpus=1, memory_bytes=1, gpus=gpus),
        entrypoint=("true",),
    )


HERE, ELSEWHERE = Meeting(address="n1", port=1), Meeting(address="n1", port=2)


def a_part(job: str = "j-1", *, rank: int = 1, meeting: Meeting | None = None) -> Launch:
    return msgspec.structs.replace(a_launch(job), gang=GangPart(rank=rank, size=2, meeting=meeting))


def wanted(*launches: Launch, term: int = 7, revision: int = 0, recorded: tuple[AttemptRef, ...] = ()) -> Desired:
    return Desired(term=term, node="n1", attempts=launches, recorded=recorded, revision=revision)


def starts(instructions: tuple[Instruction, ...]) -> list[AttemptRef]:
    return [instruction.launch.ref for instruction in instructions if isinstance(instruction, Start)]


def test_what_is_wanted_and_not_there_is_started() -> None:
    assert decide(wanted(a_launch()), {}) == (Start(a_launch()),)


@pytest.mark.parametrize("phase", list(Phase))
def test_what_is_there_is_not_started_again_not_even_when_it_has_ended(phase: Phase) -> None:
    assert decide(wanted(a_launch()), {a_ref(): Actual(phase)}) == ()


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.READY, Phase.RUNNING])
def test_what_lives_and_is_not_wanted_is_stopped(phase: Phase) -> None:
    assert decide(wanted(), {a_ref(): Actual(phase)}) == (Stop(a_ref(), "not wanted any more"),)


@pytest.mark.parametrize("phase", [Phase.ENDED, Phase.RECORDED])
def test_what_has_ended_is_not_stopped(phase: Phase) -> None:
    assert decide(wanted(), {a_ref(): Actual(phase)}) == ()


@pytest.mark.parametrize("times", [1, 2])
def test_an_end_that_the_ledger_has_is_forgotten_once_however_often_it_is_said(times: int) -> None:
    assert decide(wanted(recorded=(a_ref(),) * times), {a_ref(): Actual(Phase.ENDED)}) == (Forget(a_ref()),)


def test_what_still_lives_is_not_forgotten_whatever_is_said() -> None:
    actual = {a_ref(): Actual(Phase.RUNNING)}
    assert decide(wanted(a_launch(), recorded=(a_ref(), a_ref("j-2"))), actual) == ()


def test_what_is_recorded_is_not_started_in_the_same_breath() -> None:
    assert decide(wanted(a_launch(), recorded=(a_ref(),)), {}) == ()


def test_a_second_attempt_waits_for_the_first_one_to_end() -> None:
    second = a_launch(attempt=2)
    assert starts(decide(wanted(second), {a_ref(): Actual(Phase.RUNNING)})) == []
    assert starts(decide(wanted(second), {a_ref(): Actual(Phase.ENDED)})) == [second.ref]


def test_a_gpu_that_is_still_in_use_is_waited_for() -> None:
    other = a_launch("j-2", gpus=(1, 2))
    assert starts(decide(wanted(other), {a_ref(): Actual(Phase.RUNNING, (0, 1))})) == []
    assert starts(decide(wanted(other), {a_ref(): Actual(Phase.RUNNING, (0,))})) == [other.ref]


def test_a_gpu_is_shared_as_far_as_it_goes() -> None:
    half, third = (
        msgspec.structs.replace(a_launch(job, gpus=(1,)).allocation, gpu_milli=milli)
        for job, milli in (("j-2", 500), ("j-3", 300))
    )
    second = msgspec.structs.replace(a_launch("j-2"), allocation=half)
    third_one = msgspec.structs.replace(a_launch("j-3"), allocation=third)
    beside = {a_ref(): Actual(Phase.RUNNING, (1,), 500)}
    assert starts(decide(wanted(second, third_one), beside)) == [second.ref]
    assert starts(decide(wanted(third_one, second), beside)) == [third_one.ref]
    assert starts(decide(wanted(a_launch("j-4", gpus=(1,))), beside)) == []


def test_a_part_of_a_gang_is_laid_out_whatever_the_others_do() -> None:
    assert decide(wanted(a_part()), {}) == (Start(a_part()),)


def test_a_part_that_is_ready_waits_for_the_word_and_goes_with_it() -> None:
    assert decide(wanted(a_part()), {a_ref(): Actual(Phase.READY)}) == ()
    assert decide(wanted(a_part(meeting=HERE)), {a_ref(): Actual(Phase.READY)}) == (Go(a_ref(), HERE),)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RUNNING, Phase.ENDED])
def test_a_part_goes_once(phase: Phase) -> None:
    assert decide(wanted(a_part(meeting=HERE)), {a_ref(): Actual(phase, meeting=HERE)}) == ()


def test_a_part_that_began_for_another_meeting_is_stopped() -> None:
    (instruction,) = decide(wanted(a_part(meeting=ELSEWHERE)), {a_ref(): Actual(Phase.RUNNING, meeting=HERE)})
    assert instruction == Stop(a_ref(), "its gang meets elsewhere by now")
    assert decide(wanted(a_part()), {a_ref(): Actual(Phase.RUNNING, meeting=HERE)}) == ()  # a leader that just began


def test_a_part_that_waits_holds_its_gpus() -> None:
    other = a_launch("j-2", gpus=(1,))
    assert starts(decide(wanted(a_part(), other), {a_ref(): Actual(Phase.READY, (1,))})) == []


def test_an_older_term_is_ignored() -> None:
    assert heed(wanted(term=6), node="n1", seen=Seen(7)) is None
    assert heed(wanted(term=8), node="n1", seen=Seen(7, 12)) == Seen(8, 0)


def test_an_older_revision_of_the_same_term_is_ignored() -> None:
    assert heed(wanted(revision=3), node="n1", seen=Seen(7, 4)) is None
    assert heed(wanted(revision=4), node="n1", seen=Seen(7, 4)) == Seen(7, 4)
    assert heed(wanted(revision=1, term=8), node="n1", seen=Seen(7, 4)) == Seen(8, 1)


def test_what_is_meant_for_another_node_is_ignored() -> None:
    assert heed(wanted(), node="n2", seen=Seen()) is None


REFS = st.builds(a_ref, st.sampled_from(["j-1", "j-2", "j-3"]), st.integers(1, 2))
GPUS = st.sets(st.integers(0, 2), max_size=2).map(lambda found: tuple(sorted(found)))
MEETINGS = st.sampled_from([None, HERE, ELSEWHERE])
ACTUAL = st.dictionaries(
    REFS, st.builds(Actual, st.sampled_from(list(Phase)), GPUS, st.just(1000), MEETINGS), max_size=5
)
GANGS = st.none() | st.builds(GangPart, rank=st.integers(0, 1), size=st.just(2), meeting=MEETINGS)
DESIRED = st.builds(
    lambda launches, recorded: wanted(*{launch.ref: launch for launch in launches}.values(), recorded=tuple(recorded)),
    st.lists(
        st.builds(
            lambda ref, gpus, gang: msgspec.structs.replace(a_launch(ref.job, ref.attempt, gpus), gang=gang),
            *(REFS, GPUS, GANGS),
        ),
        max_size=5,
    ),
    st.lists(REFS, max_size=3),
)


@given(DESIRED, ACTUAL)
def test_no_two_attempts_of_a_job_and_no_gpu_twice(desired: Desired, actual: dict[AttemptRef, Actual]) -> None:
    """Whatever was there may be wrong; what is started never makes it worse."""
    instructions = decide(desired, actual)
    started = [instruction.launch for instruction in instructions if isinstance(instruction, Start)]
    living = {ref: state for ref, state in actual.items() if state.lives}
    jobs = [launch.ref.job for launch in started]
    assert len(set(jobs)) == len(jobs)
    assert not set(jobs) & {ref.job for ref in living}
    used = [index for launch in started for index in launch.allocation.gpus]
    assert len(set(used)) == len(used)
    assert not set(used) & {index for state in living.values() for index in state.gpus}
    assert not {launch.ref for launch in started} & set(actual)


@given(DESIRED, ACTUAL)
def test_carried_out_again_and_again_it_comes_to_rest(desired: Desired, actual: dict[AttemptRef, Actual]) -> None:
    state = dict(actual)
    for _ in range(20):
        instructions = decide(desired, state)
        if not instructions:
            break
        for instruction in instructions:
            match instruction:
                case Start(launch):
                    phase = Phase.RUNNING if launch.gang is None else Phase.READY
                    state[launch.ref] = Actual(phase, launch.allocation.gpus)
                case Go(ref, where):
                    state[ref] = Actual(Phase.RUNNING, state[ref].gpus, meeting=where)
                case Stop(ref, _):
                    state[ref] = Actual(Phase.ENDED)
                case Forget(ref):
                    state[ref] = Actual(Phase.RECORDED)
    assert decide(desired, state) == ()
    assert {ref for ref, found in state.items() if found.lives} <= {launch.ref for launch in desired.attempts}
