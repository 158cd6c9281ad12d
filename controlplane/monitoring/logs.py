"""Output of attempts: one append-only file a stream, written at the offsets that the node says.

A chunk that comes again is written to the same place; one that comes early leaves a hole that the late one fills. Which
bytes are there is kept as ranges, in the transaction that says how far LOGS was read. A hole that nothing will fill
any more is shown to the reader as one line in its place.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from controlplane.monitoring import coverage
from controlplane.monitoring.store import Store, decode_ranges, encode_ranges
from events import messages as m
from events import ranks, subjects

STREAMS: Final = ("stdout", "stderr")
OUTPUT_BYTES_MAX: Final = 64 * 1024**3
"""Of one stream. Nodes stop far earlier; this only keeps a lying node from offsets that no file system has."""
OPEN_FILES_MAX: Final = 64
REMEMBERED_MAX: Final = 4_096
ANSWER_BYTES_MAX: Final = 512 * 1024
"""Of one answer: base 64 adds a third, and a message may have a megabyte."""


class Chunk(NamedTuple):
    """What one message of LOGS brings. `ended`: the stream ends behind this."""

    team: str
    job: str
    attempt: int
    stream: str
    offset: int
    data: bytes
    ended: bool = False

    @property
    def key(self) -> OutputKey:
        return (self.team, self.job, self.attempt, self.stream)


OutputKey = tuple[str, str, int, str]
"""Team, job, attempt, stream."""


class Output(msgspec.Struct):
    """What is stored of one stream. `size` is its length once it is known: -1 until then."""

    ranges: coverage.Ranges = ()
    size: int = -1

    @property
    def stored(self) -> int:
        """Up to where a reader may ask."""
        return max(self.size, coverage.end(self.ranges))

    @property
    def complete(self) -> bool:
        whole = ((0, self.size),) if self.size else ()
        return self.size >= 0 and self.ranges == whole


class Logs:
    """The files below one folder. Not thread-safe: it belongs to the store's thread."""

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder = folder
        self._store = store
        self._files: OrderedDict[OutputKey, int] = OrderedDict()
        self._outputs: dict[OutputKey, Output] = {}

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    # -- writing -------------------------------------------------------------------------------------------------------

    def commit(self, chunks: Sequence[Chunk], *, sequence: int) -> list[tuple[OutputKey, Output]]:
        """Write chunks, then that LOGS was read up to `sequence`. Gives the outputs that changed.

        A kill between the two repeats the writing, which is the same.
        """
        touched: dict[OutputKey, Output] = {}
        try:
            for chunk in chunks:
                if self._write(chunk):
                    touched[chunk.key] = self.output(chunk.key)
            with self._store.transaction():
                self._store.put("place", {"stream": ["LOGS"], "sequence": [sequence]}, replace=True)
                self._remember(touched)
                self._store.unseal({(team, job) for team, job, _, _ in touched})
        except BaseException:
            self._outputs.clear()
            raise
        return list(touched.items())

    def settle(self, sizes: Mapping[OutputKey, int]) -> None:
        """Nothing will be added to these, and their node said how long they were: what is missing has a place now."""
        unknown = {key: self.output(key) for key in sizes if self.output(key).size < 0}
        for key, output in unknown.items():
            output.size = max(sizes[key], coverage.end(output.ranges))
        if unknown:
            with self._store.transaction():
                self._remember(unknown)

    def forget(self, team: str, job: str) -> None:
        """What is remembered of a job's streams is not needed for now."""
        for key in [key for key in self._outputs if key[:2] == (team, job)]:
            del self._outputs[key]
        for key in [key for key in self._files if key[:2] == (team, job)]:
            os.close(self._files.pop(key))

    def _write(self, chunk: Chunk) -> bool:
        """Write what is new of a chunk; gives whether anything was."""
        output = self.output(chunk.key)
        size = max(output.size, chunk.offset + len(chunk.data)) if chunk.ended else output.size
        is_news = size != output.size
        output.size = size
        if chunk.data:
            is_news = is_news or not coverage.holds(output.ranges, chunk.offset, chunk.offset + len(chunk.data))
            output.ranges, fresh = coverage.add(output.ranges, chunk.offset, chunk.offset + len(chunk.data))
            descriptor = self._descriptor(chunk.key) if fresh else -1
            for first, after in fresh:
                _write_all(descriptor, chunk.data[first - chunk.offset : after - chunk.offset], first)
        return is_news

    def _remember(self, touched: dict[OutputKey, Output]) -> None:
        if not touched:
            return
        teams, jobs, attempts, streams = zip(*touched, strict=True)
        self._store.put(
            "output",
            {
                "team": teams,
                "job": jobs,
                "attempt": attempts,
                "stream": streams,
                "ranges": [encode_ranges(output.ranges) for output in touched.values()],
                "size": [output.size for output in touched.values()],
            },
            replace=True,
        )

    def _descriptor(self, key: OutputKey) -> int:
        descriptor = self._files.pop(key, -1)
        if descriptor < 0:
            path = self.path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            while len(self._files) >= OPEN_FILES_MAX:
                os.close(self._files.popitem(last=False)[1])
        self._files[key] = descriptor
        return descriptor

    # -- reading -------------------------------------------------------------------------------------------------------

    def path(self, key: OutputKey) -> Path:
        """Where a stream is kept. Names are encoded as they are in subjects, so nothing in them leads elsewhere."""
        team, job, attempt, stream = key
        return self._folder / subjects.encode(team) / subjects.encode(job) / f"{attempt}.{subjects.encode(stream)}"

    def output(self, key: OutputKey) -> Output:
        """What is stored of a stream."""
        output = self._outputs.get(key)
        if output is None:
            rows = self._store.db.execute(
                "SELECT ranges, size FROM output WHERE team = ? AND job = ? AND attempt = ? AND stream = ?", key
            ).fetchall()
            while len(self._outputs) >= REMEMBERED_MAX:
                self._outputs.pop(next(iter(self._outputs)))
            output = self._outputs[key] = Output(decode_ranges(rows[0][0]), rows[0][1]) if rows else Output()
        return output

    def outputs(self, team: str, job: str) -> dict[OutputKey, Output]:
        """All streams of a job."""
        rows = self._store.db.execute(
            "SELECT attempt, stream FROM output WHERE team = ? AND job = ? ORDER BY attempt, stream", [team, job]
        ).fetchall()
        return {(team, job, attempt, stream): self.output((team, job, attempt, stream)) for attempt, stream in rows}

    def newest(self, team: str, job: str, stream: str) -> int:
        """The newest attempt that has output in this stream; 0: none has."""
        rows = self._store.db.execute(
            "SELECT coalesce(max(attempt) FILTER (WHERE stream = ?), max(attempt), 0) FROM output"
            " WHERE team = ? AND job = ?",
            [stream, team, job],
        ).fetchall()
        return int(rows[0][0])

    def read(self, ask: m.AskLog, *, over: bool) -> m.LogAnswer:
        """Bytes of a stream from an offset on; `over`: nothing will be added, whatever is missing."""
        stream = ranks.stream(ask.stream, ask.rank)
        attempt = ask.attempt or self.newest(ask.team, ask.job, stream)
        output = self.output((ask.team, ask.job, attempt, stream))
        settled = over or output.size >= 0
        limit = max(0, min(ask.bytes_max, ANSWER_BYTES_MAX))
        offset = ask.offset if ask.offset >= 0 else max(0, output.stored + ask.offset)
        piece = _next(output, offset, settled=settled)
        if piece.kind == "data":
            data = self._read((ask.team, ask.job, attempt, stream), piece.first, min(piece.after, piece.first + limit))
        elif piece.kind == "hole":
            data = _mark(piece.after - piece.first)[-max(1, limit) :]
            offset = piece.after - len(data)
        else:
            data = b""
        return m.LogAnswer(
            attempt=attempt,
            stream=ask.stream,
            offset=offset,
            data=data,
            size_bytes=output.stored,
            complete=over or output.complete,
        )

    def _read(self, key: OutputKey, first: int, after: int) -> bytes:
        with self.path(key).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), after - first, first)


class _Piece(NamedTuple):
    kind: Literal["data", "hole", "end"]
    first: int
    after: int


def _next(output: Output, offset: int, *, settled: bool) -> _Piece:
    """What lies at an offset. A hole is one once the stream has ended; before that the reader waits in front of it."""
    for start, end in output.ranges:
        if offset < start:
            return _Piece("hole" if settled else "end", offset, start)
        if offset < end:
            return _Piece("data", offset, end)
    if settled and offset < output.stored:
        return _Piece("hole", offset, output.stored)
    return _Piece("end", offset, offset)


def _mark(missing: int) -> bytes:
    """A line in place of missing bytes, never longer than they were."""
    line = f"\n[headrace: {missing} bytes of output are missing here]\n".encode()
    return line if len(line) <= missing else b"?" * missing


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
