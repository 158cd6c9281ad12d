"""A submit that comes again is the same job, whatever has become of the job meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from controlplane.config import Configuration
from controlplane.frame import Clock, Tools
from controlplane.monitoring.service import serve as monitoring_serve
from controlplane.submission.service import serve as submission_serve
from events import messages as m
from events import subjects
from events.blobs import Blobs
from events.bus import AskRefused, Bus, CaughtUp, NoAnswer
from events.ledger import Ledger, Write
from tests.support.archiving import TEAM, a_config, a_life
from tests.support.monitoring import eventually
from tests.support.nats import NatsServer
from tests.support.serving import serving
from tests.support.submitting import CONFIG

SUBMIT = {"type": "submit", "entrypoint": ["python", "train.py"], "name": "train"}
REMEMBER_S = 1.0


class World(NamedTuple):
    config: Configuration
    bus: Bus
    folder: Path
    nats: NatsServer

    async def submit(self, **fields: Any) -> m.Answer:
        asked = json.dumps(SUBMIT | fields).encode()
        said = await self.bus.ask(subjects.ask("submission", "submit", TEAM, "ada"), asked, timeout_s=10)
        return msgspec.json.decode(said, type=m.Answer)

    async def facts(self, job: str) -> list[str]:
        history = await Ledger(self.bus, source="test").history(subjects.job(TEAM, job))
        return [str(type(each.fact).__struct_config__.tag) for each in history]

    async def end(self, job: str) -> None:
        """Run it, as scheduling would have."""
        ledger = Ledger(self.bus, source="test")
        [accepted] = await ledger.history(subjects.job(TEAM, job))
        await write_after(self.bus, job, accepted.sequence)

    async def gone(self, *jobs: str) -> None:
        """Until the ledger has forgotten them altogether."""

        async def forgotten() -> bool:
            return not any([await self.facts(job) for job in jobs])

        await eventually(forgotten)


async def write_after(bus: Bus, job: str, sequence: int) -> None:
    ledger = Ledger(bus, source="test")
    for fact in a_life(1)[1:]:
        sequence = await ledger.append(Write(subjects.job(TEAM, job), fact, sequence))


@pytest.fixture
async def world(nats: NatsServer, bus: Bus, tmp_path: Path) -> AsyncIterator[World]:
    config = a_config(tmp_path / "state", remember_s=REMEMBER_S)
    async with serving(submission_serve, nats, config, blobs=tmp_path / "blobs", instance="door"):
        yield World(config, bus, tmp_path, nats)


async def test_a_submit_that_comes_again_is_the_same_job_when_the_ledger_has_forgotten_it(world: World) -> None:
    first = await world.submit(id="a")
    await world.end(first.job)
    async with serving(monitoring_serve, world.nats, world.config, blobs=world.folder / "blobs", instance="archive"):
        await eventually(lambda: _is_archived(world, first.job))
        while_marked = await world.submit(id="a")
        await world.gone(first.job)
        afterwards = await world.submit(id="a")
    for again in (while_marked, afterwards):
        assert (again.verdict, again.job) == ("repeated", first.job)
    assert await world.facts(first.job) == []


async def test_a_door_that_starts_later_knows_every_archived_job(world: World) -> None:
    first = await world.submit(id="a")
    await world.end(first.job)
    async with serving(monitoring_serve, world.nats, world.config, blobs=world.folder / "blobs", instance="archive"):
        await world.gone(first.job)
        async with serving(
            submission_serve, world.nats, world.config, blobs=world.folder / "blobs", instance="another"
        ):
            answers = [await world.submit(id="a") for _ in range(8)]  # whichever of the two takes it
    assert {(answer.verdict, answer.job) for answer in answers} == {("repeated", first.job)}


async def test_a_door_opens_only_when_it_knows_every_archived_job(bus: Bus, tmp_path: Path) -> None:
    told, ready = asyncio.Event(), asyncio.Event()

    class Slow(Ledger):
        async def tail(self, *, after: int, subjects: Any = ()) -> AsyncGenerator[Any, None]:
            await told.wait()
            yield CaughtUp(0)
            await asyncio.Event().wait()

    ledger = Slow(bus, source="test")
    tools = Tools(CONFIG, bus, ledger, Blobs.at(f"file://{tmp_path}/blobs"), Clock(), "slow", ready.set)
    task = asyncio.create_task(submission_serve(tools))
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await ready.wait()
        subject = subjects.ask("submission", "submit", TEAM, "ada")
        with pytest.raises(NoAnswer):
            await bus.ask(subject, json.dumps(SUBMIT).encode())
        told.set()
        async with asyncio.timeout(20):
            await ready.wait()
        assert await bus.ask(subject, json.dumps(SUBMIT).encode())
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_mistake_that_comes_again_is_rejected_for_the_same_reason(world: World) -> None:
    first = await world.submit(id="a", tier="no-such")
    assert first.verdict == "rejected"
    async with serving(monitoring_serve, world.nats, world.config, blobs=world.folder / "blobs", instance="archive"):
        await eventually(lambda: _is_archived(world, first.job))
        while_marked = await world.submit(id="a", tier="cpu")
        await world.gone(first.job)
        afterwards = await world.submit(id="a", tier="cpu")
    for again in (while_marked, afterwards):
        assert (again.verdict, again.job, again.problems) == ("rejected", first.job, first.problems)
    alone = await world.submit(id="a", tier="cpu")
    assert (alone.verdict, alone.problems[0].hint) == ("rejected", f"headrace show {first.job}")


async def test_a_control_of_an_archived_job_is_refused_for_it_is_over(world: World) -> None:
    first = await world.submit(id="a")
    await world.end(first.job)
    async with serving(monitoring_serve, world.nats, world.config, blobs=world.folder / "blobs", instance="archive"):
        await eventually(lambda: _is_archived(world, first.job))
        marked = await _cancel(world, first.job)
        await world.gone(first.job)
        forgotten = await _cancel(world, first.job)
    assert [each.verdict for each in (marked, forgotten)] == ["refused", "refused"]
    assert "the job is over: succeeded" in marked.problems[0].message
    assert "in the archive" in forgotten.problems[0].message


async def _is_archived(world: World, job: str) -> bool:
    return await world.facts(job) == ["archived"]


async def _cancel(world: World, job: str) -> m.Answer:
    subject = subjects.ask("submission", "control", TEAM, "ada", job)
    try:
        said = await world.bus.ask(subject, b'{"type":"cancel"}', timeout_s=10)
    except AskRefused as error:
        raise AssertionError(error.refusal) from error
    return msgspec.json.decode(said, type=m.Answer)
