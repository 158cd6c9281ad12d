"""Changes of queues with a real scheduler behind: in force at once, and no job is lost by them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from controlplane.scheduling import service as scheduling
from controlplane.submission.service import serve
from controlplane.submission.writer import Writer
from events import messages as m
from events import subjects
from events.bus import Bus
from events.ledger import CaughtUp, Ledger, Write
from load_tests.simulated_node import SimulatedNode
from tests.integration.submission.test_operators import ask, submit
from tests.support.nats import NatsServer
from tests.support.serving import serving
from tests.support.submitting import CONFIG
from tests.support.worlds import a_capacity

F = TypeVar("F", bound=m.Fact)

WAIT_S = 20.0
FAST = msgspec.structs.replace(CONFIG, heartbeat_s=0.1, suspect_s=0.5, leader_lease_s=0.6)


@pytest.fixture
async def bus(nats: NatsServer, tmp_path: Path) -> AsyncIterator[Bus]:
    """Submission, a scheduler and a node that runs what it is given for a moment."""
    blobs = tmp_path / "blobs"
    async with serving(serve, nats, FAST, blobs=blobs), serving(scheduling.serve, nats, FAST, blobs=blobs):
        bus = await Bus.connect(nats.url, user=nats.user, password=nats.password, name="client")
        node = SimulatedNode(bus, "n1", capacity=a_capacity(), duration_s=lambda _: 0.05, heartbeat_s=0.1)
        running = asyncio.create_task(node.run())
        await until(bus, subjects.node("n1"), m.NodeJoined)  # so somebody leads
        yield bus
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await bus.drain()


async def until(bus: Bus, subject: str, kind: type[F]) -> F:
    """The first fact of a kind on a subject, as soon as it is there."""
    async with asyncio.timeout(WAIT_S):
        async for item in Ledger(bus, source="test").tail(after=0, subjects=(subject,)):
            if not isinstance(item, CaughtUp) and isinstance(item.fact, kind):
                return item.fact
    raise AssertionError("unreachable")


async def is_over(bus: Bus, job: str) -> str:
    """Wait for the end of a job; gives its outcome."""
    return (await until(bus, subjects.job("vision", job), m.Finished)).outcome


async def view(bus: Bus, queue: str) -> m.QueueView | None:
    said = await bus.ask(subjects.ask("scheduling", "queues"), timeout_s=WAIT_S)
    found = msgspec.json.decode(said, type=m.QueuesView).queues
    return next((each for each in found if (each.team, each.queue) == ("vision", queue)), None)


async def test_a_paused_queue_starts_nothing_and_a_resumed_one_goes_on(bus: Bus) -> None:
    assert (await ask(bus, "set_queue", paused=True)).verdict == "applied"
    held, other = await submit(bus, "night"), await submit(bus, "default")
    assert await is_over(bus, other.job) == "succeeded"
    assert (shown := await view(bus, "night")) is not None
    assert (shown.paused, shown.waiting, shown.running) == (True, 1, 0)
    refused = await ask(bus, "delete_queue")
    assert refused.problems[0].message == "in queue `night` 1 job waits and no jobs run"
    assert (await ask(bus, "set_queue", paused=False)).verdict == "applied"
    assert await is_over(bus, held.job) == "succeeded"


async def test_a_drained_queue_ends_what_it_has_and_can_be_deleted(bus: Bus) -> None:
    job = await submit(bus, "night")
    assert (await ask(bus, "set_queue", draining=True)).verdict == "applied"
    assert (await submit(bus, "night")).verdict == "rejected"
    assert await is_over(bus, job.job) == "succeeded"
    assert (await ask(bus, "delete_queue")).verdict == "applied"
    assert await view(bus, "night") is None


async def test_a_job_whose_queue_is_deleted_between_its_check_and_its_fact_is_not_lost(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Writer.append

    async def overtaken(self: Writer, write: Write) -> int:
        if isinstance(write.fact, m.Accepted):
            monkeypatch.setattr(Writer, "append", append)
            assert (await ask(bus, "delete_queue")).verdict == "applied"
        return await append(self, write)

    monkeypatch.setattr(Writer, "append", overtaken)
    answer = await submit(bus, "night")
    assert answer.verdict == "accepted"
    assert (await submit(bus, "night")).verdict == "rejected"
    assert await is_over(bus, answer.job) == "succeeded"
