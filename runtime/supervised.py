"""The runner's view of launcher and supervisors: start them, find them again, follow them, stop them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Final

import msgspec

from events.wire import UNREADABLE
from runtime import bounds, cgroups, exit_record, launcher, processes
from runtime.exit_record import Record

LOG: Final = logging.getLogger("headrace.runner")

LAUNCHER_START_S_MAX: Final = 15.0
HELLO_S_MAX: Final = 5.0
LINE_BYTES_MAX: Final = 256 * 1024
CONNECT_AGAIN_S: Final = (0.005, 1.0)
"""First and longest pause while a supervisor that lives does not listen: just forked, or just ending."""
LOOK_S: Final = 5.0
"""After such a silence it is looked whether who should speak was stopped: a job of the same user can do that."""
LAUNCH_TRIES: Final = 3
WAKES_MAX: Final = 6
"""A supervisor that is found stopped so often in a row is ended: it guards nothing."""

_BOOT: Final = "import sys; sys.path.append(sys.argv[1]); from runtime.launcher import main; main(sys.argv[2])"
"""The standard library comes before our own folder on the path: nothing there can shadow it."""


class LaunchFailed(Exception):
    """No supervisor was started. The message says why."""


class SupervisorLost(Exception):
    """The supervisor is gone and left no exit record: it was killed."""


class Standing(Enum):
    """What can be told of an attempt from its folder alone."""

    NEVER_LAUNCHED = "never launched"
    LIVES = "lives"
    ENDED = "ended"
    VANISHED = "vanished"


class Status(msgspec.Struct, frozen=True):
    """What a supervisor says about its attempt, at once and on each change."""

    state: str
    pid: int = 0
    started_at: float | None = None
    cause: str = ""


def standing(folder: Path) -> Standing:
    """How an attempt stands, for certain: the lock is the supervisor's life, the record its last word."""
    if not exit_record.was_launched(str(folder)):
        return Standing.ENDED if exit_record.read_record(str(folder)) else Standing.NEVER_LAUNCHED
    held = exit_record.is_held(str(folder))  # asked before the record: it may end between the two
    if exit_record.read_record(str(folder)) is not None:
        return Standing.ENDED
    return Standing.LIVES if held else Standing.VANISHED


async def connect(folder: Path, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a unix socket in a folder, however long its path (the address itself takes 107 bytes)."""
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return await asyncio.open_unix_connection(f"/proc/self/fd/{opened}/{name}", limit=LINE_BYTES_MAX)
    finally:
        os.close(opened)


def wake(lock_file: Path) -> int:
    """Have the holder of this lock go on if it was stopped; gives its pid then, else 0."""
    pid = exit_record.holder(str(lock_file))
    if not pid or not processes.is_stopped(pid):
        return 0
    LOG.warning("process %d, which holds %s, was stopped; it goes on", pid, lock_file)
    processes.send([pid], signal.SIGCONT)
    return pid


class Supervised:
    """One attempt that was launched: follow it by `watch`, end it by `stop`."""

    def __init__(
        self, folder: Path, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None, first: bytes = b""
    ) -> None:
        self.folder = folder
        self._streams = streams
        self._first = first
        self._wish: bytes = b""

    def stop(self, cause: str, message: str, grace_s: float | None = None) -> None:
        """Have it ended. Said again on every new connection, so it arrives whatever happens in between."""
        wish = {"do": "stop", "cause": cause, "message": message, "grace_s": grace_s}
        self._wish = json.dumps(wish).encode() + b"\n"
        if self._streams is not None:
            self._streams[1].write(self._wish)

    async def watch(self, on_status: Callable[[Status], None]) -> Record:
        """Follow the attempt to its end. Raises SupervisorLost."""
        pause_s = CONNECT_AGAIN_S[0]
        try:
            while True:
                if self._streams is None and not await self._attach():
                    match standing(self.folder):
                        case Standing.ENDED:
                            return self._record()
                        case Standing.VANISHED | Standing.NEVER_LAUNCHED:
                            raise SupervisorLost(f"no supervisor and no exit record in {self.folder}")
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, CONNECT_AGAIN_S[1])
                    continue
                if await self._listen(on_status):
                    return self._record()
                pause_s = CONNECT_AGAIN_S[0]
        finally:
            self._detach()

    async def _attach(self) -> bool:
        try:
            self._streams = await connect(self.folder, exit_record.CONTROL)
        except OSError:
            return False
        if self._wish:
            self._streams[1].write(self._wish)
        return True

    async def _listen(self, on_status: Callable[[Status], None]) -> bool:
        """Whether it said that it ended, before the connection was over."""
        assert self._streams is not None
        reader, _ = self._streams
        try:
            while line := self._first or await self._line(reader):
                self._first = b""
                status = msgspec.json.decode(line, type=Status)
                if status.state == "ended":
                    return True
                on_status(status)
        except (OSError, ValueError, *UNREADABLE):
            pass  # cut off in the middle of a line: like any other end of a connection
        self._detach()
        return False

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        """The next line. Nothing may be said for days; a supervisor that was stopped would keep neither time nor
        stops, and is woken.
        """
        wakes = 0
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    return await reader.readline()
            except TimeoutError:
                pid = wake(self.folder / exit_record.LOCK)
            wakes = wakes + 1 if pid else 0
            if wakes > WAKES_MAX:
                LOG.error("the supervisor in %s is stopped again and again, and is ended", self.folder)
                processes.send([pid], signal.SIGKILL)

    def _record(self) -> Record:
        record = exit_record.read_record(str(self.folder))
        if record is None:
            raise SupervisorLost(f"the exit record of {self.folder} was removed")
        return record

    def _detach(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class LauncherClient:
    """The launcher of a node folder: found, replaced when its code is another, started again when it is gone."""

    def __init__(self, node_folder: Path) -> None:
        self._folder = node_folder
        self._one_at_a_time = asyncio.Lock()
        (node_folder / launcher.ATTEMPTS).mkdir(parents=True, exist_ok=True)

    async def ensure(self) -> int:
        """Have a launcher of our version; gives its pid. Every launch asked for before is visible afterwards."""
        async with self._one_at_a_time:
            hello = await self._ask({"do": "hello"})
            if hello is None and wake(self._folder / launcher.LOCK):
                hello = await self._ask({"do": "hello"})
            if hello is not None and hello.get("version") != launcher.version():
                await self.retire()
                hello = None
            if hello is None:
                await self._start()
                hello = await self._ask({"do": "hello"})
            if hello is None:
                raise LaunchFailed(f"the launcher does not answer; see {self._folder / launcher.LOG}")
            return int(hello["pid"])

    @property
    def place(self) -> cgroups.Place | None:
        """Where the launcher makes the control groups of attempts; None: it cannot."""
        return cgroups.read_chosen(str(self._folder))

    @property
    def bounds(self) -> str:
        """What bounds the attempts that it launches: `Capacity.bounds`."""
        place = self.place
        return place.kind if place else bounds.RLIMITS

    async def retire(self) -> None:
        """End the launcher, if there is one; what it launched lives on."""
        await self._ask({"do": "retire"})

    async def launch(self, name: str) -> Supervised:
        """Start the supervisor of the attempt that is laid out in `attempts/<name>`. Raises LaunchFailed."""
        for _ in range(LAUNCH_TRIES):
            supervised = await self._try_launch(name)
            if supervised is not None:
                return supervised
            await self.ensure()
        raise LaunchFailed(f"no launcher took the request; see {self._folder / launcher.LOG}")

    async def _try_launch(self, name: str) -> Supervised | None:
        """None: it was not launched, for certain, and nobody said why: the launcher is gone, or we were too slow."""
        folder = self._folder / launcher.ATTEMPTS / name
        try:
            streams = await self._request(name)
        except OSError:
            return None
        line = await self._answer(streams[0])
        if line.startswith(b'{"error"'):
            streams[1].close()
            raise LaunchFailed(json.loads(line)["error"])
        if not line and standing(folder) is Standing.NEVER_LAUNCHED:
            streams[1].close()
            return None
        return Supervised(folder, streams, line)

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        """The first line to a launch; empty if the launcher is gone."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    return await reader.readline()
            except TimeoutError:
                wake(self._folder / launcher.LOCK)
            except OSError:
                return b""

    async def _request(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        streams = await connect(self._folder, launcher.SOCKET)
        streams[1].write(json.dumps({"do": "launch", "attempt": name}).encode() + b"\n")
        return streams

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(HELLO_S_MAX):
                reader, writer = await connect(self._folder, launcher.SOCKET)
                try:
                    writer.write(json.dumps(request).encode() + b"\n")
                    answer = json.loads(await reader.readline())
                    await reader.read()  # its end: a launcher that retires is gone then
                finally:
                    writer.close()
        except (OSError, ValueError, TimeoutError):
            return None
        return answer if isinstance(answer, dict) else None

    async def _start(self) -> None:
        root = Path(launcher.__file__).parent.parent
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _BOOT, str(root), str(self._folder)),
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(LAUNCHER_START_S_MAX):
                _, complaint = await process.communicate()
        except TimeoutError as error:
            process.kill()
            raise LaunchFailed(f"the launcher did not start within {LAUNCHER_START_S_MAX:g} s") from error
        if process.returncode != 0:
            raise LaunchFailed(f"the launcher did not start: {complaint.decode(errors='replace')[-500:].strip()}")
