"""`/v1/environments`: where an environment stands that a job of the caller's team wants, and the log of its solving."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath

from controlplane.config import Identity
from controlplane.gateway.context import ASK_S, Gateway, Here
from controlplane.gateway.failures import Failure
from events import messages as m
from events import subjects
from events.blobs import is_digest


@get("/v1/environments/{digest:str}")
async def show_environment(
    gateway: Here, request: Request[Identity, Any, Any], digest: FromPath[str]
) -> m.EnvironmentView:
    """Where an environment request stands, by its digest."""
    _check(gateway, request.user, digest)
    return await gateway.ask("environments", "view", m.AskEnvironment(environment=digest), m.EnvironmentView)


@get("/v1/environments/{digest:str}/log", media_type="text/plain")
async def show_environment_log(
    gateway: Here, request: Request[Identity, Any, Any], digest: FromPath[str]
) -> Response[str]:
    """What the resolver said."""
    _check(gateway, request.user, digest)
    body = msgspec.json.encode(m.AskEnvironment(environment=digest))
    said = await gateway.tools.bus.ask(subjects.ask("environments", "log"), body, timeout_s=ASK_S)
    return Response(said.decode("utf-8", "replace"), media_type="text/plain; charset=utf-8")


def _check(gateway: Gateway, caller: Identity, digest: str) -> None:
    if not is_digest(digest):
        raise Failure(422, f"`{digest[:80]}` is not a digest", "`sha256:` and 64 hexadecimal digits in lower case")
    if not caller.operator and not gateway.projection.wants(caller.team, digest):
        raise Failure(404, f"no job of team `{caller.team}` wants environment {digest}", "GET /v1/jobs/{job} names it")
