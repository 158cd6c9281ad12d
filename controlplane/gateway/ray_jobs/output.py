"""`/api/jobs/{id}/logs` and `…/logs/tail`: the output of a job, all of it, or over a WebSocket as it comes.

Ray's client takes every proper close of the tail for the end of the job, asks once for its state, and leaves with exit
code 0 unless that is FAILED. So the tail says goodbye (1000) only when the end can be read, and is cut off otherwise.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
from typing import Any, Final

import msgspec
from litestar import Request, WebSocket, get, websocket
from litestar.exceptions import WebSocketDisconnect, WebSocketException
from litestar.params import FromPath

from controlplane.config import Identity
from controlplane.gateway.context import Gateway, Here
from controlplane.gateway.failures import Failure
from controlplane.gateway.logs import PART_BYTES_MAX, STREAMS, Place, follow
from controlplane.gateway.ray_jobs.answers import text
from controlplane.gateway.ray_jobs.jobs import found
from controlplane.gateway.views import JobRecord
from controlplane.http import CODES_OF_STATUS
from events import messages as m
from events.blobs import BlobError
from events.bus import BusError

LOG: Final = logging.getLogger("headrace.gateway")

SHOWN_BYTES_MAX: Final = 8 * 1024**2
"""Of each stream, the newest. Who wants all of a long one follows it."""


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    logs: str


@get("/jobs/{job:str}/logs")
async def show_logs(gateway: Here, request: Request[Identity, Any, Any], job: FromPath[str]) -> Logs:
    """The output of the newest attempt."""
    record = await found(gateway, request.user, job)
    if not record.life.attempt:
        return Logs(logs="")
    return Logs(logs="".join([await _stream(gateway, record, name) for name in STREAMS]))


async def _stream(gateway: Gateway, record: JobRecord, name: Any) -> str:
    """The end of a stream, which is all of it if that is not too long."""
    place, content, left_out = -SHOWN_BYTES_MAX, bytearray(), 0
    while len(content) < SHOWN_BYTES_MAX:
        asked = m.AskLog(
            team=record.team,
            job=record.job,
            attempt=record.life.attempt,
            stream=name,
            offset=place,
            bytes_max=PART_BYTES_MAX,
        )
        part = await gateway.ask("monitoring", "log", asked, m.LogAnswer)
        if not content:
            left_out = part.offset
        if not part.data:
            break
        content += part.data
        place = part.offset + len(part.data)
    notice = f"[{left_out} bytes before this are left out]\n" if left_out and content else ""
    return notice + content.decode(errors="replace")


@websocket("/jobs/{job:str}/logs/tail")
async def tail_logs(gateway: Here, socket: WebSocket[Identity, Any, Any], job: FromPath[str]) -> None:
    """Text frames: the output as it comes, over all attempts, and a close with 1000 when the job is over."""
    try:
        record = await found(gateway, socket.user, job)
    except Failure as error:
        words = text({"problems": error.problems, "message": error.message, "hint": error.hint})
        raise WebSocketException(detail=words, code=CODES_OF_STATUS + error.status) from error
    except (BusError, BlobError) as error:
        raise WebSocketException(detail=f"the job cannot be looked at: {error}", code=CODES_OF_STATUS + 503) from error
    await socket.accept()
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(_send(gateway, socket, record))
        watching = group.create_task(_left(socket, sending))
        await asyncio.wait({sending})
        watching.cancel()
    if not sending.cancelled() and sending.result():
        await socket.close(code=1000)


async def _send(gateway: Gateway, socket: WebSocket[Identity, Any, Any], record: JobRecord) -> bool:
    """Send the output; gives whether all of it was sent and the job is over."""
    decoders: dict[tuple[int, str], codecs.IncrementalDecoder] = {}
    following: Any = follow(gateway, record, Place(record.life.attempt), alone=False)
    try:
        async for event in following:
            if gateway.is_closing:
                return False
            if event is None:
                continue
            if event.name == "end":
                return record.is_over
            chunk: Any = event.data
            decoder = decoders.setdefault((chunk["attempt"], chunk["stream"]), _UTF8("replace"))
            if words := decoder.decode(chunk["data"]):
                await socket.send_text(words)
    except OSError:
        LOG.info("the reader of the output of %s has gone", record.job)
    except BusError as error:
        LOG.warning("the output of %s: %s", record.job, error)
    finally:
        await following.aclose()
    return False


async def _left(socket: WebSocket[Identity, Any, Any], sending: asyncio.Task[bool]) -> None:
    """Ends the sending when the reader has gone; whatever it says is not listened to."""
    try:
        while True:
            await socket.receive_data("text")
    except WebSocketDisconnect:
        sending.cancel()


_UTF8: Final = codecs.getincrementaldecoder("utf-8")
