"""A job of ours as Ray's `JobDetails`. Pure."""

from __future__ import annotations

import shlex
from typing import Any, Final

import msgspec

from controlplane.gateway.views import JobRecord
from events import messages as m
from events.lifecycle import State

STATUS: Final = {
    State.QUEUED: "PENDING",
    State.UNFOLDING: "RUNNING",
    State.PLACED: "RUNNING",
    State.RUNNING: "RUNNING",
    State.STOPPING: "RUNNING",
    State.SUCCEEDED: "SUCCEEDED",
    State.FAILED: "FAILED",
    State.CANCELLED: "STOPPED",
    State.REJECTED: "FAILED",
}
ERRORS: Final[dict[m.EndCause, str]] = {
    "exited": "JOB_ENTRYPOINT_COMMAND_ERROR",
    "signalled": "JOB_ENTRYPOINT_COMMAND_ERROR",
    "out_of_memory": "JOB_ENTRYPOINT_COMMAND_ERROR",
    "start_failed": "JOB_ENTRYPOINT_COMMAND_START_ERROR",
    "source_failed": "RUNTIME_ENV_SETUP_FAILURE",
    "environment_failed": "RUNTIME_ENV_SETUP_FAILURE",
    "supervisor_lost": "JOB_SUPERVISOR_ACTOR_DIED",
}
"""What Ray calls an end that is a failure; the others have no word there."""
REQUEST_LABEL: Final = "ray.request"
"""On every job that came this way; its value names what was kept of the request."""
MASK: Final = "********"
PENDING: Final = "Job has not started yet."
_WORDS: Final = {
    "RUNNING": "Job is currently running.",
    "SUCCEEDED": "Job finished successfully.",
    "STOPPED": "Job was intentionally stopped.",
    "FAILED": "Job failed.",
}


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What of a request is given back as it came; Headrace itself has no use for it."""

    entrypoint: str
    metadata: dict[str, str] = {}
    runtime_env: dict[str, Any] = {}
    """The values of its variables are masked: the team can read this."""


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """Ray's `JobDetails`."""

    type: str = "SUBMISSION"
    job_id: str
    submission_id: str
    driver_info: None = None
    status: str
    entrypoint: str
    message: str
    error_type: str | None = None
    start_time: int | None
    """In milliseconds; of a job that has not started, of its submit, as Ray has it."""
    end_time: int | None
    metadata: dict[str, str]
    runtime_env: dict[str, Any]
    driver_agent_http_address: None = None
    driver_node_id: str | None
    driver_exit_code: int | None


def details(record: JobRecord, kept: Kept | None, why: str, of: m.Specification | None = None) -> Details:
    """`kept`: of a job that came by way of Ray's API. `why`: what a queued one waits for. `of`: of a task, its array's
    specification."""
    said, end, status = record.specification or of, record.end, STATUS[record.life.state]
    is_failed = record.life.state is State.FAILED
    message = why or PENDING if status == "PENDING" else record.reason if record.is_over else ""
    began, ended = record.started_at or record.submitted_at, record.finished_at
    return Details(
        job_id=record.job,
        submission_id=submission_id(record),
        status=status,
        entrypoint=kept.entrypoint if kept else shlex.join(said.entrypoint if said else ()),
        message=message or _WORDS[status],
        error_type=ERRORS.get(end.cause) if end and is_failed else None,
        start_time=None if began is None else round(began * 1000),
        end_time=round(ended * 1000) if record.is_over and ended is not None else None,
        metadata=kept.metadata if kept else said.labels if said else {},
        runtime_env=kept.runtime_env if kept else {},
        driver_node_id=record.allocations[0].node if record.allocations else None,
        driver_exit_code=exit_code(end) if record.is_over else None,
    )


def exit_code(end: m.AttemptEnd | None) -> int | None:
    """As Python has it of a child: a signal is below zero."""
    if end is None or end.signal is None:
        return end.exit_code if end else None
    return -end.signal


def submission_id(record: JobRecord) -> str:
    """By what Ray's client knows a job: its own id for it, or, of one that came another way, ours."""
    return record.name if is_rays(record) else record.job


def is_rays(record: JobRecord) -> bool:
    """Whether it came by way of this API."""
    return record.specification is not None and REQUEST_LABEL in record.specification.labels


def masked(runtime_env: dict[str, Any]) -> dict[str, Any]:
    """A runtime environment without the values of its variables."""
    variables = runtime_env.get("env_vars")
    return runtime_env | {"env_vars": dict.fromkeys(variables, MASK)} if isinstance(variables, dict) else runtime_env
