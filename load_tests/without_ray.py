"""A stack without Ray: NATS, every service in a process of its own, and nodes whose runners are plain processes.

It starts in a third of the time of the embedded stack, and nothing in it is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeVar

import msgspec

from controlplane.config import Configuration, Identity, load
from load_tests.pipeline import USER, a_server, a_server_pid
from load_tests.slurm import free_port
from load_tests.stack import UP_S_MAX, Stack, ready, telling, until
from runtime.settings import RunnerSettings
from runtime.supervised import LauncherClient

SERVICES: Final = ("submission", "environments", "scheduling", "monitoring", "gateway")
TEAM: Final = "default"
S = TypeVar("S", bound=Stack)


@contextmanager
def running(config: str = "", *, nodes: int = 1) -> Iterator[Stack]:
    """Such a stack while inside; `config`: its TOML. `Stack.children` has NATS, the services and a `runner` or more."""
    with tempfile.TemporaryDirectory(prefix="headrace-") as temporary, ExitStack() as processes:
        folder = Path(temporary)
        control_plane = processes.enter_context(ControlPlane.running(folder, config))
        for number in range(1, nodes + 1):
            name = "runner" if number == 1 else f"runner-{number}"
            runner = _runner(name, f"n{number}", control_plane.settings, folder)
            control_plane.pids[name] = processes.enter_context(runner)
        yield control_plane.stack()


class ControlPlane(NamedTuple):
    """NATS, and every service in a process of its own."""

    settings: Configuration
    token: str
    pids: dict[str, int]
    """Of each of them, by name; whoever starts more of the stack adds it."""

    @classmethod
    @contextmanager
    def running(cls, folder: Path, config: str, **more: str) -> Iterator[Self]:
        """Running while inside; `config`: its TOML, `more`: settings beside it."""
        with ExitStack() as processes:
            password, token, otlp_secret = (os.urandom(16).hex() for _ in range(3))
            url = processes.enter_context(a_server(folder, password))
            (folder / "headrace.toml").write_text(config)
            settings = msgspec.structs.replace(
                load(folder / "headrace.toml", {}, more),
                state=str(folder),
                nats_url=url,
                nats_user=USER,
                nats_password=password,
                gateway_port=free_port(),
                otlp_port=free_port(),
                otlp_secret=otlp_secret,
                tokens={hashlib.sha256(token.encode()).hexdigest(): Identity(team=TEAM, user="ada", operator=True)},
            )
            (folder / "run").mkdir()
            (folder / "logs").mkdir()
            processes.enter_context(telling(folder, folder / "logs"))
            file = config_file(folder)
            file.write_bytes(msgspec.json.encode(settings))
            doors = {name: free_port() for name in SERVICES}
            pids = {"nats": a_server_pid(folder)}
            for name, port in doors.items():
                command = ["-m", "controlplane", name, "--config", str(file), "--set", f"health_port={port}"]
                pids[name] = processes.enter_context(a_process(name, command, folder))
            until(lambda: all(map(ready, doors.values())), limit_s=UP_S_MAX, what="every service")
            yield cls(settings, token, pids)

    def stack(self, kind: type[S] = Stack) -> S:  # type: ignore[assignment]  # a default of a type variable
        """It, once its road answers and a node is ready."""
        folder = Path(self.settings.state)
        about = {
            "url": f"http://127.0.0.1:{self.settings.gateway_port}",
            "token": self.token,
            "nats": self.settings.nats_url,
            "nats_user": USER,
            "nats_password": self.settings.nats_password,
            "otlp": self.settings.otlp,
            "node": "n1",
        }
        (folder / "stack.json").write_text(json.dumps(about))
        (folder / "secrets.json").write_text(json.dumps({"otlp_secret": self.settings.otlp_secret}))
        (folder / "run" / "children.json").write_text(
            json.dumps([{"name": name, "pid": pid} for name, pid in self.pids.items()])
        )
        stack = kind(folder)
        until(stack.is_well, limit_s=UP_S_MAX, what="a stack that is well")
        return stack


def config_file(folder: Path) -> Path:
    """Of its services."""
    return folder / "run" / "config.json"


@contextmanager
def _runner(name: str, node: str, settings: Configuration, folder: Path) -> Iterator[int]:
    """A node of this machine while inside; gives its runner's pid."""
    runner = RunnerSettings(
        node=node,
        folder=str(folder / "nodes" / node),
        nats_url=settings.nats_url,
        nats_user=settings.nats_user,
        nats_password=settings.nats_password,
        blobs_url=settings.blobs,
        otlp_url=settings.otlp,
        otlp_secret=settings.otlp_secret,
        gpus=0,
        pythons=("3.11.7",),
    )
    file = folder / f"{name}.json"
    file.write_bytes(msgspec.json.encode(runner))
    try:
        with a_process(name, ["-m", "runtime.runner", "--settings", str(file)], folder) as pid:
            yield pid
    finally:
        asyncio.run(LauncherClient(Path(runner.folder)).retire())


@contextmanager
def a_process(
    name: str, arguments: Sequence[str], folder: Path, environ: Mapping[str, str] | None = None
) -> Iterator[int]:
    """A process of Python while inside; gives its pid."""
    command = [sys.executable, *arguments]
    with (folder / "logs" / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()
