"""Users of their own for attempts: which are free, and whether this node can use them.

Each live attempt has one that no other has; its number is in the attempt's `spec.json`, so that a new runner knows it.
The first of the range builds packages, whose `setup.py` is a stranger's code as well.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any, Final

from events import uids
from runtime import processes

NEEDED: Final = {0: "CHOWN", 1: "DAC_OVERRIDE", 3: "FOWNER", 5: "KILL", 6: "SETGID", 7: "SETUID"}
"""Capabilities by their number in the kernel; what for: docs/kubernetes.md."""
TRY_S_MAX: Final = 20.0
_TRIAL: Final = "import sys; [open(path).close() for path in sys.argv[1:]]"
_SEE: Final = "see docs/kubernetes.md"


class NoUser(Exception):
    """No attempt can have a user of its own here; the message says why."""


class Users:
    """The users of one node."""

    def __init__(self, written: str) -> None:
        """Raises events.uids.BadRange. What the node lacks is a `problem`, and no error."""
        found = uids.parse(written)
        if found is None:
            raise uids.BadRange("attempt_uids: is empty")
        self.problem = ""
        """Why none can be used."""
        self.builder = found[0]
        self._written = written
        self._range = found[1:]
        self._taken: set[int] = set()
        self._next = self._range.start
        self._note(self._missing() or self._unmapped())

    def take(self) -> int:
        """A user that nobody has, the one that was longest not used. Raises NoUser."""
        if self.problem:
            raise NoUser(self.problem)
        if len(self._taken) >= len(self._range):
            raise NoUser(f"all users of attempt_uids = {self._written} are in use: give the node a larger range")
        while self._next in self._taken:
            self._step(self._next)
        uid = self._next
        self.keep(uid)
        return uid

    def keep(self, uid: int) -> None:
        """This one is in use."""
        if uid in self._range:
            self._taken.add(uid)
            self._step(uid)

    def give_back(self, uid: int) -> None:
        """Nothing of it is left."""
        self._taken.discard(uid)

    def _step(self, uid: int) -> None:
        self._next = uid + 1 if uid + 1 in self._range else self._range.start

    async def examine(self, pythonpath: Path) -> None:
        """Find out whether they can be used here (`problem`), and which of them somebody has already. The node's folder
        is prepared.
        """
        if not self.problem:
            why = closed(pythonpath) or closed(Path(sys.executable))
            self._note(why or await self._try(pythonpath / "headrace" / "__init__.py"))
        for uid in await asyncio.to_thread(_users_of_processes):
            self.keep(uid)

    def _note(self, why: str) -> None:
        self.problem = why and f"attempt_uids = {self._written} cannot be used: {why}"

    def _missing(self) -> str:
        if os.geteuid() != 0:
            return f"the node runs as user {os.geteuid()}, and only root can start attempts as others; {_SEE}"
        has = _capabilities()
        missing = [name for number, name in NEEDED.items() if not has >> number & 1]
        return f"the node lacks the capabilities {', '.join(missing)}; {_SEE}" if missing else ""

    def _unmapped(self) -> str:
        """A container's users may be few: its user namespace says which."""
        blocks = [list(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
        wanted = (self.builder, self._range[-1])
        inside = [any(first <= uid < first + count for first, _, count in blocks) for uid in wanted]
        return "" if all(inside) else "the user namespace of the node's container has no such users"

    async def _try(self, *paths: Path) -> str:
        """Start this interpreter as one of them, and have it read these files."""
        uid = self._range[-1]
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _TRIAL, *map(str, paths)),
                env={"LANG": "C.UTF-8"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                **as_user(uid),
            )
        except OSError as error:
            return f"{sys.executable} cannot be started as user {uid}: {error.strerror}; {_SEE}"
        try:
            async with asyncio.timeout(TRY_S_MAX):
                _, complaint = await process.communicate()
        except TimeoutError:
            process.kill()
            return f"{sys.executable}, started as user {uid}, does not end"
        last = complaint.decode(errors="replace").strip().splitlines()[-1:]
        return "" if process.returncode == 0 else f"as user {uid}: {''.join(last)[:200]}; {_SEE}"


def as_user(uid: int) -> dict[str, Any]:
    """Arguments of `create_subprocess_exec`: as this user, alone in its group. 0: as we are."""
    return {"user": uid, "group": uid, "extra_groups": ()} if uid else {}


def closed(path: Path) -> str:
    """Which folder above this path, links followed, lets other users not pass; empty: none."""
    whole = Path(os.path.realpath(path))
    for folder in reversed(whole.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return f"{folder} lets other users not pass to {whole}: chmod o+x {folder}, or put it elsewhere"
    return ""


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _users_of_processes() -> set[int]:
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found.add(os.stat(f"/proc/{name}").st_uid)
            except OSError:
                continue
    return found


async def end_all(uid: int) -> None:
    """Kill every process of a user, until there is none."""
    pause_s = 0.001
    while left := await asyncio.to_thread(processes.of_user, uid):
        processes.send(left, signal.SIGKILL)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.1)
