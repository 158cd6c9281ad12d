"""Attempts without a runner: a launcher in a folder, and jobs that are a line of Python or of shell."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from runtime import cgroups, exit_record
from runtime.exit_record import Record, Spec
from runtime.supervised import LauncherClient, Status, Supervised

END_S_MAX = 30.0
"""A test that waits longer has failed."""


class Job:
    """An attempt that was launched; `watch` follows it in the background."""

    def __init__(self, supervised: Supervised) -> None:
        self.supervised = supervised
        self.folder = supervised.folder
        self.statuses: list[Status] = []
        self._news = asyncio.Event()
        self._watching = asyncio.ensure_future(supervised.watch(self._on_status))

    def _on_status(self, status: Status) -> None:
        self.statuses.append(status)
        self._news.set()

    async def until(self, state: str) -> Status:
        """Wait until the supervisor has said this state."""
        async with asyncio.timeout(END_S_MAX):
            while not any(status.state == state for status in self.statuses):
                self._news.clear()
                waiting = asyncio.ensure_future(self._news.wait())
                await asyncio.wait([waiting, self._watching], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if self._watching.done():
                    raise AssertionError(f"ended before it was {state}: {self._watching.result()}")
        return next(status for status in self.statuses if status.state == state)

    async def end(self, *, wait_s: float = END_S_MAX) -> Record:
        async with asyncio.timeout(wait_s):
            return await self._watching

    def leave(self) -> None:
        """Stop watching, as a runner that dies."""
        self._watching.cancel()

    def output(self, stream: str = "stdout") -> str:
        return (self.folder / stream).read_text()


class Node:
    """A node folder with a launcher."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.launcher = LauncherClient(folder)
        self.count = 0

    def group_of(self, job: Job) -> cgroups.Group | None:
        """The control group of an attempt, where there are such."""
        place = self.launcher.place
        return place.group(job.folder.name) if place else None

    def lay_out(self, *argv: str, **fields: object) -> str:
        """The folder of an attempt, ready to be launched; gives its name."""
        self.count += 1
        name = f"j-{self.count}.1"
        folder = self.folder / "attempts" / name
        (folder / "scratch").mkdir(parents=True)
        env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HEADRACE_SCRATCH": str(folder / "scratch")}
        spec = Spec(argv=argv, env=env, cwd=str(folder / "scratch"))
        exit_record.write_spec(str(folder), spec._replace(**fields))
        return name

    async def start(self, *argv: str, **fields: object) -> Job:
        return Job(await self.launcher.launch(self.lay_out(*argv, **fields)))

    async def python(self, code: str, **fields: object) -> Job:
        return await self.start("python", "-c", code, **fields)

    async def sh(self, code: str, **fields: object) -> Job:
        return await self.start("sh", "-c", code, **fields)


def _wait_for_line(path: Path, containing: str, wait_s: float) -> str:
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        if path.exists() and (text := path.read_text()).endswith("\n") and containing in text:
            return text.strip()
        time.sleep(0.005)
    raise TimeoutError(f"nothing in {path}")


async def line_in(path: Path, *, containing: str = "", wait_s: float = END_S_MAX) -> str:
    """What is in a file that a job writes, once it ends in a whole line: followed like `tail -f` does."""
    return await asyncio.to_thread(_wait_for_line, path, containing, wait_s)


def lives(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pid: int) -> None:
    """Wait for the end of a process that need not be our child."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(process, ended.set)
    try:
        async with asyncio.timeout(END_S_MAX):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(process)
        os.close(process)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def childless(pid: int) -> None:
    """Wait until a process has no child left."""
    for child in children(pid):
        await gone(child)
    assert not [child for child in children(pid) if lives(child)]


def supervisor_of(pid: int) -> int:
    """The parent of an entrypoint."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def session_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3])


def environment_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")[:-1]


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def oom_score_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())
