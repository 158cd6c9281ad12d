"""From messages to what the store and the logs take in. What cannot be read is given back with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from controlplane.monitoring import coverage, otlp, strided
from controlplane.monitoring.batch import Part
from controlplane.monitoring.logs import OUTPUT_BYTES_MAX, STREAMS, Chunk
from controlplane.monitoring.store import Store
from events import ranks, subjects
from events.bus import Delivery

RECORDS_MAX: Final = 1_000_000
"""In one message."""
POSITION_MAX: Final = 2**53
ATTEMPT_MAX: Final = 1_000_000
SPOOL_CHARACTERS_MAX: Final = 512

ATTEMPT, SPOOL, FIRST, COUNT, END = "hr-attempt", "hr-spool", "hr-first", "hr-count", "hr-end"
PUSH, OFFSET = "hr-push", "hr-offset"

T = TypeVar("T")


class Unreadable(Exception):
    """This message says nothing that we understand; the reason goes to the dead letters with it."""


class Dead(NamedTuple):
    """A message that could not be read, and why."""

    delivery: Delivery
    reason: str


def parts(deliveries: Sequence[Delivery], store: Store) -> tuple[list[Part], list[Dead]]:
    """What a batch of METRICS brings."""
    found: list[Part] = []
    dead: list[Dead] = []
    for delivery in deliveries:
        try:
            found.append(_part(delivery, store))
        except (Unreadable, otlp.BadBody, ValueError) as error:
            dead.append(Dead(delivery, str(error)))
    return found, dead


def chunks(deliveries: Sequence[Delivery]) -> tuple[list[Chunk], list[Dead]]:
    """What a batch of LOGS brings."""
    found: list[Chunk] = []
    dead: list[Dead] = []
    for delivery in deliveries:
        try:
            found.append(_chunk(delivery))
        except (Unreadable, ValueError) as error:
            dead.append(Dead(delivery, str(error)))
    return found, dead


def _part(delivery: Delivery, store: Store) -> Part:
    kind, *names = subjects.tokens(delivery.subject)
    at_ns = int(delivery.at * 1e9)
    headers = delivery.headers
    if kind == "otlp":
        team, job = names
        attempt = _number(headers, ATTEMPT, least=1, most=ATTEMPT_MAX)
        columns = otlp.columns(otlp.parse(delivery.body))
        return Part(team, job, attempt, columns, at_ns, push=headers.get(PUSH, "")[:64])
    _, _, team, job = names
    spool = headers.get(SPOOL, "")
    words = spool.split("/")
    if len(words) != 3 or words[0] != job or not words[1].isdecimal() or len(spool) > SPOOL_CHARACTERS_MAX:
        raise Unreadable(f"header {SPOOL}: {spool[:100]!r} is not {job}/<attempt>/<file>")
    attempt = int(words[1])
    if not 1 <= attempt <= ATTEMPT_MAX:
        raise Unreadable(f"header {SPOOL}: attempt {attempt}")
    first = _number(headers, FIRST, most=POSITION_MAX)
    count = _number(headers, COUNT, most=RECORDS_MAX)
    ended = headers.get(END) == "1"
    name = f"{subjects.encode(team)}/{spool}"
    if _is_stored(store, team, job, name, first, count):
        return Part(team, job, attempt, [], at_ns, name, first, count, ended)
    columns = strided.columns(delivery.body) or otlp.columns(otlp.parse(delivery.body))
    if not columns:
        raise Unreadable(f"no points, but {COUNT} is {count}")
    for column in columns:
        if len(column.values) != count:
            raise Unreadable(f"{column.name}: {len(column.values)} points, but {COUNT} is {count}")
    return Part(team, job, attempt, columns, at_ns, name, first, count, ended)


def _is_stored(store: Store, team: str, job: str, spool: str, first: int, count: int) -> bool:
    """Whether a batch is a repeat as a whole, so that it need not be decoded."""
    known = store.book((team, job)).spools.get(spool)
    return count == 0 or (known is not None and coverage.holds(known.ranges, first, first + count))


def _chunk(delivery: Delivery) -> Chunk:
    _, _, _, team, job, attempt, stream = subjects.tokens(delivery.subject)
    known = ranks.read_stream(stream)
    if known is None or known[0] not in STREAMS:
        raise Unreadable(f"stream {stream[:40]!r}; there are {', '.join(STREAMS)}")
    if not attempt.isdecimal() or not 1 <= int(attempt) <= ATTEMPT_MAX:
        raise Unreadable(f"attempt {attempt[:40]!r}")
    offset = _number(delivery.headers, OFFSET, most=OUTPUT_BYTES_MAX)
    ended = delivery.headers.get(END) == "1"
    return Chunk(team, job, int(attempt), stream, offset, delivery.body, ended)


def _number(headers: Mapping[str, str], name: str, *, least: int = 0, most: int) -> int:
    text = headers.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and least <= int(text) <= most):
        raise Unreadable(f"header {name}: {text[:40]!r} is not a number from {least} to {most}")
    return int(text)
