"""Whatever is killed, whenever: each record is stored once."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.config import Configuration
from controlplane.monitoring import rebuild as rebuilding
from events import messages as m
from events import subjects
from events.blobs import Blobs
from events.bus import Bus, Outgoing
from tests.support import monitoring as world
from tests.support.monitoring import TEAM, ask, eventually
from tests.support.nats import NatsServer

KILLS = 5
RECORDS = 200
"""In a batch."""


@pytest.fixture
def config(nats: NatsServer, tmp_path: Path) -> Configuration:
    return world.configuration(nats, tmp_path / "state")


@pytest.fixture
def process(config: Configuration, tmp_path: Path) -> Iterator[world.Process]:
    process = world.Process(config, tmp_path)
    yield process
    process.kill()


async def publish(bus: Bus, items: list[Outgoing]) -> None:
    results = await bus.publish_many(items)
    assert all(isinstance(result, int) for result in results)


async def send_for_ever(bus: Bus, sent: list[int]) -> None:
    """Batches of one spool, each followed now and then by one that was sent before, whole or cut elsewhere."""
    rng = random.Random(7)
    while True:
        first = sent[-1]
        batch = world.metrics_batch("j-1", first, {"x": [float(index) for index in range(first, first + RECORDS)]})
        items = [batch, world.log_chunk("j-1", first, bytes(first % 251 for _ in range(RECORDS)))]
        if rng.random() < 0.4 and first >= RECORDS:
            back = rng.randrange(1, RECORDS)
            again = [float(index) for index in range(first - back, first + back)]
            items.append(world.metrics_batch("j-1", first - back, {"x": again}))
        await publish(bus, items)
        sent.append(first + RECORDS)
        await asyncio.sleep(0.005)


async def test_a_writer_that_is_killed_at_any_moment_loses_and_doubles_nothing(
    bus: Bus, process: world.Process
) -> None:
    await world.write_facts(bus, "j-1", world.accepted("j-1"), world.placed())
    process.start()
    await world.answering(bus)
    sent = [0]
    sender = asyncio.create_task(send_for_ever(bus, sent))
    rng = random.Random(11)
    for _ in range(KILLS):
        await asyncio.sleep(rng.uniform(0.05, 0.9))
        process.kill()
        process.start()
        await world.answering(bus)
    sender.cancel()
    await asyncio.wait([sender])
    total = sent[-1]

    async def all_there() -> m.Series | None:
        answer = await ask(bus, "series", m.AskSeries(team=TEAM, job="j-1", buckets=4000), m.SeriesAnswer)
        return answer.series[0] if answer.series and answer.series[0].count >= total else None

    curve = await eventually(all_there)
    assert curve.count in (total, total + RECORDS)  # the last batch may have been cut off while it was sent
    assert curve.values[-1] == curve.count - 1
    status = await world.status(bus)
    assert status["gaps"]["records"] == 0
    assert status["dead"] == 0
    log = await ask(bus, "log", m.AskLog(team=TEAM, job="j-1", offset=total - RECORDS), m.LogAnswer)
    assert log.data[:RECORDS] == bytes((total - RECORDS) % 251 for _ in range(RECORDS))


async def test_a_second_writer_waits_and_takes_over_when_the_first_is_killed(
    bus: Bus, config: Configuration, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = world.Process(config, tmp_path / "one"), world.Process(config, tmp_path / "two")
    one.start()
    first = await world.answering(bus)
    two.start()
    try:
        await bus.publish(world.metrics_batch("j-1", 0, {"x": [1.0, 2.0]}))

        async def stored() -> bool:
            return (await world.status(bus))["points"] == 2

        await eventually(stored)
        one.kill()
        second = await world.answering(bus)
        assert second["writer"] != first["writer"]
        await bus.publish(world.metrics_batch("j-1", 1, {"x": [2.0, 3.0]}))

        async def both() -> bool:
            answer = await ask(bus, "series", m.AskSeries(team=TEAM, job="j-1"), m.SeriesAnswer)
            return [curve.values for curve in answer.series] == [(1.0, 2.0, 3.0)]

        await eventually(both)
        assert two.stop() == 0
    finally:
        one.kill()
        two.kill()


async def everything(bus: Bus) -> list[object]:
    """All answers about the jobs of the rebuild test."""
    found: list[object] = []
    for job in ("j-done", "j-runs"):
        for buckets in (10, 500):
            found += [await ask(bus, "series", m.AskSeries(team=TEAM, job=job, buckets=buckets), m.SeriesAnswer)]
        found.append(await ask(bus, "log", m.AskLog(team=TEAM, job=job), m.LogAnswer))
    found.append(await ask(bus, "latest", m.AskLatest(team=TEAM, jobs=("j-done", "j-runs")), m.LatestAnswer))
    return found


async def test_a_store_made_again_from_seals_and_streams_answers_the_same(bus: Bus, config: Configuration) -> None:
    rng = random.Random(3)
    async with world.monitoring(bus, config):
        for job in ("j-done", "j-runs"):
            await world.write_facts(bus, job, world.accepted(job), world.placed())
            for first in (0, 1000, 3000):  # 2000 to 3000 never come
                values = {"x": [rng.random() for _ in range(1000)], "nan": [float("nan")] * 1000}
                await bus.publish(world.metrics_batch(job, first, values))
            await bus.publish(world.log_chunk(job, 0, b"first\n"))
            await bus.publish(world.log_chunk(job, 100, b"last\n"))
        for stream in ("stdout", "stderr"):
            await bus.publish(world.log_chunk("j-done", 105 if stream == "stdout" else 0, b"", stream=stream, end=True))
        await bus.publish(world.metrics_batch("j-done", 2000, {"x": [0.0] * 1000, "nan": [1.0] * 1000}))
        await bus.publish(world.metrics_batch("j-done", 4000, {}, end=True))
        await bus.publish(world.log_chunk("j-done", 6, bytes(94)))
        await world.write_facts(bus, "j-done", world.finished())

        async def sealed() -> bool:
            status = await world.status(bus)
            return bool(status["sealed"]) and status["places"]["LOGS"]["read"] == status["places"]["LOGS"]["last"]

        await eventually(sealed)
        before = await everything(bus)
        gaps = (await world.status(bus))["gaps"]
    assert gaps == {"records": 1000, "spools": 1, "jobs": 1}

    # What is sealed is no longer in the streams; what is not, is.
    from events.jetstream import api

    for subject in (subjects.metrics("n1", TEAM, "j-done"),):
        await api(bus._connection, "STREAM.PURGE.METRICS", {"filter": subject})
    await api(bus._connection, "STREAM.PURGE.LOGS", {"filter": subjects.logs_of(TEAM, "j-done")})
    tools = world.tools(bus, config)
    rebuilt = await rebuilding.rebuild(tools)
    assert (rebuilt.sealed_jobs, rebuilt.gaps["records"]) == (1, 1000)
    async with world.monitoring(bus, config):
        assert await everything(bus) == before
        assert (await world.status(bus))["sealed"] == 0
    names = await Blobs.at(config.blobs).names("sealed")
    assert [name.rsplit("/", 1)[1] for name in names if "parquet" not in name] == [
        "1.stderr",
        "1.stdout",
        "manifest.json",
    ]


async def test_a_killed_nats_server_that_gives_sequences_anew_hides_nothing(
    bus: Bus, nats: NatsServer, config: Configuration
) -> None:
    """METRICS is acknowledged before it is on disk. What the server lost is a gap; what it has must be in the store."""
    rng = random.Random(5)
    async with world.monitoring(bus, config):
        await world.write_facts(bus, "j-1", world.accepted("j-1"), world.placed())

        async def kills() -> None:
            for _ in range(4):
                await asyncio.sleep(rng.uniform(0.2, 0.6))
                nats.kill()
                await nats.restart_later(0.05)

        killer, first = asyncio.create_task(kills()), 0
        while not killer.done():
            items = [world.metrics_batch("j-1", first + shift, {"x": [1.0] * 50}) for shift in (0, 50, 100, 150)]
            arrived = list(itertools.takewhile(lambda result: isinstance(result, int), await bus.publish_many(items)))
            first += 50 * len(arrived)
        await killer
        await bus.publish(world.metrics_batch("j-1", first, {"x": [1.0]}))
        held = {
            int(delivery.headers["hr-first"])
            for delivery in await bus.history("METRICS", subjects.metrics("n1", TEAM, "j-1"))
        }

        async def all_there() -> bool:
            answer = await ask(bus, "series", m.AskSeries(team=TEAM, job="j-1", buckets=4000), m.SeriesAnswer)
            lost = (await world.status(bus))["gaps"]["records"]
            return (
                bool(answer.series)
                and answer.series[0].count == first + 1 - lost
                and answer.series[0].count >= (50 * (len(held) - 1) + 1)
            )

        await eventually(all_there)


async def test_a_rebuild_beside_a_running_writer_is_refused(
    bus: Bus, config: Configuration, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rebuilding, "WRITER_S_MAX", 0.2)
    settings = ("state", "nats_url", "nats_user", "nats_password")
    arguments = [word for name in settings for word in ("--set", f"{name}={getattr(config, name)}")]
    async with world.monitoring(bus, config):
        assert await asyncio.to_thread(rebuilding.main, arguments) == 2
    assert "stop monitoring first" in capsys.readouterr().err
    assert await asyncio.to_thread(rebuilding.main, arguments) == 0
    assert "0 points; 0 sealed jobs" in capsys.readouterr().out
