"""Dead letters: how a message looks that could not be processed, and how it becomes again what it was.

A letter stands in DEAD on `hr.v1.dead.<original subject>`, with the body and the headers of the message, and with what
is said about it in headers of ours: `hr-reason`, `hr-stream`, `hr-sequence`, `hr-tries`, and `hr-place`, which is its
id if it had none. So a replay is the same message to whoever reads it, and counts once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from events import subjects
from events.messages import DeadLetter
from events.wire import MALFORMED, TOO_LARGE, Delivery, Outgoing, Refused

REASON_MAX: Final = 1000
"""Characters of the reason in a letter."""

_REASON, _STREAM, _SEQUENCE, _TRIES = "hr-reason", "hr-stream", "hr-sequence", "hr-tries"
_PLACE, _BYTES, _ID = "hr-place", "hr-bytes", "ce-id"
_OURS: Final = frozenset({_REASON, _STREAM, _SEQUENCE, _TRIES, _PLACE, _BYTES})
_JOBS_IN: Final = {"control": 3, "otlp": 2, "metrics": 4, "logs": 4}
"""Kind of subject → which of its tokens is the job."""


Publish = Callable[[Outgoing], Awaitable[int]]


class NoReplay(Exception):
    """This letter cannot become a message again; says why."""


async def bury(publish: Publish, delivery: Delivery, *, stream: str, reason: str, tries: int) -> None:
    """Put a message into DEAD: without its body if it cannot be had with it. Raises BusError, as `publish` does."""
    why = _why(delivery, stream, reason, tries)
    try:
        await publish(_letter(delivery, why))
    except Refused as error:
        if error.code not in (TOO_LARGE, MALFORMED):
            raise
        # too large with the reason, or headers that nobody should have sent
        bare = why | {_BYTES: str(len(delivery.body))}
        await publish(Outgoing(subjects.dead(delivery.subject), b"", bare))


def _letter(delivery: Delivery, why: dict[str, str]) -> Outgoing:
    return Outgoing(subjects.dead(delivery.subject), delivery.body, _kept(delivery) | why)


def _kept(delivery: Delivery) -> dict[str, str]:
    """The headers that came with a message: none of the server's, and none of ours."""
    return {
        name: value
        for name, value in delivery.headers.items()
        if not name.lower().startswith("nats-") and name.lower() not in _OURS
    }


def _why(delivery: Delivery, stream: str, reason: str, tries: int) -> dict[str, str]:
    plain = "".join(character if character.isprintable() else " " for character in reason[:REASON_MAX])
    return {
        _REASON: plain.encode("utf-8", "replace").decode(),
        _STREAM: stream,
        _SEQUENCE: str(delivery.sequence),
        _TRIES: str(tries),
        _PLACE: delivery.place,
    }


def read(delivery: Delivery) -> DeadLetter:
    """What a message of DEAD says about itself. Never raises: anything may stand there."""
    headers = {name.lower(): value for name, value in delivery.headers.items()}
    subject = subjects.undead(delivery.subject)
    return DeadLetter(
        sequence=delivery.sequence,
        at=delivery.at,
        subject=subject,
        reason=headers.get(_REASON, ""),
        tries=_number(headers.get(_TRIES, "")),
        stream=headers.get(_STREAM, ""),
        job=_job_in(subject),
        id=headers.get(_ID, "") or headers.get(_PLACE, ""),
        size_bytes=_number(headers.get(_BYTES, "")) or len(delivery.body),
    )


def replayed(delivery: Delivery) -> Outgoing:
    """The message that this letter was, with an id that makes it count once. Raises NoReplay."""
    said = read(delivery)
    lower = {name.lower(): value for name, value in delivery.headers.items()}
    if _BYTES in lower:
        raise NoReplay(f"its {said.size_bytes} bytes were not kept: they did not fit into a letter")
    if not subjects.may_come_in(said.subject):
        raise NoReplay(f"{said.subject} is no subject of requests, metrics or output: nobody outside may write there")
    headers = _kept(delivery)
    if not lower.get(_ID) and said.id:
        headers[_ID] = said.id
    return Outgoing(said.subject, delivery.body, headers)


def _job_in(subject: str) -> str:
    """The job that a subject is about; empty where it names none."""
    try:
        names = subjects.tokens(subject)
    except ValueError:
        return ""
    kind = names[2] if names[0] == "from" and len(names) > 2 else names[0]
    place = _JOBS_IN.get(kind, 0)
    return names[place] if 0 < place < len(names) else ""


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
