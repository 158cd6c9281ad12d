"""`/v1/jobs/{job}/metrics`: the series of a job, whole or as they grow."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, get
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream

from controlplane.config import Identity
from controlplane.gateway import sse
from controlplane.gateway.context import Gateway, Here
from controlplane.gateway.events import listening, wait
from controlplane.gateway.views import JobRecord
from events import messages as m
from events import subjects
from events.bus import AskRefused, BusError, Delivery
from events.wire import UNREADABLE

BUCKETS_MAX: Final = 5000
NAMES_MAX: Final = 200
EACH_S: Final = 1.0
"""Values come a thousand times a second; a reader wants one a second."""
SETTLE_S_MAX: Final = 60.0
"""After its end a job's series that do not become complete are not waited for any longer."""


@get("/v1/jobs/{job:str}/metrics")
async def show_metrics(
    gateway: Here,
    request: Request[Identity, Any, Any],
    job: FromPath[str],
    names: FromQuery[str] = "",
    step_from: FromQuery[int | None] = None,
    step_to: FromQuery[int | None] = None,
    buckets: Annotated[int, QueryParameter(ge=1, le=BUCKETS_MAX)] = 500,
) -> m.SeriesAnswer:
    """Series by name (`names` separated by commas; empty: all), at most `buckets` points each, with all peaks."""
    record = await gateway.job(request.user, job)
    asked = m.AskSeries(
        team=record.team,
        job=record.job,
        names=tuple(filter(None, names.split(",")))[:NAMES_MAX],
        step_from=step_from,
        step_to=step_to,
        buckets=buckets,
    )
    return await gateway.ask("monitoring", "series", asked, m.SeriesAnswer)


@get("/v1/jobs/{job:str}/metrics/follow", media_type="text/event-stream")
async def follow_metrics(gateway: Here, request: Request[Identity, Any, Any], job: FromPath[str]) -> Stream:
    """Server-sent events: `latest` (the newest value of each series) about once a second when it changed, `end`."""
    return sse.stream(gateway, _follow(gateway, await gateway.job(request.user, job)))


async def _follow(gateway: Gateway, record: JobRecord) -> sse.Follower:
    now = gateway.tools.clock.now
    sent: tuple[m.Latest, ...] = ()
    with gateway.projection.watch(record) as changed:
        notices = _Notices(changed)
        async with listening(gateway, subjects.live(record.team, record.job), notices.heard):
            while True:
                changed.clear()
                was_over, asked_at = record.is_over, now()
                latest = await _latest(gateway, record)
                if latest is not None and latest != sent:
                    sent = latest
                    yield sse.Event("latest", latest)
                if was_over and await _settled(gateway, record, now()):
                    yield sse.Event("end", {"state": record.life.state.value})
                    return
                yield None
                await notices.next(max(0.0, asked_at + EACH_S - now()), EACH_S if was_over else sse.LOOK_S)


class _Notices:
    """Sets `changed` for what may be the end at once, for new values not before the pause between two looks is over."""

    def __init__(self, changed: asyncio.Event) -> None:
        self._changed = changed
        self._pausing = True
        self._missed = False

    async def heard(self, delivery: Delivery) -> None:
        self._missed = True
        if not self._pausing or _is_complete(delivery):
            self._changed.set()

    async def next(self, pause_s: float, limit_s: float) -> None:
        """Returns when there is something to look at, at the latest after the limit."""
        await wait(self._changed, pause_s)
        if not self._missed:
            self._pausing = False
            await wait(self._changed, limit_s)
            self._pausing = True
        self._missed = False


def _is_complete(delivery: Delivery) -> bool:
    try:
        return msgspec.json.decode(delivery.body, type=m.Changed).complete
    except UNREADABLE:  # of another version; its readers look by themselves, a little later
        return False


async def _latest(gateway: Gateway, record: JobRecord) -> tuple[m.Latest, ...] | None:
    asked = m.AskLatest(team=record.team, jobs=(record.job,))
    try:
        return (await gateway.ask("monitoring", "latest", asked, m.LatestAnswer)).latest
    except (BusError, AskRefused):
        return None


async def _settled(gateway: Gateway, record: JobRecord, now: float) -> bool:
    """Whether every point of a job that is over has been stored, as far as can be told."""
    if not record.life.attempt or now - (record.finished_at or 0.0) > SETTLE_S_MAX:
        return True
    asked = m.AskSeries(team=record.team, job=record.job, buckets=1)
    try:
        return (await gateway.ask("monitoring", "series", asked, m.SeriesAnswer)).complete
    except (BusError, AskRefused):
        return False
