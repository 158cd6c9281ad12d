"""The writer: what becomes of each batch of METRICS, LOGS and LEDGER, and of a job that is complete."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from controlplane.frame import Tools
from controlplane.monitoring import archive, batch, intake, records
from controlplane.monitoring.core import Core, JobKey, Record
from controlplane.monitoring.logs import Logs
from controlplane.monitoring.owner import Owner
from controlplane.monitoring.store import Store
from events import dead, streams, subjects
from events import messages as m
from events.blobs import BlobError
from events.bus import BusError, Delivery, Refused
from events.ledger import UnknownFact, entry

LOG: Final = logging.getLogger("headrace.monitoring")

WAKE_S_MAX: Final = 3600.0
RETRY_S: Final = 1.0
"""Before a dead letter is tried again: nothing is read past it until it is safe."""


class Writer:
    """What a running monitoring holds, and what it does with each batch."""

    def __init__(self, tools: Tools, store: Store, logs: Logs, owner: Owner) -> None:
        self.tools = tools
        self.store = store
        self.logs = logs
        self.owner = owner
        self.core = Core()
        self.counts = {
            "points": 0,
            "records_repeated": 0,
            "messages_refused": 0,
            "messages_forgotten": 0,
            "dead": 0,
            "dead_dropped": 0,
            "sealed": 0,
            "unknown_facts": 0,
        }
        self._read = {streams.METRICS.name: 0, streams.LOGS.name: 0}
        """Of each tail, the last message that was read."""
        self.due = asyncio.Event()
        """Something happened that may make a seal due."""

    async def open(self) -> None:
        """Take up the jobs that are not sealed yet, and how far the tails were read."""
        for stream in self._read:
            self._read[stream] = await self.owner.run(self.store.place, stream)
        for key, record in (await self.owner.run(records.load_open, self.store)).items():
            self.core.load(key, record)

    # -- METRICS -------------------------------------------------------------------------------------------------------

    async def take_metrics(self, deliveries: Sequence[Delivery]) -> None:
        """Store a batch, then tell whom it concerns."""
        self._count_forgotten(streams.METRICS, deliveries)
        parts, unreadable = await self.owner.run(intake.parts, deliveries, self.store)
        await self._bury(streams.METRICS, unreadable)
        done = await self.owner.run(batch.commit, self.store, parts, sequence=deliveries[-1].sequence)
        self.counts["points"] += done.points
        self.counts["records_repeated"] += done.repeated
        self.counts["messages_refused"] += done.refused
        await self._recall(done.jobs)
        for team, job, attempt, spool, drained in done.spools:
            if (team, job) in done.jobs:
                self.core.on_spool((team, job), attempt, spool, drained=drained)
        await self._tell({key: m.Changed(job=key[1], metrics=True) for key in done.jobs})

    # -- LOGS ----------------------------------------------------------------------------------------------------------

    async def take_logs(self, deliveries: Sequence[Delivery]) -> None:
        """Write a batch of output, then tell whom it concerns."""
        self._count_forgotten(streams.LOGS, deliveries)
        chunks, unreadable = intake.chunks(deliveries)
        await self._bury(streams.LOGS, unreadable)
        touched = await self.owner.run(self.logs.commit, chunks, sequence=deliveries[-1].sequence)
        await self._recall({(team, job) for (team, job, _, _), _ in touched})
        changes: dict[JobKey, set[str]] = {}
        for (team, job, attempt, stream), output in touched:
            self.core.on_output((team, job), attempt, stream, whole=output.complete)
            changes.setdefault((team, job), set()).add(stream)
        await self._tell({key: m.Changed(job=key[1], logs=tuple(sorted(names))) for key, names in changes.items()})

    # -- LEDGER --------------------------------------------------------------------------------------------------------

    async def take_facts(self, deliveries: Sequence[Delivery]) -> None:
        """Learn which attempts and jobs are over."""
        changed: dict[JobKey, Record] = {}
        for delivery in deliveries:
            try:
                fact = entry(delivery).fact
            except UnknownFact as error:  # of a later version; it decides nothing here
                self.counts["unknown_facts"] += 1
                LOG.warning("skipped: %s", error, extra={"subject": error.subject, "sequence": error.sequence})
                continue
            _, team, job = subjects.tokens(delivery.subject)
            if isinstance(fact, m.Archived):
                news = self.core.on_archived((team, job), fact, delivery.at)
            else:
                news = isinstance(fact, m.JobFact) and self.core.apply((team, job), fact, delivery.at)
            if news:
                changed[team, job] = self.core.jobs[team, job]
        await self.owner.run(records.save, self.store, changed, ledger=deliveries[-1].sequence)
        over = [key for key in changed if self.core.is_over(key)]
        await self._tell({key: m.Changed(job=key[1]) for key in over})

    # -- shared --------------------------------------------------------------------------------------------------------

    def _count_forgotten(self, stream: streams.Stream, deliveries: Sequence[Delivery]) -> None:
        """A full tail forgets its oldest, whether it was read or not: then the numbers of what is read have a gap."""
        last = self._read[stream.name]
        for delivery in deliveries:
            if last:  # else nobody has read it yet, and it may begin anywhere
                self.counts["messages_forgotten"] += max(0, delivery.sequence - last - 1)
            last = max(last, delivery.sequence)
        self._read[stream.name] = last

    async def _recall(self, keys: set[JobKey] | frozenset[JobKey]) -> None:
        """Take up again the sealed jobs among these, to which something came late."""
        for key in keys:
            if key not in self.core.jobs:
                record = await self.owner.run(records.load, self.store, key)
                if record is not None:
                    self.core.load(key, record)
            self.core.on_late(key)

    async def _tell(self, changes: dict[JobKey, m.Changed]) -> None:
        """Say on the live subjects what is new, and look whether a seal is due."""
        now = self.tools.clock.now()
        for key, change in changes.items():
            if self.core.is_complete(key, now):
                change = msgspec.structs.replace(change, complete=True)
            await self._send(key, change)
        self.due.set()

    async def _send(self, key: JobKey, change: m.Changed) -> None:
        try:
            await self.tools.bus.send(subjects.live(*key), msgspec.json.encode(change))
        except BusError as error:  # only a hint to look; who missed it asks again by itself
            LOG.debug("not told: %s", error, extra={"job": key[1]})

    async def _bury(self, stream: streams.Stream, unreadable: Sequence[intake.Dead]) -> None:
        """To the dead letters, before the batch is done with."""
        for delivery, reason in unreadable:
            with delivery.at_work():
                LOG.warning("unreadable message: %s", reason)
                kept = await _persist(self.tools, delivery, stream, reason)
            self.counts["dead" if kept else "dead_dropped"] += 1

    # -- sealing -------------------------------------------------------------------------------------------------------

    async def seal_for_ever(self) -> None:
        """Seal each job once it is complete; sleep until one may be."""
        while True:
            self.due.clear()
            now = self.tools.clock.now()
            for decision in self.core.decide(now):
                await self._send(decision.key, m.Changed(job=decision.key[1], complete=True))
                await self._seal(decision.key)
            wake_at = self.core.wake_at()
            wait_s = WAKE_S_MAX if wake_at is None else max(0.0, wake_at - self.tools.clock.now())
            try:
                async with asyncio.timeout(min(wait_s, WAKE_S_MAX)):
                    await self.due.wait()
            except TimeoutError:
                continue

    async def settle_outputs(self, key: JobKey) -> None:
        """What of a job's output will never come gets its place, and is shown there."""
        settled = self.core.settled_outputs(key, self.tools.clock.now())
        if settled:
            await self.owner.run(self.logs.settle, {(*key, *which): size for which, size in settled.items()})

    async def _seal(self, key: JobKey) -> None:
        await self.settle_outputs(key)
        try:
            await archive.seal(self.owner, self.store, self.logs, self.tools.blobs, key, self.core.jobs[key])
        except (BlobError, OSError) as error:
            LOG.error("could not seal: %s", error, extra={"job": key[1]})
            self.core.on_seal_failed(key, self.tools.clock.now())
            return
        record = self.core.on_sealed(key, self.tools.clock.now())
        await self.owner.run(records.save, self.store, {key: record})
        await self.owner.run(self._forget, key)
        self.counts["sealed"] += 1

    def _forget(self, key: JobKey) -> None:
        """Nothing is expected of it any more; what comes late has it read again. In the store's thread."""
        self.store.forget(key)
        self.logs.forget(*key)


async def _persist(tools: Tools, delivery: Delivery, stream: streams.Stream, reason: str) -> bool:
    """Store a dead letter, however long the bus takes; False if DEAD has no room.

    METRICS and LOGS are tails that forget: what is unreadable in them must not hold up all that is readable.
    """
    while True:
        try:
            await dead.bury(tools.bus.publish, delivery, stream=stream.name, reason=reason, tries=1)
        except BusError as error:
            if isinstance(error, Refused) and (error.full or not error.temporary):
                LOG.warning("dropped, no dead letter: %s", error)
                return False
            LOG.warning("no dead letter: %s; trying again", error)
            await asyncio.sleep(RETRY_S)
        else:
            return True
