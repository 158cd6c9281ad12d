"""A job's output as it comes: every byte once and in order per stream, over any number of broken connections."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import NamedTuple

from headrace.client import Client
from headrace.transport import OnRetry, Query


class Output(NamedTuple):
    """The next bytes of a stream (`stdout`, `stderr`) of an attempt."""

    attempt: int
    stream: str
    data: bytes


class Cursor:
    """How far each stream of each attempt has been given out. Pure."""

    def __init__(self) -> None:
        self._at: dict[tuple[int, str], int] = {}

    def at(self, attempt: int, stream: str) -> int:
        """The offset of the next byte."""
        return self._at.get((attempt, stream), 0)

    def start(self, attempt: int, stream: str, offset: int) -> None:
        """What comes before this offset is not wanted."""
        self._at[attempt, stream] = offset

    def place(self, attempt: int) -> str:
        """Where this attempt's streams are, as the server takes it for a place to begin at."""
        return f"{attempt}-{self.at(attempt, 'stdout')}-{self.at(attempt, 'stderr')}"

    def take(self, attempt: int, stream: str, offset: int, data: bytes) -> bytes:
        """What is new in a chunk: what was given out already is cut off. The chunk must not leave a gap."""
        at = self.at(attempt, stream)
        if offset > at:
            raise ValueError(f"{stream} of attempt {attempt}: a gap from {at} to {offset}")
        fresh = data[at - offset :]
        self._at[attempt, stream] = at + len(fresh)
        return fresh


def follow(
    client: Client,
    job: str,
    query: Query | None = None,
    *,
    cursor: Cursor | None = None,
    place: str = "",
    rank: int = 0,
    on_retry: OnRetry | None = None,
) -> Iterator[Output]:
    """Output until the job has no more of it: what the cursor has not seen. Gaps are read from the stored log.

    `place` (`Cursor.place`) spares the server the sending of what was seen.
    """
    seen = cursor or Cursor()
    for event in client.follow_log(job, {**(query or {}), "rank": rank or None}, last_id=place, on_retry=on_retry):
        if event.name != "chunk":
            continue
        chunk = json.loads(event.data)
        attempt, stream, offset = int(chunk["attempt"]), str(chunk["stream"]), int(chunk["offset"])
        data = base64.b64decode(chunk["data"])
        if offset > seen.at(attempt, stream):
            yield from _between(client, job, seen, attempt, stream, rank, offset)
        fresh = seen.take(attempt, stream, offset, data)
        if fresh:
            yield Output(attempt, stream, fresh)


def whole(
    client: Client, job: str, *, stream: str, attempt: int = 0, offset: int = 0, rank: int = 0
) -> Iterator[bytes]:
    """What there is of one stream, in parts. `offset` below zero counts from the end."""
    while True:
        part = client.log(job, {"stream": stream, "attempt": attempt or None, "offset": offset, "rank": rank or None})
        if part.data:
            yield part.data
        attempt, offset = part.attempt or attempt, part.offset + len(part.data)
        if not part.data or offset >= part.size:
            return


def _between(
    client: Client, job: str, seen: Cursor, attempt: int, stream: str, rank: int, end: int
) -> Iterator[Output]:
    """The bytes from the cursor to `end`, as far as they are still stored; the rest is skipped."""
    while (at := seen.at(attempt, stream)) < end:
        query: Query = {"stream": stream, "attempt": attempt, "offset": at, "bytes_max": min(end - at, 262_144)}
        query = {**query, "rank": rank or None}
        part = client.log(job, query)
        if not part.data or part.offset > at:
            break
        fresh = seen.take(attempt, stream, part.offset, part.data[: end - part.offset])
        yield Output(attempt, stream, fresh)
    seen.start(attempt, stream, end)
