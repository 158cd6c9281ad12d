"""What is kept beside the ledger for Ray's API: what of a request is given back, and which ended jobs are not shown.

Neither is a fact: no decision depends on it, and a job is the same job without it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

import msgspec

from controlplane.gateway.ray_jobs.states import REQUEST_LABEL, Kept
from controlplane.gateway.views import JobRecord
from events.blobs import BlobMissing, Blobs
from events.wire import UNREADABLE

_KEY: Final = re.compile(r"[0-9a-f]{32}")
KEPT_BYTES_MAX: Final = 64 * 1024
"""Of one request: a list has hundreds of them."""
_REQUESTS: Final = "ray_jobs/requests/"
_DELETED: Final = "ray_jobs/deleted/"


class TooMuch(Exception):
    """More than is kept of a request."""


async def keep(blobs: Blobs, kept: Kept) -> str:
    """Gives the key under which it is kept, which nobody can guess. Raises TooMuch."""
    content = msgspec.json.encode(kept)
    if len(content) > KEPT_BYTES_MAX:
        raise TooMuch(
            f"{len(content)} bytes of metadata, entrypoint and runtime environment; {KEPT_BYTES_MAX} are kept"
        )
    key = secrets.token_hex(16)
    await blobs.write(_REQUESTS + key, content)
    return key


async def kept(blobs: Blobs, record: JobRecord) -> Kept | None:
    """What was kept of a job's request; None of one that did not come by way of Ray's API."""
    key = key_of(record)
    if not _KEY.fullmatch(key):
        return None
    try:
        return msgspec.json.decode(await blobs.read(_REQUESTS + key), type=Kept)
    except (BlobMissing, *UNREADABLE):
        return None


def key_of(record: JobRecord) -> str:
    said = record.specification
    return said.labels.get(REQUEST_LABEL, "") if said else ""


async def delete(blobs: Blobs, record: JobRecord) -> None:
    """Show it no more, and forget what was kept of its request. The ledger keeps the job."""
    await blobs.write(_deleted(record.team) + record.job, b"deleted")
    if _KEY.fullmatch(key := key_of(record)):
        await blobs.delete(_REQUESTS + key)


async def is_deleted(blobs: Blobs, record: JobRecord) -> bool:
    try:
        await blobs.read(_deleted(record.team) + record.job)
    except BlobMissing:
        return False
    return True


async def deleted(blobs: Blobs, team: str) -> frozenset[str]:
    """The jobs of a team that are not shown any more."""
    return frozenset(name.rpartition("/")[2] for name in await blobs.names(_deleted(team)))


def _deleted(team: str) -> str:
    return f"{_DELETED}{hashlib.sha256(team.encode()).hexdigest()}/"
