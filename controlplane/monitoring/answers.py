"""What monitoring is asked on the bus, and by its own door."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, TypeVar, cast

import msgspec

from controlplane.monitoring import questions, records
from controlplane.monitoring.archiver import answering
from controlplane.monitoring.archiver.service import Archiver
from controlplane.monitoring.core import JobKey
from controlplane.monitoring.door import Door
from controlplane.monitoring.follow import Follower
from controlplane.monitoring.writer import Writer
from events import messages as m
from events import streams, subjects
from events.bus import Asked, AskRefused
from events.ledger import UnknownFact
from events.lifecycle import ENDS, Life, advance
from events.wire import UNREADABLE

LATE_S: Final = 60.0
"""How long after its end the door still takes an attempt's pushes: the last one is on its way."""
GROUP: Final = "monitoring"

T = TypeVar("T")


async def answer(writer: Writer, door: Door, port: int, following: Sequence[Follower], archiver: Archiver) -> None:
    """Answer questions until cancelled."""
    answers = _Answers(writer, door, port, following, archiver)
    bus = writer.tools.bus
    subscriptions = [
        await bus.answer(subjects.ask("monitoring", "series"), answers.series, group=GROUP),
        await bus.answer(subjects.ask("monitoring", "latest"), answers.latest, group=GROUP),
        await bus.answer(subjects.ask("monitoring", "log"), answers.log, group=GROUP),
        await bus.answer(subjects.ask("monitoring", "archived"), answers.archived, group=GROUP),
        await bus.answer(subjects.ask("monitoring", "status"), answers.status, group=GROUP),
    ]
    try:
        await asyncio.Event().wait()
    finally:
        for subscription in subscriptions:
            await subscription.close()


def _read(asked: Asked, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(asked.body, type=kind)
    except UNREADABLE as error:
        raise AskRefused(m.Refusal(status=400, message=str(error), hint=f"send a JSON {kind.__name__}")) from error


class _Answers:
    def __init__(
        self, writer: Writer, door: Door, port: int, following: Sequence[Follower], archiver: Archiver
    ) -> None:
        self._archiver = archiver
        self._writer = writer
        self._door = door
        self._port = port
        self._following = following

    async def series(self, asked: Asked) -> bytes:
        ask = _read(asked, m.AskSeries)
        writer, key = self._writer, (ask.team, ask.job)
        await self._known(key)
        complete = await self._complete(key)
        try:
            found = await writer.owner.run(questions.series, writer.store, ask)
        except questions.Bad as error:
            raise AskRefused(m.Refusal(status=400, message=str(error))) from error
        return msgspec.json.encode(msgspec.structs.replace(found, complete=complete))

    async def latest(self, asked: Asked) -> bytes:
        ask = _read(asked, m.AskLatest)
        try:
            found = await self._writer.owner.run(questions.latest, self._writer.store, ask)
        except questions.Bad as error:
            raise AskRefused(m.Refusal(status=400, message=str(error))) from error
        return msgspec.json.encode(found)

    async def log(self, asked: Asked) -> bytes:
        ask = _read(asked, m.AskLog)
        writer, key = self._writer, (ask.team, ask.job)
        await self._known(key)
        now = writer.tools.clock.now()
        over = await self._complete(key)
        if not over and ask.attempt:
            over = key in writer.core.jobs and writer.core.attempt_is_over(key, ask.attempt, now)
        await writer.settle_outputs(key)
        return msgspec.json.encode(await writer.owner.run(writer.logs.read, ask, over=over))

    async def archived(self, asked: Asked) -> bytes:
        return msgspec.json.encode(await answering.answer(self._archiver, _read(asked, m.AskArchived)))

    async def status(self, asked: Asked) -> bytes:
        writer = self._writer
        places = {}
        for stream in (streams.METRICS, streams.LOGS, streams.LEDGER):
            place = await writer.owner.run(writer.store.place, stream.name)
            places[stream.name] = {"read": place, "last": max(place, await self._newest(stream))}
        gaps = await writer.owner.run(questions.gaps, writer.store)
        status = {
            "writer": writer.tools.instance,
            **writer.core.counts,
            **writer.counts,
            **self._door.counts,
            **self._archiver.status(),
            "gaps": gaps,
            "cache_mib": round(await writer.owner.run(writer.store.cache_mib), 1),
            "jobs_open": len(writer.core.jobs),
            "jobs_remembered": writer.store.remembered,
            "caught_up": all(follower.caught_up.is_set() for follower in self._following),
            "places": places,
            "otlp": f"http://{writer.tools.config.host}:{self._port}",
        }
        return msgspec.json.encode(status)

    async def _newest(self, stream: streams.Stream) -> int:
        """Of what is read of a stream: LEDGER holds more than jobs, such as renewals of the term."""
        bus = self._writer.tools.bus
        if stream is not streams.LEDGER:
            return await bus.last_sequence(stream.name)
        newest = await bus.last(stream.name, subjects.JOBS)
        return newest.sequence if newest is not None else 0

    async def _known(self, key: JobKey) -> None:
        """Raises a refusal if nobody has ever heard of a job."""
        writer = self._writer
        if key in writer.core.jobs or await writer.owner.run(questions.knows, writer.store, key):
            return
        if await writer.tools.bus.last(streams.LEDGER.name, subjects.job(*key)) is not None:
            return
        if await self._archiver.attempts(key) is None:
            raise AskRefused(m.Refusal(status=404, message=f"there is no job {key[1]} in team {key[0]}"))

    async def _complete(self, key: JobKey) -> bool:
        """Whether nothing more will come of a job."""
        writer = self._writer
        if key in writer.core.jobs:
            return writer.core.is_complete(key, writer.tools.clock.now())
        if await writer.owner.run(records.load, writer.store, key) is not None:
            return True  # sealed
        return await self._ended_without_attempt(key)

    async def _ended_without_attempt(self, key: JobKey) -> bool:
        """Whether a job of which nothing was read yet is over without ever having run.

        The ledger knows more than what was read of it: a job that did run is not over here before its facts arrived.
        """
        life: Life | None = None
        try:
            history = await self._writer.tools.ledger.history(subjects.job(*key))
        except UnknownFact:
            return False
        if not history:
            return await self._archiver.attempts(key) == 0
        for entry in history:
            if isinstance(entry.fact, m.Archived):
                return entry.fact.attempt == 0
            _, life = advance(life, cast(m.JobFact, entry.fact))
        return life is not None and life.state in ENDS and life.attempt == 0


class Closed:
    """Whether the door refuses an attempt: it has been over for a while, or its job is sealed."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def asks(self, ref: m.AttemptRef) -> bool:
        writer, key = self._writer, (ref.team, ref.job)
        record = writer.core.jobs.get(key)
        if record is None:
            return await writer.owner.run(records.load, writer.store, key) is not None
        attempt = record.attempts.get(ref.attempt)
        over_at = attempt.over_at if attempt is not None else None
        return over_at is not None and over_at + LATE_S < writer.tools.clock.now()
