"""The few calls of JetStream's API that the bus makes, as typed functions over one connection.

https://docs.nats.io/reference/reference-protocols/nats_api_reference · atomic batches: ADR-50
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from events.connection import Connection
from events.replies import Message
from events.wire import NOT_THERE, UNREADABLE, Conflict, Delivery, Outgoing, Refused, Unknown

API_S: Final = 5.0
PUBLISH_S: Final = 5.0
"""After this long without an acknowledgement the outcome of a publish is Unknown."""
RETRY_PAUSES_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Between tries of what was surely not written: no leader yet, or a write to the same subject still in flight."""
BATCH_MAX: Final = 1000
"""Messages in one atomic batch; the server's limit."""

_WRONG_SEQUENCE: Final = 10071
_WRITE_IN_FLIGHT: Final = 10164
_NO_MESSAGE: Final = 10037
_NO_SUCH_SEQUENCE: Final = 10043
NO_STREAM: Final = 10059
_EXPECT: Final = "Nats-Expected-Last-Subject-Sequence"
_EXPECT_LAST: Final = "Nats-Expected-Last-Sequence"


class _Problem(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    seq: int = 0
    count: int = 0
    error: _Problem | None = None


class WriteInFlight(Conflict):
    """On a replicated stream another write to this subject is not settled yet; nothing was written."""


_ACK: Final = msgspec.json.Decoder(_Ack)


def headers_of(outgoing: Outgoing) -> dict[str, str]:
    headers = outgoing.headers
    if outgoing.expect is not None:
        headers = headers | {_EXPECT: str(outgoing.expect)}
    if outgoing.expect_last is not None:
        headers = headers | {_EXPECT_LAST: str(outgoing.expect_last)}
    return headers


def _refusal(problem: _Problem, subject: str) -> Conflict | Refused:
    """JetStream's error in our words."""
    if problem.err_code == _WRONG_SEQUENCE:
        return Conflict(f"{subject}: {problem.description}")
    if problem.err_code == _WRITE_IN_FLIGHT:
        return WriteInFlight(f"{subject}: {problem.description}")
    return Refused(problem.err_code or problem.code, f"{subject}: {problem.description}")


def _status(message: Message) -> str:
    return str(message.headers.get("Status", "")) if message.headers else ""


def stored_at(message: Message, subject: str) -> _Ack:
    """The acknowledgement in a reply. Raises Conflict, Refused, Unknown."""
    if _status(message) == "503":
        raise Refused(NOT_THERE, f"no stream takes {subject}")
    try:
        ack = _ACK.decode(message.data)
    except UNREADABLE as error:
        raise Unknown(f"{subject}: not an acknowledgement: {error}") from error
    if ack.error is not None:
        raise _refusal(ack.error, subject)
    return ack


async def api(connection: Connection, subject: str, request: Any = None, *, timeout_s: float = API_S) -> dict[str, Any]:
    """One call of the API, again while JetStream is not ready. Raises Refused with JetStream's code, Unknown."""
    for pause_s in RETRY_PAUSES_S:
        try:
            return await _api_once(connection, subject, request, timeout_s)
        except Refused as error:
            if not error.temporary:
                raise
        await asyncio.sleep(pause_s)
    return await _api_once(connection, subject, request, timeout_s)


async def _api_once(connection: Connection, subject: str, request: Any, timeout_s: float) -> dict[str, Any]:
    body = b"" if request is None else msgspec.json.encode(request)
    message = await connection.request(f"$JS.API.{subject}", body, timeout_s=timeout_s)
    if _status(message) == "503":
        raise Refused(NOT_THERE, f"JetStream does not answer {subject}")
    answer: dict[str, Any] = msgspec.json.decode(message.data)
    error = answer.get("error")
    if error is not None:
        raise Refused(error.get("err_code") or error["code"], f"{subject}: {error.get('description', '')}")
    return answer


async def publish_batch(connection: Connection, items: Sequence[Outgoing]) -> int:
    """All of the messages or none, in one go; gives the sequence of the first. Raises Conflict, Refused, Unknown.

    The first message and the last ask for a reply: an error of the first would else be seen only as "incomplete".
    """
    batch = uuid.uuid4().hex
    await connection.connected(PUBLISH_S)
    first_reply, first = connection.replies.expect(items[0].subject, PUBLISH_S)
    last_reply, last = connection.replies.expect(items[-1].subject, PUBLISH_S)
    try:
        for number, item in enumerate(items, start=1):
            headers = headers_of(item) | {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            if number == len(items):
                headers["Nats-Batch-Commit"] = "1"
            reply = last_reply if number == len(items) else first_reply if number == 1 else ""
            await connection.publish(item.subject, item.body, headers, reply)
        begun = await first
        if begun.data or _status(begun):
            stored_at(begun, items[0].subject)
        ack = stored_at(await last, f"batch of {len(items)} on {items[0].subject}")
    finally:
        first.cancel()
        last.cancel()
    return ack.seq - len(items) + 1


# -- reading back ------------------------------------------------------------------------------------------------------


async def last_message(connection: Connection, stream: str, subject: str) -> Delivery | None:
    """The newest message on a subject, which may have wildcards, as the leader of the stream has it: a follower may be
    behind."""
    return await _one(connection, stream, {"last_by_subj": subject})


async def messages_by_leader(connection: Connection, stream: str, subject: str) -> list[Delivery]:
    """All messages on a literal subject, in order, as the leader of the stream has them: one call a message."""
    found: list[Delivery] = []
    while True:
        after = found[-1].sequence if found else 0
        message = await _one(connection, stream, {"seq": after + 1, "next_by_subj": subject})
        if message is None:
            return found
        found.append(message)


async def _one(connection: Connection, stream: str, which: dict[str, Any]) -> Delivery | None:
    try:
        answer = await api(connection, f"STREAM.MSG.GET.{stream}", which)
    except Refused as error:
        if error.code == _NO_MESSAGE:
            return None
        raise
    message = answer["message"]
    return Delivery(
        message["subject"],
        base64.b64decode(message.get("data", "")),
        _headers(base64.b64decode(message.get("hdrs", ""))),
        sequence=message["seq"],
        at=seconds(message["time"]),
    )


async def message(connection: Connection, stream: str, sequence: int) -> Delivery | None:
    """The message of a sequence; None if there is none (any more)."""
    return await _one(connection, stream, {"seq": sequence})


async def remove(connection: Connection, stream: str, sequence: int) -> bool:
    """Take one message out of a stream; False if it was not there."""
    try:
        await api(connection, f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
    except Refused as error:
        if error.code in (_NO_MESSAGE, _NO_SUCH_SEQUENCE):
            return False
        raise
    return True


async def messages_on(connection: Connection, stream: str, subject: str) -> list[Delivery]:
    """All messages on a literal subject, in order, as whatever replica answers has them."""
    found: list[Delivery] = []
    while True:
        some = await page(connection, stream, subject, found[-1].sequence if found else 0)
        found += some
        if len(some) < BATCH_MAX:
            return found


async def page(
    connection: Connection, stream: str, subject: str, after: int, *, count: int = BATCH_MAX, bytes_max: int = 0
) -> list[Delivery]:
    """One direct get of many (ADR-31): messages stream in on an inbox until a message of status 204 ends them.

    At most `count` messages, and, if `bytes_max` is given, no more once that many bytes have come.
    """
    found: list[Delivery] = []
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def arrived(message: Message) -> None:
        status = _status(message)
        if not status:
            headers = message.headers
            sequence, at = int(headers["Nats-Sequence"]), seconds(headers["Nats-Time-Stamp"])
            found.append(Delivery(headers["Nats-Subject"], message.data, headers, sequence=sequence, at=at))
        elif not done.done():
            done.set_result(status)

    await connection.connected(API_S)
    inbox = connection.inbox()
    subscription = await connection.subscribe(inbox, arrived, confirm=False)
    try:
        request = {"batch": count, "seq": after + 1, "next_by_subj": subject}
        request |= {"max_bytes": bytes_max} if bytes_max else {}
        await connection.publish(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(request), reply=inbox)
        async with asyncio.timeout(API_S):
            status = await done
    except TimeoutError:
        raise Unknown(f"reading {subject} back took too long") from None
    finally:
        await subscription.close()
    if status not in ("204", "404"):
        raise Refused(int(status), f"cannot read {subject} from {stream}")
    return found


def seconds(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time with up to nine digits behind the point.

    Rounded once, like the time in a delivery: the same message has the same time however it was read.
    """
    head, _, rest = text.partition(".")
    if not rest:
        return datetime.fromisoformat(text).timestamp()
    digits = rest.rstrip("Z").split("+")[0].split("-")[0]
    zone = rest[len(digits) :]
    whole = int(datetime.fromisoformat(head + zone).timestamp())
    return (whole * 10**9 + int(digits.ljust(9, "0")[:9])) / 1e9


def _headers(block: bytes) -> dict[str, str]:
    """The headers of a stored message: `NATS/1.0` and then one a line."""
    pairs = (line.partition(":") for line in block.decode("utf-8", "replace").split("\r\n")[1:])
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}
