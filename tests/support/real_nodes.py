"""Several nodes on this machine, each with a real runner, launcher and processes, for a real scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from events.bus import Bus
from events.messages import AttemptRef, Launch
from runtime.node_folder import NodeFolder
from runtime.runner import Runner
from runtime.settings import RunnerSettings
from runtime.supervised import LauncherClient
from tests.support.attempts import line_in, supervisor_of
from tests.support.nats import NatsServer
from tests.support.runners import PlainLayer, PlainShipping


class Keeping(PlainShipping):
    """Ships nothing away: it keeps what was written to stdout."""

    def __init__(self, kept: dict[AttemptRef, str]) -> None:
        super().__init__()
        self._kept = kept

    async def ship(self, launch: Launch, folder: Path, over: asyncio.Event) -> None:
        await super().ship(launch, folder, over)
        self._kept[launch.ref] = (folder / "stdout").read_text()


class RealNode:
    """One node. Its runner can be stopped and started again, and all of it can vanish at once."""

    def __init__(self, name: str, folder: Path, nats: NatsServer, *, gpus: int = 1) -> None:
        self.name = name
        self.settings = RunnerSettings(
            node=name,
            folder=str(folder / name),
            nats_url=nats.url,
            blobs_url="",
            cpus=64,
            memory_bytes=1 << 40,
            gpus=gpus,
            pythons=("3.11.7",),
        )
        self.folder = NodeFolder(folder / name)
        self.layer = PlainLayer(self.settings)
        self.kept: dict[AttemptRef, str] = {}
        """What attempts that are over wrote to stdout."""
        self._nats = nats
        self._runner: asyncio.Task[None] | None = None

    async def start(self) -> None:
        bus = await Bus.connect(self._nats.url, user=self._nats.user, password=self._nats.password, name=self.name)
        self._runner = asyncio.create_task(self._run(bus))

    async def _run(self, bus: Bus) -> None:
        try:
            await Runner(self.settings, bus, self.layer, Keeping(self.kept)).run()
        finally:
            await bus.drain()

    async def stop(self) -> None:
        """The runner; what it started lives on."""
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner
            self._runner = None

    async def vanish(self, *pids: int) -> None:
        """As a machine that burns down, with these entrypoints on it."""
        await self.stop()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(supervisor_of(pid), signal.SIGKILL)

    async def close(self) -> None:
        await self.stop()
        await LauncherClient(self.folder.path).retire()

    async def said(self, ref: AttemptRef, name: str) -> str:
        """The line in a file that the attempt's entrypoint wrote into its folder."""
        return await line_in(self.folder.job(ref) / f"{name}.{ref.attempt}")
