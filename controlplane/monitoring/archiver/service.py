"""The archiver: moves what the ledger knew of jobs that are over into Parquet, and finds it there.

    archive/jobs/<first>-<last>-<digest>.parquet     a part: some jobs; first and last of their newest facts

A part is written as a blob first. Then one atomic round of the ledger says that it is there (`archive_written`, under
the guard of its own subject) and puts `archived` in the place of everything that stood on the subject of each of its
jobs, under the guard of what was read of it: all of that or nothing. Whatever is killed in between leaves a blob that
no fact names, and nothing else; and of two archivers one is refused.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, cast

from controlplane.frame import Tools
from controlplane.monitoring.archiver import index, rows
from controlplane.monitoring.archiver.core import Core
from controlplane.monitoring.archiver.rows import Row
from controlplane.monitoring.core import JobKey
from controlplane.monitoring.owner import Owner
from controlplane.monitoring.store import Store
from events import messages as m
from events import streams, subjects
from events.blobs import BlobDamaged, BlobError, BlobMissing
from events.bus import BusError, CaughtUp, Conflict, Delivery
from events.identity import digest, pack
from events.ledger import UnknownFact, Write, entry

LOG: Final = logging.getLogger("headrace.monitoring")

FOLDER: Final = "archive/jobs"
HELD_MAX: Final = 100_000
"""Ended jobs that are remembered; beyond, the ledger is read on when some have left it."""
BYTES_MAX: Final = 32 * 1024**2
"""Of the facts of one part, about; the jobs behind it go into the next one."""
READERS: Final = 64
"""Histories being read at once."""
PAGE_FACTS: Final = 500
RETRY_S: Final = 1.0
WAKE_S_MAX: Final = 3600.0
_ENDS: Final = frozenset({"finished", "rejected", "cancel_requested"})
_FIRST: Final = frozenset({"accepted", "placed", "cancel_requested"})
_SPEAKS: Final = (b'"after":[', b'"task":{')
"""One of these stands in every fact that speaks of another job: few do, and only their bodies are read."""
End = Literal["succeeded", "failed", "cancelled", "rejected"]


class Archiver:
    """See the top of this file. `run` is its loop; questions about the archive are answered by `find` and `page`."""

    def __init__(self, tools: Tools, store: Store, owner: Owner) -> None:
        self._tools = tools
        self._store = store
        self._owner = owner
        self._core = Core(after_s=tools.config.archive_after_s)
        self._written_at = 0
        """Last sequence of the subject of the archive: the guard of the next part."""
        self._parts: set[str] = set()
        self._ready = asyncio.Event()
        """All parts that there were at the start are in the index."""
        self._due = asyncio.Event()
        self._room = asyncio.Event()
        self._arrays: dict[str, m.Specification | None] = {}
        """The last array that was looked up."""
        self._readers = asyncio.Semaphore(READERS)
        self.counts = {"archived": 0, "archive_parts": 0, "archive_conflicts": 0, "archive_unreadable": 0}

    async def open(self) -> None:
        """Take up the index."""
        await self._owner.run(index.set_up, self._store)
        self._parts = await self._owner.run(index.parts, self._store)

    async def run(self) -> None:
        """Follow the ledger and archive, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_parts())
            group.create_task(self._follow_jobs())
            group.create_task(self._archive_for_ever())

    def status(self) -> dict[str, int]:
        return {**self.counts, "archive_due": len(self._core.ended)}

    # -- following -----------------------------------------------------------------------------------------------------

    async def _follow_jobs(self) -> None:
        async for item in self._tools.bus.tail(streams.LEDGER.name, subjects=(subjects.JOBS,), after=0):
            if isinstance(item, CaughtUp):
                self._due.set()
                continue
            self._take(item)
            while len(self._core.ended) >= HELD_MAX and self._tools.config.archive_after_s:
                self._room.clear()
                self._due.set()
                await self._room.wait()

    def _take(self, delivery: Delivery) -> None:
        kind = delivery.envelope.type
        speaks = kind == "moved" or (kind in _FIRST and any(mark in delivery.body for mark in _SPEAKS))
        if kind not in _ENDS and kind not in ("archived", "unfolded") and not speaks:
            return
        _, team, job = subjects.tokens(delivery.subject)
        if kind == "archived":
            self._core.on_archived((team, job))
        elif kind == "unfolded":
            self._core.on_unfolded((team, job))
        elif speaks:
            self._take_needs((team, job), delivery)
        if kind in _ENDS and _is_id(job):
            self._core.on_end((team, job), delivery.sequence, delivery.at)
            if kind == "finished":
                self._core.on_over((team, job))
            elif kind == "cancel_requested":
                self._core.on_cancelled((team, job))
            self._due.set()

    def _take_needs(self, key: JobKey, delivery: Delivery) -> None:
        """A fact that speaks of other jobs."""
        try:
            fact = entry(delivery).fact
        except UnknownFact as error:
            LOG.warning("skipped: %s", error, extra={"subject": error.subject, "sequence": error.sequence})
            return
        if isinstance(fact, m.Moved):
            self._core.on_moved(key, fact)
        elif isinstance(fact, m.Accepted):
            self._core.on_accepted(key, fact)
        elif isinstance(fact, m.Placed | m.CancelRequested) and fact.task is not None:
            self._core.on_task(key, fact.task)

    async def _follow_parts(self) -> None:
        async for item in self._tools.ledger.tail(after=0, subjects=(subjects.ARCHIVE,)):
            if isinstance(item, CaughtUp):
                self._ready.set()
                self._due.set()
            elif isinstance(item.fact, m.ArchiveWritten):
                await self._know(item.fact)
                self._written_at = max(self._written_at, item.sequence)

    async def _know(self, written: m.ArchiveWritten) -> None:
        """Have a part in the index, however long the blob store takes to give it."""
        while written.name not in self._parts:
            try:
                content = await self._read(written.name, written.digest)
            except (BlobMissing, BlobDamaged) as error:
                self.counts["archive_unreadable"] += 1
                LOG.error("a part of the archive cannot be read: %s", error, extra={"part": written.name})
                return
            except BlobError as error:
                LOG.warning("a part of the archive: %s; trying again", error, extra={"part": written.name})
                await asyncio.sleep(RETRY_S)
            else:
                await self._owner.run(_index, self._store, written, content)
                self._parts.add(written.name)

    async def _read(self, name: str, expected: str) -> bytes:
        content = await self._tools.blobs.read(name)
        if digest(content) != expected:
            raise BlobDamaged(f"{name} does not have the digest that the ledger says")
        return content

    # -- archiving -----------------------------------------------------------------------------------------------------

    async def _archive_for_ever(self) -> None:
        await self._ready.wait()
        while True:
            self._due.clear()
            keys = self._core.due(self._tools.clock.now())
            if not keys:
                await self._wait()
                continue
            try:
                await self._archive(keys)
            except Conflict as error:
                self.counts["archive_conflicts"] += 1
                LOG.info("archives again: %s", error)
                await asyncio.sleep(RETRY_S)
            except (BusError, BlobError, OSError, UnknownFact) as error:
                LOG.warning("could not archive: %s; trying again", error)
                await asyncio.sleep(RETRY_S)
            self._room.set()

    async def _wait(self) -> None:
        wake_at = self._core.wake_at()
        wait_s = WAKE_S_MAX if wake_at is None else max(0.0, wake_at - self._tools.clock.now())
        try:
            async with asyncio.timeout(min(wait_s, WAKE_S_MAX)):
                await self._due.wait()
        except TimeoutError:
            return

    async def _archive(self, keys: Sequence[JobKey]) -> None:
        """One part. Raises Conflict if anything was written about its jobs, or another part, meanwhile."""
        chosen = await self._histories(keys)
        if not chosen:
            return
        content = await self._owner.run(_file, self._store, chosen)
        written = _written(chosen, content)
        await self._tools.blobs.write(written.name, content)
        writes = [Write(subjects.ARCHIVE, written, self._written_at)]
        remember_s = max(1, round(self._tools.config.remember_s))
        for each in chosen:
            mark = m.Archived(state=_state(each), attempt=each.life.attempt, archive=written.name)
            subject = subjects.job(*each.key)
            writes.append(Write(subject, mark, each.sequence, each.traceparent, ttl_s=remember_s, replaces=True))
        self._written_at = await self._tools.ledger.commit(writes)
        for each in chosen:
            self._core.on_archived(each.key)
        self.counts["archived"] += len(chosen)
        self.counts["archive_parts"] += 1
        await self._owner.run(_index, self._store, written, content)
        self._parts.add(written.name)

    async def _histories(self, keys: Sequence[JobKey]) -> list[Row]:
        """The rows of those that are over indeed; the others are not looked at again until something happens."""
        chosen: list[Row] = []
        size = 0
        for key, found in zip(keys, await asyncio.gather(*map(self._history, keys)), strict=True):
            if found is None:
                self._core.on_not_over(key)
            elif size < BYTES_MAX:
                chosen.append(found)
                size += found.size
        return chosen

    async def _history(self, key: JobKey) -> Row | None:
        subject = subjects.job(*key)
        known = self._core.ended[key].sequence if key in self._core.ended else 0
        async with self._readers:
            found = await self._tools.bus.page(streams.LEDGER.name, subject, after=0, count=PAGE_FACTS, bytes_max=0)
            if len(found) == PAGE_FACTS or not found or found[-1].sequence < known:
                found = await self._tools.bus.history(streams.LEDGER.name, subject)
        return rows.row(key, found, await self._of(key, found))

    async def _of(self, key: JobKey, history: Sequence[Delivery]) -> m.Specification | None:
        """What a task of an array is, as its array says: that is there as long as its tasks are."""
        task = getattr(entry(history[0]).fact, "task", None) if history else None
        if not isinstance(task, m.Task):
            return None
        subject = subjects.job(key[0], task.array)
        if subject not in self._arrays:
            first = await self._tools.bus.page(streams.LEDGER.name, subject, after=0, count=1, bytes_max=0)
            fact = entry(first[0]).fact if first else None
            self._arrays = {subject: fact.specification if isinstance(fact, m.Accepted) else None}
        return self._arrays[subject]

    # -- answering -----------------------------------------------------------------------------------------------------

    async def attempts(self, key: JobKey) -> int | None:
        """How many attempts an archived job had; None if it is not in the archive."""
        return await self._owner.run(index.attempts, self._store, key)

    async def jobs(self, places: Sequence[index.Place]) -> list[m.ArchivedJob]:
        """What the archive holds of some jobs, in their order. Raises BlobError."""
        found: dict[JobKey, m.ArchivedJob] = {}
        for name, expected in dict.fromkeys((place.name, place.digest) for place in places):
            content = await self._read(name, expected)
            keys = [place.key for place in places if place.name == name]
            for job in await self._owner.run(_jobs, self._store, content, keys):
                found[job.team, job.job] = job
        return [found[place.key] for place in places if place.key in found]

    async def find(self, team: str, text: str) -> index.Found:
        return await self._owner.run(index.find, self._store, team, text)

    async def page(self, ask: m.AskArchived, limit: int) -> index.Found:
        return await self._owner.run(index.page, self._store, ask, limit)


def _is_id(job: str) -> bool:
    try:
        pack(job)
    except ValueError:
        return False
    return True


def _state(each: Row) -> End:
    return cast(End, each.life.state.value)


def _written(chosen: Sequence[Row], content: bytes) -> m.ArchiveWritten:
    name = digest(content)
    first, last = min(each.sequence for each in chosen), max(each.sequence for each in chosen)
    packed = {each.key: pack(each.key[1]) for each in chosen}
    return m.ArchiveWritten(
        name=f"{FOLDER}/{first}-{last}-{name[7:19]}.parquet",
        digest=name,
        size_bytes=len(content),
        jobs=b"".join(sorted(packed.values())),
        rejected=b"".join(sorted(packed[each.key] for each in chosen if _state(each) == "rejected")),
        ended_from_at=min(each.ended_at for each in chosen),
        ended_to_at=max(each.ended_at for each in chosen),
    )


# -- in the store's thread ---------------------------------------------------------------------------------------------


def _file(store: Store, chosen: Sequence[Row]) -> bytes:
    rows.add_latest(store, chosen)
    with tempfile.TemporaryDirectory(prefix="headrace-archive-") as scratch:
        path = Path(scratch) / "part.parquet"
        rows.write(store, chosen, path)
        return path.read_bytes()


def _index(store: Store, written: m.ArchiveWritten, content: bytes) -> None:
    if written.name in index.parts(store):
        return
    with tempfile.NamedTemporaryFile(prefix="headrace-archive-", suffix=".parquet") as file:
        file.write(content)
        file.flush()
        index.add(store, written, Path(file.name))


def _jobs(store: Store, content: bytes, keys: Sequence[JobKey]) -> list[m.ArchivedJob]:
    with tempfile.NamedTemporaryFile(prefix="headrace-archive-", suffix=".parquet") as file:
        file.write(content)
        file.flush()
        return rows.read(store, Path(file.name), keys)
