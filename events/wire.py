"""What goes over the bus, as a caller sees it: messages out, messages in, and what can go wrong.

BusError
├── Conflict     a guard did not hold: somebody else wrote. Read again, decide again
├── Unknown      it may have been written, or not. Read back, or rebuild
├── Refused      the store said no, and nothing was written: full, too large, no stream, not allowed
└── NoAnswer     nobody answered a question
AskRefused       somebody answered a question: with a no
Retry, Poison    what a handler raises about a message: later; never
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

import msgspec

from events import logs
from events.cloudevents import Envelope, from_headers
from events.messages import Refusal

TOO_LARGE: Final = 10054
"""JetStream's code of "message size exceeds maximum allowed", used for what the client itself holds back, too."""
FORBIDDEN: Final = 403
MALFORMED: Final = 400
"""What no server would take: a subject or a header that is none."""
_FULL: Final = frozenset({10023, 10047, 10077})
"""No resources; the account's or the disk's storage is used up; the stream is at its limit."""
NOT_THERE: Final = 503
"""Nobody listens: no stream takes this subject, or it has no leader just now."""

_TEMPORARY: Final = frozenset({NOT_THERE, 10008, 10009, 10023, 10118, 10176, 10210, 10211})
"""Not there; JetStream unavailable; cluster without a leader; no resources; a batch cut short (its leader changed) or
too many of them at once. Of all of these nothing was written."""


UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what they should be: text that is not UTF-8, and depth, are errors of
Python's own."""


_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class BusError(Exception):
    """The bus did not do what it was asked."""


class Conflict(BusError):
    """A guard did not hold: the subject has moved on. Read again, decide again."""


class Unknown(BusError):
    """The outcome is not known: no answer in time, or the connection broke. Read back, or rebuild."""


class Refused(BusError):
    """The store said no; nothing was written. `code` is JetStream's error code, or an HTTP status of ours."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message

    @property
    def temporary(self) -> bool:
        """Whether the same message may be taken a moment later."""
        return self.code in _TEMPORARY

    @property
    def full(self) -> bool:
        """Whether there is no room: later there may be, when something was archived, handled or dropped."""
        return self.code in _FULL


class NoAnswer(BusError):
    """Nobody answered: nobody listens on that subject, or not in time."""


class AskRefused(Exception):
    """The answer to a question is a no. An answerer raises it, too."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Retry(Exception):
    """A handler cannot take this message now; it comes again after `after_s`. Not counted as a failed try."""

    def __init__(self, after_s: float = 1.0, reason: str = "") -> None:
        super().__init__(reason or f"again in {after_s} s")
        self.after_s = after_s


class Poison(Exception):
    """A handler will never be able to take this message: to the dead letters with it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Outgoing(NamedTuple):
    """A message to be stored, under guards.

    `expect`: the last sequence of exactly this subject (0: none may exist yet). `expect_last`: of the whole stream.
    """

    subject: str
    body: bytes
    headers: dict[str, str]
    expect: int | None = None
    expect_last: int | None = None


class Delivery:
    """A message that came in. `sequence` and `delivered` are 0 and 1 for one that came from no stream."""

    __slots__ = ("_envelope", "_progress", "at", "body", "delivered", "headers", "sequence", "subject")

    def __init__(
        self,
        subject: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        sequence: int = 0,
        at: float = 0.0,
        delivered: int = 1,
        progress: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.subject = subject
        self.body = body
        self.headers: Mapping[str, str] = headers or {}
        self.sequence = sequence
        self.at = at
        """The server's timestamp, in seconds since the epoch."""
        self.delivered = delivered
        """How many times this message was delivered, this time included."""
        self._progress = progress
        self._envelope: Envelope | None = None

    def __repr__(self) -> str:
        return f"Delivery({self.subject!r}, {len(self.body)} bytes, sequence={self.sequence})"

    @property
    def envelope(self) -> Envelope:
        """What the message says about itself, parsed when first asked for."""
        if self._envelope is None:
            self._envelope = from_headers(self.headers)
        return self._envelope

    @property
    def place(self) -> str:
        """Its place in its stream: the id of a message that has none, and the same at each delivery."""
        return f"{self.sequence}@{self.at:.6f}"

    def at_work(self) -> AbstractContextManager[None]:
        """What is logged inside is about this message."""
        return about(self.subject, self.envelope, sequence=self.sequence)

    async def in_progress(self) -> None:
        """Tell the stream that this is still being handled."""
        if self._progress is not None:
            await self._progress()


def about(subject: str, envelope: Envelope, *, sequence: int = 0) -> AbstractContextManager[None]:
    """What is logged inside is about this message: its place, and the request and the trace that it names."""
    request = envelope.request if logs.REQUEST_ID.fullmatch(envelope.request) else ""
    return logs.about(subject=subject, sequence=sequence, request=request, trace=trace_id(envelope.traceparent))


def trace_id(traceparent: str) -> str:
    """The trace in a W3C `traceparent`; empty if it is none."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return found[1] if found else ""


class CaughtUp(NamedTuple):
    """In a tail: everything that the stream held at the start was given. `sequence` is the stream's last by then."""

    sequence: int


class Usage(NamedTuple):
    """How much a stream holds. `bytes_max` below 1: no limit of its own."""

    messages: int
    bytes: int
    bytes_max: int


class Asked(NamedTuple):
    """A question that came in."""

    subject: str
    body: bytes
    headers: Mapping[str, str]

    @property
    def envelope(self) -> Envelope:
        return from_headers(self.headers)


class AckInfo(NamedTuple):
    """What JetStream says about a delivery, in its reply subject."""

    consumer: str
    delivered: int
    sequence: int
    consumer_sequence: int
    at: float
    pending: int


def ack_info(reply: str) -> AckInfo | None:
    """Parse `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<seq>.<consumer seq>.<time>.<pending>[.…]`.

    None if it is not one. ADR-15: https://github.com/nats-io/nats-architecture-and-design
    """
    parts = reply.split(".")
    if len(parts) < 9 or parts[0] != "$JS" or parts[1] != "ACK":
        return None
    first = 2 if len(parts) == 9 else 4
    _, consumer, delivered, sequence, consumer_sequence, time, pending = parts[first : first + 7]
    return AckInfo(consumer, int(delivered), int(sequence), int(consumer_sequence), int(time) / 1e9, int(pending))
