"""Shipping, on a real NATS: everything arrives, in order, once, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

import headrace
from events import subjects
from events.bus import Bus, Delivery
from events.messages import AttemptRef
from runtime.shipping import Shipper
from runtime.shipping.positions import NAME
from tests.support.nats import NatsServer
from tests.support.spools import script, spool_into

REF = AttemptRef(team="vision", job="j-1", attempt=2)
WAIT_S = 20.0


class Stage:
    """One attempt's folder, and what has arrived from it."""

    def __init__(self, bus: Bus, folder: Path) -> None:
        self.bus = bus
        self.folder = folder
        self.spool = folder / "spool"
        self.spool.mkdir()

    def write(self, content: bytes, stream: str = "stdout") -> None:
        with (self.folder / stream).open("ab") as file:
            file.write(content)

    @asynccontextmanager
    async def shipping(self, rank: int = 0) -> AsyncIterator[asyncio.Event]:
        """A shipper at work; at the end of the block the attempt is over, and the shipper is waited for."""
        ended = asyncio.Event()
        shipper = Shipper(bus=self.bus, node="n1", ref=REF, folder=self.folder, spool=self.spool, rank=rank)
        task = asyncio.create_task(shipper.run(ended))
        try:
            yield ended
            ended.set()
            async with asyncio.timeout(WAIT_S):
                await task
        finally:
            task.cancel()

    async def chunks(self, stream: str = "stdout") -> list[Delivery]:
        return await self.bus.history("LOGS", subjects.logs("n1", REF.team, REF.job, REF.attempt, stream))

    async def output(self, stream: str = "stdout") -> bytes:
        """What a store would have that puts each chunk at its offset."""
        content = bytearray()
        for chunk in await self.chunks(stream):
            at = int(chunk.headers["hr-offset"])
            content[at : at + len(chunk.body)] = chunk.body
        return bytes(content)

    async def batches(self) -> list[Delivery]:
        return await self.bus.history("METRICS", subjects.metrics("n1", REF.team, REF.job))

    async def points(self, name: str) -> dict[tuple[str, int], tuple[int, float]]:
        """What a store would have that counts each index of a spool once: (spool, index) → (step, value)."""
        found: dict[tuple[str, int], tuple[int, float]] = {}
        for batch in await self.batches():
            spool, first = batch.headers["hr-spool"], int(batch.headers["hr-first"])
            request = ExportMetricsServiceRequest.FromString(batch.body)
            for resource in request.resource_metrics:
                for metric in resource.scope_metrics[0].metrics:
                    assert len(metric.gauge.data_points) == int(batch.headers["hr-count"])
                    if metric.name == name:
                        for index, point in enumerate(metric.gauge.data_points, start=first):
                            found[spool, index] = (point.attributes[0].value.int_value, point.as_double)
        return found


@pytest.fixture
def stage(bus: Bus, tmp_path: Path) -> Stage:
    folder = tmp_path / "attempt"
    folder.mkdir()
    return Stage(bus, folder)


async def eventually(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110  what it waits for is a file
            await asyncio.sleep(0.01)


async def until_arrived(stage: Stage, size: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while len(await stage.output()) < size:  # noqa: ASYNC110  what it waits for is in a server
            await asyncio.sleep(0.02)


async def test_what_another_rank_of_a_gang_writes_has_names_of_its_own(stage: Stage) -> None:
    with spool_into(stage.spool):
        async with stage.shipping(rank=3):
            stage.write(b"rank 3\n")
            headrace.log(step=1, loss=0.5)
    assert (await stage.output("stdout"), await stage.output("stdout-3")) == (b"", b"rank 3\n")
    assert {batch.headers["hr-spool"].rpartition("/")[2][:2] for batch in await stage.batches()} == {"3:"}


async def test_output_arrives_whole_with_an_end_mark_for_each_stream(stage: Stage) -> None:
    async with stage.shipping():
        stage.write(b"begin\n")
        await until_arrived(stage, 6)
        stage.write(b"x" * 700_000)
        stage.write(b"oh\n", "stderr")
    assert await stage.output() == b"begin\n" + b"x" * 700_000
    assert await stage.output("stderr") == b"oh\n"
    for stream, size in (("stdout", 700_006), ("stderr", 3)):
        last = (await stage.chunks(stream))[-1]
        assert (last.body, last.headers["hr-offset"], last.headers["hr-end"]) == (b"", str(size), "1")
    assert all(len(chunk.body) <= 256 * 1024 for chunk in await stage.chunks())


async def test_a_stream_without_output_ends_at_0(stage: Stage) -> None:
    async with stage.shipping():
        pass
    (only,) = await stage.chunks("stderr")
    assert (only.headers["hr-offset"], only.headers["hr-end"]) == ("0", "1")


async def test_a_line_arrives_within_a_fraction_of_a_second(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[float] = loop.create_future()

    async def on_chunk(delivery: Delivery) -> None:
        if not arrived.done():
            arrived.set_result(loop.time())

    await stage.bus.listen(subjects.logs_of(REF.team, REF.job), on_chunk)
    async with stage.shipping():
        written_at = loop.time()
        stage.write(b"hello\n")
        assert await arrived - written_at < 0.5  # 50 ms and what a busy machine adds


async def test_numbers_arrive_with_their_steps_and_an_end_mark(stage: Stage) -> None:
    async with stage.shipping():
        with spool_into(stage.spool):
            for step in range(50_000):
                headrace.log(step=step, loss=step / 2)
            headrace.log({"eval/acc": 0.5}, step=7)
    points = await stage.points("loss")
    assert sorted(points.values()) == [(step, step / 2) for step in range(50_000)]
    assert list((await stage.points("eval/acc")).values()) == [(7, 0.5)]
    ends = [batch for batch in await stage.batches() if batch.headers.get("hr-end")]
    assert all(batch.headers["hr-count"] == "0" for batch in ends)
    assert {batch.headers["hr-spool"] for batch in ends} == {
        f"j-1/2/{path.name}" for path in stage.spool.glob("*.spool")
    }


async def test_what_was_logged_before_a_kill_9_arrives(stage: Stage) -> None:
    code = """
import headrace, sys
for step in range(10**9):
    headrace.log(step=step, loss=0.5)
    if step % 1000 == 999:
        print(step, flush=True)
"""
    async with stage.shipping():
        with script(code, stage.spool) as process:
            assert process.stdout is not None
            for _ in range(20):
                said = int(await asyncio.to_thread(process.stdout.readline))
            process.kill()
            rest = await asyncio.to_thread(process.stdout.read)
            said = int(rest.split("\n")[-2]) if "\n" in rest else said
    steps = sorted(step for step, _ in (await stage.points("loss")).values())
    assert steps == list(range(len(steps)))
    assert len(steps) > said


async def test_a_restarted_shipper_goes_on_where_the_last_one_was(stage: Stage) -> None:
    with spool_into(stage.spool):
        headrace.log(step=0, loss=0.0)
        stage.write(b"one\n")
        async with stage.shipping():
            await until_arrived(stage, 4)
            await eventually(lambda: (stage.folder / NAME).exists())
        before = len(await stage.chunks()) + len(await stage.batches())
        async with stage.shipping():  # a runner that was restarted after all was sent
            pass
        assert len(await stage.chunks()) + len(await stage.batches()) == before


async def test_without_its_notes_a_restarted_shipper_sends_all_again_with_the_same_places(stage: Stage) -> None:
    with spool_into(stage.spool):
        for step in range(100):
            headrace.log(step=step, loss=float(step))
        stage.write(b"one\ntwo\n")
        async with stage.shipping():
            pass
        (stage.folder / NAME).write_text("not json")
        async with stage.shipping():
            pass
    assert await stage.output() == b"one\ntwo\n"
    assert list((await stage.points("loss")).values()) == [(step, float(step)) for step in range(100)]


async def test_a_server_that_is_killed_delays_and_loses_nothing(stage: Stage, nats: NatsServer) -> None:
    with spool_into(stage.spool):
        async with stage.shipping():
            stage.write(b"a" * 100_000)
            await until_arrived(stage, 100_000)
            nats.kill()
            stage.write(b"b" * 100_000)
            for step in range(1000):
                headrace.log(step=step, loss=float(step))
            nats.start()
            stage.write(b"c" * 100_000)
    output = await stage.output()
    assert output == b"a" * 100_000 + b"b" * 100_000 + b"c" * 100_000
    assert sorted(await stage.points("loss")) == sorted(
        (f"j-1/2/{path.name}", index) for path in stage.spool.glob("*.spool") for index in range(1000)
    )


async def test_a_link_in_place_of_the_output_is_not_followed(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (stage.folder / "stdout").symlink_to(tmp_path / "secret")
    async with stage.shipping():
        pass
    assert await stage.output() == b""
