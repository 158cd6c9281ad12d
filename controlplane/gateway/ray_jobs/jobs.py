"""`/api/version` and `/api/jobs/`: submit, list, look at, stop, delete, in the words and with the answers of Ray.

The same question by the same person is answered alike by every gateway: before a job is said to be alive, this one has
read all that the ledger has about it.
"""

from __future__ import annotations

import asyncio
import secrets
import string
import sys
from importlib import metadata
from typing import Any, Final, cast

import msgspec
from litestar import Request, delete, get, post
from litestar.params import FromPath

from controlplane.config import Identity
from controlplane.gateway.context import SEEN_S, TEXT_CHARACTERS_MAX, Gateway, Here, traceparent
from controlplane.gateway.contract import RaySubmitOperation
from controlplane.gateway.events import ask_why
from controlplane.gateway.failures import Failure
from controlplane.gateway.jobs import REQUEST_BYTES_MAX, page_of
from controlplane.gateway.ray_jobs import mapping, packages, requests
from controlplane.gateway.ray_jobs.answers import Refusal
from controlplane.gateway.ray_jobs.states import (
    REQUEST_LABEL,
    STATUS,
    Details,
    Kept,
    details,
    is_rays,
    masked,
    submission_id,
)
from controlplane.gateway.views import JobRecord
from events import messages as m
from events import subjects
from events.bus import AskRefused, BusError
from events.identity import job_id
from events.lifecycle import State
from events.streams import LEDGER

API_VERSION: Final = "4"
"""Of Ray's Jobs API: with logs that are followed, submission ids, and DELETE."""
LISTED_MAX: Final = 500
"""The newest; Ray's API has no pages."""
WAITING_MAX: Final = 200
"""Of a list, those whose message is why they wait."""
READING_MAX: Final = 16
REJECTED_MAX: Final = 20
"""Submits under one id that were refused, one after the other."""
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
"""Of environments where no version is asked for, as with Ray: that of the installation."""
_LETTERS: Final = string.ascii_letters + string.digits

Caller = Request[Identity, Any, Any]


class Version(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    ray_version: str
    ray_commit: str = ""
    session_name: str = "headrace"


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    job_id: str
    submission_id: str


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    stopped: bool


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    deleted: bool


@get("/version")
async def version() -> Version:
    """Which API this is, and as which Ray it behaves."""
    return Version(version=API_VERSION, ray_version=metadata.version("ray"))


@post("/jobs", status_code=200, request_max_body_size=REQUEST_BYTES_MAX, operation_class=RaySubmitOperation)
async def submit_job(gateway: Here, request: Caller) -> Submitted:
    """Submit a job. 400: something is wrong, or is not possible here; 500: there is a job of this id already."""
    caller, config = request.user, gateway.tools.config
    allowed = config.teams[caller.team].tiers
    tiers = [tier for tier in config.tiers if not allowed or tier.name in allowed]
    body = await request.body()
    wanted, problems = mapping.read(body, tiers, PYTHON)
    source = ""
    if wanted.package and not problems:
        source = await packages.source_of(gateway, caller, wanted.package) or ""
        if not source:
            message = f"there is no package {wanted.package} of yours"
            problems.append(m.Problem(path="runtime_env.working_dir", message=message, hint="upload it first"))
    if problems:
        raise Failure(400, "the job was refused", "", tuple(problems))
    wanted.submission_id = wanted.submission_id or f"raysubmit_{''.join(secrets.choice(_LETTERS) for _ in range(16))}"
    _check_is_new(gateway, caller, wanted.submission_id)
    runtime_env = msgspec.json.decode(body).get("runtime_env") or {}
    kept = Kept(entrypoint=wanted.command, metadata=wanted.metadata, runtime_env=masked(runtime_env))
    try:
        key = await requests.keep(gateway.tools.blobs, kept)
    except requests.TooMuch as error:
        hint = "write it into a file of the working folder"
        raise Failure(400, str(error), hint, (m.Problem(path="metadata", message=str(error), hint=hint),)) from error
    answer = await _submit(gateway, caller, wanted, source, key)
    if answer.verdict == "rejected":
        paths = [(mapping.path_of(problem.path, wanted), problem) for problem in answer.problems]
        told = tuple(msgspec.structs.replace(problem, path=path) for path, problem in dict(paths).items())
        raise Failure(400, "the job was refused", "", told)
    await gateway.projection.reached(answer.sequence, SEEN_S)
    if answer.verdict == "repeated":
        record = gateway.projection.job(caller.team, answer.job)
        if record is None or requests.key_of(record) != key:  # else it is this very request, asked twice
            raise _there_already(wanted.submission_id)
    return Submitted(job_id=wanted.submission_id, submission_id=wanted.submission_id)


async def _submit(gateway: Gateway, caller: Identity, wanted: mapping.Wanted, source: str, key: str) -> m.Answer:
    """What submission says. An id under which something was rejected may be used again, as with Ray."""
    submit = m.Submit(
        id=wanted.submission_id,
        name=wanted.submission_id,
        entrypoint=wanted.entrypoint,
        tier=wanted.tier,
        queue=wanted.queue,
        env=wanted.env,
        source=source,
        environment=wanted.environment,
        on=wanted.on,
        kind=cast(m.JobKind, wanted.kind or "plain"),  # submission looks what it is
        labels={REQUEST_LABEL: key},
    )
    subject = subjects.ask("submission", "submit", caller.team, caller.user)
    for _ in range(REJECTED_MAX):
        headers = {"traceparent": traceparent()}
        said = await gateway.ask_surely(subject, msgspec.json.encode(submit), headers)
        answer = msgspec.json.decode(said, type=m.Answer)
        was_rejected = any(warning.path == "$.id" for warning in answer.warnings)
        if answer.verdict != "rejected" or not was_rejected:
            return answer
        submit = msgspec.structs.replace(submit, id=f"{wanted.submission_id} after {answer.job}")
    return answer


@get("/jobs")
async def list_jobs(gateway: Here, request: Caller) -> list[Details]:
    """The newest jobs of the caller's team, however they were submitted."""
    team = request.user.team
    asked = m.AskArchived(team=team, limit=LISTED_MAX)
    (page, _), gone, waiting = await asyncio.gather(
        page_of(gateway, team, frozenset(), None, asked),
        requests.deleted(gateway.tools.blobs, team),
        _waiting(gateway, team),
    )
    slots = asyncio.Semaphore(READING_MAX)

    async def shown(record: JobRecord) -> Details:
        async with slots:
            kept = await requests.kept(gateway.tools.blobs, record)
        return details(record, kept, waiting.get(record.job, ""))

    return list(await asyncio.gather(*(shown(record) for record in page.jobs if record.job not in gone)))


@get("/jobs/{job:str}")
async def show_job(gateway: Here, request: Caller, job: FromPath[str]) -> Details:
    """One job, by its submission id or by ours."""
    record = await found(gateway, request.user, job)
    why = ""
    if record.life.state is State.QUEUED:
        answer = await ask_why(gateway, record)
        why = answer.summary if answer else ""
    of = gateway.projection.job(record.team, record.task.array) if record.task else None
    kept = await requests.kept(gateway.tools.blobs, record)
    return details(record, kept, why, of.specification if of else None)


@post("/jobs/{job:str}/stop", status_code=200)
async def stop_job(gateway: Here, request: Caller, job: FromPath[str]) -> Stopped:
    """Cancel a job; false if it is over already."""
    caller = request.user
    record = await found(gateway, caller, job)
    if record.is_over:
        return Stopped(stopped=False)
    subject = subjects.ask("submission", "control", caller.team, caller.user, record.job)
    said = await gateway.ask_surely(subject, msgspec.json.encode(m.Cancel(why="ray job stop")), {})
    answer = msgspec.json.decode(said, type=m.Answer)
    await gateway.projection.reached(answer.sequence, SEEN_S)
    return Stopped(stopped=answer.verdict in ("applied", "repeated"))


@delete("/jobs/{job:str}", status_code=200)
async def delete_job(gateway: Here, request: Caller, job: FromPath[str]) -> Deleted:
    """Show a job no more that is over; the ledger keeps it, and its id stays taken. 500: it is not over."""
    record = await found(gateway, request.user, job)
    if not record.is_over:
        status = STATUS[record.life.state]
        name = submission_id(record)
        raise Refusal(f"Attempted to delete job '{name}', but it is in a non-terminal state {status}.")
    await requests.delete(gateway.tools.blobs, record)
    return Deleted(deleted=True)


async def found(gateway: Gateway, caller: Identity, text: str) -> JobRecord:
    """A job of the caller's team, by its submission id or by ours, as the ledger has it now. Raises Failure."""
    record = gateway.projection.job(caller.team, _own(caller, text))
    if record is None or record.life.state is State.REJECTED:
        try:
            record = await gateway.job(caller, text[:TEXT_CHARACTERS_MAX])
        except Failure as error:
            if error.status in (404, 409):
                raise _missing(text) from error
            raise
    if text not in (record.job, record.name):
        raise _missing(text)
    if not record.is_over:
        last = await gateway.tools.bus.last(LEDGER.name, subjects.job(record.team, record.job))
        if last is not None:
            await gateway.projection.reached(last.sequence, SEEN_S)
    if record.is_over and await requests.is_deleted(gateway.tools.blobs, record):
        raise _missing(text)
    return record


async def _waiting(gateway: Gateway, team: str) -> dict[str, str]:
    """Why the jobs of a team wait; none, while nobody can tell."""
    try:
        asked = m.AskQueue(team=team, limit=WAITING_MAX)
        page = await gateway.ask("scheduling", "queue", asked, m.QueuePage)
    except (BusError, AskRefused):
        return {}
    return {view.job: view.why for view in page.jobs}


def _check_is_new(gateway: Gateway, caller: Identity, text: str) -> None:
    """That nobody else of the team has used it, as far as is known here; of the caller's own, submission knows."""
    record = gateway.projection.job(caller.team, _own(caller, text)) or gateway.projection.named(caller.team, text)
    if record is not None and is_rays(record) and record.user != caller.user:
        raise _there_already(text)


def _own(caller: Identity, text: str) -> str:
    return job_id(team=caller.team, user=caller.user, client_id=text)


def _there_already(text: str) -> Refusal:
    return Refusal(f"Job with submission_id {text} already exists. Please use a different submission_id.")


def _missing(text: str) -> Failure:
    return Failure(404, f"Job {text[:TEXT_CHARACTERS_MAX]} does not exist")
