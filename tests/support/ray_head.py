"""A Ray head of a test's own: with a token, on a free port, below a private folder, in a process group of its own."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from controlplane.pool.raycluster import FORKS_BARE
from tests.support.nats import HOST, free_ports

READY_S_MAX = 60.0
ROOT = Path(__file__).parents[2]


class RayHead:
    """One node that is the head as well, labelled `hr.node=<node>`, with GPUs that are only declared."""

    def __init__(
        self, node: str, *, gpus: int, command: tuple[str, ...] = (sys.executable,), path: str = str(ROOT)
    ) -> None:
        """`command`: the interpreter of the head and its workers, and what it is started by; `path`: its PYTHONPATH."""
        self.folder = Path(tempfile.mkdtemp(prefix="hr-ray-", dir="/tmp"))  # 0700, and short: Ray puts sockets there
        self.port, self.client_port = free_ports(2)
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_memory_monitor_refresh_ms": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "",  # without bytecode a head takes 15 s instead of 3
            FORKS_BARE["name"]: FORKS_BARE["value"],
        }
        self._process: asyncio.subprocess.Process | None = None
        self._command = (
            *(*command, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
            *(f"--port={self.port}", f"--node-ip-address={HOST}", "--num-cpus=2", f"--num-gpus={gpus}"),
            f"--ray-client-server-port={self.client_port}",
            *("--object-store-memory=80000000", "--include-dashboard=false", "--dashboard-agent-listen-port=0"),
            *(f"--labels=hr.node={node}", f"--temp-dir={self.folder}/ray"),
        )

    async def start(self) -> None:
        """One that was killed may be started again: at the same ports, and knowing nothing."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with (self.folder / "log").open("wb") as log:
            process = self._process = await asyncio.create_subprocess_exec(
                *self._command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        async with asyncio.timeout(READY_S_MAX):
            while True:
                try:
                    _, writer = await asyncio.open_connection(HOST, self.port)
                except OSError:
                    await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=0.1)
                    if process.returncode is not None:
                        raise RuntimeError((self.folder / "log").read_text()[-2000:]) from None
                else:
                    writer.close()
                    return

    @property
    def pid(self) -> int:
        """Of the process below which all others of it are, and of their group."""
        assert self._process is not None, "it was never started"
        return self._process.pid

    async def drive(self, code: str, *arguments: str) -> str:
        """Run a driver of this cluster; gives what it prints. The address is its first argument."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code, f"{HOST}:{self.port}", *arguments),
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        output, complaint = await process.communicate()
        assert process.returncode == 0, complaint.decode()[-3000:]
        return output.decode()

    async def kill(self) -> None:
        """SIGKILL to all of it, at once: SIGTERM would wait up to 30 s for actors that never end."""
        if self._process is not None and self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
