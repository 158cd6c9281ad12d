"""Capacity's service beside a real head of Ray, to which it comes by Ray Client as on Kubernetes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane.capacity.core import UNLISTED
from controlplane.capacity.service import FAILURES_MAX, LOOK_S
from controlplane.config import Configuration
from events import subjects
from events.bus import Bus, NoAnswer
from tests.support.monitoring import eventually
from tests.support.nats import NatsServer
from tests.support.ray_head import RayHead

WAIT_S = 90.0
ENDS_S_MAX = 40.0
"""After five seconds of silence."""
CAPACITY = """
import signal, sys
from controlplane.capacity import service
from controlplane.main import main
signal.signal(signal.SIGUSR1, lambda *_: setattr(service, "ANSWER_S_MAX", 5.0))
sys.exit(main(["capacity", "--config", sys.argv[1]]))
"""
SEEN = {"n1": UNLISTED}
"""What it says of a head that it sees: no runner is started on its node."""


class Stage:
    def __init__(self, bus: Bus, nats: NatsServer, folder: Path) -> None:
        self.bus, self.folder = bus, folder
        self.head = RayHead("n1", gpus=0)
        self.address = f"ray://127.0.0.1:{self.head.client_port}"
        hosts = folder / "hosts.toml"
        hosts.write_text('[[hosts]]\nname = "another"\n')
        settings = Configuration(
            state=str(folder),
            nats_url=nats.url,
            nats_user=nats.user,
            nats_password=nats.password,
            ray_address=self.address,
            hosts_file=str(hosts),
        )
        (folder / "config.json").write_bytes(msgspec.json.encode(settings))

    @asynccontextmanager
    async def capacity(self) -> AsyncIterator[Process]:
        """Its process; from SIGUSR1 on it waits for an answer for five seconds, no longer for two minutes."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CAPACITY, str(self.folder / "config.json")),
            env=self.head.environment,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()

    async def is_said(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status of which that holds."""

        async def asked() -> dict[str, Any] | None:
            try:
                status: dict[str, Any] = msgspec.json.decode(await self.bus.ask(subjects.ask("capacity", "status")))
            except NoAnswer:  # it is not up yet
                return None
            return status if holds(status) else None

        said: dict[str, Any] = await eventually(asked, within_s=WAIT_S)
        return said


@pytest.fixture
async def stage(bus: Bus, nats: NatsServer, tmp_path: Path) -> AsyncIterator[Stage]:
    """The head is not started yet."""
    stage = Stage(bus, nats, tmp_path)
    yield stage
    await stage.head.kill()


async def test_one_process_waits_for_the_head_and_for_the_next_one(stage: Stage) -> None:
    nobody = {"ray": f"no head of Ray at {stage.address}: [Errno 111] Connection refused"}
    async with stage.capacity() as process:
        before = 0
        for _ in range(2):
            await stage.is_said(lambda it: it["problems"] == nobody and it["failures"] > before + FAILURES_MAX)  # noqa: B023
            await stage.head.start()
            before = (await stage.is_said(lambda it: it["problems"] == SEEN and it["nodes"] == 1))["failures"]
            await stage.head.kill()
        await stage.is_said(lambda it: "ray" in it["problems"] and it["nodes"] == 0)
        assert process.returncode is None, "it ended"
    assert process.returncode == 0


async def test_a_head_that_is_silent_ends_the_process(stage: Stage) -> None:
    """Ray Client would wait for ever, and so would the end of a process with a thread that does."""
    await stage.head.start()
    async with stage.capacity() as process:
        seen = await stage.is_said(lambda it: it["problems"] == SEEN)
        process.send_signal(signal.SIGUSR1)
        await stage.is_said(lambda it: it["looked_at"] > seen["looked_at"] + LOOK_S)
        os.killpg(stage.head.pid, signal.SIGSTOP)
        async with asyncio.timeout(ENDS_S_MAX):
            assert await process.wait() == 1
