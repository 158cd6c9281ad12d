"""A list of jobs in parts, the newest submit first, wherever a job is by now: in the ledger or in the archive. Pure.

A job has one place in the list, by its submit and its id, and a cursor is such a place: it says enough by itself, and a
job that is archived between two pages is neither skipped nor shown again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from controlplane.gateway.views import JobRecord


class Cursor(NamedTuple):
    """A place in the list; what is smaller stands behind it."""

    submitted_at: float
    job: str

    def __str__(self) -> str:
        return f"{self.submitted_at!r}~{self.job}"


def cursor(text: str) -> Cursor | None:
    """The cursor that a text spells; None if it spells none."""
    at, _, job = text.partition("~")
    try:
        submitted_at = float(at)
    except ValueError:
        return None
    return Cursor(submitted_at, job) if math.isfinite(submitted_at) and job else None


def place(record: JobRecord) -> Cursor:
    """Where a job stands in the list."""
    return Cursor(record.submitted_at or 0.0, record.job)


class Part(NamedTuple):
    """Jobs of one origin. `end`: how far was looked, that place included; None: to the end of the list."""

    jobs: list[JobRecord]
    end: Cursor | None = None


def merged(near: Part, far: Part, limit: int) -> Part:
    """One page of both. Of a job in both, which is just being archived, the one in `near` counts."""
    ends = [part.end for part in (near, far) if part.end is not None]
    end = max(ends, default=None)
    jobs = _in_order(record for record in (*far.jobs, *near.jobs) if end is None or place(record) >= end)
    if len(jobs) > limit:
        return Part(jobs[:limit], place(jobs[limit - 1]))
    return Part(jobs, end)


def _in_order(records: Iterable[JobRecord]) -> list[JobRecord]:
    """Each job once, the last of equal ones."""
    return sorted({record.job: record for record in records}.values(), key=place, reverse=True)
