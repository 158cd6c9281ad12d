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
from typing import Any, Final

import duckdb
import msgspec
import numpy as np

from controlplane.monitoring import coverage, rollups
from controlplane.monitoring.core import JobKey

BOOKS_MAX: Final = 4_096
"""Jobs whose series and spools are remembered; the others are read again when they speak."""
MEMORY_LIMIT: Final = "512MB"
"""Of DuckDB, which keeps as much of its file in memory as it may."""
_CONFIG: Final = {"memory_limit": MEMORY_LIMIT, "allocator_background_threads": True}
"""Without threads of its own DuckDB's allocator gives freed pages back only while it is asked for others
(https://duckdb.org/docs/stable/core_extensions/jemalloc): what many seals at once had needed stayed."""

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
    "ALTER TABLE spool ADD COLUMN IF NOT EXISTS size BIGINT",  # a store of before has none: NULL
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


class Spool(msgspec.Struct):
    """Which records of a spool are stored, and how many there are in all: −1 until its node has said it."""

    attempt: int
    ranges: coverage.Ranges
    size: int = -1

    @property
    def holes(self) -> coverage.Ranges:
        """What is known to be missing."""
        return coverage.holes(self.ranges, self.size)

    @property
    def is_drained(self) -> bool:
        """Whether all of it is stored."""
        return self.size >= 0 and not self.holes


def spool_size(ranges: coverage.Ranges, *, ended: bool, size: int | None) -> int:
    """Of a spool that was kept; an older release kept only that it had ended, and took what it had for all."""
    if size is not None:
        return size
    return coverage.end(ranges) if ended else -1


class Book:
    """What the writer remembers of a job, so that a batch costs no look-ups."""

    def __init__(self) -> None:
        self.series: dict[tuple[int, int, str], int] = {}
        self.spools: dict[str, Spool] = {}
        self.origins: dict[int, int] = {}
        self.pushes: set[str] = set()
        self.sealed = False


class Store:
    """See the top of this file. One process at a time may open the file: DuckDB refuses a second."""

    def __init__(self, file: Path, *, threads: int = 2) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.db: Any = duckdb.connect(str(file), config={"threads": threads, **_CONFIG})
        for statement in _SCHEMA:
            self.db.execute(statement)
        self._next_series = self._number("SELECT coalesce(max(id), -1) + 1 FROM series")
        self._books: dict[JobKey, Book] = {}

    def close(self) -> None:
        self.db.close()

    # -- writing -------------------------------------------------------------------------------------------------------

    def forget_all(self) -> None:
        """What is remembered may hold what was rolled back: read it again."""
        self._books.clear()
        self._next_series = self._number("SELECT coalesce(max(id), -1) + 1 FROM series")

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

    def cache_mib(self) -> float:
        """What DuckDB holds in memory, its file's pages above all."""
        return self._number("SELECT coalesce(sum(memory_usage_bytes), 0)::BIGINT FROM duckdb_memory()") / 1024**2

    def place(self, stream: str) -> int:
        """How far a stream was read."""
        return self._number("SELECT coalesce(max(sequence), 0) FROM place WHERE stream = ?", [stream])

    def _number(self, query: str, parameters: Sequence[Any] = ()) -> int:
        return int(self.db.execute(query, list(parameters)).fetchall()[0][0])

    def new_series(self, count: int) -> int:
        """Reserve ids; gives the first."""
        first = self._next_series
        self._next_series += count
        return first

    def book(self, key: JobKey) -> Book:
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

    @property
    def remembered(self) -> int:
        """Of how many jobs there is a book."""
        return len(self._books)

    def _read_book(self, key: JobKey) -> Book:
        book, where = Book(), "WHERE team = ? AND job = ?"
        for number, attempt, rank, name in self.db.execute(
            f"SELECT id, attempt, rank, name FROM series {where}", key
        ).fetchall():
            book.series[attempt, rank, name] = number
        for name, attempt, text, ended, size in self.db.execute(
            f"SELECT name, attempt, ranges, ended, size FROM spool {where}", key
        ).fetchall():
            ranges = decode_ranges(text)
            book.spools[name] = Spool(attempt, ranges, spool_size(ranges, ended=ended, size=size))
        book.sealed = any(row[0] for row in self.db.execute(f"SELECT sealed FROM job {where}", key).fetchall())
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
