"""Where each archived job is: two tables beside the metrics, made again from the parts themselves if they are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from controlplane.monitoring.core import JobKey
from controlplane.monitoring.store import Store
from events import messages as m

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS part(number INTEGER, name VARCHAR, digest VARCHAR)",
    'CREATE TABLE IF NOT EXISTS archived(team VARCHAR, job VARCHAR, name VARCHAR, "user" VARCHAR, state VARCHAR,'
    " submitted_at DOUBLE, attempt INTEGER, part INTEGER)",
)
PREFIX_CHARACTERS_MIN: Final = 4
"""Of the beginning of an id: `j-` and two more."""
SOME: Final = 20
"""Ids that an ambiguous beginning is answered with."""


class Place(NamedTuple):
    """A job, and the part that it is in: its blob, and what that must have for a digest."""

    key: JobKey
    name: str
    digest: str
    submitted_at: float


class Found(NamedTuple):
    places: list[Place]
    more: bool = False
    ambiguous: tuple[str, ...] = ()


def set_up(store: Store) -> None:
    for statement in _SCHEMA:
        store.db.execute(statement)


def parts(store: Store) -> set[str]:
    """Names of the parts that are in the index."""
    return {row[0] for row in store.db.execute("SELECT name FROM part").fetchall()}


def add(store: Store, written: m.ArchiveWritten, path: Path) -> None:
    """Take in a part, whole or not at all."""
    with store.transaction():
        number = store.db.execute("SELECT coalesce(max(number), 0) + 1 FROM part").fetchall()[0][0]
        store.db.execute("INSERT INTO part VALUES (?, ?, ?)", [number, written.name, written.digest])
        store.db.execute(
            'INSERT INTO archived SELECT team, job, name, "user", state, submitted_at, attempt, ?::INTEGER'
            " FROM read_parquet(?)",
            [number, str(path)],
        )


def count(store: Store) -> int:
    return int(store.db.execute("SELECT count(*) FROM archived").fetchall()[0][0])


def attempts(store: Store, key: JobKey) -> int | None:
    """How many attempts an archived job had; None if it is not in the archive."""
    found = store.db.execute("SELECT attempt FROM archived WHERE team = ? AND job = ? LIMIT 1", list(key)).fetchall()
    return int(found[0][0]) if found else None


_PLACES: Final = (
    "SELECT a.team, a.job, p.name, p.digest, coalesce(a.submitted_at, 0.0)"
    " FROM archived a JOIN part p ON p.number = a.part WHERE a.team = ?"
)
_NEWEST: Final = " ORDER BY a.submitted_at DESC NULLS LAST, a.job DESC"


def find(store: Store, team: str, text: str) -> Found:
    """The job that a text means: an id, a name (its newest job), the beginning of an id."""
    for which in ("a.job = ?", "a.name = ?"):
        rows = store.db.execute(f"{_PLACES} AND {which}{_NEWEST} LIMIT 1", [team, text]).fetchall()
        if rows:
            return Found(_places(rows))
    if len(text) < PREFIX_CHARACTERS_MIN or not text.startswith("j-"):
        return Found([])
    rows = store.db.execute(f"{_PLACES} AND starts_with(a.job, ?) LIMIT {SOME}", [team, text]).fetchall()
    if len(rows) > 1:
        return Found([], ambiguous=tuple(row[1] for row in rows))
    return Found(_places(rows))


def page(store: Store, ask: m.AskArchived, limit: int) -> Found:
    """Jobs of a team, the newest submit first; without the tasks of arrays."""
    query, parameters = f"{_PLACES} AND a.submitted_at IS NOT NULL", [ask.team]
    for condition, value in (
        ("a.state IN (SELECT unnest(?))", list(ask.states)),
        ('a."user" = ?', ask.user),
        ("a.submitted_at >= ?", ask.since_at),
    ):
        if value:
            query += f" AND {condition}"
            parameters.append(value)  # type: ignore[arg-type]
    if ask.after_at:
        query += " AND (a.submitted_at, a.job) < (?, ?)"
        parameters += [ask.after_at, ask.after]  # type: ignore[list-item]
    elif ask.after:
        behind = "SELECT submitted_at, job FROM archived WHERE team = ? AND job = ? LIMIT 1"
        for row in store.db.execute(behind, [ask.team, ask.after]).fetchall():
            query += " AND (a.submitted_at, a.job) < (?, ?)"
            parameters += row
    rows = store.db.execute(f"{query}{_NEWEST} LIMIT {limit + 1}", parameters).fetchall()
    return Found(_places(rows[:limit]), more=len(rows) > limit)


def _places(rows: list[Any]) -> list[Place]:
    return [Place((team, job), name, digest, at) for team, job, name, digest, at in rows]
