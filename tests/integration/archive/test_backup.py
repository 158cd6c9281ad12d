"""A backup that is taken while everything runs, and an installation that is made from it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from controlplane import backup
from controlplane.backup import BackupError
from controlplane.config import Configuration, Team
from controlplane.monitoring.service import serve as monitoring_serve
from controlplane.scheduling.service import build
from controlplane.submission.service import serve as submission_serve
from events import messages as m
from events import streams, subjects
from events.blobs import Blobs
from events.bus import Bus, Conflict, Outgoing
from events.identity import job_id
from events.ledger import Entry, Ledger, Write
from tests.support.archiving import TEAM, a_config, a_life, a_specification, an_id, write_lives
from tests.support.monitoring import answering, ask, eventually
from tests.support.nats import NatsServer
from tests.support.serving import serving

WAITING = a_specification(7)
SUBMIT = {"type": "submit", "entrypoint": ["python", "train.py"]}


class Installation(NamedTuple):
    nats: NatsServer
    bus: Bus
    blobs: Blobs
    folder: Path

    def config(self) -> Configuration:
        return a_config(self.folder / "state", teams={TEAM: Team()})

    async def state_at(self, sequence: int) -> bytes:
        """What a scheduler makes of the ledger up to a sequence."""
        core = build(self.config())
        async for item in Ledger(self.bus, source="test").tail(after=0):
            if not isinstance(item, Entry) or item.sequence > sequence:
                break
            core.apply(item, item.at)
        return core.snapshot()


@pytest.fixture
async def old(nats: NatsServer, bus: Bus, tmp_path: Path) -> Installation:
    """Three jobs in the archive, one that waits, a blob, a snapshot of now and one of a later ledger."""
    made = Installation(nats, bus, Blobs.at(f"file://{tmp_path}/blobs"), tmp_path)
    lives: dict[str, list[m.JobFact]] = {an_id(number): a_life(number) for number in range(3)}
    lives[an_id(7)] = [m.Accepted(specification=WAITING), m.Held(by="ada")]
    await write_lives(bus, lives)
    async with serving(monitoring_serve, nats, made.config(), blobs=tmp_path / "blobs", instance="archive"):

        async def archived() -> bool:
            return (await answering(bus))["archived"] == 3

        await eventually(archived)
    await made.blobs.put(b"a source")
    await made.blobs.write("snapshots/scheduling/00000000000000000002", b"old")
    await made.blobs.write("snapshots/scheduling/00000000000000900000", b"of a future that will not be")
    return made


@pytest.fixture
async def fresh(tmp_path: Path) -> AsyncIterator[Installation]:
    folder = tmp_path / "fresh"
    server = NatsServer(folder / "nats", name="n2")
    server.start()
    bus = await Bus.connect(server.url, user=server.user, password=server.password, name="fresh")
    yield Installation(server, bus, Blobs.at(f"file://{folder}/blobs"), folder)
    await bus.drain()
    server.kill()


async def test_a_restored_installation_stands_where_the_old_one_stood(
    old: Installation, fresh: Installation, tmp_path: Path
) -> None:
    kept = await backup.save(old.bus, old.blobs, [TEAM], tmp_path / "backup")
    done = await backup.restore(fresh.bus, fresh.blobs, tmp_path / "backup")
    assert done == kept
    assert await fresh.state_at(kept.ledger) == await old.state_at(kept.ledger)
    names = set(await old.blobs.names("")) - {"snapshots/scheduling/00000000000000900000"}
    assert set(await fresh.blobs.names("")) == names
    there, here = (Ledger(each.bus, source="test") for each in (old, fresh))
    subject = subjects.job(TEAM, an_id(7))
    assert await there.history(subject) == await here.history(subject)
    guard = (await there.history(subject))[-1].sequence
    with pytest.raises(Conflict):
        await here.append(Write(subject, m.Released(by="ada"), guard - 1))
    assert await here.append(Write(subject, m.Released(by="ada"), guard)) > kept.ledger


async def test_a_submit_of_before_is_a_repeat_after_and_the_archive_answers(
    old: Installation, fresh: Installation, tmp_path: Path
) -> None:
    await backup.save(old.bus, old.blobs, [TEAM], tmp_path / "backup")
    await backup.restore(fresh.bus, fresh.blobs, tmp_path / "backup")
    blobs = fresh.folder / "blobs"
    async with (
        serving(submission_serve, fresh.nats, fresh.config(), blobs=blobs, instance="door"),
        serving(monitoring_serve, fresh.nats, fresh.config(), blobs=blobs, instance="monitoring"),
    ):
        for number in (1, 7):
            body = json.dumps(SUBMIT | {"id": f"run-{number}"}).encode()
            said = await fresh.bus.ask(subjects.ask("submission", "submit", TEAM, "ada"), body)
            assert msgspec.json.decode(said, type=m.Answer).verdict == "repeated"

        await answering(fresh.bus)

        async def found() -> bool:
            answer = await ask(fresh.bus, "archived", m.AskArchived(team=TEAM), m.ArchivedAnswer)
            return [each.job for each in answer.jobs] == [an_id(number) for number in (2, 1, 0)]

        await eventually(found)


async def test_a_submit_that_was_acknowledged_before_the_backup_is_a_job_after_it(
    old: Installation, fresh: Installation, tmp_path: Path
) -> None:
    """Also one that nobody had handled, while others come in all the time."""
    acknowledged = [f"before-{number}" for number in range(200)]
    for name in acknowledged:
        await old.bus.publish(_request(name))

    async def go_on() -> None:
        for number in range(10_000):
            await old.bus.publish(_request(f"meanwhile-{number}"))

    others = asyncio.create_task(go_on())
    async with serving(submission_serve, old.nats, old.config(), blobs=old.folder / "blobs", instance="door"):
        await backup.save(old.bus, old.blobs, [TEAM], tmp_path / "backup")
        others.cancel()
        await asyncio.wait([others])
    await backup.restore(fresh.bus, fresh.blobs, tmp_path / "backup")
    ledger = Ledger(fresh.bus, source="test")
    async with serving(submission_serve, fresh.nats, fresh.config(), blobs=fresh.folder / "blobs", instance="door"):

        async def all_there() -> bool:
            jobs = [job_id(team=TEAM, user="ada", client_id=name) for name in acknowledged]
            facts = [await ledger.history(subjects.job(TEAM, job)) for job in jobs]
            return all(len(history) == 1 for history in facts)

        await eventually(all_there)


def _request(name: str) -> Outgoing:
    return Outgoing(subjects.submit(TEAM, "ada"), json.dumps(SUBMIT | {"id": name}).encode(), {})


async def test_what_is_there_is_not_overwritten_unless_one_says_so(
    old: Installation, fresh: Installation, tmp_path: Path
) -> None:
    kept = await backup.save(old.bus, old.blobs, [TEAM], tmp_path / "backup")
    await fresh.bus.ensure(streams.LEDGER)
    own = subjects.job(TEAM, an_id(50))
    await Ledger(fresh.bus, source="test").append(Write(own, m.Accepted(specification=a_specification(50)), 0))
    with pytest.raises(BackupError, match="--overwrite"):
        await backup.restore(fresh.bus, fresh.blobs, tmp_path / "backup")
    assert await Ledger(fresh.bus, source="test").last_sequence() == 1
    await backup.restore(fresh.bus, fresh.blobs, tmp_path / "backup", overwrite=True)
    assert await fresh.state_at(kept.ledger) == await old.state_at(kept.ledger)
    assert await Ledger(fresh.bus, source="test").history(own) == []


async def test_a_damaged_backup_touches_nothing(old: Installation, fresh: Installation, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    await backup.save(old.bus, old.blobs, [TEAM], folder)
    own = subjects.job(TEAM, an_id(50))
    await fresh.bus.ensure(streams.LEDGER)
    await Ledger(fresh.bus, source="test").append(Write(own, m.Accepted(specification=a_specification(50)), 0))
    ledger = folder / "streams" / "LEDGER"
    whole = ledger.read_bytes()
    for damage, told in ((b"", "not what was written"), (None, "missing")):
        if damage is None:
            ledger.unlink()
        else:
            ledger.write_bytes(whole[:-1] + damage)
        with pytest.raises(BackupError, match=told):
            await backup.restore(fresh.bus, fresh.blobs, folder, overwrite=True)
    (folder / backup.MANIFEST).unlink()
    with pytest.raises(BackupError, match="no whole backup"):
        await backup.restore(fresh.bus, fresh.blobs, folder, overwrite=True)
    assert len(await Ledger(fresh.bus, source="test").history(own)) == 1


async def test_a_restore_under_running_services_is_refused(
    old: Installation, fresh: Installation, tmp_path: Path
) -> None:
    await backup.save(old.bus, old.blobs, [TEAM], tmp_path / "backup")
    async with serving(submission_serve, fresh.nats, fresh.config(), blobs=fresh.folder / "blobs", instance="door"):
        with pytest.raises(BackupError, match="submission is running"):
            await backup.restore(fresh.bus, fresh.blobs, tmp_path / "backup", overwrite=True)


async def test_a_backup_goes_into_a_folder_of_its_own(old: Installation, tmp_path: Path) -> None:
    await backup.save(old.bus, old.blobs, [TEAM], tmp_path / "backup")
    with pytest.raises(BackupError, match="not empty"):
        await backup.save(old.bus, old.blobs, [TEAM], tmp_path / "backup")
