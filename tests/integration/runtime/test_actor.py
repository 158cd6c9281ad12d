"""The runner as a Ray actor, on a real Ray: it holds the GPUs, and neither its death nor Ray's touches an attempt."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.bus import Bus
from load_tests.ray_nodes import holder_of
from runtime.node_folder import NodeFolder
from runtime.settings import RunnerSettings
from runtime.supervised import LauncherClient, Supervised
from tests.support.attempts import gone, line_in, lives
from tests.support.leader import Leader, a_launch
from tests.support.nats import NatsServer
from tests.support.ray_head import RayHead

WAITS = "import os, signal; print(os.getpid(), file=open('pid', 'w'), flush=True); signal.pause()"

START = """
import json, sys, ray
from controlplane.capacity.fleet import Fleet
fleet = Fleet(sys.argv[1])
fleet.start_runner("n1", json.loads(sys.argv[2]))
print(ray.get(ray.get_actor("runner-n1", namespace="headrace").ping.remote(), timeout=60))
"""

BY_CLIENT = """
import json, sys, time
from controlplane.capacity.fleet import Fleet, NoHead
fleet = None
while not fleet:
    try:
        fleet = Fleet(sys.argv[2])
    except NoHead:  # its server for clients comes last
        time.sleep(0.2)
fleet.start_runner("n1", json.loads(sys.argv[3]))
while not (found := fleet.runners(fleet.nodes())):
    time.sleep(0.2)
print(*found)
fleet.close()
"""

FOREIGN_TASK = """
import asyncio, sys, ray
from runtime import gpus
ray.init(address=sys.argv[1], namespace="headrace", log_to_driver=False)
@ray.remote(num_gpus=1)
def take(): return 1
ready, _ = ray.wait([take.remote()], timeout=3)
print(len(ready), *asyncio.run(gpus.indices("n1", 2)))
"""


def settings(nats: NatsServer, folder: Path) -> dict[str, Any]:
    """What the runner of node n1 is told."""
    told: dict[str, Any] = msgspec.to_builtins(
        RunnerSettings(
            node="n1",
            folder=str(folder / "n1"),
            nats_url=nats.url,
            nats_user=nats.user,
            nats_password=nats.password,
            blobs_url=f"file://{folder}/blobs",
            gpus=2,
            pythons=("3.11.7",),
        )
    )
    return told


@pytest.fixture
async def head() -> AsyncIterator[RayHead]:
    head = RayHead("n1", gpus=2)
    await head.start()
    yield head
    await head.kill()


async def test_the_runner_in_ray_holds_the_gpus_and_attempts_outlive_it_and_ray(
    bus: Bus, nats: NatsServer, head: RayHead, tmp_path: Path
) -> None:
    """One story, because a Ray head takes seconds: start, hold, kill the actor, kill Ray."""
    leader = Leader(bus)
    await leader.listen()
    folder = NodeFolder(tmp_path / "n1")
    plain = {**settings(nats, tmp_path), "from_a_newer_release": 1}
    assert (await head.drive(START, json.dumps(plain))).strip() == "n1"

    launch = a_launch("j-a", WAITS, gpus=(1,))
    await leader.want(launch)
    await leader.until_running(launch.ref)
    pid = int(await line_in(folder.job(launch.ref) / "pid"))

    assert (await head.drive(FOREIGN_TASK)).split() == ["0", "0", "1"], "a foreign task got a GPU of ours"

    life = leader.exchanges[-1].runner
    os.kill(holder_of(folder.path / "runner.lock"), signal.SIGKILL)
    await leader.until(lambda: leader.exchanges[-1].runner != life)
    await leader.until_running(launch.ref)
    assert lives(pid)

    runner = holder_of(folder.path / "runner.lock")
    await head.kill()
    await gone(runner)
    assert lives(pid)

    attempt = Supervised(folder.attempt(launch.ref))
    attempt.stop("stopped", "the test is over")
    assert (await attempt.watch(lambda status: None)).cause == "stopped"
    await LauncherClient(folder.path).retire()


async def test_capacity_starts_runners_from_outside_the_cluster_and_they_outlive_its_connection(
    bus: Bus, nats: NatsServer, head: RayHead, tmp_path: Path
) -> None:
    """As on Kubernetes, where it comes by Ray Client: a driver of another kind must live on a node of the cluster."""
    leader = Leader(bus)
    await leader.listen()
    address = f"ray://127.0.0.1:{head.client_port}"
    assert (await head.drive(BY_CLIENT, address, json.dumps(settings(nats, tmp_path)))).strip() == "n1"
    seen, life = len(leader.exchanges), leader.exchanges[-1].runner
    await leader.until(lambda: len(leader.exchanges) > seen)
    assert leader.exchanges[-1].runner == life
    await LauncherClient(tmp_path / "n1").retire()
