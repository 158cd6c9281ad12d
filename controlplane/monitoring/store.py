"""The metrics store: one DuckDB file, one connection, one writer, one transaction a batch.

A transaction holds the points, the roll-ups, the newest values, what of each spool is stored, and how far the stream
was read: after a kill it is as if the batch had never been read, or as if it had been read once. Not thread-safe: the
service calls it from its one store thread.

Roll-ups: `roll_<size>` holds closed buckets, `head` what is open of each series: its count and last point, and of
`open_<size>` its bucket with the highest steps. A run that goes back to earlier steps adds another row to a closed
bucket; readers add the rows of a bucket up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import duckdb
import msgspec
import numpy as np

from controlplane.monitoring import coverage, rollups
from controlplane.monitoring.core import JobKey
from controlplane.monitoring.otlp import NO_STEP, Column

SERIES_OF_A_JOB_MAX: Final = 20_000
"""A job that makes more (a loop over names) loses the rest, and is told so by `refused` in the status."""
BOOKS_MAX: Final = 4_096
"""Jobs whose series and spools are remembered; the others are read again when they speak."""
MEMORY_LIMIT: Final = "1GB"
NS: Final = 1_000_000_000
STEP_MAX: Final = 2**53
"""Of either sign: what JSON can say exactly. A step beyond it is taken for this one."""
DOOR_IDS_MAX: Final = 100_000
"""Pushes of one job whose resend would be noticed."""

_ROLL: Final = (
    "series INTEGER, bucket BIGINT, points BIGINT, low DOUBLE, high DOUBLE, step BIGINT, ns BIGINT, value DOUBLE"
)
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS place(stream VARCHAR PRIMARY KEY, sequence BIGINT)",
    "CREATE TABLE IF NOT EXISTS series(id INTEGER, team VARCHAR, job VARCHAR, attempt INTEGER, rank INTEGER,"
    " name VARCHAR)",
    "CREATE TABLE IF NOT EXISTS points(series INTEGER, step BIGINT, ns BIGINT, value DOUBLE)",
    f"CREATE TABLE IF NOT EXISTS head({_ROLL})",
    *(f"CREATE TABLE IF NOT EXISTS {kind}_{size}({_ROLL})" for size in rollups.SIZES for kind in ("roll", "open")),
    "CREATE TABLE IF NOT EXISTS spool(name VARCHAR PRIMARY KEY, team VARCHAR, job VARCHAR, attempt INTEGER,"
    " ranges VARCHAR, ended BOOLEAN)",
    "CREATE TABLE IF NOT EXISTS gaps(spool VARCHAR, team VARCHAR, job VARCHAR, attempt INTEGER, first BIGINT,"
    " after BIGINT)",
    "CREATE TABLE IF NOT EXISTS door(team VARCHAR, job VARCHAR, push VARCHAR)",
    "CREATE TABLE IF NOT EXISTS origin(team VARCHAR, job VARCHAR, attempt INTEGER, ns BIGINT)",
    "CREATE TABLE IF NOT EXISTS output(team VARCHAR, job VARCHAR, attempt INTEGER, stream VARCHAR, ranges VARCHAR,"
    " size BIGINT, PRIMARY KEY(team, job, attempt, stream))",
    "CREATE TABLE IF NOT EXISTS job(team VARCHAR, job VARCHAR, record VARCHAR, sealed BOOLEAN, PRIMARY KEY(team, job))",
)
_NUMBER: Final = "coalesce(value, 'nan'::DOUBLE)"
"""DuckDB takes NaN in a numpy array for NULL. Right for `low` and `high`; a value stays what it was."""
_MERGE: Final = """
CREATE TEMP TABLE merged AS
SELECT series, bucket, points, low, high, last.step AS step, last.ns AS ns, last.value AS value,
       bucket = max(bucket) OVER (PARTITION BY series) AS open
FROM (
    SELECT series, bucket, sum(points)::BIGINT AS points, min(low) AS low, max(high) AS high,
           max(struct_pack(step := step, ns := ns, value := value)) AS last
    FROM (
        SELECT series, bucket, points, low, high, step, ns, {number} AS value FROM incoming
        UNION ALL
        SELECT * FROM {open} WHERE series IN (SELECT series FROM incoming)
    ) GROUP BY series, bucket
)"""
"""The buckets that a batch touches, together with what was open of its series."""
_UPDATE: Final = """
UPDATE {open} AS o SET bucket = m.bucket, points = m.points, low = m.low, high = m.high, step = m.step, ns = m.ns,
       value = m.value
FROM merged AS m WHERE m.open AND o.series = m.series"""
"""In place: rows that are deleted and added again would have to be cleaned up."""
_OPEN: Final = """
INSERT INTO {open} SELECT * EXCLUDE (open) FROM merged AS m
WHERE open AND NOT EXISTS (SELECT 1 FROM {open} AS o WHERE o.series = m.series)"""


class Part(NamedTuple):
    """What one message of METRICS brings."""

    team: str
    job: str
    attempt: int
    columns: Sequence[Column]
    at_ns: int
    """When the stream took it in: the time of points that have none."""
    spool: str = ""
    """Empty: from the OTLP door, which has no positions."""
    first: int = 0
    records: int = 0
    ended: bool = False
    push: str = ""
    """From the door: a digest that a resend of the same push repeats."""


class Committed(NamedTuple):
    """What a transaction did: counters, and whom it concerns."""

    points: int
    repeated: int
    """Records that were stored before."""
    refused: int
    """Points of series beyond SERIES_OF_A_JOB_MAX."""
    jobs: frozenset[JobKey]
    spools: tuple[tuple[str, str, int, str, bool], ...]
    """(team, job, attempt, spool, drained) of each spool that was touched; drained: ended, and without a hole."""


class _Spool(msgspec.Struct):
    attempt: int
    ranges: coverage.Ranges
    ended: bool


class _Book:
    """What the writer remembers of a job, so that a batch costs no look-ups."""

    def __init__(self) -> None:
        self.series: dict[tuple[int, int, str], int] = {}
        self.spools: dict[str, _Spool] = {}
        self.origins: dict[int, int] = {}
        self.pushes: set[str] = set()
        self.sealed = False


class Store:
    """See the top of this file. One process at a time may open the file: DuckDB refuses a second."""

    def __init__(self, file: Path, *, threads: int = 2) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.db: Any = duckdb.connect(str(file), config={"threads": threads, "memory_limit": MEMORY_LIMIT})
        for statement in _SCHEMA:
            self.db.execute(statement)
        self._next_series = self._number("SELECT coalesce(max(id), -1) + 1 FROM series")
        self._books: dict[JobKey, _Book] = {}

    def close(self) -> None:
        self.db.close()

    # -- writing -------------------------------------------------------------------------------------------------------

    def commit(self, parts: Sequence[Part], *, sequence: int) -> Committed:
        """Take in a batch, and with it that METRICS was read up to `sequence`."""
        try:
            with self.transaction():
                done = _Take(self).run(parts)
                self.put("place", {"stream": ["METRICS"], "sequence": [sequence]}, replace=True)
            return done
        except BaseException:
            self._books.clear()  # they may hold what was rolled back
            self._next_series = self._number("SELECT coalesce(max(id), -1) + 1 FROM series")
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing."""
        self.db.begin()
        try:
            yield
        except BaseException:
            self.db.rollback()
            raise
        self.db.commit()

    def put(self, table: str, columns: Mapping[str, Any], *, replace: bool = False) -> None:
        """Add rows, given by columns of lists or arrays. (`executemany` takes 0.8 ms a row.)"""
        arrays = {
            name: column if isinstance(column, np.ndarray) else _array(column) for name, column in columns.items()
        }
        self.db.register("incoming", arrays)
        try:
            names = ", ".join(arrays)
            values = ", ".join(_NUMBER if name == "value" else name for name in arrays)
            self.db.execute(
                f"INSERT {'OR REPLACE ' if replace else ''}INTO {table}({names}) SELECT {values} FROM incoming"
            )
        finally:
            self.db.unregister("incoming")

    def put_partials(self, open_table: str, closed_table: str, partials: rollups.Batch) -> None:
        """Add partial buckets to the open ones: the highest of each series stays open, the others are closed."""
        self.db.register("incoming", partials)
        try:
            self.db.execute(_MERGE.format(open=open_table, number=_NUMBER))
        finally:
            self.db.unregister("incoming")
        if closed_table:
            self.db.execute(f"INSERT INTO {closed_table} SELECT * EXCLUDE (open) FROM merged WHERE NOT open")
        self.db.execute(_UPDATE.format(open=open_table))
        self.db.execute(_OPEN.format(open=open_table))
        self.db.execute("DROP TABLE merged")

    def place(self, stream: str) -> int:
        """How far a stream was read."""
        return self._number("SELECT coalesce(max(sequence), 0) FROM place WHERE stream = ?", [stream])

    def _number(self, query: str, parameters: Sequence[Any] = ()) -> int:
        return int(self.db.execute(query, list(parameters)).fetchone()[0])

    def new_series(self, count: int) -> int:
        """Reserve ids; gives the first."""
        first = self._next_series
        self._next_series += count
        return first

    def book(self, key: JobKey) -> _Book:
        """What is stored of a job, read once."""
        book = self._books.get(key)
        if book is None:
            while len(self._books) >= BOOKS_MAX:
                self._books.pop(next(iter(self._books)))
            book = self._books[key] = self._read_book(key)
        return book

    def unseal(self, keys: Iterable[JobKey]) -> None:
        """Something new comes to these jobs: a seal no longer holds all. Inside a transaction."""
        for key in keys:
            book = self.book(key)
            if book.sealed:
                book.sealed = False
                self.db.execute("UPDATE job SET sealed = false WHERE team = ? AND job = ?", key)

    def forget(self, key: JobKey) -> None:
        """Its book is not needed for now."""
        self._books.pop(key, None)

    def _read_book(self, key: JobKey) -> _Book:
        book, where = _Book(), "WHERE team = ? AND job = ?"
        for number, attempt, rank, name in self.db.execute(
            f"SELECT id, attempt, rank, name FROM series {where}", key
        ).fetchall():
            book.series[attempt, rank, name] = number
        for name, attempt, ranges, ended in self.db.execute(
            f"SELECT name, attempt, ranges, ended FROM spool {where}", key
        ).fetchall():
            book.spools[name] = _Spool(attempt, decode_ranges(ranges), ended)
        row = self.db.execute(f"SELECT sealed FROM job {where}", key).fetchone()
        book.sealed = row is not None and row[0]
        book.origins = dict(self.db.execute(f"SELECT attempt, ns FROM origin {where}", key).fetchall())
        book.pushes = {row[0] for row in self.db.execute(f"SELECT push FROM door {where}", key).fetchall()}
        return book


def _array(column: Sequence[Any]) -> Any:
    first = column[0] if column else None
    kind = {bool: np.bool_, int: np.int64, float: np.float64}.get(type(first))
    if kind is not None:
        return np.array(column, kind)
    array = np.empty(len(column), object)
    array[:] = column
    return array


def encode_ranges(ranges: coverage.Ranges) -> str:
    return msgspec.json.encode(ranges).decode()


def decode_ranges(text: str) -> coverage.Ranges:
    return msgspec.json.decode(text, type=coverage.Ranges)


class _Take:
    """One transaction's work: parts in, rows out."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ids: list[Any] = []
        self._steps: list[Any] = []
        self._times: list[Any] = []
        self._values: list[Any] = []
        self._new_series: list[tuple[int, str, str, int, int, str]] = []
        self._new_origins: list[tuple[str, str, int, int]] = []
        self._new_pushes: list[tuple[str, str, str]] = []
        self._spools: dict[str, tuple[str, str, _Spool]] = {}
        self._changed: set[JobKey] = set()
        self._repeated = 0
        self._refused = 0

    def run(self, parts: Sequence[Part]) -> Committed:
        for part in parts:
            self._part(part)
        self._write_names()
        points = self._write_points()
        self._write_spools()
        spools = tuple(
            (team, job, spool.attempt, name, spool.ended and not coverage.holes(spool.ranges))
            for name, (team, job, spool) in self._spools.items()
        )
        self._store.unseal(self._changed)
        return Committed(points, self._repeated, self._refused, frozenset(self._changed), spools)

    def _part(self, part: Part) -> None:
        book = self._store.book((part.team, part.job))
        if not part.spool:
            if part.push in book.pushes:
                self._repeated += sum(len(column.values) for column in part.columns)
                return
            if part.push and len(book.pushes) < DOOR_IDS_MAX:
                book.pushes.add(part.push)
                self._new_pushes.append((part.team, part.job, part.push))
            for column in part.columns:
                self._column(part, book, column, slice(None))
            return
        spool = book.spools.setdefault(part.spool, _Spool(part.attempt, (), False))
        if part.ended and not spool.ended:
            spool.ended = True
            self._changed.add((part.team, part.job))
        self._spools[part.spool] = (part.team, part.job, spool)
        spool.ranges, fresh = coverage.add(spool.ranges, part.first, part.first + part.records)
        self._repeated += part.records - sum(after - first for first, after in fresh)
        for first, after in fresh:
            for column in part.columns:
                self._column(part, book, column, slice(first - part.first, after - part.first))

    def _column(self, part: Part, book: _Book, column: Column, piece: slice) -> None:
        values = column.values[piece]
        if not len(values):
            return
        attempt = part.attempt or column.attempt
        key = (attempt, column.rank, column.name)
        number = book.series.get(key)
        if number is None:
            if len(book.series) >= SERIES_OF_A_JOB_MAX:
                self._refused += len(values)
                return
            number = book.series[key] = self._store.new_series(1)
            self._new_series.append((number, part.team, part.job, *key))
        steps, times = column.steps[piece], column.times[piece]
        if not times.all():
            times = np.where(times == 0, part.at_ns, times)
        if (steps == NO_STEP).any():
            origin = book.origins.get(attempt)
            if origin is None:
                origin = book.origins[attempt] = int(times.min())
                self._new_origins.append((part.team, part.job, attempt, origin))
            steps = np.where(steps == NO_STEP, (times - origin) // NS, steps)
        steps = np.clip(steps, -STEP_MAX, STEP_MAX)
        self._changed.add((part.team, part.job))
        self._ids.append(np.full(len(values), number, np.int32))
        self._steps.append(steps)
        self._times.append(times)
        self._values.append(values)

    def _write_names(self) -> None:
        self._rows("series", ("id", "team", "job", "attempt", "rank", "name"), self._new_series)
        self._rows("origin", ("team", "job", "attempt", "ns"), self._new_origins)
        self._rows("door", ("team", "job", "push"), self._new_pushes)

    def _rows(
        self, table: str, names: Sequence[str], rows: Sequence[tuple[Any, ...]], *, replace: bool = False
    ) -> None:
        if rows:
            columns = dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True))
            self._store.put(table, columns, replace=replace)

    def _write_spools(self) -> None:
        rows = [
            (name, team, job, spool.attempt, encode_ranges(spool.ranges), spool.ended)
            for name, (team, job, spool) in self._spools.items()
        ]
        self._rows("spool", ("name", "team", "job", "attempt", "ranges", "ended"), rows, replace=True)
        gaps = [
            (name, team, job, spool.attempt, first, after)
            for name, (team, job, spool) in self._spools.items()
            for first, after in coverage.holes(spool.ranges)
        ]
        if self._spools:
            self._store.db.execute("DELETE FROM gaps WHERE spool IN (SELECT unnest(?))", [list(self._spools)])
        self._rows("gaps", ("spool", "team", "job", "attempt", "first", "after"), gaps)

    def _write_points(self) -> int:
        if not self._ids:
            return 0
        batch = {
            "series": np.concatenate(self._ids),
            "step": np.concatenate(self._steps),
            "ns": np.concatenate(self._times),
            "value": np.concatenate(self._values),
        }
        add_points(self._store, batch)
        return len(batch["series"])


def add_points(store: Store, batch: rollups.Batch) -> None:
    """Points, and what follows from them: roll-ups and newest values. Inside a transaction."""
    ordered = rollups.in_order(batch)
    store.put("points", ordered)
    for size in rollups.SIZES:
        store.put_partials(f"open_{size}", f"roll_{size}", rollups.partials(ordered, size))
    store.put_partials("head", "", rollups.heads(ordered))
