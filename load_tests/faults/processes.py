"""Processes of a world: started again whenever they die, as Kubernetes would; and others, found by their traces."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

RESTART_S: Final = 0.3
SUPERVISOR: Final = "hr-supervisor"
"""The name that a supervisor gives itself; what came of a launcher and has another one is a launcher."""


class Process:
    """One process that is to live. `tree` is the code that it runs from its next start on."""

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        log: Path,
        tree: Path,
        environment: dict[str, str],
        may_end: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        self.tree = tree
        self.may_end = may_end
        """It ends by itself when another one dies: Ray's do."""
        self._holds = 0
        self.starts = 0
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._ended_by_us = -1

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    @property
    def is_held(self) -> bool:
        """Whether it is not to be started again for now."""
        return self._holds > 0

    @property
    def status(self) -> int | None:
        return self._process.poll() if self._process is not None else None

    @property
    def ended_by_itself(self) -> bool:
        return not self.may_end and self._ended_by_us != self.starts > 0

    def start(self) -> None:
        self.starts += 1
        path = (self._environment.get("PYTHONPATH"), str(self.tree), str(self.tree / "sdk"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.tree,
                env={**self._environment, "PYTHONPATH": os.pathsep.join(filter(None, path))},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        self._ended_by_us = self.starts
        self._send(signal.SIGKILL)

    def wake(self) -> None:
        self._send(signal.SIGCONT)

    async def stopped(self, for_s: float) -> None:
        """Frozen for so long; the one that is frozen is woken, whoever came after it."""
        await frozen(self.pid, for_s)

    async def end(self, number: signal.Signals = signal.SIGTERM, *, limit_s: float = 20.0) -> None:
        self._ended_by_us = self.starts
        self.wake()
        self._send(number)
        process = self._process
        if process is None:
            return
        try:
            await asyncio.to_thread(process.wait, limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    def _send(self, number: signal.Signals) -> None:
        if self.pid:
            os.kill(self.pid, number)


@contextlib.contextmanager
def held(*processes: Process) -> Iterator[None]:
    """Inside of this they are not started again. Faults overlap: the last one that lets go counts."""
    for process in processes:
        process._holds += 1
    try:
        yield
    finally:
        for process in processes:
            process._holds -= 1


async def keep_alive(processes: Callable[[], Iterator[Process]], died: Callable[[str, int | None], None]) -> None:
    """Start everything, and again what dies; `died` is told the name and the status of who nobody asked to. Until
    cancelled.
    """
    while True:
        for process in processes():
            if process.pid or process.is_held:
                continue
            if process.ended_by_itself:
                died(process.name, process.status)
            process.start()
        await asyncio.sleep(RESTART_S)


async def frozen(pid: int, for_s: float) -> None:
    """SIGSTOP, and SIGCONT after so many seconds. No pid (0): nothing."""
    if pid and send(pid, signal.SIGSTOP):
        await asyncio.sleep(for_s)
        send(pid, signal.SIGCONT)


def send(pid: int, number: signal.Signals) -> bool:
    """Whether there was such a process."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def of_nodes(below: Path) -> list[tuple[int, str]]:
    """Pid and name of launchers and supervisors: what came of `runtime.launcher` and works below a folder."""
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            entry = Path(f"/proc/{pid}")
            if b"runtime.launcher" in (entry / "cmdline").read_bytes():
                at, name = Path(os.readlink(entry / "cwd")), (entry / "comm").read_text().strip()
                if at.is_relative_to(below):
                    found.append((pid, name))
    return found


def supervisors(below: Path) -> list[int]:
    return [pid for pid, name in of_nodes(below) if name == SUPERVISOR]


def launchers(below: Path) -> list[int]:
    return [pid for pid, name in of_nodes(below) if name != SUPERVISOR]


def of_jobs(below: Path) -> list[int]:
    """Every process that a job of nodes below a folder left running."""
    mark = str(below).encode()
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            if b"HEADRACE_ATTEMPT=" in environment and mark in environment:
                found.append(pid)
    return found


def with_word(word: str, *, opened: Path | None = None) -> list[int]:
    """Pids by a word in their command line, and by something below a folder that they have open."""
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            entry = Path(f"/proc/{pid}")
            if word.encode() not in (entry / "cmdline").read_bytes():
                continue
            if opened is None or any(
                Path(os.readlink(link)).is_relative_to(opened) for link in (entry / "fd").iterdir()
            ):
                found.append(pid)
    return found


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
