"""The world of a campaign: NATS, two of every service, nodes, each line between them through a proxy of ours.

Runners run outside of Ray, or, with `ray`, as it starts them: a head, a raylet a node, capacity.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import secrets
import shutil
import signal
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Self

from controlplane import nats_server
from controlplane.embedded.plan import PORTS, free_ports, ray_environment
from controlplane.embedded.stuck import stuck
from load_tests.faults.disks import Disk, PoweredDisk
from load_tests.faults.processes import Process, held, keep_alive, of_nodes, send
from load_tests.faults.proxy import Proxy
from load_tests.faults.schedule import SERVICES

HOST: Final = "127.0.0.1"
STEPPED: Final = Path(__file__).parent / "stepped"
"""A folder that gives Python a wall clock which can be set."""
NODE_DISK: Final = 64 * 1024**2
NATS_DISK: Final = 256 * 1024**2
NATS_PROMISED: Final = 1024**4
"""What a server believes to have, so that the streams' limits fit and its disk can be full all the same."""
TIMES: Final = {"heartbeat_s": 0.5, "suspect_s": 2.0, "lease_s": 4.0, "leader_lease_s": 2.0}
SLOW_TIMES: Final = {"heartbeat_s": 3.0, "suspect_s": 9.0, "lease_s": 15.0, "leader_lease_s": 2.0}
RAY_TIMES: Final = {"heartbeat_s": 1.0, "suspect_s": 4.0, "lease_s": 40.0, "leader_lease_s": 2.0}
"""Ray takes half a minute to come up again when its head died; attempts are to outlive that."""
PORTS_MAX: Final = 100
"""Of one world: campaigns that run at once have blocks of their own."""
MANY: Final = 12
"""From so many nodes on, heartbeats are slow: all nodes share the cores of one machine."""
TEAM, USER, TOKEN = "red", "ada", "campaign-token"
QUEUE, SURE = "default", "sure"
"""The second one is guaranteed GPUs now and then."""
PREEMPTION: Final = "preempt_min_run_s"
GIB: Final = 1024**3
CPUS: Final = 4
GPUS: Final = 2
PYTHON: Final = ".".join(map(str, sys.version_info[:3]))


class World:
    """Made by `async with`; everything of it lives below one folder. `previous`: the code of another release."""

    def __init__(
        self,
        folder: Path,
        *,
        servers: int,
        nodes: int,
        tree: Path,
        previous: Path | None = None,
        ray: bool = False,
        archive_after_s: float = 0.0,
    ) -> None:
        self.folder = folder
        self.tree = tree
        self.previous = previous or tree
        self.witness = folder / "witness"
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.ray = ray
        self.user, self.password = "headrace", secrets.token_hex(8)
        self._archive_after_s = archive_after_s
        self._ray_token = secrets.token_hex(32)
        block = PORTS[os.getpid() % (len(PORTS) // PORTS_MAX) * PORTS_MAX :][:PORTS_MAX]
        ports = iter(free_ports(3 * servers + 4, among=block))
        self._nats_ports, self._route_ports, self._monitor_ports = (
            list(itertools.islice(ports, servers)) for _ in range(3)
        )
        self._gateway_ports = [next(ports), next(ports)]
        self._otlp_port, self._ray_port = ports
        self.processes: dict[str, Process] = {}
        self.lines: dict[str, list[Proxy]] = {}
        self.disks: dict[str, Disk] = {}
        self.limits: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Of streams; held by who changes one for a while."""
        self._tasks: list[asyncio.Task[None]] = []
        self.unexpected: list[str] = []
        """Deaths that nobody asked for."""

    @property
    def gateways(self) -> list[str]:
        return [f"http://{HOST}:{port}" for port in self._gateway_ports]

    @property
    def nats_url(self) -> str:
        return ",".join(f"nats://{HOST}:{port}" for port in self._nats_ports)

    @property
    def blobs_url(self) -> str:
        return f"file://{self.folder}/blobs"

    def node_folder(self, node: str) -> Path:
        return self.folder / f"node-{node}" / "node"

    # -- life ----------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        for name in ("witness", "logs", "state", "settings", "clocks", "nodes"):
            (self.folder / name).mkdir(parents=True)
        self._make_disks()
        for number in range(len(self._nats_ports)):
            self._nats(number)
        capacity = ("capacity-1",) if self.ray else ()
        for name in (*SERVICES, *capacity, *(() if self.ray else map("runner-{}".format, self.nodes))):
            self.lines[name] = [Proxy(port) for port in self._nats_ports]
            for line in self.lines[name]:
                await line.start()
        if self.ray:
            self._ray()
        for name in (*SERVICES, *capacity):
            self._service(name)
        for node in () if self.ray else self.nodes:
            self._runner(node)
        self._tasks = [asyncio.create_task(keep_alive(self._processes, self._on_death))]
        self._tasks += [asyncio.create_task(self._probe(number)) for number in range(len(self._nats_ports))]
        return self

    def _on_death(self, name: str, status: int | None) -> None:
        """A death that nobody asked for. A server of NATS cannot start on a full disk."""
        disk = self.disks.get(name)
        if disk is None or not disk.is_full:
            self.unexpected.append(f"{name} ended by itself with status {status}")

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        ordered = [process for process in self._processes() if process.may_end]  # they end their own children
        await asyncio.gather(*(process.end() for process in ordered))
        await asyncio.gather(*(process.end(signal.SIGKILL) for process in self._processes()))
        for pid, _ in of_nodes(self.folder):
            send(pid, signal.SIGKILL)
        for line in self._all_lines():
            await line.close()
        for disk in self.disks.values():
            await asyncio.to_thread(disk.unmount)

    def _processes(self) -> Iterator[Process]:
        return iter(self.processes.values())

    def _all_lines(self) -> Iterable[Proxy]:
        return (line for lines in self.lines.values() for line in lines)

    async def _probe(self, number: int) -> None:
        """A liveness probe of a NATS server, as the embedded stack and Kubernetes have one."""
        name = f"nats-{number + 1}"
        while True:
            await stuck(f"http://{HOST}:{self._monitor_ports[number]}/healthz", self.folder / name)
            self.processes[name].kill()

    def heal(self) -> None:
        """Whatever is still wrong ends now."""
        for line in self._all_lines():
            line.set("")
        for process in self._processes():
            process.wake()
        for pid, _ in of_nodes(self.folder):
            send(pid, signal.SIGCONT)
        for clock in (self.folder / "clocks").iterdir():
            clock.write_text("0")
        for disk in self.disks.values():
            disk.make_room()

    async def restart_services(self, *, from_zero: bool) -> None:
        """End all services and let them start again; from zero: without their snapshots."""
        services = [self.processes[name] for name in SERVICES]
        with held(*services):
            await asyncio.gather(*(service.end() for service in services))
            if from_zero:
                shutil.rmtree(self.folder / "blobs" / "snapshots", ignore_errors=True)

    # -- what it consists of -------------------------------------------------------------------------------------------

    def _make_disks(self) -> None:
        for node in self.nodes:
            self.disks[node] = Disk(self.folder / f"node-{node}", NODE_DISK)
            (self.folder / "nodes" / node).symlink_to(self.node_folder(node))
        for number in range(len(self._nats_ports)):
            name = f"nats-{number + 1}"
            self.disks[name] = PoweredDisk(self.folder / name, NATS_DISK)
        for disk in self.disks.values():
            disk.mount()
        for node in self.nodes:
            self.node_folder(node).mkdir()

    def _nats(self, number: int) -> None:
        name = f"nats-{number + 1}"
        cluster = None
        if len(self._nats_ports) > 1:
            routes = [f"nats://{HOST}:{port}" for port in self._route_ports]
            cluster = nats_server.Cluster("faults", self._route_ports[number], routes)
        text = nats_server.configuration(
            name=name,
            host=HOST,
            port=self._nats_ports[number],
            store=self.folder / name / "store",
            user=self.user,
            password=self.password,
            cluster=cluster,
            store_bytes_max=NATS_PROMISED,
            monitor_port=self._monitor_ports[number],
        )
        file = self.folder / "settings" / f"{name}.conf"
        # Clients must not learn of the way around their proxies.
        file.write_text(text.replace("\ncluster {", "\ncluster {\n  no_advertise: true"))
        self._add(name, [nats_server.binary(), "-c", str(file)])

    @property
    def _times(self) -> dict[str, float]:
        if self.ray:
            return RAY_TIMES
        return SLOW_TIMES if len(self.nodes) >= MANY else TIMES

    def _connection(self, name: str) -> dict[str, Any]:
        """What every process of ours is told of the rest."""
        return {
            "nats_url": ",".join(f"nats://{HOST}:{line.port}" for line in self.lines[name]),
            "nats_user": self.user,
            "nats_password": self.password,
            "blobs_url": self.blobs_url,
            "otlp_secret": "campaign",
        }

    def _service(self, name: str) -> None:
        kind, _, number = name.partition("-")
        config: dict[str, Any] = {
            **self._times,
            **self._connection(name),
            "state": str(self.folder / "state"),
            "replicas": len(self._nats_ports),
            "ray_address": f"{HOST}:{self._ray_port}",
            "node_folder": str(self.folder / "nodes"),
            "gateway_port": self._gateway_ports[int(number) - 1],
            "otlp_port": self._otlp_port,
            "archive_after_s": self._archive_after_s,
            "teams": {TEAM: {"queues": [QUEUE, SURE]}},
            "tokens": {
                hashlib.sha256(TOKEN.encode()).hexdigest(): {"team": TEAM, "user": USER, "operator": True},
            },
            "tiers": [
                {"name": name, "resources": {"cpus": 1, "memory_bytes": 50_000_000, "gpus": gpus}}
                for name, gpus in (("cpu", 0), ("gpu1", 1), ("gpu2", 2))
            ],
            "control_wait_s": 20.0,
        }
        if PREEMPTION in (self.previous / "controlplane" / "config.py").read_text():  # a release of before knows none
            config[PREEMPTION] = 1.0
        file = self.folder / "settings" / f"{name}.json"
        file.write_text(json.dumps(config))
        is_of_ray = kind == "capacity"  # whose driver ends its process when the head is gone
        more = ray_environment(self._ray_token) if is_of_ray else self._clock(name)
        command = [sys.executable, "-m", "controlplane", kind, "--config", str(file)]
        self._add(name, command, more, may_end=is_of_ray)

    def _runner(self, node: str) -> None:
        name = f"runner-{node}"
        settings = {
            **self._connection(name),
            "node": node,
            "folder": str(self.node_folder(node)),
            "otlp_url": f"http://{HOST}:{self._otlp_port}",
            "cpus": CPUS,
            "memory_bytes": GIB,
            "gpus": GPUS,
            "pythons": [PYTHON],
            "lease_s": self._times["lease_s"],
        }
        file = self.folder / "settings" / f"{name}.json"
        file.write_text(json.dumps(settings))
        command = [sys.executable, "-m", "runtime.runner", "--settings", str(file)]
        self._add(name, command, self._clock(name))

    def _ray(self) -> None:
        """A head without a node of ours, and a raylet a node; no path of Ray's may be long."""
        start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        start += [f"--node-ip-address={HOST}", "--object-store-memory=80000000", "--dashboard-agent-listen-port=0"]
        head = ["--head", f"--port={self._ray_port}", "--num-cpus=0", "--include-dashboard=false"]
        environment = ray_environment(self._ray_token)
        self._add("ray-head", [*start, *head, f"--temp-dir={self.folder}/ray"], environment, may_end=True)
        for node in self.nodes:
            size = [f"--num-cpus={CPUS}", f"--num-gpus={GPUS}", f"--memory={GIB}", f"--labels=hr.node={node}"]
            self._add(f"ray-{node}", [*start, f"--address={HOST}:{self._ray_port}", *size], environment, may_end=True)

    def _clock(self, name: str) -> dict[str, str]:
        """A wall clock of its own, that can be stepped."""
        clock = self.folder / "clocks" / name
        clock.write_text("0")
        return {"HEADRACE_FAULTS_CLOCK": str(clock), "PYTHONPATH": str(STEPPED)}

    def _add(self, name: str, command: list[str], more: dict[str, str] | None = None, *, may_end: bool = False) -> None:
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", **(more or {})}  # they are started often
        log = self.folder / "logs" / f"{name}.log"
        self.processes[name] = Process(name, command, log=log, tree=self.tree, environment=environment, may_end=may_end)
