"""NATS servers that a test may start, stop, kill and restart, on free ports of the loopback interface."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

from controlplane import nats_server
from controlplane.embedded.plan import free_ports

USER = "headrace"
HOST = "127.0.0.1"
READY_S = 15.0


def free_port() -> int:
    return free_ports(1)[0]


class NatsServer:
    """One server, by its process. Its store is kept over `kill` and `stop`, so `start` is a restart."""

    def __init__(
        self, folder: Path, *, name: str = "n1", cluster: nats_server.Cluster | None = None, password: str = ""
    ) -> None:
        self.folder = folder
        self.user = USER
        self.password = password or secrets.token_hex(8)
        self.port = free_port()
        self.name = name
        self.cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "nats.conf"
        config.write_text(self.configuration())
        with (self.folder / "nats.log").open("ab") as log:
            self._process = subprocess.Popen(
                [nats_server.binary(), "-c", str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def configuration(self) -> str:
        return nats_server.configuration(
            name=self.name,
            host=HOST,
            port=self.port,
            store=self.folder / "store",
            user=self.user,
            password=self.password,
            cluster=self.cluster,
        )

    def wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"nats-server ended: {(self.folder / 'nats.log').read_text()[-2000:]}")
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise TimeoutError(f"nats-server does not listen after {READY_S} s")

    def kill(self) -> None:
        """SIGKILL, at once."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: alive, and silent."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill and start again."""
        self.kill()
        self.start()

    async def restart_later(self, after_s: float) -> None:
        """Start it again after a while, without blocking the loop."""
        await asyncio.sleep(after_s)
        await asyncio.to_thread(self.start)

    def _end(self, with_signal: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(with_signal)
        if with_signal is signal.SIGTERM:
            self._process.send_signal(signal.SIGCONT)
        self._process.wait(timeout=READY_S)
        self._process = None


class NatsCluster:
    """Three servers that know each other. Same face as one server where a test does not care."""

    def __init__(self, folder: Path, *, size: int = 3) -> None:
        self.user = USER
        self.password = secrets.token_hex(8)
        ports = [free_port() for _ in range(size)]
        routes = [f"nats://{HOST}:{port}" for port in ports]
        self.servers = [
            NatsServer(
                folder / f"n{number}",
                name=f"n{number}",
                cluster=nats_server.Cluster("headrace", port, routes),
                password=self.password,
            )
            for number, port in enumerate(ports, start=1)
        ]

    @property
    def url(self) -> str:
        return ",".join(server.url for server in self.servers)

    def start(self) -> None:
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait()

    def stop(self) -> None:
        for server in self.servers:
            server.kill()

    kill = stop

    def restart(self) -> None:
        """Kill all of them and start them again: a power cut of the whole cluster."""
        self.kill()
        self.start()
