"""Attempts of `kind: ray` without a runner: the order and the program that it starts, under a real supervisor."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import headrace
from events.messages import Allocation, AttemptRef, GangPart, Launch, Meeting
from runtime import exit_record, private_ray, processes, short_way
from runtime.exit_record import Record
from tests.support.attempts import Job, Node

SDK = Path(headrace.__file__).parent.parent
BIN = Path(sys.executable).parent
GIB = 1024**3
READY_S_MAX = 180.0
"""A cluster takes some 4 s on a machine that has nothing else to do."""
HAS_RAY = importlib.util.find_spec("ray") is not None


async def start(
    node: Node,
    *argv: str,
    cpus: float = 1,
    memory_bytes: int = 2 * GIB,
    gpus: tuple[int, ...] = (),
    gang: GangPart | None = None,
    binaries: Path = BIN,
    env: dict[str, str] | None = None,
    **fields: object,
) -> Job:
    """An attempt within its own cluster."""
    name = node.lay_out(*argv, **fields)
    folder = node.folder / "attempts" / name
    scratch = str(folder / "scratch")
    launch = Launch(
        ref=AttemptRef(team="vision", job=name, attempt=1),
        user="ada",
        name=name,
        allocation=Allocation(node="n1", cpus=cpus, memory_bytes=memory_bytes, gpus=gpus),
        entrypoint=argv,
        gang=gang,
        kind="ray",
    )
    spec = exit_record.read_spec(str(folder))
    spec = spec._replace(
        env={
            "PATH": f"{binaries}:/usr/bin:/bin",
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            "HEADRACE_SCRATCH": scratch,
            "TMPDIR": str(short_way.to(Path(scratch))),
            "PYTHONPATH": str(SDK),
            "PYTHONUNBUFFERED": "1",
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)),
            **(env or {}),
        }
    )
    exit_record.write_spec(str(folder), private_ray.within(spec, launch, host=""))
    return Job(await node.launcher.launch(name))


async def python(node: Node, code: str, **fields: Any) -> Job:
    return await start(node, "python", "-c", code, **fields)


def a_part(rank: int, port: int, token: str, *, size: int = 2) -> GangPart:
    return GangPart(rank=rank, size=size, meeting=Meeting(address="127.0.0.1", port=port, token=token))


def said(job: Job) -> dict[str, Any]:
    """The line of JSON that it printed last."""
    lines = [line for line in job.output().splitlines() if line.startswith("{")]
    assert lines, job.output("stderr")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def left_of(job: Job) -> list[str]:
    """What of an attempt that has ended is still on this machine, outside its folder."""
    mark = f"HEADRACE_SCRATCH={job.folder / 'scratch'}"
    lives = [f"process {pid}" for pid in processes.marked(mark)]
    found = subprocess.run(["ss", "-xl"], capture_output=True, text=True, timeout=30, check=True).stdout
    sockets = [line for line in found.splitlines() if str(job.folder) in line]
    return lives + sockets


def of_process(pid: int, what: str) -> bytes:
    """A file of a process below /proc."""
    return Path(f"/proc/{pid}/{what}").read_bytes()


def shared_memory() -> set[str]:
    """Files there."""
    return set(os.listdir("/dev/shm"))


async def end(job: Job) -> Record:
    """Its record, for which a cluster may take longer than a job without one."""
    return await job.end(wait_s=READY_S_MAX)
