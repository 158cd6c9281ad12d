"""`/v1/queues`, `/v1/teams`: what they hold and how they are set; for operators, to set them."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from litestar import Request, Response, delete, get, patch, put
from litestar.params import FromPath

from controlplane.config import Identity
from controlplane.gateway.auth import operators_only
from controlplane.gateway.context import Gateway, Here
from controlplane.gateway.contract import QueueOperation, TeamOperation
from controlplane.gateway.failures import Failure
from controlplane.gateway.jobs import fields_of, response
from events import messages as m
from events import subjects
from events.bus import AskRefused, BusError

LOOK_S: Final = 0.02
"""Between two questions to scheduling, whether it goes by a change already."""
LOOKS_MAX: Final = 50

Caller = Request[Identity, Any, Any]


# -- looking -----------------------------------------------------------------------------------------------------------


@get("/v1/queues")
async def list_queues(gateway: Here, request: Caller) -> m.QueuesView:
    """The queues of the caller's team, with all their settings and what they hold; an operator sees all."""
    return await _queues(gateway, request.user)


@get("/v1/queues/{team:str}/{queue:str}")
async def show_queue(gateway: Here, request: Caller, team: FromPath[str], queue: FromPath[str]) -> m.QueueView:
    """One queue, with all its settings and what it holds."""
    view = await _queues(gateway, request.user)
    found = next((each for each in view.queues if (each.team, each.queue) == (team, queue)), None)
    if found is None:
        raise Failure(404, f"no queue `{queue[:80]}` in team `{team[:80]}`", "GET /v1/queues lists what there is")
    return found


@get("/v1/teams")
async def list_teams(gateway: Here, request: Caller) -> m.TeamsView:
    """The caller's team, with its settings and what its queues hold together; an operator sees all teams."""
    return await _teams(gateway, request.user)


@get("/v1/teams/{team:str}")
async def show_team(gateway: Here, request: Caller, team: FromPath[str]) -> m.TeamView:
    """One team, with its settings and what its queues hold together."""
    view = await _teams(gateway, request.user)
    found = next((each for each in view.teams if each.team == team), None)
    if found is None:
        raise Failure(404, f"no team `{team[:80]}`", "GET /v1/teams lists what there is")
    return found


async def _queues(gateway: Gateway, caller: Identity) -> m.QueuesView:
    view = await gateway.ask("scheduling", "queues", None, m.QueuesView)
    return msgspec.structs.replace(view, queues=tuple(each for each in view.queues if _sees(caller, each.team)))


async def _teams(gateway: Gateway, caller: Identity) -> m.TeamsView:
    view = await gateway.ask("scheduling", "teams", None, m.TeamsView)
    known = {each.team: each for each in view.teams}
    names = sorted(name for name in {*gateway.tools.config.teams, *known} if _sees(caller, name))
    return msgspec.structs.replace(view, teams=tuple(known.get(name, m.TeamView(team=name)) for name in names))


def _sees(caller: Identity, team: str) -> bool:
    return caller.operator or caller.team == team


# -- setting -----------------------------------------------------------------------------------------------------------


@put("/v1/queues/{team:str}/{queue:str}", guards=[operators_only], operation_class=QueueOperation)
async def put_queue(gateway: Here, request: Caller, team: FromPath[str], queue: FromPath[str]) -> Response[Any]:
    """Set the whole of a queue, which is created if it is not there: what the body does not name has its default.

    With the header `If-None-Match: *` a queue that is there already is not touched: 409.
    """
    replace = request.headers.get("if-none-match", "").strip() != "*"
    fields = await _fields(request) | {"type": "create_queue", "replace": replace}
    return await changed(gateway, request.user, ("queue", team, queue), fields)


@patch("/v1/queues/{team:str}/{queue:str}", guards=[operators_only], operation_class=QueueOperation)
async def patch_queue(gateway: Here, request: Caller, team: FromPath[str], queue: FromPath[str]) -> Response[Any]:
    """Set what the body names of a queue, and leave the rest as it is. `null` takes a limit away."""
    fields = await _fields(request) | {"type": "set_queue"}
    return await changed(gateway, request.user, ("queue", team, queue), fields)


@delete("/v1/queues/{team:str}/{queue:str}", status_code=200, guards=[operators_only])
async def delete_queue(gateway: Here, request: Caller, team: FromPath[str], queue: FromPath[str]) -> Response[Any]:
    """Delete a queue. 409 while a job of it waits or runs, and if it is the last one of its team."""
    return await changed(gateway, request.user, ("queue", team, queue), {"type": "delete_queue"})


@put("/v1/teams/{team:str}", guards=[operators_only], operation_class=TeamOperation)
async def put_team(gateway: Here, request: Caller, team: FromPath[str]) -> Response[Any]:
    """Set the whole of a team: what the body does not name has its default."""
    fields = await _fields(request) | {"type": "set_team", "replace": True}
    return await changed(gateway, request.user, ("team", team), fields)


@patch("/v1/teams/{team:str}", guards=[operators_only], operation_class=TeamOperation)
async def patch_team(gateway: Here, request: Caller, team: FromPath[str]) -> Response[Any]:
    """Set what the body names of a team, and leave the rest as it is. `null` takes a limit away."""
    fields = await _fields(request) | {"type": "set_team", "replace": False}
    return await changed(gateway, request.user, ("team", team), fields)


async def _fields(request: Caller) -> dict[str, Any]:
    return fields_of(await request.body(), 'such as {"weight": 2}')


async def changed(gateway: Gateway, caller: Identity, about: tuple[str, ...], fields: dict[str, Any]) -> Response[Any]:
    """Ask submission for a change; answered once scheduling goes by it, or has had the time to."""
    try:
        subject = subjects.ask("submission", "configure", caller.user, *about)
    except subjects.BadName as error:
        raise Failure(422, f"the name cannot be used: {error}", "a shorter one") from error
    said = await gateway.ask_surely(subject, msgspec.json.encode(fields), {})
    answer = msgspec.json.decode(said, type=m.Answer)
    if answer.verdict == "applied":
        await _in_force(gateway, answer.sequence)
    is_missing = any(problem.path in ("$.team", "$.queue", "$.node") for problem in answer.problems)
    return response(answer, f"{about[0]} {about[-1][:80]} was not changed", not_found=is_missing)


async def _in_force(gateway: Gateway, sequence: int) -> None:
    """Wait a little until scheduling has read up to there. Without a leader it does when there is one."""
    for _ in range(LOOKS_MAX):
        try:
            view = await gateway.ask("scheduling", "queues", None, m.QueuesView)
        except (BusError, AskRefused):
            return
        if view.sequence >= sequence:
            return
        await asyncio.sleep(LOOK_S)
