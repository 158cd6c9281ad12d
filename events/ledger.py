"""Facts, written under guards: what the messages of LEDGER mean.

A writer says which sequence of the fact's subject it has seen last; if the subject has moved on, that is a Conflict,
and nothing was written. Each fact carries a `ce-id` of its own, so that a writer can tell after an unknown outcome
whether it was its own write that landed.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from events import subjects as s
from events.bus import Bus, CaughtUp, Conflict, Delivery, Outgoing, Refused, Unknown
from events.cloudevents import Envelope, to_headers
from events.entries import Entry
from events.messages import AnyFact, Fact
from events.streams import LEDGER
from events.wire import UNREADABLE

APPEND_TRIES: Final = 4
"""Of one append whose outcome stays unknown; each may take as long as a publish may."""
UNKNOWN_PAUSE_S: Final = 0.2

_FACT: Final[msgspec.json.Decoder[Fact]] = msgspec.json.Decoder(AnyFact)
_ENCODER: Final = msgspec.json.Encoder()


class Write(NamedTuple):
    """A fact to be written. `expect`: the last sequence of this subject that the writer has seen, 0 for none."""

    subject: str
    fact: Fact
    expect: int
    traceparent: str = ""
    ttl_s: int = 0
    """How long the ledger keeps it; 0: for good. Only for what says nothing once a later fact is there."""
    replaces: bool = False
    """It takes the place of every earlier fact on its subject, in the same moment. Only for what is kept elsewhere."""


class UnknownFact(Exception):
    """A fact in the ledger that this version cannot read. A leader steps down; another reader may go on behind it."""

    def __init__(self, sequence: int, subject: str, why: str) -> None:
        super().__init__(f"fact {sequence} on {subject}: {why}")
        self.sequence = sequence
        self.subject = subject


def entry(delivery: Delivery) -> Entry:
    """The fact in a message of LEDGER. Raises UnknownFact."""
    try:
        fact = _FACT.decode(delivery.body)
    except UNREADABLE as error:
        raise UnknownFact(delivery.sequence, delivery.subject, str(error)) from error
    traceparent = delivery.headers.get("traceparent", "")
    return Entry(delivery.sequence, delivery.subject, fact, delivery.at, traceparent)


class Ledger:
    """The ledger, for one writer or reader. `source` is what stands in `ce-source`: `scheduling/<instance>`."""

    def __init__(self, bus: Bus, *, source: str) -> None:
        self._bus = bus
        self._source = source

    async def append(self, write: Write) -> int:
        """Write one fact; gives its sequence. Raises Conflict, Refused, Unknown.

        After an unknown outcome it looks whether the fact is there, and writes it again if it is not: never twice.
        """
        outgoing, event_id = self._outgoing(write)
        doubtful = False
        for tries_left in reversed(range(APPEND_TRIES)):
            try:
                return await self._bus.publish(outgoing)
            except Conflict:
                mine = await self._find(write.subject, event_id) if doubtful else None
                if mine is None:
                    raise
                return mine
            except Unknown:
                doubtful = True
                if tries_left == 0:
                    raise
            await asyncio.sleep(UNKNOWN_PAUSE_S)
        raise AssertionError("unreachable")

    async def append_next(self, write: Write, *, last: int) -> int:
        """Write one fact unless anything at all was written since `last`: one guard that stands for every other.

        Raises Conflict, Refused, Unknown (it may have been written).
        """
        outgoing, _ = self._outgoing(write)
        return await self._bus.publish(outgoing._replace(expect_last=last))

    async def commit(self, writes: Sequence[Write]) -> int:
        """Write a round of facts, all or none, one behind the other; gives the sequence of the first.

        Several facts on one subject are possible: each `expect` speaks of the ledger before the round, so they are the
        same. Raises Conflict (none was written), Refused, Unknown (all or none were written: rebuild).
        """
        expected: dict[str, int] = {}
        items: list[Outgoing] = []
        for write in writes:
            outgoing, _ = self._outgoing(write)
            if write.subject in expected:
                if expected[write.subject] != write.expect:
                    raise ValueError(f"{write.subject}: two expectations in one round, one is {write.expect}")
                # The guard of the first covers this one: nobody comes in between, and all or none are written.
                outgoing = outgoing._replace(expect=None)
            expected[write.subject] = write.expect
            items.append(outgoing)
        return await self._bus.publish_batch(items)

    async def last(self, subject: str) -> Entry | None:
        """The newest fact on a literal subject. Raises UnknownFact, Refused, Unknown."""
        delivery = await self._bus.last(LEDGER.name, subject)
        return entry(delivery) if delivery is not None else None

    async def history(self, subject: str) -> list[Entry]:
        """All facts on a literal subject, in order. Raises UnknownFact, Refused, Unknown."""
        return [entry(delivery) for delivery in await self._bus.history(LEDGER.name, subject)]

    async def tail(self, *, after: int, subjects: Sequence[str] = s.LEDGER) -> AsyncGenerator[Entry | CaughtUp, None]:
        """Every fact after a sequence, in order, for ever; one CaughtUp. Raises UnknownFact, and is over."""
        async with aclosing(self._bus.tail(LEDGER.name, subjects=subjects, after=after)) as items:
            async for item in items:
                yield item if isinstance(item, CaughtUp) else entry(item)

    async def last_sequence(self) -> int:
        return await self._bus.last_sequence(LEDGER.name)

    def _outgoing(self, write: Write) -> tuple[Outgoing, str]:
        if write.expect < 0:
            raise ValueError(f"{write.subject}: expect is a sequence, not {write.expect}")
        event_id = uuid.uuid4().hex
        tag = str(type(write.fact).__struct_config__.tag)
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        headers = to_headers(
            Envelope(id=event_id, type=tag, source=self._source, time=time, traceparent=write.traceparent)
        )
        if write.ttl_s:
            headers["Nats-TTL"] = f"{write.ttl_s}s"
        if write.replaces:
            headers["Nats-Rollup"] = "sub"
        return Outgoing(write.subject, _ENCODER.encode(write.fact), headers, write.expect), event_id

    async def _find(self, subject: str, event_id: str) -> int | None:
        for delivery in reversed(await self._bus.history(LEDGER.name, subject)):
            if delivery.envelope.id == event_id:
                return delivery.sequence
        return None


__all__ = ["CaughtUp", "Conflict", "Entry", "Ledger", "Refused", "Unknown", "UnknownFact", "Write", "entry"]
