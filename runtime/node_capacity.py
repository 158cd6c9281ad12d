"""What this node has for attempts, as far as the settings do not say it."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
from pathlib import Path
from typing import Final

import uv

from events.messages import Capacity
from runtime import gpus
from runtime.settings import RunnerSettings

UV_S_MAX: Final = 30.0
_UNLIMITED: Final = 1 << 60
"""Control groups say "no limit" by a number near 2**63."""


async def find(settings: RunnerSettings, *, bounds: str) -> Capacity:
    """The node's capacity; what the settings declare counts. `bounds`: what bounds its attempts."""
    return Capacity(
        cpus=settings.cpus if settings.cpus is not None else cpus(),
        memory_bytes=settings.memory_bytes if settings.memory_bytes is not None else memory_bytes(),
        gpus=settings.gpus if settings.gpus is not None else gpus.count_devices(),
        gpu_model=settings.gpu_model,
        pythons=settings.pythons or await pythons(),
        platform=settings.platform or platform_name(),
        labels=settings.labels,
        bounds=bounds,
    )


def cpus() -> float:
    """What this process may use: its affinity, and the quota of its control group."""
    allowed = float(len(os.sched_getaffinity(0)))
    quota = _words(Path("/sys/fs/cgroup/cpu.max"))
    if len(quota) == 2 and quota[0].isdigit():
        return min(allowed, int(quota[0]) / int(quota[1]))
    return allowed


def memory_bytes() -> int:
    """The machine's memory, or the limit of our control group if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        words = _words(Path(path))
        if words and words[0].isdigit() and int(words[0]) < _UNLIMITED:
            return min(total, int(words[0]))
    return total


def platform_name() -> str:
    """uv's name of the platform: the oldest C library that wheels are commonly built for and that we are not below."""
    machine = platform.machine()
    found = re.match(r"(\d+)\.(\d+)", platform.libc_ver()[1])
    if found is None:
        return f"{machine}-unknown-linux-musl"
    glibc = (int(found[1]), int(found[2]))
    return f"{machine}-manylinux_2_28" if glibc >= (2, 28) else f"{machine}-manylinux_2_17"


async def pythons() -> tuple[str, ...]:
    """Full versions of the interpreters that environments can be made from, newest first."""
    process = await asyncio.create_subprocess_exec(
        *(uv.find_uv_bin(), "python", "list", "--only-installed", "--offline", "--output-format", "json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(UV_S_MAX):
            listed, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        return (platform.python_version(),)
    found = {entry["version"] for entry in json.loads(listed or b"[]") if entry["implementation"] == "cpython"}
    found.add(platform.python_version())
    return tuple(sorted(found, key=_version_key, reverse=True))


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
