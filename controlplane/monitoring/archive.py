"""Sealing: all that is stored of a finished job, as files in the blob store, and back again.

    sealed/<team>/<job>/<digest>.parquet        its points: attempt, rank, name, step, ns, value; sorted by these
    sealed/<team>/<job>/<attempt>.<stream>      its output
    sealed/<team>/<job>/manifest.json           what there is, what is missing, and all that the store needs to go on

The manifest is written last: a seal without one does not exist. Sealed files are the truth about a finished job; the
store can be made from them, and from what the streams still hold (`controlplane.monitoring.rebuild`).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from controlplane.monitoring import coverage, records
from controlplane.monitoring.batch import add_points
from controlplane.monitoring.core import JobKey, Record
from controlplane.monitoring.logs import Logs, OutputKey
from controlplane.monitoring.owner import Owner
from controlplane.monitoring.store import Store, encode_ranges, spool_size
from events.blobs import BlobDamaged, Blobs
from events.subjects import encode
from events.wire import UNREADABLE

FOLDER: Final = "sealed"
MANIFEST: Final = "manifest.json"
ROWS_AT_ONCE: Final = 500_000
"""While a store is made again: bounds the memory."""


class SealedSeries(msgspec.Struct, frozen=True):
    attempt: int
    rank: int
    name: str
    points: int


class SealedSpool(msgspec.Struct, frozen=True):
    """`gaps` are records that a node counted and that never came."""

    name: str
    attempt: int
    ranges: coverage.Ranges
    ended: bool
    gaps: coverage.Ranges
    size: int | None = None
    """How many records it had in all; −1: never said. None: sealed by an older release."""


class SealedOutput(msgspec.Struct, frozen=True):
    """`gaps` are bytes that never came: zeros in the file. `size` is -1 if its end never came."""

    file: str
    attempt: int
    stream: str
    ranges: coverage.Ranges
    size: int
    gaps: coverage.Ranges


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a seal holds."""

    version: int = 1
    team: str
    job: str
    points: int
    file: str = ""
    """Of the points; empty: there are none."""
    digest: str = ""
    series: tuple[SealedSeries, ...] = ()
    spools: tuple[SealedSpool, ...] = ()
    outputs: tuple[SealedOutput, ...] = ()
    origins: dict[int, int] = {}
    """First time of each attempt, in ns: where its points without a step count from."""
    pushes: tuple[str, ...] = ()
    record: Record = msgspec.field(default_factory=Record)


class Sealed(NamedTuple):
    """A seal on local disk, not yet in the blob store."""

    manifest: Manifest
    points: Path


def folder_of(key: JobKey) -> str:
    """Where a job's seal is in the blob store."""
    return f"{FOLDER}/{encode(key[0])}/{encode(key[1])}"


async def seal(owner: Owner, store: Store, logs: Logs, blobs: Blobs, key: JobKey, record: Record) -> Manifest:
    """Write a job's seal. Raises BlobError, OSError; then the seal of before stands."""
    target = folder_of(key)
    with tempfile.TemporaryDirectory(prefix="headrace-seal-") as scratch:
        sealed = await owner.run(_take, store, logs, key, record, Path(scratch))
        manifest = sealed.manifest
        for output in manifest.outputs:
            source = logs.path((*key, output.attempt, output.stream))
            await blobs.write(f"{target}/{output.file}", source if output.ranges else b"")
        if manifest.file:
            await blobs.write(f"{target}/{manifest.file}", sealed.points)
    await blobs.write(f"{target}/{MANIFEST}", msgspec.json.encode(manifest))
    for name in await blobs.names(target):
        if name.endswith(".parquet") and not name.endswith(f"/{manifest.file}"):
            await blobs.delete(name)
    return manifest


def _take(store: Store, logs: Logs, key: JobKey, record: Record, scratch: Path) -> Sealed:
    where = "WHERE team = ? AND job = ?"
    series = store.db.execute(
        f"SELECT s.attempt, s.rank, s.name, h.points FROM series s JOIN head h ON h.series = s.id {where} ORDER BY ALL",
        key,
    ).fetchall()
    path = scratch / "points.parquet"
    if series:
        store.db.execute(
            "COPY (SELECT s.attempt, s.rank, s.name, p.step, p.ns, p.value FROM points p"
            " JOIN (SELECT * FROM series WHERE team = $team AND job = $job) s ON s.id = p.series"
            f" ORDER BY ALL) TO '{path}' (FORMAT parquet, COMPRESSION zstd)",
            {"team": key[0], "job": key[1]},
        )
    digest = _digest(path) if series else ""
    book = store.book(key)
    manifest = Manifest(
        team=key[0],
        job=key[1],
        points=sum(row[3] for row in series),
        file=f"{digest[7:39]}.parquet" if series else "",
        digest=digest,
        series=tuple(SealedSeries(*row) for row in series),
        spools=tuple(
            SealedSpool(name, spool.attempt, spool.ranges, spool.size >= 0, spool.holes, spool.size)
            for name, spool in sorted(book.spools.items())
        ),
        outputs=tuple(_output(logs, output) for output in logs.outputs(*key)),
        origins=dict(sorted(book.origins.items())),
        pushes=tuple(sorted(book.pushes)),
        record=msgspec.json.decode(records.encode(record), type=Record),
    )
    return Sealed(manifest, path)


def _output(logs: Logs, key: OutputKey) -> SealedOutput:
    _, _, attempt, stream = key
    output = logs.output(key)
    gaps = coverage.holes(output.ranges, output.size)
    return SealedOutput(f"{attempt}.{encode(stream)}", attempt, stream, output.ranges, output.size, gaps)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


# -- and back ----------------------------------------------------------------------------------------------------------


async def manifests(blobs: Blobs) -> list[Manifest]:
    """Every seal in the blob store. Raises BlobError, BlobDamaged."""
    found = []
    for name in await blobs.names(FOLDER):
        if name.endswith("/" + MANIFEST):
            try:
                found.append(msgspec.json.decode(await blobs.read(name), type=Manifest))
            except UNREADABLE as error:
                raise BlobDamaged(f"{name}: {error}") from error
    return found


async def restore(owner: Owner, store: Store, logs: Logs, blobs: Blobs, manifest: Manifest) -> None:
    """Take a sealed job into a store that does not know it. Raises BlobError, BlobDamaged."""
    key = (manifest.team, manifest.job)
    for output in manifest.outputs:
        if output.ranges:
            content = await blobs.read(f"{folder_of(key)}/{output.file}")
            await owner.run(_write_output, logs.path((*key, output.attempt, output.stream)), content)
    with tempfile.TemporaryDirectory(prefix="headrace-restore-") as scratch:
        path = Path(scratch) / "points.parquet"
        if manifest.file:
            path.write_bytes(await blobs.read(f"{folder_of(key)}/{manifest.file}"))
            if _digest(path) != manifest.digest:
                raise BlobDamaged(f"{folder_of(key)}/{manifest.file} does not have the digest in its manifest")
        await owner.run(_put_back, store, manifest, path)


def _write_output(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)


def _put_back(store: Store, manifest: Manifest, path: Path) -> None:
    team, job = manifest.team, manifest.job
    first = store.new_series(len(manifest.series))
    with store.transaction():
        _rows(
            store,
            "series",
            [
                {"id": first + index, "team": team, "job": job, "attempt": s.attempt, "rank": s.rank, "name": s.name}
                for index, s in enumerate(manifest.series)
            ],
        )
        for batch in _batches(store, manifest, first, path):
            add_points(store, batch)
        _rows(
            store,
            "spool",
            [
                {
                    "name": s.name,
                    "team": team,
                    "job": job,
                    "attempt": s.attempt,
                    "ranges": encode_ranges(s.ranges),
                    "ended": s.ended,
                    "size": spool_size(s.ranges, ended=s.ended, size=s.size),
                }
                for s in manifest.spools
            ],
        )
        _rows(
            store,
            "gaps",
            [
                {"spool": s.name, "team": team, "job": job, "attempt": s.attempt, "first": low, "after": high}
                for s in manifest.spools
                for low, high in s.gaps
            ],
        )
        _rows(
            store,
            "output",
            [
                {
                    "team": team,
                    "job": job,
                    "attempt": o.attempt,
                    "stream": o.stream,
                    "ranges": encode_ranges(o.ranges),
                    "size": o.size,
                }
                for o in manifest.outputs
            ],
        )
        _rows(store, "door", [{"team": team, "job": job, "push": push} for push in manifest.pushes])
        _rows(
            store,
            "origin",
            [{"team": team, "job": job, "attempt": attempt, "ns": ns} for attempt, ns in manifest.origins.items()],
        )
        record = msgspec.structs.replace(manifest.record, sealed_at=manifest.record.over_at or 0.0, late=False)
        records.write(store, {(team, job): record})
    store.forget((team, job))


def _batches(store: Store, manifest: Manifest, first: int, path: Path) -> Iterator[dict[str, np.ndarray]]:
    """The points of a seal as batches of the store, in order."""
    for start in range(0, manifest.points, ROWS_AT_ONCE):
        yield store.db.execute(
            "SELECT s.id AS series, p.step, p.ns, p.value FROM read_parquet($path, file_row_number = true) p"
            " JOIN (SELECT * FROM series WHERE id >= $first) s USING (attempt, rank, name)"
            " WHERE file_row_number >= $start AND file_row_number < $start + $rows",
            {"path": str(path), "first": first, "start": start, "rows": ROWS_AT_ONCE},
        ).fetchnumpy()


def _rows(store: Store, table: str, rows: list[dict[str, object]]) -> None:
    if rows:
        store.put(table, {name: [row[name] for row in rows] for name in rows[0]})
