"""`/v1/jobs/{job}/log`: the output of a job, a part of it or as it comes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath, FromQuery, HeaderParameter, QueryParameter
from litestar.response import Stream

from controlplane.config import Identity
from controlplane.gateway import sse
from controlplane.gateway.context import Gateway, Here
from controlplane.gateway.events import listening, wait
from controlplane.gateway.views import JobRecord
from events import messages as m
from events import subjects
from events.bus import AskRefused, BusError, Delivery
from events.ranks import RANK_MAX

PART_BYTES_MAX: Final = 512 * 1024
PART_BYTES: Final = 256 * 1024
SAFETY_S: Final = 2.0
"""Asked again so often though nobody said that there is more: a notice can be lost."""
SILENT_S_MAX: Final = 120.0
"""After its end a job's output that does not become complete is not waited for any longer."""
LEFT_S: Final = 10.0
"""A silent attempt is left when there is a newer one: the output of a lost node may never become complete."""
STREAMS: Final[tuple[Literal["stdout", "stderr"], ...]] = ("stdout", "stderr")
_PLACE: Final = re.compile(r"(\d{1,9})-(\d{1,18})-(\d{1,18})")


@get("/v1/jobs/{job:str}/log", media_type="application/octet-stream")
async def show_log(
    gateway: Here,
    request: Request[Identity, Any, Any],
    job: FromPath[str],
    stream: FromQuery[Literal["stdout", "stderr"]] = "stdout",
    attempt: Annotated[int, QueryParameter(ge=0, le=1_000_000)] = 0,
    offset: Annotated[int, QueryParameter(ge=-(2**53), le=2**53)] = 0,
    bytes_max: Annotated[int, QueryParameter(ge=1)] = PART_BYTES,
    rank: Annotated[int, QueryParameter(ge=0, le=RANK_MAX)] = 0,
) -> Response[bytes]:
    """Raw bytes from `offset` on (below zero: from the end), at most `bytes_max`; the headers say what they are.

    `rank`: of a gang, of which of its nodes.
    """
    record = await gateway.job(request.user, job)
    asked = m.AskLog(
        team=record.team,
        job=record.job,
        attempt=attempt,
        stream=stream,
        offset=offset,
        bytes_max=min(bytes_max, PART_BYTES_MAX),
        rank=rank,
    )
    part = await gateway.ask("monitoring", "log", asked, m.LogAnswer)
    headers = {
        "hr-attempt": str(part.attempt),
        "hr-offset": str(part.offset),
        "hr-size": str(part.size_bytes),
        "hr-complete": "1" if part.complete else "0",
    }
    return Response(part.data, media_type="application/octet-stream", headers=headers)


@get("/v1/jobs/{job:str}/log/follow", media_type="text/event-stream")
async def follow_log(
    gateway: Here,
    request: Request[Identity, Any, Any],
    job: FromPath[str],
    attempt: Annotated[int, QueryParameter(ge=0, le=1_000_000)] = 0,
    rank: Annotated[int, QueryParameter(ge=0, le=RANK_MAX)] = 0,
    last_event_id: Annotated[str, HeaderParameter(name="Last-Event-ID")] = "",
) -> Stream:
    """Server-sent events: `chunk` (attempt, stream, offset, data in base64) of both streams, `end` once it is complete.

    It begins with the newest attempt and goes on with later ones; a given `attempt` is followed alone. `rank`: of a
    gang, of which of its nodes.
    """
    record = await gateway.job(request.user, job)
    place = Place.read(last_event_id) or Place(attempt or record.life.attempt)
    return sse.stream(gateway, follow(gateway, record, place, rank, alone=bool(attempt)))


class Place(msgspec.Struct):
    """How far an attempt was sent; as `Last-Event-ID` it is enough to go on from."""

    attempt: int
    stdout: int = 0
    stderr: int = 0

    @classmethod
    def read(cls, text: str) -> Place | None:
        match = _PLACE.fullmatch(text)
        return cls(*map(int, match.groups())) if match else None

    def __str__(self) -> str:
        return f"{self.attempt}-{self.stdout}-{self.stderr}"


async def follow(gateway: Gateway, record: JobRecord, place: Place, rank: int = 0, *, alone: bool) -> sse.Follower:
    """`chunk` of both streams of an attempt as they come, and of those behind it unless it is `alone`; then `end`.

    `rank`: of a gang, of which of its nodes.
    """
    now = gateway.tools.clock.now
    news_at = now()
    with gateway.projection.watch(record) as changed:

        async def heard(_: Delivery) -> None:
            changed.set()

        async with listening(gateway, subjects.live(record.team, record.job), heard):
            while True:
                changed.clear()
                was_over, newest = record.is_over, record.life.attempt
                place.attempt = place.attempt or newest
                complete = place.attempt > 0
                for name in STREAMS if place.attempt else ():
                    part: m.LogAnswer | None = None
                    while (part := await _part(gateway, record, place, name, rank)) is not None and part.data:
                        setattr(place, name, part.offset + len(part.data))
                        yield sse.Event("chunk", _chunk(part), str(place))
                        news_at = now()
                    complete = complete and part is not None and part.complete
                if not complete and was_over and now() - max(news_at, record.finished_at or 0.0) > SILENT_S_MAX:
                    complete = True
                silent_s = now() - news_at
                if (complete or silent_s > LEFT_S) and place.attempt < newest and not alone:
                    place = Place(place.attempt + 1)
                    continue
                if (complete and (was_over or alone)) or (was_over and not newest):
                    yield sse.Event("end", {"attempt": place.attempt}, str(place))
                    return
                yield None
                await wait(changed, SAFETY_S)


async def _part(
    gateway: Gateway, record: JobRecord, place: Place, name: Literal["stdout", "stderr"], rank: int
) -> m.LogAnswer | None:
    """What lies behind the place in a stream; None while nobody can tell."""
    asked = m.AskLog(
        team=record.team,
        job=record.job,
        attempt=place.attempt,
        stream=name,
        offset=getattr(place, name),
        bytes_max=PART_BYTES,
        rank=rank,
    )
    try:
        return await gateway.ask("monitoring", "log", asked, m.LogAnswer)
    except (BusError, AskRefused):
        return None


def _chunk(part: m.LogAnswer) -> dict[str, object]:
    return {"attempt": part.attempt, "stream": part.stream, "offset": part.offset, "data": part.data}
