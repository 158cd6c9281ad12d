"""`GET /v1/admin/whatif`: the recorded jobs under another policy. For operators alone."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from litestar import get
from litestar.params import FromQuery, QueryParameter
from litestar.response import Stream

from controlplane.gateway import sse
from controlplane.gateway.auth import operators_only
from controlplane.gateway.context import Gateway, Here
from controlplane.gateway.failures import Failure
from controlplane.whatif import asking
from controlplane.whatif.child import Task
from controlplane.whatif.policy import PolicyError, read

POLICY_CHARACTERS_MAX: Final = 8_000
ORIGIN_CHARACTERS_MAX: Final = 200
SINCE_S_MAX: Final = 366 * 86_400.0
LOOK_S: Final = 5.0


@get("/v1/admin/whatif", media_type="text/event-stream", guards=[operators_only])
async def what_if(
    gateway: Here,
    since_s: Annotated[float, QueryParameter(gt=0, le=SINCE_S_MAX)] = 30 * 86_400.0,
    policy: FromQuery[str] = "",
    origin: FromQuery[str] = "policy",
) -> Stream:
    """Replay the jobs of the last `since_s` seconds under another policy (TOML; see the docs of `headrace whatif`).

    Server-sent events: `team` (its figures as it was, replayed, and under the policy; the first is of all together),
    then `end` with `warning` and `error`. 422: the policy has a mistake.
    """
    if len(policy) > POLICY_CHARACTERS_MAX:
        raise Failure(422, f"a policy may have {POLICY_CHARACTERS_MAX} characters, this has {len(policy)}")
    origin = origin[:ORIGIN_CHARACTERS_MAX]
    try:
        read(policy, origin)
    except PolicyError as error:
        raise Failure(422, str(error), "headrace whatif --help says where the keys stand") from error
    if gateway.is_replaying:
        raise Failure(409, "a replay is under way already", "wait for its end")
    until = gateway.tools.clock.now()
    return sse.stream(gateway, _run(gateway, Task(gateway.tools.config, policy, origin, until - since_s, until)))


async def _run(gateway: Gateway, task: Task) -> sse.Follower:
    if gateway.is_replaying:  # another one began in the same moment
        yield sse.Event("end", {"error": "a replay is under way already"})
        return
    gateway.is_replaying = True
    running = asyncio.create_task(asking.run(task))  # no group: a generator may be closed at any of its yields
    try:
        while not (await asyncio.wait({running}, timeout=LOOK_S))[0]:
            yield None
        result = running.result()
        for team in result.teams:
            yield sse.Event("team", team)
        yield sse.Event("end", {"archived": result.archived, "warning": result.warning, "error": result.error})
    finally:
        running.cancel()
        await asyncio.wait({running})
        gateway.is_replaying = False
