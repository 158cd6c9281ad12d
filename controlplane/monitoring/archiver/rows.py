"""A job of the archive as a row of Parquet, and back: the facts as they stood in the ledger, and columns to search by.

`facts` holds everything; the other columns say the same in the way that an engine likes, so that DuckDB, Spark or a
notebook can read the archive without any of our code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec
import numpy as np

from controlplane.monitoring.core import JobKey
from controlplane.monitoring.store import Store
from events import lifecycle
from events import messages as m
from events.bus import Delivery
from events.ledger import entry
from events.lifecycle import Life

LATEST_MAX: Final = 50
"""Series of a job whose newest value goes along."""
_TEXTS: Final = ("team", "job", "name", "user", "queue", "tier", "state", "reason", "node", "environment", "source")
_TIMES: Final = ("submitted_at", "placed_at", "started_at", "finished_at", "cpu_s")
_NUMBERS: Final = ("attempt", "exit_code", "signal", "gpus", "memory_bytes_max")
_LONG: Final = ("latest", "facts")
FACTS: Final = msgspec.json.Decoder(tuple[m.ArchivedFact, ...])
LATEST: Final = msgspec.json.Decoder(tuple[m.Latest, ...])


class Row(NamedTuple):
    """A job that is over, with all that its subject held. `sequence`: of the newest fact."""

    key: JobKey
    life: Life
    sequence: int
    ended_at: float
    traceparent: str
    columns: dict[str, Any]

    @property
    def size(self) -> int:
        return len(self.columns["facts"])


def row(key: JobKey, history: Sequence[Delivery], of: m.Specification | None = None) -> Row | None:
    """What is archived of a job by all that stands on its subject; None if it is not over, or archived already.

    `of`: of a task, the specification of its array; a task has no `submitted_at`, and lists leave it out.
    Raises UnknownFact.
    """
    life: Life | None = None
    facts: list[m.JobFact] = []
    told: list[m.ArchivedFact] = []
    ended_at, said = 0.0, ""
    for delivery in history:
        read = entry(delivery)
        if isinstance(read.fact, m.Archived):
            return None
        fact = cast(m.JobFact, read.fact)
        was = life
        _, life = lifecycle.advance(life, fact)
        if life is not was and life is not None and life.state in lifecycle.ENDS:
            ended_at = delivery.at
        facts.append(fact)
        told.append(m.ArchivedFact(sequence=delivery.sequence, at=delivery.at, fact=msgspec.Raw(delivery.body)))
        said = said or read.traceparent
    if life is None or life.state not in lifecycle.ENDS:
        return None
    columns = _columns(key, life, facts, told, of) | {"facts": msgspec.json.encode(told).decode()}
    return Row(key, life, history[-1].sequence, ended_at, said, columns)


def _columns(
    key: JobKey,
    life: Life,
    facts: Sequence[m.JobFact],
    told: Sequence[m.ArchivedFact],
    of: m.Specification | None,
) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys((*_TIMES, *_NUMBERS)) | dict.fromkeys(_TEXTS, "")
    found |= {"team": key[0], "job": key[1], "state": life.state.value, "attempt": life.attempt}
    found |= {"submitted_at": told[0].at, "finished_at": told[-1].at, "latest": "[]"}
    if of is not None:
        found |= _said(of) | {"submitted_at": None}
    for fact, at in zip(facts, (each.at for each in told), strict=True):
        match fact:
            case m.Accepted(specification=said):
                found |= _said(said)
                found["submitted_at"] = said.submitted_at or at
            case m.Rejected(user=user, name=name, problems=problems):
                found |= {"name": name, "user": user, "reason": problems[0].message if problems else ""}
            case m.CancelRequested(by=by, why=why):
                found["reason"] = f"cancelled by {by}" + (f": {why}" if why else "")
            case m.Placed(allocations=allocations):
                found |= {"placed_at": at, "node": ",".join(each.node for each in allocations)}
            case m.Started(started_at=started_at):
                found["started_at"] = started_at
            case m.Finished(reason=reason, end=end):
                found["reason"] = reason
                if end is not None:
                    found |= {"exit_code": end.exit_code, "signal": end.signal, "finished_at": end.ended_at}
                    found |= {"cpu_s": end.usage.cpu_s, "memory_bytes_max": end.usage.memory_bytes_max}
    return found


def _said(of: m.Specification) -> dict[str, Any]:
    found: dict[str, Any] = {"name": of.name, "user": of.user, "queue": of.queue, "tier": of.tier}
    return found | {"environment": of.environment, "source": of.source, "gpus": of.resources.gpus}


def add_latest(store: Store, rows: Sequence[Row]) -> None:
    """Give the rows the newest values of their series."""
    store.db.register("wanted", {"team": _text([r.key[0] for r in rows]), "job": _text([r.key[1] for r in rows])})
    try:
        found = store.db.execute(
            "SELECT s.team, s.job, s.name, s.attempt, s.rank, h.step, h.ns, h.value, h.points FROM series s"
            " JOIN wanted w ON s.team = w.team AND s.job = w.job JOIN head h ON h.series = s.id"
            " ORDER BY s.team, s.job, s.name, s.attempt, s.rank DESC"
        ).fetchall()
    finally:
        store.db.unregister("wanted")
    latest: dict[JobKey, list[m.Latest]] = {}
    for team, job, name, attempt, rank, step, ns, value, points in found:
        some = latest.setdefault((team, job), [])
        if len(some) < LATEST_MAX:
            number = value if np.isfinite(value) else None
            at = round(ns / 1e9, 3)
            some.append(
                m.Latest(job=job, name=name, attempt=attempt, rank=rank, step=step, value=number, at=at, count=points)
            )
    for each in rows:
        if each.key in latest:
            each.columns["latest"] = msgspec.json.encode(latest[each.key]).decode()


def write(store: Store, rows: Sequence[Row], path: Path) -> None:
    """One Parquet file of these rows."""
    table = {name: _text([each.columns[name] for each in rows]) for name in (*_TEXTS, *_LONG)}
    table |= {name: _number([each.columns[name] for each in rows]) for name in (*_TIMES, *_NUMBERS)}
    texts = ", ".join(f'"{name}"' for name in _TEXTS)
    numbers = ", ".join(f"{name}::BIGINT AS {name}" for name in _NUMBERS)
    store.db.register("incoming", table)
    try:
        store.db.execute(
            f"COPY (SELECT {texts}, {', '.join(_TIMES)}, {numbers}, {', '.join(_LONG)} FROM incoming)"
            f" TO '{path}' (FORMAT parquet, COMPRESSION zstd)"
        )
    finally:
        store.db.unregister("incoming")


def read(store: Store, path: Path, keys: Sequence[JobKey]) -> list[m.ArchivedJob]:
    """Some jobs of a file, in the order of `keys`; those that are not in it are left out."""
    found = store.db.execute(
        "SELECT team, job, facts, latest FROM read_parquet($path) WHERE job IN (SELECT unnest($jobs))",
        {"path": str(path), "jobs": [job for _, job in keys]},
    ).fetchall()
    jobs = {
        (team, job): m.ArchivedJob(team=team, job=job, facts=FACTS.decode(facts), latest=LATEST.decode(latest))
        for team, job, facts, latest in found
    }
    return [jobs[key] for key in keys if key in jobs]


def _text(values: Sequence[str]) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _number(values: Sequence[float | int | None]) -> Any:
    """DuckDB takes NaN in an array of numpy for NULL. Up to 2^53 a double holds every integer."""
    return np.array([np.nan if value is None else value for value in values], np.float64)
