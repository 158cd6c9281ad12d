"""A job of ours in the words of Ray."""

from __future__ import annotations

import msgspec
import pytest
from ray.dashboard.modules.job.common import JobErrorType, JobStatus
from ray.dashboard.modules.job.pydantic_models import JobDetails

from controlplane.gateway.ray_jobs import states
from controlplane.gateway.ray_jobs.states import Kept, details
from controlplane.gateway.views import JobRecord
from events import messages as m
from events.lifecycle import Life, State

KEPT = Kept(entrypoint="python train.py", metadata={"owner": "ada"}, runtime_env={"pip": ["numpy"]})


def a_job(state: State, *, end: m.AttemptEnd | None = None, labels: dict[str, str] | None = None) -> JobRecord:
    said = m.Specification(
        job="j-aaaaaaaaaaaa",
        team="vision",
        user="ada",
        name="raysubmit_1",
        queue="default",
        tier="gpu1",
        resources=m.Resources(cpus=1, memory_bytes=1),
        entrypoint=("python", "my script.py"),
        labels={states.REQUEST_LABEL: "0" * 32} if labels is None else labels,
    )
    is_over = state in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.REJECTED)
    return JobRecord(
        job=said.job,
        team=said.team,
        life=Life(state, 1),
        name=said.name,
        specification=said,
        submitted_at=1000.25,
        started_at=1001.5 if state is not State.QUEUED else None,
        finished_at=1002.75 if is_over else None,
        reason="the reason" if is_over else "",
        end=end,
    )


def test_every_state_of_ours_is_one_of_rays_and_rays_client_can_read_it() -> None:
    assert set(states.STATUS) == set(State)
    for state, status in states.STATUS.items():
        told = JobDetails(**msgspec.to_builtins(details(a_job(state), KEPT, "")))
        assert told.status == JobStatus(status)
        assert told.message
        assert (told.submission_id, told.job_id) == ("raysubmit_1", "j-aaaaaaaaaaaa")
        assert told.status.is_terminal() == (told.end_time is not None)


def test_what_is_placed_runs_and_what_is_cancelled_was_stopped() -> None:
    assert {state.value: status for state, status in states.STATUS.items()} == {
        "queued": "PENDING",
        "unfolding": "RUNNING",
        "placed": "RUNNING",
        "running": "RUNNING",
        "stopping": "RUNNING",
        "succeeded": "SUCCEEDED",
        "failed": "FAILED",
        "cancelled": "STOPPED",
        "rejected": "FAILED",
    }


def test_errors_are_words_of_rays() -> None:
    assert set(states.ERRORS.values()) <= {error.value for error in JobErrorType}


def test_a_job_that_waits_says_why() -> None:
    assert details(a_job(State.QUEUED), KEPT, "2 GPUs are free; it needs 8").message == "2 GPUs are free; it needs 8"
    assert details(a_job(State.QUEUED), KEPT, "").message == states.PENDING


def test_times_are_in_milliseconds_and_begin_with_the_submit_until_it_starts() -> None:
    assert details(a_job(State.QUEUED), KEPT, "").start_time == 1_000_250
    ended = details(a_job(State.SUCCEEDED), KEPT, "")
    assert (ended.start_time, ended.end_time) == (1_001_500, 1_002_750)


@pytest.mark.parametrize(
    ("end", "code", "error"),
    [
        (m.AttemptEnd(cause="exited", ended_at=1, exit_code=7), 7, "JOB_ENTRYPOINT_COMMAND_ERROR"),
        (m.AttemptEnd(cause="signalled", ended_at=1, signal=11), -11, "JOB_ENTRYPOINT_COMMAND_ERROR"),
        (m.AttemptEnd(cause="environment_failed", ended_at=1), None, "RUNTIME_ENV_SETUP_FAILURE"),
        (m.AttemptEnd(cause="time_limit", ended_at=1, signal=15), -15, None),
        (None, None, None),
    ],
)
def test_a_failure_has_its_reason_its_code_and_its_kind(
    end: m.AttemptEnd | None, code: int | None, error: str | None
) -> None:
    told = details(a_job(State.FAILED, end=end), KEPT, "")
    assert (told.status, told.message) == ("FAILED", "the reason")
    assert (told.driver_exit_code, told.error_type) == (code, error)


def test_what_was_asked_is_given_back() -> None:
    told = details(a_job(State.RUNNING), KEPT, "")
    assert (told.entrypoint, told.metadata, told.runtime_env) == (KEPT.entrypoint, KEPT.metadata, KEPT.runtime_env)


def test_a_job_that_came_another_way_goes_by_our_id() -> None:
    told = details(a_job(State.RUNNING, labels={"owner": "bob"}), None, "")
    assert (told.submission_id, told.entrypoint) == ("j-aaaaaaaaaaaa", "python 'my script.py'")
    assert told.metadata == {"owner": "bob"}


def test_values_of_variables_are_not_given_back() -> None:
    assert states.masked({"env_vars": {"KEY": "hush"}, "pip": []}) == {"env_vars": {"KEY": states.MASK}, "pip": []}
    assert states.masked({"env_vars": None}) == {"env_vars": None}
