"""`GET /v1/jobs/{job}/events`: the road of a job, as it happens, until its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

from litestar import Request, get
from litestar.params import FromPath, HeaderParameter
from litestar.response import Stream

from controlplane.config import Identity
from controlplane.gateway import sse
from controlplane.gateway.context import Gateway, Here
from controlplane.gateway.views import JobRecord
from events import messages as m
from events.bus import AskRefused, BusError, Delivery
from events.lifecycle import State

FORECAST_AFTER_S: Final = 10.0
"""Who has waited for so long may want to know when the job will start: that costs the scheduler a simulation."""
WHY_S: Final = 1.0
"""The answer to why a job waits is renewed so often: it changes without any fact about the job."""


@get("/v1/jobs/{job:str}/events", media_type="text/event-stream")
async def follow_job(
    gateway: Here,
    request: Request[Identity, Any, Any],
    job: FromPath[str],
    last_event_id: Annotated[str, HeaderParameter(name="Last-Event-ID")] = "",
) -> Stream:
    """Server-sent events: `state` (a JobView, at once and at each change), `why` (while it is queued), `end`."""
    record = await gateway.job(request.user, job)
    seen = int(last_event_id) if last_event_id.isascii() and last_event_id.isdigit() else 0
    return sse.stream(gateway, _follow(gateway, record, seen))


async def _follow(gateway: Gateway, record: JobRecord, seen: int) -> sse.Follower:
    projection = gateway.projection
    why: m.Why | None = None
    with projection.watch(record) as changed:
        while True:
            changed.clear()
            version = projection.version(record)
            if version != seen:
                seen = version
                yield sse.Event("state", projection.view(record), str(version))
            if record.is_over:
                yield sse.Event("end", {"state": record.life.state.value}, str(version))
                return
            is_queued = record.life.state is State.QUEUED
            if is_queued:
                before, why = why, await ask_why(gateway, record)
                if why is not None and why != before and not changed.is_set():
                    yield sse.Event("why", why, str(version))
            yield None
            await wait(changed, WHY_S if is_queued else sse.LOOK_S)


async def ask_why(gateway: Gateway, record: JobRecord) -> m.Why | None:
    """Why a job waits; None while nobody can tell."""
    try:
        is_long = gateway.tools.clock.now() - (record.queued_at or 0.0) > FORECAST_AFTER_S
        asked = m.AskJob(team=record.team, job=record.job, forecast_wait_s=0.0 if is_long else None)
        return await gateway.ask("scheduling", "why", asked, m.Why)
    except (BusError, AskRefused):
        return None


async def wait(changed: asyncio.Event, limit_s: float) -> None:
    """Until something has changed, or for so long."""
    try:
        async with asyncio.timeout(limit_s):
            await changed.wait()
    except TimeoutError:
        return


@asynccontextmanager
async def listening(
    gateway: Gateway, subject: str, heard: Callable[[Delivery], Awaitable[None]]
) -> AsyncIterator[None]:
    """Hear what is said on a subject for a while: notices that there is more to ask for."""
    subscription = await gateway.tools.bus.listen(subject, heard)
    try:
        yield
    finally:
        await subscription.close()
