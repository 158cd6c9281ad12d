"""Snapshots of the scheduler in the blob store: the newest that can be used, and no more than a few."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from controlplane.scheduling.core import Core
from controlplane.scheduling.decisions import Broken
from events.blobs import BlobError, Blobs
from events.ledger import Ledger

LOG: Final = logging.getLogger("headrace.scheduling")

FOLDER: Final = "snapshots/scheduling"
KEPT: Final = 3


async def restore(core: Core, blobs: Blobs, ledger: Ledger) -> None:
    """Make the core what its newest usable snapshot says; without one it stays empty. Raises Unknown, Refused."""
    last_sequence = await ledger.last_sequence()
    try:
        names = await blobs.names(FOLDER)
    except BlobError as error:
        LOG.warning("no snapshot can be read, replaying the whole ledger", extra={"why": str(error)})
        return
    for name in reversed(names):
        try:
            content = await blobs.read(name)
            if int(name.rpartition("/")[2]) > last_sequence:
                raise ValueError(f"it is of another ledger: this one ends at {last_sequence}")
            with _nothing_to_collect():
                core.restore(content)
            core.check()
        except (BlobError, ValueError, Broken) as error:
            LOG.error("snapshot cannot be used", extra={"snapshot": name, "why": str(error)})
        else:
            LOG.info("restored", extra={"snapshot": name})
            return
    core.restore(type(core)(core.settings).snapshot())


@contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """Inside of this only what stays is made: looking for garbage in it, again and again, takes a third of the time.

    Nor is it looked at later on: a collection that passes over a million jobs is a pause of the leader.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


async def save(sequence: int, content: bytes, blobs: Blobs) -> None:
    """Keep a snapshot, and remove what is older than the newest few. A failure is logged: the ledger has it all."""
    try:
        await blobs.write(f"{FOLDER}/{sequence:020d}", content)
        for name in (await blobs.names(FOLDER))[:-KEPT]:
            await blobs.delete(name)
    except BlobError as error:
        LOG.error("snapshot could not be kept", extra={"sequence": sequence, "why": str(error)})
