"""Keeps the child processes of the embedded stack up: starts them in order, starts again what died, ends them all.

A child gets a session of its own, so a Ctrl-C in the terminal reaches this process alone, and a log file. What this
process started is written down with the kernel's start time of each process, so that the next stack can end what was
left by one that was killed, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from controlplane.embedded.files import write_private
from controlplane.embedded.stuck import stuck
from events.wire import UNREADABLE

LOG: Final = logging.getLogger("headrace.embedded")
BACKOFF_S_FIRST: Final = 0.2
BACKOFF_S_MAX: Final = 5.0
STEADY_S: Final = 30.0
"""A child that lived this long starts again without delay."""
READY_S_MAX: Final = 60.0
PROBE_S: Final = 0.05


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """One process: what to run, when it counts as up, and whom it waits for."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = {}
    ready_port: int = 0
    """Up once this port of loopback takes a connection; 0: up at once."""
    after: str = ""
    """Starts when that child is up, and again whenever that one had to start again."""
    health_url: str = ""
    """A door that answers 503 when only a new start helps; empty: none."""
    store: str = ""
    """The folder in which it must have room for that."""
    stop_s: float = 12.0
    """Between SIGTERM and SIGKILL."""


class Born(msgspec.Struct, frozen=True):
    """A process for certain: pid and start time (clock ticks since boot), which together are never used twice."""

    name: str
    pid: int
    ticks: int


class Children:
    """The running children of one stack."""

    def __init__(self, children: Sequence[Child], *, logs: Path, record: Path) -> None:
        self._children = children
        self._logs = logs
        self._record = record
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._up = {child.name: asyncio.Event() for child in children}
        self._tasks: list[asyncio.Task[None]] = []
        self.restarts = dict.fromkeys((child.name for child in children), 0)

    def start(self) -> None:
        """Begin to bring every child up, and to keep it so."""
        self._tasks = [asyncio.create_task(self._keep(child), name=child.name) for child in self._children]

    async def up(self, name: str) -> None:
        """Wait until a child is up for the first time."""
        await self._up[name].wait()

    async def failed(self) -> None:
        """Wait for a keeper to fail, which is a defect of ours, and raise what it raised."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """End all, the last started first."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for child in reversed(self._children):
            process = self._running.pop(child.name, None)
            if process is not None:
                await _end(process, child.stop_s)
        self._write_record()

    async def _keep(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = 0.0
        if child.after:
            await self._up[child.after].wait()
        while True:
            started = loop.time()
            process = await self._spawn(child)
            if child.ready_port:
                await _wait_for_port(child.ready_port, process)
            if process.returncode is None:
                if self._up[child.name].is_set():
                    self._restart_what_follows(child.name)
                self._up[child.name].set()
            status = await self._wait(child, process)
            _end_group(process.pid)
            self.restarts[child.name] += 1
            lived_s = loop.time() - started
            backoff_s = 0.0 if lived_s > STEADY_S else min(max(2 * backoff_s, BACKOFF_S_FIRST), BACKOFF_S_MAX)
            LOG.warning(
                "child ended and is started again",
                extra={"child": child.name, "status": status, "lived_s": round(lived_s, 1), "in_s": backoff_s},
            )
            await asyncio.sleep(backoff_s)

    async def _wait(self, child: Child, process: asyncio.subprocess.Process) -> int:
        """For the end of a child; one that is stuck is ended."""
        if not child.health_url:
            return await process.wait()
        ending = asyncio.create_task(process.wait())
        sticking = asyncio.create_task(stuck(child.health_url, Path(child.store)))
        try:
            await asyncio.wait({ending, sticking}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                LOG.error("child is stuck and is started again", extra={"child": child.name, "why": sticking.result()})
                await _end(process, child.stop_s)
            return await ending
        finally:
            ending.cancel()
            sticking.cancel()

    def _restart_what_follows(self, name: str) -> None:
        for child in self._children:
            process = self._running.get(child.name)
            if child.after == name and process is not None and process.returncode is None:
                process.kill()

    async def _spawn(self, child: Child) -> asyncio.subprocess.Process:
        with (self._logs / f"{child.name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *child.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **child.environment},
                start_new_session=True,
            )
        self._running[child.name] = process
        self._write_record()
        return process

    def _write_record(self) -> None:
        born = [Born(name, process.pid, start_ticks(process.pid)) for name, process in self._running.items()]
        write_private(self._record, msgspec.json.encode(born))


def end_leftovers(record: Path) -> int:
    """End what an earlier stack left running, as its record has it; gives how many. A reused pid is left alone."""
    try:
        born = msgspec.json.decode(record.read_bytes(), type=list[Born])
    except (FileNotFoundError, *UNREADABLE):
        return 0
    left = [each for each in born if each.ticks and start_ticks(each.pid) == each.ticks]
    for each in left:
        _end_group(each.pid)
    record.unlink()
    return len(left)


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 if there is none. `proc(5)`, field 22 of `stat`."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


async def wait_until(reached: Callable[[], bool], *, limit_s: float) -> bool:
    """Look at something that nothing announces until it is so; False when the time is up."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_s
    while not reached():
        if loop.time() > end:
            return False
        await asyncio.sleep(PROBE_S)
    return True


async def _wait_for_port(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(READY_S_MAX):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(PROBE_S)
                continue
            writer.close()
            return


async def _end(process: asyncio.subprocess.Process, stop_s: float) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(stop_s):
                await process.wait()
        except TimeoutError:
            LOG.warning("child did not end in time and is killed", extra={"pid": process.pid})
    _end_group(process.pid)
    await process.wait()


def _end_group(leader: int) -> None:
    """What a child started in its session and left behind ends with it. The group's id is the child's pid."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
