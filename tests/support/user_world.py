"""A real runner as root, whose attempts are users of their own, and a leader that a test speaks for."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from events.bus import Bus
from events.messages import AttemptRef
from runtime import exit_record
from runtime.supervised import LauncherClient
from tests.support.leader import Leader, a_launch
from tests.support.nats import NatsServer
from tests.support.runner_process import RunnerProcess
from tests.support.strangers import UIDS

Ground = tuple[Path, str, str]
"""A folder that everybody may pass, an interpreter in it, and its PYTHONPATH."""


class World:
    """A leader, and a runner whose attempts are users of their own."""

    def __init__(self, leader: Leader, runner: RunnerProcess, python: str) -> None:
        self.leader, self.runner, self.python = leader, runner, python
        self.node = runner.node

    async def run(self, job: str, code: str, *, attempt: int = 1, team: str = "vision") -> AttemptRef:
        """Have some Python run to its end, and have it succeed."""
        ref = await self.start(job, code, attempt=attempt, team=team)
        end = await self.leader.end_of(ref)
        assert end.exit_code == 0, (end, self.output(ref))
        return ref

    async def start(
        self, job: str, code: str, *, attempt: int = 1, team: str = "vision", **fields: object
    ) -> AttemptRef:
        ref = AttemptRef(team=team, job=job, attempt=attempt)
        command = (self.python, "-c", code)
        await self.leader.want(a_launch(job, "", attempt=attempt, ref=ref, entrypoint=command, **fields))
        return ref

    def user_of(self, ref: AttemptRef) -> int:
        """Whom it runs as, once it was launched."""
        return exit_record.read_spec(str(self.node.attempt(ref))).uid

    def output(self, ref: AttemptRef) -> str:
        folder = self.node.attempt(ref)
        return "".join((folder / name).read_text() for name in ("stdout", "stderr") if (folder / name).exists())


@asynccontextmanager
async def a_world(
    nats: NatsServer,
    bus: Bus,
    ground: Ground,
    *,
    command: tuple[str, ...],
    node: str = "n1",
    uids: str = UIDS,
    gpus: int = 0,
) -> AsyncIterator[World]:
    """`command`: what a runner is started by."""
    folder, python, path = ground
    leader = Leader(bus, node)
    leader.records = False  # so that folders stay, and can be looked at
    await leader.listen()
    runner = RunnerProcess(
        Path(tempfile.mkdtemp(dir=folder)),
        nats,
        node=node,
        gpus=gpus,
        attempt_uids=uids,
        command=(*command, python),
        env={"PYTHONPATH": path},
    )
    runner.file.parent.chmod(0o711)
    await runner.start()
    try:
        await leader.until(lambda: bool(leader.exchanges))
        yield World(leader, runner, python)
    finally:
        try:
            leader.wanted.clear()
            await leader.say()
            await leader.until(lambda: all(live.state == "ended" for live in leader.exchanges[-1].attempts))
        finally:
            await runner.kill()
            await LauncherClient(runner.node.path).retire()
