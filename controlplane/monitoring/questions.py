"""Answers from the metrics store: curves of bounded length, and newest values.

A curve is cut into buckets at multiples of their width. Whole buckets come from the roll-ups; the two edges of a range
that roll-ups do not fit are read from the points. So the answer is what the points themselves would give, only sooner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from controlplane.monitoring import rollups
from controlplane.monitoring.batch import STEP_MAX
from controlplane.monitoring.core import JobKey
from controlplane.monitoring.store import Store
from events import messages as m

BUCKETS_MAX: Final = 4_000
"""Of one curve: more than any screen is wide."""
ENTRIES_MAX: Final = 7_000
"""Buckets in one answer, over all series: about 100 bytes each, and a message may have a megabyte."""
BUCKETS_MIN: Final = 20
"""What each series gets at least; of more series than fit so, the first by name are answered."""
NAMES_MAX: Final = 1_000
JOBS_MAX: Final = 1_000
LATEST_MAX: Final = 5_000


class Bad(Exception):
    """The question cannot be answered as it was asked; the message says which field, and what is possible."""


def knows(store: Store, key: JobKey) -> bool:
    """Whether anything of a job is stored."""
    return bool(store.db.execute("SELECT 1 FROM series WHERE team = ? AND job = ? LIMIT 1", key).fetchall())


def series(store: Store, ask: m.AskSeries) -> m.SeriesAnswer:
    """The curves of a job. `complete` is for the caller to fill in. Raises Bad."""
    if not ask.buckets >= 1:
        raise Bad(f"buckets: {ask.buckets}; from 1 to {BUCKETS_MAX} are possible")
    if len(ask.names) > NAMES_MAX:
        raise Bad(f"names: {len(ask.names)}; at most {NAMES_MAX} are possible")
    low = max(-STEP_MAX, ask.step_from if ask.step_from is not None else -STEP_MAX)
    high = min(STEP_MAX, ask.step_to if ask.step_to is not None else STEP_MAX)
    if low > high:
        raise Bad(f"step_from: {low} lies behind step_to: {high}")
    named = "AND name IN (SELECT unnest(?))" if ask.names else ""
    found = store.db.execute(
        f"SELECT id, name, rank, attempt FROM series WHERE team = ? AND job = ? {named} ORDER BY name, attempt, rank",
        [ask.team, ask.job, *([list(ask.names)] if ask.names else [])],
    ).fetchall()
    chosen = found[: ENTRIES_MAX // BUCKETS_MIN]
    buckets = min(ask.buckets, BUCKETS_MAX, ENTRIES_MAX // max(1, len(chosen)))
    rows = _curves(store, [row[0] for row in chosen], low, high, buckets)
    curves = [_series(name, rank, attempt, rows.get(number, [])) for number, name, rank, attempt in chosen]
    return m.SeriesAnswer(series=tuple(curve for curve in curves if curve.count), matched=len(found))


_Row = tuple[int, int, float | None, float | None, int, int, float]
"""Series, points, low, high, step, ns, value."""
# `//` and `%` of DuckDB round towards zero, those of Python and numpy down: buckets are computed here, or with care.
_EXTENT: Final = """
SELECT series, min(bucket) * {size}, (max(bucket) + 1) * {size} - 1, sum(points)
FROM (SELECT series, bucket, points FROM roll_{size} WHERE series IN (SELECT unnest($ids))
      UNION ALL SELECT series, bucket, points FROM open_{size} WHERE series IN (SELECT unnest($ids)))
WHERE bucket BETWEEN $low AND $high GROUP BY series"""
_ROLLED: Final = """
SELECT series, bucket * {size} AS first, points, low, high, step, ns, value FROM roll_{size}
WHERE series IN (SELECT unnest($ids)) AND bucket BETWEEN $inner AND $outer
UNION ALL
SELECT series, bucket * {size}, points, low, high, step, ns, value FROM open_{size}
WHERE series IN (SELECT unnest($ids)) AND bucket BETWEEN $inner AND $outer
UNION ALL"""
_POINTS: Final = """
SELECT series, step AS first, 1 AS points, if(isfinite(value), value, NULL) AS low,
       if(isfinite(value), value, NULL) AS high, step, ns, value
FROM points WHERE series IN (SELECT unnest($ids)) AND step BETWEEN $low AND $high {outside}"""
_BUCKETS: Final = """
SELECT series, points, low, high, last.step, last.ns, last.value FROM (
    SELECT series, first - (((first - $origin) % $width) + $width) % $width AS bucket, sum(points)::BIGINT AS points,
           min(low) AS low, max(high) AS high,
           max(struct_pack(step := step, ns := ns, value := value)) AS last
    FROM ({rows}) GROUP BY series, bucket
) ORDER BY series, last.step"""


def _curves(store: Store, ids: Sequence[int], low: int, high: int, buckets: int) -> dict[int, list[_Row]]:
    if not ids:
        return {}
    size = rollups.SIZES[-1]
    extents = store.db.execute(
        _EXTENT.format(size=size), {"ids": list(ids), "low": low // size, "high": high // size}
    ).fetchall()
    plain = [number for number, _, _, points in extents if points <= buckets]
    rows: list[_Row] = []
    if plain:
        query = f"SELECT series, points, low, high, step, ns, value FROM ({_POINTS.format(outside='')})"
        rows += store.db.execute(
            query + " ORDER BY series, step, ns, value", {"ids": plain, "low": low, "high": high}
        ).fetchall()
    widths: dict[int, list[int]] = {}
    for number, first, last, points in extents:
        if points > buckets:
            widths.setdefault(rollups.width(max(low, first), min(high, last), buckets), []).append(number)
    for width, numbers in widths.items():
        rows += _bucketed(store, numbers, low, high, width)
    curves: dict[int, list[_Row]] = {}
    for row in rows:
        curves.setdefault(row[0], []).append(row)
    return curves


def _bucketed(store: Store, ids: Sequence[int], low: int, high: int, width: int) -> list[_Row]:
    size = rollups.source(width)
    origin = -rollups.ALL // 2 if width == rollups.ALL else 0
    parameters: dict[str, Any] = {"ids": list(ids), "low": low, "high": high, "width": width, "origin": origin}
    inner, outer = -(-low // size) * size, (high + 1) // size * size
    if size == 1 or inner >= outer:
        rows = _POINTS.format(outside="")
    else:
        parameters |= {"inner": inner // size, "outer": outer // size - 1}
        rows = _ROLLED.format(size=size)
        edges = [f"step < {inner}"] * (low < inner) + [f"step >= {outer}"] * (outer <= high)
        rows += _POINTS.format(outside=f"AND ({' OR '.join(edges) or 'false'})")
    found: list[_Row] = store.db.execute(_BUCKETS.format(rows=rows), parameters).fetchall()
    return found


def _series(name: str, rank: int, attempt: int, rows: Sequence[_Row]) -> m.Series:
    return m.Series(
        name=name,
        rank=rank,
        attempt=attempt,
        count=sum(row[1] for row in rows),
        low=tuple(row[2] for row in rows),
        high=tuple(row[3] for row in rows),
        steps=tuple(row[4] for row in rows),
        at=tuple(round(row[5] / 1e9, 3) for row in rows),
        values=tuple(_finite(row[6]) for row in rows),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def latest(store: Store, ask: m.AskLatest) -> m.LatestAnswer:
    """The newest value of every series of some jobs; of one name, that of rank 0 in the newest attempt comes last."""
    if len(ask.jobs) > JOBS_MAX:
        raise Bad(f"jobs: {len(ask.jobs)}; at most {JOBS_MAX} are possible")
    rows = store.db.execute(
        "SELECT s.job, s.name, s.attempt, s.rank, h.step, h.ns, h.value, h.points FROM series s"
        " JOIN head h ON h.series = s.id WHERE s.team = ? AND s.job IN (SELECT unnest(?))"
        f" ORDER BY s.job, s.name, s.attempt, s.rank DESC LIMIT {LATEST_MAX + 1}",
        [ask.team, list(ask.jobs)],
    ).fetchall()
    if len(rows) > LATEST_MAX:
        raise Bad(f"jobs: these have more than {LATEST_MAX} series; ask for fewer jobs at once")
    return m.LatestAnswer(
        latest=tuple(
            m.Latest(
                job=job,
                name=name,
                attempt=attempt,
                rank=rank,
                step=step,
                value=_finite(value),
                at=round(ns / 1e9, 3),
                count=points,
            )
            for job, name, attempt, rank, step, ns, value, points in rows
        )
    )


def totals(store: Store) -> tuple[int, dict[str, int]]:
    """How many points are stored, and what is missing."""
    return int(store.db.execute("SELECT count(*) FROM points").fetchall()[0][0]), gaps(store)


def gaps(store: Store) -> dict[str, int]:
    """How many records are known to be missing, of how many spools and jobs."""
    [row] = store.db.execute(
        "SELECT coalesce(sum(after - first), 0)::BIGINT, count(DISTINCT spool), count(DISTINCT (team, job)) FROM gaps"
    ).fetchall()
    return {"records": row[0], "spools": row[1], "jobs": row[2]}
