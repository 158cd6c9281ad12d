"""The world of a campaign: NATS, two of every service, nodes, each line between them through a proxy of ours.

Whatever dies is started again, as Kubernetes would; whoever is to be hurt is found by name. Runners run outside of Ray
here (`load_tests/kills.py` has Ray in it).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from controlplane import nats_server
from controlplane.embedded.stuck import stuck
from load_tests.faults.proxy import Proxy
from load_tests.faults.schedule import LINKS, SERVICES, Fault

RESTART_S: Final = 0.3
HOST: Final = "127.0.0.1"
FAKETIME: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
"""Debian's `libfaketime`; without it clocks are not stepped."""
CLOCK_STEP_S: Final = 45.0
NODE_DISK: Final = 64 * 1024**2
NATS_DISK: Final = 256 * 1024**2
NATS_PROMISED: Final = 1024**4
"""What a server believes to have, so that the streams' limits fit and its disk can be full all the same."""
TIMES: Final = {"heartbeat_s": 0.5, "suspect_s": 2.0, "lease_s": 4.0, "leader_lease_s": 2.0}
TEAM, USER, TOKEN = "red", "ada", "campaign-token"
GIB: Final = 1024**3


def _free_ports(count: int) -> list[int]:
    holders = [socket.socket() for _ in range(count)]
    for each in holders:
        each.bind((HOST, 0))
    ports = [int(each.getsockname()[1]) for each in holders]
    for each in holders:
        each.close()
    return ports


def _fill_up(file: Path, free: int) -> None:
    """Take all that is free, whoever else takes some meanwhile."""
    with file.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        os.posix_fallocate(ballast.fileno(), 0, max(free - 65536, 1))
        while True:
            ballast.seek(0, os.SEEK_END)
            ballast.write(bytes(4096))


class Process:
    """One process that is started again whenever it dies, unless it is held down."""

    def __init__(self, name: str, command: list[str], log: Path, tree: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._tree = tree
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    @property
    def status(self) -> int | None:
        return self._process.poll() if self._process is not None else None

    def start(self) -> None:
        self.starts += 1
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._tree,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        if self.pid:
            os.kill(self.pid, number)

    async def end(self, number: signal.Signals = signal.SIGTERM, *, limit_s: float = 20.0) -> None:
        self.send(signal.SIGCONT)
        self.send(number)
        process = self._process
        if process is None:
            return
        try:
            await asyncio.to_thread(process.wait, limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)


class World:
    """Made by `async with`; everything of it lives below one folder."""

    def __init__(self, folder: Path, *, servers: int, nodes: int, tree: Path) -> None:
        self.folder = folder
        self.tree = tree
        self.witness = folder / "witness"
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.password = secrets.token_hex(8)
        self._nats_ports = _free_ports(servers)
        self._route_ports = _free_ports(servers)
        self._monitor_ports = _free_ports(servers)
        self._gateway_ports = _free_ports(2)
        self._otlp_port = _free_ports(1)[0]
        self.processes: dict[str, Process] = {}
        self.lines: dict[str, list[Proxy]] = {}
        self._mounted: list[Path] = []
        self._keeper: asyncio.Task[None] | None = None
        self._probes: list[asyncio.Task[None]] = []
        self.unexpected: list[str] = []
        """Deaths that nobody asked for."""
        self._killed: set[tuple[str, int]] = set()

    @property
    def gateways(self) -> list[str]:
        return [f"http://{HOST}:{port}" for port in self._gateway_ports]

    @property
    def nats_url(self) -> str:
        return ",".join(f"nats://{HOST}:{port}" for port in self._nats_ports)

    @property
    def can_fill(self) -> bool:
        return bool(self._mounted)

    # -- life ----------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> World:
        for name in ("witness", "logs", "state", "settings", "clocks"):
            (self.folder / name).mkdir(parents=True)
        self._disks()
        for number in range(len(self._nats_ports)):
            self._nats(number)
        names = [*SERVICES, *(f"runner-{node}" for node in self.nodes)]
        for name in names:
            self.lines[name] = [Proxy(port) for port in self._nats_ports]
            for line in self.lines[name]:
                await line.start()
        for name in SERVICES:
            self._service(name)
        for node in self.nodes:
            self._runner(node)
        for process in self.processes.values():
            process.start()
        self._keeper = asyncio.create_task(self._keep_alive())
        self._probes = [asyncio.create_task(self._probe(number)) for number in range(len(self._nats_ports))]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._keeper, *self._probes):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in (self._keeper, *self._probes) if task), return_exceptions=True)
        await asyncio.gather(*(process.end(signal.SIGKILL) for process in self.processes.values()))
        for pid in self.supervisors() + self.launchers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        for lines in self.lines.values():
            for line in lines:
                await line.close()
        for disk in self._mounted:
            await asyncio.to_thread(subprocess.run, ["umount", "-l", str(disk)], check=False)

    async def _keep_alive(self) -> None:
        while True:
            for process in self.processes.values():
                if process.status is not None:
                    if (process.name, process.starts) not in self._killed:
                        self.unexpected.append(f"{process.name} ended by itself with status {process.status}")
                    process.start()
            await asyncio.sleep(RESTART_S)

    async def _probe(self, number: int) -> None:
        """A liveness probe of a NATS server, as the embedded stack and Kubernetes have one."""
        name = f"nats-{number + 1}"
        while True:
            await stuck(f"http://{HOST}:{self._monitor_ports[number]}/healthz", self.folder / name)
            self.kill(name)

    # -- what it consists of -------------------------------------------------------------------------------------------

    def _disks(self) -> None:
        """Disks of their own for nodes and servers, small enough to be filled. Needs the right to mount."""
        sizes = {f"node-{node}": NODE_DISK for node in self.nodes}
        sizes |= {f"nats-{number + 1}": NATS_DISK for number in range(len(self._nats_ports))}
        for name, size in sizes.items():
            disk = self.folder / name
            disk.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)]
            if os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0:
                self._mounted.append(disk)

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
            user="headrace",
            password=self.password,
            cluster=cluster,
            store_bytes_max=NATS_PROMISED,
            monitor_port=self._monitor_ports[number],
        )
        file = self.folder / "settings" / f"{name}.conf"
        # Clients must not learn of the way around their proxies.
        file.write_text(text.replace("\ncluster {", "\ncluster {\n  no_advertise: true"))
        self._add(name, [nats_server.binary(), "-c", str(file)])

    def _service(self, name: str) -> None:
        kind, _, number = name.partition("-")
        config: dict[str, Any] = {
            **TIMES,
            "state": str(self.folder / "state"),
            "nats_url": self._through(name),
            "nats_user": "headrace",
            "nats_password": self.password,
            "replicas": len(self._nats_ports),
            "blobs_url": self.blobs_url,
            "gateway_port": self._gateway_ports[int(number) - 1],
            "otlp_port": self._otlp_port,
            "otlp_secret": "campaign",
            "teams": {TEAM: {}},
            "tokens": {
                hashlib.sha256(TOKEN.encode()).hexdigest(): {"team": TEAM, "user": USER, "operator": True},
            },
            "tiers": [
                {"name": name, "resources": {"cpus": 1, "memory_bytes": 50_000_000, "gpus": gpus}}
                for name, gpus in (("cpu", 0), ("gpu1", 1), ("gpu2", 2))
            ],
            "control_wait_s": 20.0,
        }
        file = self.folder / "settings" / f"{name}.json"
        file.write_text(json.dumps(config))
        self._add(name, [sys.executable, "-m", "controlplane", kind, "--config", str(file)])

    def _runner(self, node: str) -> None:
        settings = {
            "node": node,
            "folder": str(self.folder / f"node-{node}" / "node"),
            "nats_url": self._through(f"runner-{node}"),
            "nats_user": "headrace",
            "nats_password": self.password,
            "blobs_url": self.blobs_url,
            "otlp_url": f"http://{HOST}:{self._otlp_port}",
            "otlp_secret": "campaign",
            "cpus": 4.0,
            "memory_bytes": GIB,
            "gpus": 2,
            "pythons": [f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"],
            "lease_s": TIMES["lease_s"],
        }
        file = self.folder / "settings" / f"runner-{node}.json"
        file.write_text(json.dumps(settings))
        self._add(f"runner-{node}", [sys.executable, "-m", "runtime.runner", "--settings", str(file)])

    def _add(self, name: str, command: list[str]) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{self.tree}:{self.tree}/sdk",
            "PYTHONDONTWRITEBYTECODE": "",  # they are started often
        }
        if FAKETIME.exists() and not name.startswith("nats"):
            clock = self.folder / "clocks" / name
            clock.write_text("+0")
            environment |= {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(clock),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_DONT_RESET": "1",
            }
        self.processes[name] = Process(name, command, self.folder / "logs" / f"{name}.log", self.tree, environment)

    def _through(self, name: str) -> str:
        return ",".join(f"nats://{HOST}:{line.port}" for line in self.lines[name])

    @property
    def blobs_url(self) -> str:
        return f"file://{self.folder}/blobs"

    # -- faults --------------------------------------------------------------------------------------------------------

    async def hurt(self, fault: Fault) -> bool:
        """Do it, and undo it after its time. False: it cannot be done in this world."""
        match fault.kind:
            case "kill":
                self.kill(fault.target)
            case "stop":
                process = self.processes[fault.target]
                pid = process.pid
                if pid:
                    os.kill(pid, signal.SIGSTOP)
                    await asyncio.sleep(fault.for_s)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
            case kind if kind in LINKS:
                await self._hold_line(fault)
            case "kill supervisor" | "stop supervisor" | "kill launcher":
                return await self._hurt_attempt(fault)
            case "clock":
                return await self._step_clock(fault)
            case "full":
                return await self._fill(fault)
            case other:
                raise ValueError(f"no such fault: {other}")
        return True

    def kill(self, name: str) -> None:
        process = self.processes[name]
        self._killed.add((name, process.starts))
        process.send(signal.SIGKILL)

    async def _hold_line(self, fault: Fault) -> None:
        lines = self.lines[fault.target]
        try:
            for line in lines:
                line.set(fault.kind)
            await asyncio.sleep(fault.for_s)
        finally:
            for line in lines:
                line.set("")

    async def _hurt_attempt(self, fault: Fault) -> bool:
        node = self.folder / f"node-{fault.target}"
        pids = self.launchers(node) if fault.kind == "kill launcher" else self.supervisors(node)
        if not pids:
            return False
        if fault.kind == "stop supervisor":
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGSTOP)
                await asyncio.sleep(fault.for_s)
                os.kill(pids[0], signal.SIGCONT)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGKILL)
        return True

    async def _step_clock(self, fault: Fault) -> bool:
        if not FAKETIME.exists():
            return False
        clock = self.folder / "clocks" / fault.target
        sign = "+" if int(fault.at_s * 10) % 2 else "-"
        clock.write_text(f"{sign}{CLOCK_STEP_S:.0f}")
        await asyncio.sleep(fault.for_s)
        clock.write_text("+0")
        return True

    async def _fill(self, fault: Fault) -> bool:
        disk = self.folder / (fault.target if fault.target.startswith("nats") else f"node-{fault.target}")
        if disk not in self._mounted:
            return False
        ballast = disk / "ballast"
        free = shutil.disk_usage(disk).free
        await asyncio.to_thread(_fill_up, ballast, free)
        await asyncio.sleep(fault.for_s)
        ballast.unlink(missing_ok=True)
        return True

    def heal(self) -> None:
        """Whatever is still wrong ends now."""
        for lines in self.lines.values():
            for line in lines:
                line.set("")
        for process in self.processes.values():
            process.send(signal.SIGCONT)
        for pid in self.supervisors():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        for clock in (self.folder / "clocks").iterdir():
            clock.write_text("+0")
        for disk in self._mounted:
            (disk / "ballast").unlink(missing_ok=True)

    async def restart_services(self, *, from_zero: bool) -> None:
        """End all services and let them start again; from zero: without their snapshots."""
        names = [name for name in self.processes if name in SERVICES]
        for name in names:
            self._killed.add((name, self.processes[name].starts))
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await asyncio.gather(*(self.processes[name].end() for name in names))
        if from_zero:
            shutil.rmtree(self.folder / "blobs" / "snapshots", ignore_errors=True)
        self._keeper = asyncio.create_task(self._keep_alive())

    # -- looking -------------------------------------------------------------------------------------------------------

    def supervisors(self, below: Path | None = None) -> list[int]:
        return [pid for pid, name in self._of_nodes(below) if name == "hr-supervisor"]

    def launchers(self, below: Path | None = None) -> list[int]:
        return [pid for pid, name in self._of_nodes(below) if name != "hr-supervisor"]

    def _of_nodes(self, below: Path | None) -> list[tuple[int, str]]:
        """Launchers and supervisors: what works in a node's folder and came of `runtime.launcher`."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if b"runtime.launcher" not in (entry / "cmdline").read_bytes():
                    continue
                at = Path(os.readlink(entry / "cwd"))
                name = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if at.is_relative_to(below or self.folder):
                found.append((int(entry.name), name))
        return found

    def of_jobs(self) -> list[int]:
        """Every process that a job of this world left running."""
        mark = str(self.folder).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if b"HEADRACE_ATTEMPT=" in environment and mark in environment:
                found.append(int(entry.name))
        return found
