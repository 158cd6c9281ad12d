"""The pool beside an API server of the tests' own: `python -m load_tests.pool`.

1,000 machines that come at once: until the RayCluster is right, with how many requests, how much CPU an event. Then
what an idle pool asks, and what is missed when the server is killed in the middle. Then machines that come, go and
change at random beside a KubeRay that is late, while other images are wanted now and then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from events import subjects
from events.bus import Bus
from load_tests.stack import report
from tests.support.apiserver import ApiServer, write_kubeconfig
from tests.support.kuberay import World
from tests.support.nats import NatsServer

NODES: Final = "/api/v1/nodes"
CLUSTERS: Final = "/apis/ray.io/v1/namespaces/headrace/rayclusters"
TICKS: Final = os.sysconf("SC_CLK_TCK")


def a_machine(number: int) -> dict[str, Any]:
    """Of two shapes; with the names of 50 images, as a kubelet tells them, which are most of a node's 9 KB."""
    gpus = 8 if number % 4 else 0
    names = [
        [f"images/team/some-image-{one}@sha256:{one:064x}", f"images/some-image-{one}:v1.{one}"] for one in range(50)
    ]
    return {
        "metadata": {"name": f"n{number:05}", "labels": {"headrace.dev/pool": "research"}},
        "spec": {},
        "status": {
            "allocatable": {"cpu": "96", "memory": "768Gi", "nvidia.com/gpu": str(gpus)},
            "conditions": [{"type": "Ready", "status": "True"}],
            "images": [{"names": each, "sizeBytes": 123_456_789} for each in names],
        },
    }


async def burst(machines: int, idle_s: float, folder: Path) -> dict[str, Any]:
    server, nats = ApiServer(), NatsServer(folder / "nats")
    await server.start()
    nats.start()
    process = await _pool(server, nats, folder)
    bus = await Bus.connect(nats.url, user=nats.user, password=nats.password, name="load-test")
    try:
        async with asyncio.timeout(60):
            while (CLUSTERS, "headrace") not in server.objects:  # noqa: ASYNC110  another process writes it
                await asyncio.sleep(0.05)
        asked, cpu_s, begun = server.requests.total(), _cpu_s(process.pid), time.monotonic()
        for number in range(machines):
            await server.put(NODES, a_machine(number))
        put_s = time.monotonic() - begun
        async with asyncio.timeout(300):
            while _replicas(server) < machines:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        took_s = time.monotonic() - begun
        requests, used_s = server.requests.total() - asked, _cpu_s(process.pid) - cpu_s
        await asyncio.sleep(1.0)
        before, writes = server.requests.copy(), server.requests["patch rayclusters"]
        await asyncio.sleep(idle_s)
        idle = server.requests - before
        status = json.loads(await bus.ask(subjects.ask("pool", "status")))
        killed = await _killed(server, machines)
        return {
            "machines": machines,
            "machines_put_s": round(put_s, 2),
            "raycluster_right_s": round(took_s, 2),
            "requests": requests,
            "writes": writes,
            "cpu_us_an_event": round(1e6 * used_s / machines),
            "idle_requests_an_hour": round(3600 / idle_s * idle.total()),
            "idle_requests_but_for_the_lease": idle.total() - idle["get leases"] - idle["update leases"],
            **killed,
            "problems": len({*status["problems"]} - {"scheduling"}),
        }
    finally:
        await bus.drain()
        process.terminate()
        await process.wait()
        await server.stop()
        nats.kill()


async def _killed(server: ApiServer, machines: int) -> dict[str, Any]:
    """A tenth more machines come; the server is killed in the middle of them, and is away for two seconds."""
    before, more = server.requests.copy(), machines // 10
    for number in range(machines, machines + more // 2):
        await server.put(NODES, a_machine(number))
    await server.stop()
    for number in range(machines + more // 2, machines + more):
        await server.put(NODES, a_machine(number))
    await asyncio.sleep(2.0)
    await server.start()
    begun = time.monotonic()
    async with asyncio.timeout(60):
        while _replicas(server) < machines + more:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    asked = server.requests - before
    return {
        "killed_missed": machines + more - _replicas(server),
        "killed_right_again_s": round(time.monotonic() - begun, 2),
        "killed_lists": sum(count for what, count in asked.items() if what.startswith("list ") and "pods" not in what),
        "killed_looks_at_pods": asked["list pods"],
    }


async def _pool(server: ApiServer, nats: NatsServer, folder: Path) -> asyncio.subprocess.Process:
    kubeconfig = write_kubeconfig(folder / "kubeconfig", server.url)
    settings = {
        "nats_url": nats.url,
        "nats_user": nats.user,
        "nats_password": nats.password,
        "state": str(folder),
        "kubeconfig": str(kubeconfig),
        "kubernetes_pool": "research",
        "kubernetes_node_image": "node:1",
        "kubernetes_ray_version": "2.60.0",
    }
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "controlplane", "pool", *flags, stderr=asyncio.subprocess.DEVNULL
    )


def _replicas(server: ApiServer) -> int:
    cluster = server.objects[CLUSTERS, "headrace"]
    return sum(group["replicas"] for group in cluster["spec"]["workerGroupSpecs"])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class _Counting(World):
    """A world that counts what happens to its machines."""

    events = 0

    def put_node(self, name: str, **changes: Any) -> None:
        self.events += 1
        super().put_node(name, **changes)

    def drop_node(self, name: str) -> None:
        self.events += 1
        super().drop_node(name)


def walk(events: int, *, counted: bool) -> dict[str, Any]:
    """Machines come, go and change until there were so many events, in worlds of 100 each."""
    said = {"events": 0, "healthy_deleted": 0, "deleted_while_busy": 0, "without_a_pod": 0, "pending_in_the_end": 0}
    said |= {"two_down_for_an_upgrade": 0, "outdated_in_the_end": 0, "made_anew": 0}
    pending = steps = seed = 0
    while said["events"] < events:
        seed += 1
        world = _Counting(random.Random(seed), counted=counted)
        while world.events < 100:
            world.step()
            steps += 1
        pending += world.pending_steps
        world.calm_down()
        standing = {pod.node for pod in world.pods.values()}
        good = {n for n, one in world.nodes.items() if world.takes(n) and not one["cordoned"] and one["ready"]}
        said["events"] += world.events
        said["healthy_deleted"] += len(world.wrong)
        said["deleted_while_busy"] += len(world.busy_deleted)
        said["without_a_pod"] += len(good - standing)
        said["two_down_for_an_upgrade"] += world.at_once > 1
        said["outdated_in_the_end"] += sum(not world.is_current(pod) for pod in world.pods.values())
        said["made_anew"] += world.upgrades
        said["pending_in_the_end"] += sum(not pod.node for pod in world.pods.values())
    return said | {"steps": steps, "pod_steps_pending_on_the_way": pending}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load_tests.pool", description=__doc__)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--idle-s", type=float, default=60.0)
    parser.add_argument("--events", type=int, default=10_000, help="of machines, beside the late KubeRay")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hr-pool-") as folder:
        figures: dict[str, Any] = {"burst": asyncio.run(burst(options.machines, options.idle_s, Path(folder)))}
    walks = {
        "terminating counted": walk(options.events, counted=True),
        "not counted": walk(options.events, counted=False),
    }
    report("pool", figures | {"walks": walks}, {})
    bad = [
        *("healthy_deleted", "deleted_while_busy", "without_a_pod", "pending_in_the_end"),
        *("two_down_for_an_upgrade", "outdated_in_the_end"),
    ]
    return 1 if any(each[name] for each in walks.values() for name in bad) else 0


if __name__ == "__main__":
    sys.exit(main())
