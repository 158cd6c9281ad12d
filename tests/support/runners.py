"""A node with a real runner whose laying out and shipping are stand-ins."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from events.bus import Bus
from events.messages import AttemptRef, Launch
from runtime import job_environment
from runtime.attempt import LayOutFailed
from runtime.exit_record import Spec
from runtime.job_environment import Surroundings
from runtime.node_folder import NodeFolder
from runtime.runner import Runner
from runtime.settings import RunnerSettings
from runtime.supervised import LauncherClient
from tests.support.attempts import line_in
from tests.support.leader import Leader
from tests.support.nats import NatsServer


class PlainLayer:
    """Every job runs in its job folder with the node's interpreter. `broken` and `waiting` are for the tests."""

    def __init__(self, settings: RunnerSettings) -> None:
        self.settings = settings
        self.folder = NodeFolder(Path(settings.folder))
        self.broken = ""
        self.bug = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun: list[AttemptRef] = []

    async def lay_out(self, launch: Launch, folder: Path) -> Spec:
        self.begun.append(launch.ref)
        await self.gate.wait()
        if self.bug:
            raise ZeroDivisionError
        if self.broken:
            raise LayOutFailed("environment_failed", self.broken)
        around = Surroundings(
            node=self.settings.node,
            job_folder=self.folder.job(launch.ref),
            attempt_folder=folder,
            pythonpath=self.folder.pythonpath,
            bin=Path("/usr/bin"),
        )
        env = job_environment.variables(launch, around, os.environ)
        return Spec(
            argv=launch.entrypoint,
            env=env,
            cwd=str(around.job_folder),
            grace_s=launch.grace_s,
            time_limit_s=launch.time_limit_s,
            lease_file=str(self.folder.lease),
            lease_s=self.settings.lease_s,
        )


class PlainShipping:
    """Ships nothing, and is done when the attempt is over and the test lets it."""

    def __init__(self) -> None:
        self.drained = asyncio.Event()
        self.drained.set()

    async def ship(self, launch: Launch, folder: Path, over: asyncio.Event) -> None:
        await over.wait()
        await self.drained.wait()


@contextlib.asynccontextmanager
async def a_runner(nats: NatsServer, bus: Bus, settings: RunnerSettings) -> AsyncIterator[RunnerWorld]:
    """A world that is left without attempts and without a launcher."""
    leader = Leader(bus)
    await leader.listen()
    world = RunnerWorld(nats, leader, settings)
    await world.start()
    yield world
    leader.wanted.clear()
    await leader.say()
    await leader.until(lambda: not leader.exchanges[-1].attempts)
    await world.stop()
    await LauncherClient(world.folder.path).retire()


class RunnerWorld:
    """One node: its runner can be killed and started again."""

    def __init__(self, nats: NatsServer, leader: Leader, settings: RunnerSettings) -> None:
        self.nats = nats
        self.leader = leader
        self.settings = settings
        self.folder = NodeFolder(Path(settings.folder))
        self.layer = PlainLayer(settings)
        self.shipping = PlainShipping()
        self._runner: asyncio.Task[None] | None = None

    async def start(self) -> None:
        bus = await Bus.connect(self.nats.url, user=self.nats.user, password=self.nats.password, name="runner")
        self._runner = asyncio.create_task(self._run(bus))

    async def _run(self, bus: Bus) -> None:
        try:
            await Runner(self.settings, bus, self.layer, self.shipping).run()
        finally:
            await bus.drain()

    async def stop(self) -> None:
        assert self._runner is not None
        self._runner.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._runner

    async def pid_of(self, launch: Launch) -> int:
        return int(await line_in(self.folder.job(launch.ref) / "pid"))

    async def until_forgotten(self, launch: Launch) -> None:
        await self.leader.until(lambda: not self.folder.attempt(launch.ref).exists())
