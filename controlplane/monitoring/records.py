"""The core's records in the store: what the ledger said about jobs, and what of them is sealed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from controlplane.monitoring.core import Attempt, JobKey, Record
from controlplane.monitoring.logs import Output
from controlplane.monitoring.store import Spool, Store, decode_ranges, spool_size

_DECODER: Final = msgspec.json.Decoder(Record)


def save(store: Store, records: Mapping[JobKey, Record], *, ledger: int | None = None) -> None:
    """Keep records, and that LEDGER was read up to `ledger`, in one transaction."""
    with store.transaction():
        write(store, records)
        if ledger is not None:
            store.put("place", {"stream": ["LEDGER"], "sequence": [ledger]}, replace=True)


def write(store: Store, records: Mapping[JobKey, Record]) -> None:
    """Keep records, inside a transaction."""
    if not records:
        return
    sealed = [record.sealed_at is not None and not record.late for record in records.values()]
    store.put(
        "job",
        {
            "team": [team for team, _ in records],
            "job": [job for _, job in records],
            "record": [encode(record).decode() for record in records.values()],
            "sealed": sealed,
        },
        replace=True,
    )
    for key, is_sealed in zip(records, sealed, strict=True):
        store.book(key).sealed = is_sealed


def encode(record: Record) -> bytes:
    """A record without what the tables of spools and outputs hold."""
    attempts = {
        number: msgspec.structs.replace(attempt, spools={}, outputs={}) for number, attempt in record.attempts.items()
    }
    return msgspec.json.encode(msgspec.structs.replace(record, attempts=attempts))


def load_open(store: Store) -> dict[JobKey, Record]:
    """The records of all jobs that are not sealed."""
    return _load(store, "NOT sealed", [])


def load(store: Store, key: JobKey) -> Record | None:
    """The record of one job, if there is one."""
    return _load(store, "team = ? AND job = ?", list(key)).get(key)


def _load(store: Store, which: str, parameters: list[Any]) -> dict[JobKey, Record]:
    found: dict[JobKey, Record] = {}
    for team, job, text, sealed in store.db.execute(
        f"SELECT team, job, record, sealed FROM job WHERE {which}", parameters
    ).fetchall():
        record = found[team, job] = _DECODER.decode(text)
        record.late = record.sealed_at is not None and not sealed
    chosen = f"(team, job) IN (SELECT (team, job) FROM job WHERE {which})"
    for team, job, attempt, name, text, ended, size in store.db.execute(
        f"SELECT team, job, attempt, name, ranges, ended, size FROM spool WHERE {chosen}", parameters
    ).fetchall():
        ranges = decode_ranges(text)
        spool = Spool(attempt, ranges, spool_size(ranges, ended=ended, size=size))
        found[team, job].attempts.setdefault(attempt, Attempt()).spools[name] = spool.is_drained
    for team, job, attempt, stream, ranges, size in store.db.execute(
        f"SELECT team, job, attempt, stream, ranges, size FROM output WHERE {chosen}", parameters
    ).fetchall():
        whole = Output(decode_ranges(ranges), size).complete
        found[team, job].attempts.setdefault(attempt, Attempt()).outputs[stream] = whole
    return found
