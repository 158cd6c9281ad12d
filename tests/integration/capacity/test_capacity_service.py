"""Capacity's service beside a real head of Ray, to which it comes by Ray Client as on Kubernetes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane.capacity.core import UNLISTED
from controlplane.capacity.service import FAILURES_MAX
from controlplane.config import Configuration
from events import subjects
from events.bus import Bus, NoAnswer
from tests.support.monitoring import eventually
from tests.support.nats import NatsServer
from tests.support.ray_head import RayHead

WAIT_S = 90.0


@pytest.fixture
async def head() -> AsyncIterator[RayHead]:
    """Not started yet."""
    head = RayHead("n1", gpus=0)
    yield head
    await head.kill()


async def test_one_process_waits_for_the_head_and_for_the_next_one(
    bus: Bus, nats: NatsServer, head: RayHead, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts.toml"
    hosts.write_text('[[hosts]]\nname = "another"\n')  # so that it starts no runner on what it sees, and says so
    settings = Configuration(
        state=str(tmp_path),
        nats_url=nats.url,
        nats_user=nats.user,
        nats_password=nats.password,
        ray_address=f"ray://127.0.0.1:{head.client_port}",
        hosts_file=str(hosts),
    )
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(settings))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "controlplane", "capacity", "--config", str(tmp_path / "config.json")),
        env=head.environment,
    )

    async def is_said(holds: Callable[[dict[str, Any]], bool]) -> None:
        async def asked() -> bool:
            try:
                status = msgspec.json.decode(await bus.ask(subjects.ask("capacity", "status")))
            except NoAnswer:  # it is not up yet
                return False
            return holds(status)

        await eventually(asked, within_s=WAIT_S)

    try:
        nobody = {"ray": f"no head of Ray at {settings.ray_address}: [Errno 111] Connection refused"}
        for _ in range(2):
            await is_said(lambda status: status["problems"] == nobody and status["failures"] > FAILURES_MAX)
            await head.start()
            await is_said(lambda status: status["problems"] == {"n1": UNLISTED})
            await head.kill()
        assert process.returncode is None, "it ended"
    finally:
        process.terminate()
        await process.wait()
    assert process.returncode == 0
