"""What bounds one attempt: a control group, or, where none can be made, what a process can do about its descendants.

Standard library only; part of the supervisor. The attempt's allocation is the limit on memory; the limit on processes
(threads count) only keeps a fork bomb from the node, so it is far above what training needs.

Without a control group:

* RLIMIT_AS and RLIMIT_DATA are no limits on memory: CUDA and torch reserve address space by the terabyte and use little
  of it, and both count per process. So the supervisor looks at the attempt's resident memory once a second, pages that
  several processes share counted once, and ends the attempt when that is over. What is allocated faster than that is
  left to the kernel, which takes jobs first (`oom_score_adj`).
* RLIMIT_NPROC counts every process of the user, on the whole machine: of an attempt with a user of its own exactly its
  own. Without one, while one job is at the limit its neighbours of the same user cannot fork either; and it does not
  count for root at all, whose processes the supervisor counts when it looks.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from typing import Final, NamedTuple, Protocol

from runtime import processes
from runtime.cgroups import Group, Place
from runtime.exit_record import Spec

PIDS_MAX: Final = 16_384
"""Of one attempt, or a quarter of what the kernel has for all if that is less."""
LOOK_S: Final = 1.0
LOOK_SHARE: Final = 20
"""Looking may take this part of the time: the pages of a large process take long to count."""
FOREVER: Final = float("inf")
RLIMITS: Final = "rlimits"
"""The name of having no control group."""
_NEAR: Final = 0.9
"""Of its limit: what was killed below that fell victim to another limit than its own."""
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Verdict(NamedTuple):
    """Cause and sentence of an end."""

    cause: str
    message: str


class Bounds(Protocol):
    """What the supervisor asks for; it neither knows nor cares which kind."""

    next_look_at: float
    """Monotonic: when `look` wants to be called."""

    def fork(self) -> int:
        """Fork the entrypoint; in the child `enter` must follow."""

    def enter(self) -> None:
        """In the child, before the program: be bounded. Raises OSError."""

    def look(self, now: float) -> Verdict | None:
        """Why the attempt must end now, if it must."""

    def kill(self) -> None:
        """SIGKILL to everything, as far as it can be found at this moment."""

    def out_of_memory(self, *, killed: bool) -> str:
        """A sentence if the kernel killed a process of the attempt because memory ran out. `killed`: the entrypoint."""

    def peak_bytes(self) -> int:
        """The most memory that all its processes had together; 0: not known."""

    def remove(self) -> None:
        """Leave nothing behind. Every process is gone."""


def bind(spec: Spec, place: Place | None, name: str) -> Bounds:
    """The bounds of one attempt. A group that cannot be made after all is no reason not to run it."""
    if place is not None:
        group = place.group(name)
        try:
            try:
                group.make(memory_bytes=spec.memory_bytes, pids_max=_pids_max(spec))
            except FileNotFoundError:  # another node's launcher took the node's empty folder for a leftover
                place.make()
                group.make(memory_bytes=spec.memory_bytes, pids_max=_pids_max(spec))
        except OSError as error:
            sys.stderr.write(f"{name}: no control group can be made: {error}\n")
            return Watched(spec)
        return Grouped(spec, group)
    return Watched(spec)


class Grouped:
    """Bounded by a control group. Where the kernel kills one process of it for want of memory and lets the others live,
    the supervisor looks whether it did: half an attempt is of no use to anybody.
    """

    def __init__(self, spec: Spec, group: Group) -> None:
        self._memory_bytes = spec.memory_bytes
        self._group = group
        self.next_look_at = FOREVER if group.is_killed_whole else time.monotonic() + LOOK_S

    def fork(self) -> int:
        return self._group.fork()

    def enter(self) -> None:
        self._group.enter()

    def look(self, now: float) -> Verdict | None:
        why = self.out_of_memory(killed=True)
        self.next_look_at = FOREVER if why else now + LOOK_S
        return Verdict("out_of_memory", why) if why else None

    def kill(self) -> None:
        self._group.kill()
        processes.send(processes.descendants(os.getpid()), signal.SIGKILL)  # one that root moved elsewhere

    def out_of_memory(self, *, killed: bool) -> str:
        if not self._group.oom_kills():
            return ""
        peak = self._group.peak_bytes()
        if self._memory_bytes and (not peak or peak >= _NEAR * self._memory_bytes):
            return exceeded(peak or self._memory_bytes, self._memory_bytes)
        return f"killed by the kernel because its node ran out of memory; it had {size(peak)} itself"

    def peak_bytes(self) -> int:
        return self._group.peak_bytes()

    def remove(self) -> None:
        self._group.remove()


class Watched:
    """Bounded by the supervisor's own looks, and by a limit on processes."""

    def __init__(self, spec: Spec) -> None:
        self._memory_bytes = spec.memory_bytes
        self._pids_max = _pids_max(spec)
        self._kernel = processes.OomWatch()
        self._peak = 0
        self.next_look_at = time.monotonic() + LOOK_S

    def fork(self) -> int:
        return os.fork()

    def enter(self) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        most = self._pids_max if hard == resource.RLIM_INFINITY else min(self._pids_max, hard)
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))

    def look(self, now: float) -> Verdict | None:
        found = processes.descendants(os.getpid())
        used = resident_bytes(found, precise_above=self._memory_bytes or sys.maxsize)
        after = time.monotonic()
        self.next_look_at = after + max(LOOK_S, LOOK_SHARE * (after - now))
        self._peak = max(self._peak, used)
        if 0 < self._memory_bytes < used:
            return Verdict("out_of_memory", exceeded(used, self._memory_bytes))
        if len(found) > self._pids_max:  # only root comes so far
            return Verdict("signalled", f"ended because it had more than {self._pids_max} processes")
        return None

    def kill(self) -> None:
        processes.send(processes.descendants(os.getpid()), signal.SIGKILL)

    def out_of_memory(self, *, killed: bool) -> str:
        """Only of the entrypoint: the kernel's count may be that of the whole node."""
        return "killed by the kernel because memory ran out" if killed and self._kernel.saw_a_kill() else ""

    def peak_bytes(self) -> int:
        return self._peak

    def remove(self) -> None:
        """There is nothing."""


def sweep(mark: str, group: Group | None, *, wait_s: float, uid: int = 0) -> int:
    """Kill every process that carries this mark, is in this group or is this user's (0: nobody's) until none is left,
    and remove the group; gives how many still are after `wait_s`.

    For what an attempt left behind whose supervisor vanished: nobody is their guardian any more. Without a group and a
    user of its own, one that has cleared its environment is not found.
    """
    end = time.monotonic() + wait_s
    pause_s = 0.001
    ending: set[int] = set()  # killed and still there: it carries no mark any more, and still holds its GPUs
    while True:
        found = set(processes.of_user(uid) if uid else processes.marked(mark))
        if group is not None:
            group.kill()
            found.update(group.members())
        ending = {pid for pid in ending - found if processes.lives(pid)}
        if not found and not ending:
            break
        processes.send(sorted(found), signal.SIGKILL)
        if time.monotonic() > end:
            return len(found | ending)
        ending |= found
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.1)
    if group is not None:
        group.remove()
    return 0


def _pids_max(spec: Spec) -> int:
    if spec.pids_max:
        return spec.pids_max
    there = [number for name in ("pid_max", "threads-max") if (number := _number(f"/proc/sys/kernel/{name}"))]
    return min(PIDS_MAX, *(number // 4 for number in there)) if there else PIDS_MAX


def resident_bytes(pids: list[int], *, precise_above: int) -> int:
    """Memory that these processes have together. Quick, shared pages counted for each; above a number precise."""
    quick = sum(_resident_pages(pid) for pid in pids) * _PAGE
    return quick if quick <= precise_above else sum(_share_bytes(pid) for pid in pids)


def _resident_pages(pid: int) -> int:
    words = _content(f"/proc/{pid}/statm").split()
    return int(words[1]) if len(words) > 1 else 0


def _share_bytes(pid: int) -> int:
    """Its pages without those of files, each divided by how many processes have it."""
    rows = _content(f"/proc/{pid}/smaps_rollup").splitlines()
    if not rows:  # it does not let itself be looked into
        return _resident_pages(pid) * _PAGE
    return sum(int(row.split()[1]) * 1024 for row in rows if row.startswith((b"Pss_Anon:", b"Pss_Shmem:")))


def exceeded(used: int, limit: int) -> str:
    """The sentence for its user, behind "out of memory"."""
    return f"used {size(used)} of {size(limit)}"


def size(count: int) -> str:
    """Bytes for a person: `7.9 GiB`, `512 MiB`."""
    for unit, bytes_of in (("GiB", 1024**3), ("MiB", 1024**2)):
        if count >= bytes_of:
            return f"{count / bytes_of:.1f}".removesuffix(".0") + f" {unit}"
    return f"{count} bytes"


def _number(path: str) -> int:
    text = _content(path).strip()
    return int(text) if text.isdigit() else 0


def _content(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(65536)
    except OSError:
        return b""
