"""The runner as it is run: `python -m runtime.runner`, to be killed and started again."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from runtime.node_folder import NodeFolder
from runtime.settings import RunnerSettings
from tests.support.nats import NatsServer

ROOT = Path(__file__).parents[2]


class RunnerProcess:
    """The runner of one node, below a folder."""

    def __init__(
        self,
        folder: Path,
        nats: NatsServer,
        *,
        node: str = "n1",
        gpus: int = 0,
        env: dict[str, str] | None = None,
        attempt_uids: str = "",
        command: tuple[str, ...] = (sys.executable,),
    ) -> None:
        """`command`: the interpreter, and what it is started by."""
        folder.mkdir(exist_ok=True)
        self.command = command
        self.env = os.environ | (env or {})
        self.node = NodeFolder(folder / node)
        self.file = folder / "settings.json"
        settings = RunnerSettings(
            node=node,
            folder=str(self.node.path),
            nats_url=nats.url,
            nats_user=nats.user,
            nats_password=nats.password,
            blobs_url=f"file://{folder}/blobs",
            gpus=gpus,
            pythons=("3.11.7",),
            attempt_uids=attempt_uids,
        )
        self.file.write_bytes(msgspec.json.encode(settings))
        self.file.chmod(0o600)

    async def start(self, *, stderr: int | None = None) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(*self.command, "-m", "runtime.runner", "--settings", str(self.file)),
            cwd=ROOT,
            stderr=stderr,
            env=self.env,
        )

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def end(self) -> int:
        self.process.terminate()
        return await self.process.wait()
