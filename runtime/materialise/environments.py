"""Environments on a node: for each lock a virtual environment, built once by uv, shared by all attempts that want it.

Only what the lock names is installed, and only with the hashes that it gives; where from is the business of the node's
own uv configuration. The folder is relocatable, built under another name and renamed when all bytecode is compiled. So
it is complete when it is there, and finding it is one `stat`.

Where attempts have users of their own, uv runs as one too, for the `setup.py` of a package is a stranger's code: it
sees nothing of the node's and none of its credentials. There is one build at a time, and when uv ends, so does all that
it has started. What it leaves belongs to that user, and no job can write it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Final

from events.blobs import BlobError, BlobMissing, Blobs, is_digest
from runtime.materialise import bytecode, folders, processes
from runtime.materialise.errors import EnvironmentFailed
from runtime.materialise.interpreters import Interpreters

BUILD_S_MAX: Final = 1800.0
"""243 packages of 2.8 GB take 25 s on an empty cache; the rest is for a slow network and for builds."""
LOCK_BYTES_MAX: Final = 16 * 1024**2
LOCK_VERSION: Final = 1
ARCHIVES: Final = "archive-v0"
"""Where uv keeps unpacked wheels. Under another name nothing is found there, and each environment is compiled anew."""
TAIL_LINES: Final = 15
TAIL_CHARACTERS: Final = 2000
"""Of what uv said, in the reason that a person reads."""


class Environments:
    """The environments in one folder, and uv's cache, which must be on the same file system for hard links to work."""

    def __init__(
        self, folder: Path, cache: Path, blobs: Blobs, interpreters: Interpreters, *, builder: int = 0
    ) -> None:
        self._folder = folder
        self._cache = cache
        self._blobs = blobs
        self._interpreters = interpreters
        self._builder = builder
        self._builds = asyncio.Lock() if builder else contextlib.nullcontext()
        self._flights = folders.Flights()

    async def get(self, lock: str) -> Path:
        """The environment of a lock, built if it is not there. Raises EnvironmentFailed, OSError."""
        if not is_digest(lock):
            raise EnvironmentFailed(f"{lock[:80]!r} is not the digest of a lock")
        place = self._folder / lock.removeprefix("sha256:")
        if place.is_dir():
            return place
        async with self._flights.of(lock):
            if not place.is_dir():
                async with self._builds, folders.made(place) as fresh:
                    await self._build_as_builder(lock, fresh)
        return place

    async def _build_as_builder(self, lock: str, fresh: Path) -> None:
        if not self._builder:
            await self._build(lock, fresh)
            return
        os.chown(fresh, self._builder, self._builder)
        await self._build(lock, fresh)
        (fresh / ".lock").unlink(missing_ok=True)  # uv's, and everybody's to write

    async def _build(self, lock: str, fresh: Path) -> None:
        python, requirements = await self._read(lock)
        interpreter = await self._interpreters.find(python)
        if interpreter is None:
            there = ", ".join(self._interpreters.versions) or "none"
            raise EnvironmentFailed(
                f"this node has no Python {python} (it has: {there}); ask for another one, or install it"
            )
        await self._uv(
            *("venv", "--relocatable", "--no-project", "--allow-existing", "--python", str(interpreter), str(fresh)),
            what="uv could not make the environment",
        )
        _drop_distutils_patch(fresh)
        if not any(line and not line.startswith("#") for line in requirements.splitlines()):
            return
        file = fresh / "requirements.txt"
        file.write_text(requirements)
        await self._uv(
            *("pip", "sync", "--require-hashes", "--strict", "--python", str(fresh / "bin" / "python"), str(file)),
            what="uv could not install the packages",
        )
        await self._compile(fresh)

    async def _read(self, lock: str) -> tuple[str, str]:
        """The Python version and the requirements that a lock names."""
        try:
            content = await self._blobs.get(lock)
        except BlobMissing:
            raise EnvironmentFailed(f"the lock is not in the blob store: {lock}") from None
        except BlobError as error:
            raise EnvironmentFailed(f"the blob store does not give the lock: {error}") from error
        try:
            read = json.loads(content) if len(content) <= LOCK_BYTES_MAX else None
        except ValueError:
            read = None
        if not isinstance(read, dict) or read.get("version") != LOCK_VERSION:
            raise EnvironmentFailed(f"{lock} is no lock of version {LOCK_VERSION}")
        python, requirements = read.get("python"), read.get("requirements")
        if not isinstance(python, str) or not isinstance(requirements, str):
            raise EnvironmentFailed(f"{lock} is a lock without python or requirements")
        for line in map(str.strip, requirements.splitlines()):
            if line.startswith("-") and not line.startswith("--hash="):
                raise EnvironmentFailed(f"{lock} has a line that a lock may not have: {line[:80]!r}")
        return python, requirements

    async def _compile(self, fresh: Path) -> None:
        """Without bytecode the first import of pandas takes 2 s longer, in every job that cannot write here."""
        arguments = ("-I", "-S", bytecode.__file__, str(fresh), str(self._cache / ARCHIVES))
        ran = await processes.run(
            *(str(fresh / "bin" / "python"), *arguments), time_s_max=BUILD_S_MAX, folder=self._folder, uid=self._builder
        )
        if ran.status != 0:
            raise EnvironmentFailed(f"the environment could not be compiled:\n{_tail(ran.stderr)}")

    async def _uv(self, *arguments: str, what: str) -> None:
        env = {
            "UV_SYSTEM_CERTS": "1",  # a company's own CA counts
            "UV_CACHE_DIR": str(self._cache),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
        }
        if self._builder:
            env["HOME"] = str(self._cache)
        ran = await processes.run(
            *(processes.uv(), "--color", "never", *arguments),
            time_s_max=BUILD_S_MAX,
            folder=self._folder,
            env=env,
            uid=self._builder,
        )
        if ran.status != 0:
            raise EnvironmentFailed(f"{what}:\n{_tail(ran.stderr)}")


def _tail(text: str) -> str:
    """The end of what uv said, as a person wants it."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-TAIL_LINES:])[-TAIL_CHARACTERS:]


def _drop_distutils_patch(environment: Path) -> None:
    """uv adds a start-up hook that keeps old `setup.py install` inside the environment.

    Nothing is installed in there after us, and the hook costs every start of Python 2.4 ms of 15.6 (measured).
    """
    for file in environment.glob("lib/python*/site-packages/_virtualenv.*"):
        file.unlink()
