"""The Python interpreters of this node. Only what is installed counts; nothing is ever downloaded."""

from __future__ import annotations

import asyncio
import json
import platform
import re
import sys
import time
from pathlib import Path
from typing import Final

from runtime.materialise import processes

LIST_S_MAX: Final = 30.0
ASK_S_MAX: Final = 10.0
LISTED_S: Final = 60.0
"""A missing interpreter is looked for again after this long: somebody may have installed it."""
_WHERE: Final = "import os, sys; print(os.path.realpath(getattr(sys, '_base_executable', sys.executable)))"
_VERSION: Final = re.compile(r"\d+(\.\d+){1,2}")


class Interpreters:
    """Finds interpreters by version, and remembers them."""

    def __init__(self) -> None:
        self._found: dict[str, Path] = {}
        self._listed = {platform.python_version(): sys.executable}
        self._listed_at = float("-inf")
        self._lock = asyncio.Lock()

    async def find(self, python: str) -> Path | None:
        """The program for `3.11` (its newest patch) or for `3.11.7` (else another patch of it), never a shim."""
        if python in self._found:
            return self._found[python]
        if not _VERSION.fullmatch(python):
            return None
        async with self._lock:
            if not _is(python, platform.python_version()):  # ours needs no list, which takes seconds where shims are
                await self._list_again()
        version = best(python, tuple(self._listed))
        path = await _real(self._listed[version]) if version else None
        if path is not None:
            self._found[python] = path
        return path

    async def _list_again(self) -> None:
        if time.monotonic() - self._listed_at > LISTED_S:
            self._listed = await _list()
            self._listed_at = time.monotonic()

    @property
    def versions(self) -> tuple[str, ...]:
        """What was found when it was last looked."""
        return tuple(sorted(self._listed, key=_key, reverse=True))


def best(python: str, versions: tuple[str, ...]) -> str | None:
    """Of the versions there are, the one to use: exactly this, else the newest of the same minor version."""
    if python in versions:
        return python
    minor = ".".join(python.split(".")[:2])
    return max((version for version in versions if version.startswith(f"{minor}.")), key=_key, default=None)


def _is(python: str, version: str) -> bool:
    """Whether a version is what was asked for, and not merely near it."""
    return version == python or version.startswith(f"{python}.")


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


async def _list() -> dict[str, str]:
    """Versions and where they are: ours, and those that uv finds."""
    found = {platform.python_version(): sys.executable}
    ran = await processes.run(
        *(processes.uv(), "python", "list", "--only-installed", "--offline", "--output-format", "json"),
        time_s_max=LIST_S_MAX,
    )
    if ran.status == 0:
        for entry in json.loads(ran.stdout):
            if entry["implementation"] == "cpython" and entry["variant"] == "default":
                found.setdefault(entry["version"], entry["path"])
    return found


async def _real(path: str) -> Path | None:
    """The interpreter behind a path: a shim of pyenv takes 80 ms more each time, and a venv's may vanish."""
    ran = await processes.run(path, "-I", "-S", "-c", _WHERE, time_s_max=ASK_S_MAX)
    return Path(ran.stdout.strip()) if ran.status == 0 and ran.stdout.strip() else None
