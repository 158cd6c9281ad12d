"""Jobs leave the ledger for the archive, on a real bus: whole, once, and found again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane.config import Configuration
from controlplane.frame import Tools
from controlplane.monitoring.archiver import index
from controlplane.monitoring.archiver.service import Archiver
from controlplane.monitoring.owner import Owner
from controlplane.monitoring.store import Store
from controlplane.scheduling.core import Core
from events import messages as m
from events import streams, subjects
from events.blobs import BlobError, Blobs
from events.bus import Bus, Unknown
from events.identity import task_id
from events.ledger import Entry, Ledger, Write
from tests.support.archiving import TEAM, a_life, a_specification, an_id, write_lives
from tests.support.monitoring import answering, ask, configuration, eventually, monitoring, status, tools
from tests.support.nats import NatsServer
from tests.support.worlds import SETTINGS


@pytest.fixture
def config(nats: NatsServer, tmp_path: Path) -> Configuration:
    return msgspec.structs.replace(configuration(nats, tmp_path / "state"), archive_after_s=0.2, remember_s=300.0)


@asynccontextmanager
async def archiving(handed: Tools, folder: Path) -> AsyncIterator[Archiver]:
    """An archiver alone, over a store of its own."""
    owner = Owner()
    store = await owner.run(Store, folder / "metrics.duckdb")
    archiver = Archiver(handed, store, owner)
    await archiver.open()
    task = asyncio.create_task(archiver.run())
    try:
        yield archiver
    finally:
        task.cancel()
        await asyncio.wait([task])
        await owner.run(store.close)
        owner.close()
        if not task.cancelled() and task.exception():
            raise task.exception()  # type: ignore[misc]


async def run_alone(handed: Tools, folder: Path) -> None:
    """An archiver until it fails."""
    owner = Owner()
    store = await owner.run(Store, folder / "metrics.duckdb")
    archiver = Archiver(handed, store, owner)
    await archiver.open()
    try:
        async with asyncio.timeout(20):
            await archiver.run()
    finally:
        await owner.run(store.close)
        owner.close()


async def everything(bus: Bus) -> list[Entry]:
    """What the ledger holds now, in order."""
    found: list[Entry] = []
    async for item in Ledger(bus, source="test").tail(after=0):
        if not isinstance(item, Entry):
            return found
        found.append(item)
    return found


async def marks(bus: Bus) -> dict[str, m.Archived]:
    return {each.subject: each.fact for each in await everything(bus) if isinstance(each.fact, m.Archived)}


async def ledger_of(bus: Bus) -> None:
    await bus.ensure(streams.LEDGER)


async def test_a_job_that_is_over_leaves_one_mark_in_the_ledger_and_all_its_facts_in_the_archive(
    bus: Bus, config: Configuration
) -> None:
    await ledger_of(bus)
    job = an_id(1)
    await write_lives(bus, {job: a_life(1, outcome="failed")})
    before = {each.sequence: each.fact for each in await everything(bus)}
    async with monitoring(bus, config):
        await eventually(lambda: marks(bus))
        found = await ask(bus, "archived", m.AskArchived(team=TEAM, find=job), m.ArchivedAnswer)
        states = await status(bus)
    [mark] = [each for each in await everything(bus) if each.subject == subjects.job(TEAM, job)]
    assert isinstance(mark.fact, m.Archived)
    assert (mark.fact.state, mark.fact.attempt) == ("failed", 1)
    [archived] = found.jobs
    facts = {each.sequence: msgspec.json.decode(each.fact, type=m.AnyFact) for each in archived.facts}
    assert facts == before
    assert (states["archived"], states["archive_parts"], states["archive_conflicts"]) == (1, 1, 0)


async def test_a_job_that_runs_or_waits_stays_in_the_ledger_whatever_was_asked_of_it(
    bus: Bus, config: Configuration
) -> None:
    await ledger_of(bus)
    stopping = [*a_life(1)[:3], m.CancelRequested(by="ada")]
    await write_lives(bus, {an_id(1): stopping, an_id(2): a_life(2)[:1], an_id(3): a_life(3)})
    async with monitoring(bus, config):
        await eventually(lambda: marks(bus))
        assert set(await marks(bus)) == {subjects.job(TEAM, an_id(3))}
        await write_lives_on(bus, an_id(1), m.Finished(term=1, attempt=1, outcome="cancelled", reason="by ada"))

        async def both() -> bool:
            return len(await marks(bus)) == 2

        await eventually(both)
    assert (await marks(bus))[subjects.job(TEAM, an_id(1))].state == "cancelled"


async def write_lives_on(bus: Bus, job: str, fact: m.JobFact) -> None:
    ledger = Ledger(bus, source="test")
    last = await ledger.last(subjects.job(TEAM, job))
    assert last is not None
    await ledger.append(Write(subjects.job(TEAM, job), fact, last.sequence))


async def test_a_job_whose_place_a_waiting_one_took_up_stays_until_that_one_is_gone(
    bus: Bus, config: Configuration
) -> None:
    await ledger_of(bus)
    first, second = an_id(1), an_id(2)
    moved = [a_life(2)[0], m.Moved(by="ada", before=first)]
    await write_lives(bus, {first: a_life(1), second: moved, an_id(3): a_life(3)})
    async with monitoring(bus, config):
        await eventually(lambda: marks(bus))
        assert subjects.job(TEAM, first) not in await marks(bus)
        await write_lives_on(bus, second, m.CancelRequested(by="ada"))

        async def all_three() -> bool:
            return len(await marks(bus)) == 3

        await eventually(all_three)


class Cut(Exception):
    """The archiver is killed here."""


class CutBlobs(Blobs):
    """A blob store before or behind whose writes somebody pulls the plug."""

    def __init__(self, inner: Blobs, when: str) -> None:
        super().__init__(inner._store)
        self.when = when

    async def write(self, path: str, content: bytes | Path) -> None:
        if self.when == "before the blob":
            raise Cut
        await super().write(path, content)
        if self.when == "behind the blob":
            raise Cut


class CutLedger(Ledger):
    """A ledger in whose rounds somebody pulls the plug."""

    when = ""

    async def commit(self, writes: Any) -> int:
        if self.when == "before the round":
            raise Cut
        sequence = await super().commit(writes)
        if self.when == "behind the round":
            raise Cut
        if self.when == "the answer is lost":
            self.when = ""
            raise Unknown("no acknowledgement")
        return sequence


@pytest.mark.parametrize("when", ["before the blob", "behind the blob", "before the round", "behind the round"])
async def test_an_archiver_that_is_killed_anywhere_is_finished_by_the_next_one(
    bus: Bus, config: Configuration, tmp_path: Path, when: str
) -> None:
    await ledger_of(bus)
    jobs = [an_id(number) for number in range(5)]
    await write_lives(bus, {job: a_life(number) for number, job in enumerate(jobs)})
    whole = tools(bus, config)
    ledger = CutLedger(bus, source="test")
    ledger.when = when
    with pytest.raises(ExceptionGroup):
        await run_alone(whole._replace(blobs=CutBlobs(whole.blobs, when), ledger=ledger), tmp_path)
    async with archiving(whole, tmp_path) as archiver:

        async def archived() -> bool:
            return len(await marks(bus)) == len(jobs)

        await eventually(archived)

        async def indexed() -> bool:
            return await archiver._owner.run(index.count, archiver._store) == len(jobs)

        await eventually(indexed)
        for number, job in enumerate(jobs):
            places = (await archiver.find(TEAM, job)).places
            [found] = await archiver.jobs(places)
            facts = [msgspec.json.decode(each.fact, type=m.AnyFact) for each in found.facts]
            assert facts == a_life(number)
    parts = [each.fact for each in await everything(bus) if isinstance(each.fact, m.ArchiveWritten)]
    assert sum(len(part.jobs) for part in parts) == 8 * len(jobs)


async def test_a_round_whose_answer_is_lost_is_not_written_twice(
    bus: Bus, config: Configuration, tmp_path: Path
) -> None:
    await ledger_of(bus)
    await write_lives(bus, {an_id(1): a_life(1)})
    ledger = CutLedger(bus, source="test")
    ledger.when = "the answer is lost"
    async with archiving(tools(bus, config)._replace(ledger=ledger), tmp_path) as archiver:

        async def settled() -> bool:
            return not archiver._core.ended and bool(await marks(bus))

        await eventually(settled)
        await eventually(lambda: archiver.find(TEAM, an_id(1)))
    parts = [each for each in await everything(bus) if isinstance(each.fact, m.ArchiveWritten)]
    assert len(parts) == 1


async def test_two_archivers_at_once_archive_every_job_once(bus: Bus, config: Configuration, tmp_path: Path) -> None:
    await ledger_of(bus)
    jobs = {an_id(number): a_life(number) for number in range(2_500)}
    await write_lives(bus, jobs)
    both = tools(bus, config)
    async with archiving(both, tmp_path / "a") as one, archiving(both, tmp_path / "b") as two:

        async def known() -> bool:
            counts = [await each._owner.run(index.count, each._store) for each in (one, two)]
            return counts == [len(jobs), len(jobs)]

        await eventually(known, within_s=60)
    assert len(await marks(bus)) == len(jobs)
    parts = [each.fact for each in await everything(bus) if isinstance(each.fact, m.ArchiveWritten)]
    packed = [part.jobs[at : at + 8] for part in parts for at in range(0, len(part.jobs), 8)]
    assert len(packed) == len(set(packed)) == len(jobs)


async def test_a_store_that_was_lost_learns_the_archive_again_from_the_parts(
    bus: Bus, config: Configuration, tmp_path: Path
) -> None:
    await ledger_of(bus)
    await write_lives(bus, {an_id(number): a_life(number) for number in range(3)})
    async with archiving(tools(bus, config), tmp_path / "old"):
        await eventually(lambda: marks(bus))
    async with archiving(tools(bus, config), tmp_path / "new") as archiver:

        async def indexed() -> bool:
            return await archiver._owner.run(index.count, archiver._store) == 3

        await eventually(indexed)
        found = await archiver.page(m.AskArchived(team=TEAM), 2)
        assert ([place.key[1] for place in found.places], found.more) == ([an_id(2), an_id(1)], True)


async def test_a_part_that_was_damaged_is_said_to_be_unreadable_and_nothing_else_suffers(
    bus: Bus, config: Configuration
) -> None:
    await ledger_of(bus)
    await write_lives(bus, {an_id(1): a_life(1)})
    async with monitoring(bus, config):
        await eventually(lambda: marks(bus))
        blobs = Blobs.at(config.blobs)
        [name] = await blobs.names("archive/")
        await blobs.write(name, b"not what it was")
        with pytest.raises(Exception, match="archive cannot be read"):
            await ask(bus, "archived", m.AskArchived(team=TEAM, find=an_id(1)), m.ArchivedAnswer)
        assert (await answering(bus))["archived"] == 1


async def test_nothing_is_archived_while_the_blob_store_refuses(
    bus: Bus, config: Configuration, tmp_path: Path
) -> None:
    class Full(CutBlobs):
        async def write(self, path: str, content: bytes | Path) -> None:
            if self.when == "full":
                self.when = "full again"
                raise BlobError("no space left")
            await Blobs.write(self, path, content)

    await ledger_of(bus)
    await write_lives(bus, {an_id(1): a_life(1)})
    handed = tools(bus, config)
    full = Full(handed.blobs, "full")
    async with archiving(handed._replace(blobs=full), tmp_path):
        await eventually(lambda: marks(bus))
    assert full.when == "full again"


async def test_the_tasks_of_an_array_leave_once_it_is_over_and_it_leaves_behind_them(
    bus: Bus, config: Configuration
) -> None:
    """A replay of what is left places no index twice, whenever it begins."""
    await ledger_of(bus)
    array = an_id(1)
    accepted = m.Accepted(specification=a_specification(1, array="0-2"))
    tasks = [task_id(array, at) for at in range(3)]
    lives: dict[str, list[m.JobFact]] = {array: [accepted, m.Unfolded(term=1)]}
    for at, task in enumerate(tasks[:2]):
        _, placed, *rest = a_life(1)
        assert isinstance(placed, m.Placed)
        of = m.Task(array=array, index=at, size=3)
        lives[task] = [msgspec.structs.replace(placed, task=of), *rest]
    lives[tasks[2]] = [m.CancelRequested(by="ada", task=m.Task(array=array, index=2, size=3))]
    await write_lives(bus, {**lives, an_id(3): a_life(3)})
    async with monitoring(bus, config):
        await eventually(lambda: marks(bus))
        assert set(await marks(bus)) == {subjects.job(TEAM, an_id(3))}
        assert replayed(await everything(bus)) == (1, 0)
        end = m.Finished(term=1, attempt=0, outcome="cancelled", reason="1 of 3 were", tasks={"succeeded": 2})
        await write_lives_on(bus, array, end)

        async def all_gone() -> bool:
            now = await marks(bus)
            assert subjects.job(TEAM, array) not in now or all(subjects.job(TEAM, task) in now for task in tasks)
            assert replayed(await everything(bus)) == (0, 0)
            return len(now) == 5

        await eventually(all_gone)
        page = await ask(bus, "archived", m.AskArchived(team=TEAM), m.ArchivedAnswer)
        found = await ask(bus, "archived", m.AskArchived(team=TEAM, find=tasks[1]), m.ArchivedAnswer)
    assert [each.job for each in page.jobs] == [an_id(3), array]
    assert [each.job for each in found.jobs] == [tasks[1]]


def replayed(ledger: list[Entry]) -> tuple[int, int]:
    """How many jobs live by what is left of the ledger, and how many tasks of theirs would still be placed."""
    core = Core(SETTINGS)
    for each in ledger:
        core.apply(each, each.at)
    core.check()
    live = list(core.jobs.values())
    return len(live), sum(job.array.rest for job in live if job.array is not None)
