"""`/v1/jobs`: submit, list, look at, control."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from controlplane.config import Identity
from controlplane.gateway import archive
from controlplane.gateway.context import SEEN_S, Gateway, Here, Unplaced, traceparent
from controlplane.gateway.contract import ControlOperation, SubmitOperation
from controlplane.gateway.failures import Failure, body
from controlplane.gateway.paging import Cursor, Part, cursor, merged, place
from controlplane.gateway.views import JobView
from events import messages as m
from events import subjects
from events.bus import NoAnswer
from events.lifecycle import State
from events.wire import UNREADABLE

REQUEST_BYTES_MAX: Final = 512 * 1024
LIMIT_MAX: Final = 500
CLOCKS_S: Final = 60.0
"""How far the clocks of those that say when a job was submitted, and when it ended, may be apart."""
FORECAST_WAIT_S: Final = 1.5
"""How long who asks why a job waits also waits for the first forecast of its start."""
HEADER_CHARACTERS_MAX: Final = 256
CONTROLS: Final = ("cancel", "hold", "release", "reprioritise", "move")
_STATES: Final = frozenset(state.value for state in State)
_GROUPS: Final = {
    "active": frozenset({"queued", "unfolding", "placed", "running", "stopping"}),
    "ended": frozenset({"succeeded", "failed", "cancelled", "rejected"}),
}
_STATUS: Final = {"accepted": 201, "rejected": 422, "refused": 409}

Caller = Request[Identity, Any, Any]


class JobsPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest submit first, those of the archive among them. `next`: give it as `after` for the next page."""

    jobs: list[JobView]
    next: str = ""
    """Empty on the last page."""
    missing: str = ""
    """Why the jobs of the archive are not among these; empty: they are, or nobody asked for them."""


@post("/v1/jobs", request_max_body_size=REQUEST_BYTES_MAX, status_code=201, operation_class=SubmitOperation)
async def submit(gateway: Here, request: Caller) -> Response[Any]:
    """Submit a job. 201: accepted; 200: there already; 422: rejected, with every problem and its field's path."""
    caller = request.user
    headers = {"traceparent": _header(request, "traceparent") or traceparent()}
    # The request may be asked again below: so it needs an id, which counts only if the body has none.
    headers["ce-id"] = _header(request, "ce-id") or uuid.uuid4().hex
    subject = subjects.ask("submission", "submit", caller.team, caller.user)
    said = await gateway.ask_surely(subject, await request.body(), headers)
    return await _answered(gateway, said, "the job was rejected")


@post(
    "/v1/jobs/{job:str}/{verb:str}",
    request_max_body_size=REQUEST_BYTES_MAX,
    status_code=200,
    operation_class=ControlOperation,
)
async def control(gateway: Here, request: Caller, job: FromPath[str], verb: FromPath[str]) -> Response[Any]:
    """Cancel, hold, release, reprioritise or move a job; the body holds the fields of that request.

    409: not in the state that the job is in; 422: the fields are wrong.
    """
    if verb not in CONTROLS:
        raise Failure(404, f"no such control: {verb[:80]}", f"one of {', '.join(CONTROLS)}")
    caller = request.user
    fields = fields_of(await request.body(), 'such as {"why": "wrong data"}') | {"type": verb}
    try:
        record = await gateway.job(caller, job)
    except Unplaced as error:
        if verb != "cancel":
            raise Failure(409, error.message, f"{verb} takes the array: all of it that waits") from error
        record, fields["tasks"] = error.array, str(error.index)
    if verb == "move":
        given = {end: fields[end] for end in ("before", "after") if isinstance(fields.get(end), str) and fields[end]}
        fields |= {end: (await gateway.job(caller, text)).job for end, text in given.items()}
    headers = {"traceparent": trace} if (trace := _header(request, "traceparent")) else {}
    subject = subjects.ask("submission", "control", caller.team, caller.user, record.job)
    said = await gateway.ask_surely(subject, msgspec.json.encode(fields), headers)
    return await _answered(gateway, said, f"{verb} was refused")


@get("/v1/jobs")
async def list_jobs(
    gateway: Here,
    request: Caller,
    state_: Annotated[str, QueryParameter(name="state")] = "",
    user: FromQuery[str] = "",
    limit: Annotated[int, QueryParameter(ge=1, le=LIMIT_MAX)] = 50,
    after: FromQuery[str] = "",
    latest: FromQuery[bool] = False,
    since: FromQuery[float] = 0.0,
    array: FromQuery[str] = "",
) -> JobsPage:
    """The jobs of the caller's team. `state`: one, or several separated by commas; `active` and `ended` are groups.

    `since`: only those submitted since, in seconds since the epoch. `array`: instead, the tasks of this array that have
    been placed or cancelled, by their index, which is the `next` of a page.
    """
    states: frozenset[str] = frozenset()
    for word in filter(None, state_.split(",")):
        if word not in _STATES and word not in _GROUPS:
            raise Failure(400, f"no state `{word[:80]}`", f"there are {', '.join(sorted(_STATES))}, active, ended")
        states |= _GROUPS.get(word, frozenset({word}))
    if array:
        return await _tasks(gateway, request.user, array, states, limit, after, latest=latest)
    behind = await _cursor(gateway, request.user, after)
    page, silent = await page_of(
        gateway,
        request.user.team,
        states,
        behind,
        m.AskArchived(
            team=request.user.team,
            user=user,
            since_at=since,
            limit=limit,
            after=behind.job if behind else "",
            after_at=behind.submitted_at if behind else 0.0,
            states=tuple(states & archive.ENDS),
        ),
    )
    views = [gateway.projection.view(record) for record in page.jobs]
    shown = await _with_latest(gateway, views) if latest else views
    return JobsPage(jobs=shown, next=str(page.end or ""), missing=silent)


async def _tasks(
    gateway: Gateway, caller: Identity, text: str, states: frozenset[str], limit: int, after: str, *, latest: bool
) -> JobsPage:
    if after and not (after.isascii() and after.isdigit()):
        raise Failure(400, f"`{after[:80]}` is no index", "what the page before gave as `next`")
    array = await gateway.array(caller, text)
    found = gateway.projection.tasks(array, states=states, limit=limit + 1, behind=int(after) if after else -1)
    views = [gateway.projection.view(record) for record in found[:limit]]
    shown = await _with_latest(gateway, views) if latest else views
    last = found[limit - 1].task if len(found) > limit else None
    return JobsPage(jobs=shown, next=str(last.index) if last is not None else "")


async def _cursor(gateway: Gateway, caller: Identity, after: str) -> Cursor | None:
    """The place behind which a list goes on: what the page before said, or a job. Raises Failure."""
    if not after:
        return None
    return cursor(after) or place(await gateway.job(caller, after))


async def page_of(
    gateway: Gateway, team: str, states: frozenset[str], behind: Cursor | None, asked: m.AskArchived
) -> tuple[Part, str]:
    """Jobs of the ledger and of the archive in one order; and why the archive's are not among them."""
    seen = gateway.projection
    near = seen.page(team, states=states, user=asked.user, limit=asked.limit, behind=behind, since=asked.since_at)
    if states and not asked.states:
        return near, ""
    if len(near.jobs) == asked.limit and place(near.jobs[-1]).submitted_at > seen.archived_to_at + CLOCKS_S:
        return Part(near.jobs, place(near.jobs[-1])), ""  # the archive holds only older ones
    far = await archive.ask(gateway, asked)
    return merged(near, Part(far.jobs, far.end), asked.limit), far.silent


@get("/v1/jobs/{job:str}")
async def show_job(gateway: Here, request: Caller, job: FromPath[str], latest: FromQuery[bool] = False) -> JobView:
    """One job, by its id, the beginning of its id, or a name (its newest job)."""
    view = gateway.projection.view(await gateway.job(request.user, job))
    return (await _with_latest(gateway, [view]))[0] if latest else view


@get("/v1/jobs/{job:str}/why")
async def why(gateway: Here, request: Caller, job: FromPath[str]) -> m.Why:
    """Why a job waits, its place in its queue, what stands in its way, and when it will probably start."""
    record = await gateway.job(request.user, job)
    if record.is_over:
        return m.Why(job=record.job, state=record.life.state.value, summary=record.reason)
    asked = m.AskJob(team=record.team, job=record.job, forecast_wait_s=FORECAST_WAIT_S)
    return await gateway.ask("scheduling", "why", asked, m.Why)


@get("/v1/queue")
async def queue(
    gateway: Here,
    request: Caller,
    queue: FromQuery[str] = "",
    limit: Annotated[int, QueryParameter(ge=1, le=200)] = 50,
    after: Annotated[int, QueryParameter(ge=0, le=10_000)] = 0,
) -> m.QueuePage:
    """The jobs of the caller's team that wait, in the order in which they would start, with when and why they wait.

    `queue`: of one queue only. `next` of a page is `after` of the following one.
    """
    asked = m.AskQueue(team=request.user.team, queue=queue, limit=limit, after=after)
    return await gateway.ask("scheduling", "queue", asked, m.QueuePage)


async def _answered(gateway: Gateway, said: bytes, otherwise: str) -> Response[Any]:
    """The response to an answer, once whoever reads it can look at what it speaks of."""
    answer = msgspec.json.decode(said, type=m.Answer)
    await gateway.projection.reached(answer.sequence, SEEN_S)
    return response(answer, otherwise)


def response(answer: m.Answer, otherwise: str, *, not_found: bool = False) -> Response[Any]:
    """An answer of submission over HTTP. `not_found`: a refusal is for want of what was asked about."""
    status = _STATUS.get(answer.verdict, 200)
    if answer.verdict == "refused" and any(problem.path != "$" for problem in answer.problems):
        status = 404 if not_found else 422
    if status < 400:
        return Response(answer, status_code=status)
    first = answer.problems[0] if answer.problems else m.Problem(path="$", message=otherwise)
    message = f"{otherwise}: {first.path}: {first.message}" if first.path != "$" else f"{otherwise}: {first.message}"
    told = body(message, first.hint, answer.problems)
    return Response(msgspec.to_builtins(answer) | told, status_code=status)


def _header(request: Caller, name: str) -> str:
    """A header that goes on to the bus. Raises Failure."""
    value = request.headers.get(name, "")
    if len(value) > HEADER_CHARACTERS_MAX or not (value.isascii() and value.isprintable()):
        raise Failure(400, f"the header {name} cannot be used", f"ASCII, at most {HEADER_CHARACTERS_MAX} characters")
    return value


def fields_of(content: bytes, example: str) -> dict[str, Any]:
    """The fields of a request; an empty body has none. Raises Failure."""
    if not content.strip():
        return {}
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except UNREADABLE as error:
        problem = m.Problem(path="$", message=f"must be an object: {error}")
        raise Failure(422, f"the body cannot be read: {error}", example, (problem,)) from error


async def _with_latest(gateway: Gateway, views: list[JobView]) -> list[JobView]:
    if not views:
        return views
    asked = m.AskLatest(team=views[0].team, jobs=tuple(view.job for view in views))
    try:
        answer = await gateway.ask("monitoring", "latest", asked, m.LatestAnswer)
    except NoAnswer:
        return views  # better without their newest values than not at all
    by_job: dict[str, dict[str, dict[str, Any]]] = {}
    for each in answer.latest:
        by_job.setdefault(each.job, {})[each.name] = {"step": each.step, "value": each.value, "at": each.at}
    return [msgspec.structs.replace(view, latest=by_job.get(view.job, {})) for view in views]
