"""One batch of METRICS, as one transaction: which of its records are new, and the rows that they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from controlplane.monitoring import coverage, rollups
from controlplane.monitoring.core import JobKey
from controlplane.monitoring.otlp import NO_STEP, Column
from controlplane.monitoring.store import Book, Spool, Store, encode_ranges

SERIES_OF_A_JOB_MAX: Final = 20_000
"""A job that makes more (a loop over names) loses the rest, and is told so by `refused` in the status."""
NS: Final = 1_000_000_000
STEP_MAX: Final = 2**53
"""Of either sign: what JSON can say exactly. A step beyond it is taken for this one."""
DOOR_IDS_MAX: Final = 100_000
"""Pushes of one job whose resend would be noticed."""


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


def commit(store: Store, parts: Sequence[Part], *, sequence: int) -> Committed:
    """Take in a batch, and with it that METRICS was read up to `sequence`."""
    try:
        with store.transaction():
            done = _Take(store).run(parts)
            store.put("place", {"stream": ["METRICS"], "sequence": [sequence]}, replace=True)
    except BaseException:
        store.forget_all()
        raise
    return done


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
        self._spools: dict[str, tuple[str, str, Spool]] = {}
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
            (team, job, spool.attempt, name, spool.is_drained) for name, (team, job, spool) in self._spools.items()
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
        spool = book.spools.setdefault(part.spool, Spool(part.attempt, ()))
        if part.ended and spool.size < part.first + part.records:
            spool.size = part.first + part.records
            self._changed.add((part.team, part.job))
        self._spools[part.spool] = (part.team, part.job, spool)
        spool.ranges, fresh = coverage.add(spool.ranges, part.first, part.first + part.records)
        self._repeated += part.records - sum(after - first for first, after in fresh)
        for first, after in fresh:
            for column in part.columns:
                self._column(part, book, column, slice(first - part.first, after - part.first))

    def _column(self, part: Part, book: Book, column: Column, piece: slice) -> None:
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
            (name, team, job, spool.attempt, encode_ranges(spool.ranges), spool.size >= 0, spool.size)
            for name, (team, job, spool) in self._spools.items()
        ]
        self._rows("spool", ("name", "team", "job", "attempt", "ranges", "ended", "size"), rows, replace=True)
        gaps = [
            (name, team, job, spool.attempt, first, after)
            for name, (team, job, spool) in self._spools.items()
            for first, after in spool.holes
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
