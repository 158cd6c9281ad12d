"""Control groups, as far as attempts need them: where a node can make some, and the group of one attempt.

Standard library only; plain files below /sys/fs/cgroup, so nothing here depends on a library or on systemd.

A node's groups stand together in one folder of its own (`headrace-…`), below the group that the launcher is in, so that
a limit on us is a limit on all attempts; on version 1 that is one folder for memory and one for pids. Whether a node
can make groups is not read from anywhere but tried, a process inside included: a container may show what it forbids.

Entering is the part that costs. Moving a process by `cgroup.procs` makes the kernel wait for all CPUs (6 ms a write,
measured); moving only the calling thread by `tasks` (version 1), or being born inside (version 2, clone3), does not.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import time
import zlib
from typing import Final, NamedTuple

CHOSEN: Final = "bounds.json"
"""In the node's folder: where the groups of the launchers before us stand."""
NEEDED: Final = ("memory", "pids")
READ_BYTES_MAX: Final = 1024 * 1024
REMOVE_TRIES: Final = (0.001, 0.004, 0.016, 0.064)
"""Pauses: a group is busy for a moment after its last process was reaped."""
PREFIX: Final = "headrace-"
REST: Final = "headrace-rest"
CLEAR_OUT_ROUNDS_MAX: Final = 10
"""A process may fork while it is moved."""
_TRIAL: Final = "try"
_CLONE3: Final = 435
_CLONE_INTO_CGROUP: Final = 0x200000000
_PYTHON: Final = ctypes.PyDLL(None, use_errno=True)
"""Keeps the interpreter's lock during a call: the child of a clone comes back from it as well."""


class Place(NamedTuple):
    """Where a node's groups stand. `folders`: one for `cgroup2`; those of memory and pids for `cgroup1`."""

    kind: str
    folders: tuple[str, ...]

    def group(self, name: str) -> Group:
        """The group of this name, be it there or not."""
        return Group(self.kind, tuple(os.path.join(folder, name) for folder in self.folders))

    def names(self) -> list[str]:
        """Of every group that is there."""
        found: set[str] = set()
        for folder in self.folders:
            try:
                found.update(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
            except OSError:
                continue
        return sorted(found)

    def make(self) -> None:
        """Make the node's folders if they are not there. Raises OSError."""
        for folder in self.folders:
            if self.kind == "cgroup2":
                _enable(os.path.dirname(folder))
            os.makedirs(folder, 0o755, exist_ok=True)
            if self.kind == "cgroup2":
                _enable(folder)

    def remove(self) -> None:
        """Remove the node's folders if no group is left in them."""
        for folder in self.folders:
            _rmdir(folder)


class Group:
    """The group of one attempt."""

    def __init__(self, kind: str, folders: tuple[str, ...]) -> None:
        self._is_v2 = kind == "cgroup2"
        self._folders = folders
        self._memory = folders[0]
        self._pids = folders[-1]
        self._born_inside = False
        self.is_killed_whole = False
        """Whether the kernel, when it has to kill one for want of memory, kills all: only version 2 can."""

    def make(self, *, memory_bytes: int, pids_max: int) -> None:
        """Make it with its limits (0: none). Raises OSError; then nothing is left of it."""
        try:
            for folder in self._folders:
                os.mkdir(folder, 0o755)
            if memory_bytes:
                self._limit_memory(memory_bytes)
            if pids_max:
                _write(f"{self._pids}/pids.max", pids_max)
        except OSError:
            self.remove()
            raise

    def _limit_memory(self, memory_bytes: int) -> None:
        """Swap is no way around the limit; where it is not counted, that cannot be said."""
        if self._is_v2:
            _write(f"{self._memory}/memory.max", memory_bytes)
            _write_if_there(f"{self._memory}/memory.swap.max", 0)
            self.is_killed_whole = _write_if_there(f"{self._memory}/memory.oom.group", 1)
        else:
            _write(f"{self._memory}/memory.limit_in_bytes", memory_bytes)
            _write_if_there(f"{self._memory}/memory.memsw.limit_in_bytes", memory_bytes)

    def fork(self) -> int:
        """`os.fork`, with the child inside; a child that is not must `enter`. The caller has one thread."""
        if not self._is_v2:
            return os.fork()
        inside = os.open(self._memory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._born_inside = True  # as the child sees it
        try:
            arguments = (ctypes.c_uint64 * 11)()
            arguments[0], arguments[4], arguments[10] = _CLONE_INTO_CGROUP, signal.SIGCHLD, inside
            pid = int(_PYTHON.syscall(_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments)))
        finally:
            os.close(inside)
        if pid >= 0:
            return pid
        self._born_inside = False  # no clone3 here
        return os.fork()

    def enter(self) -> None:
        """Move this process, which has one thread, inside. Raises OSError."""
        if self._born_inside:
            return
        for folder in self._folders:
            _write(f"{folder}/{'cgroup.procs' if self._is_v2 else 'tasks'}", 0)

    def members(self) -> list[int]:
        """Every process inside, those in groups that the attempt made below its own too. As of a moment."""
        found: set[int] = set()
        for top in self._folders:
            for folder in _tree(top):
                found.update(int(pid) for pid in _read(f"{folder}/cgroup.procs").split())
        return sorted(found)

    def kill(self) -> None:
        """SIGKILL to all inside. While it works none can fork; call again until there is no member."""
        if self._is_v2 and _write_if_there(f"{self._memory}/cgroup.kill", 1):
            return
        _write_if_there(f"{self._pids}/pids.max", 0)
        for pid in self.members():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        name = "memory.events" if self._is_v2 else "memory.oom_control"
        for line in _read(f"{self._memory}/{name}").splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return 0

    def peak_bytes(self) -> int:
        """The most memory that all inside had together, file cache included; 0 where the kernel does not say."""
        text = _read(f"{self._memory}/{'memory.peak' if self._is_v2 else 'memory.max_usage_in_bytes'}")
        return int(text) if text.strip().isdigit() else 0

    def remove(self) -> bool:
        """Remove it, and what was made below it; gives whether nothing is left. Never while a process is inside."""
        for pause_s in (*REMOVE_TRIES, 0.0):
            removed = [_rmdir(folder) for top in self._folders for folder in reversed(_tree(top))]
            if all(removed):
                return True
            time.sleep(pause_s)
        return False


# -- choosing ----------------------------------------------------------------------------------------------------------


def choose(node_folder: str) -> Place | None:
    """Where groups of this node can be made, version 2 before 1; None: nowhere. Clears away what is left of others.

    Forks: the caller has one thread.
    """
    before = read_chosen(node_folder)
    found = next((place for place in candidates(node_folder) if _works(place)), None)
    if found != before:  # a disk that has become full is no reason not to start
        _write_chosen(node_folder, found)
    if before is not None and before != found:
        for name in before.names():
            before.group(name).remove()  # one with a process inside stays: its attempt lives
        before.remove()
    if found is not None:
        _clear_empty(found)
    return found


def _write_chosen(node_folder: str, place: Place | None) -> None:
    chosen = os.path.join(node_folder, CHOSEN)
    with open(f"{chosen}.new", "w", encoding="utf-8") as file:
        json.dump(None if place is None else place._asdict(), file)
    os.rename(f"{chosen}.new", chosen)


def _clear_empty(place: Place) -> None:
    """Remove what nodes left whose launcher was killed. One that lives makes its folder again when it needs it."""
    for folder in place.folders:
        parent, name = os.path.split(folder)
        for entry in os.scandir(parent):
            if entry.name.startswith(PREFIX) and entry.name != name:
                _rmdir(entry.path)  # with a group inside it stays


def read_chosen(node_folder: str) -> Place | None:
    """What the node's launcher chose last; None if that was nothing."""
    try:
        with open(os.path.join(node_folder, CHOSEN), encoding="utf-8") as file:
            raw = json.loads(file.read(READ_BYTES_MAX))
        return Place(str(raw["kind"]), tuple(map(str, raw["folders"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def candidates(node_folder: str, proc: str = "/proc/self") -> list[Place]:
    """Where it is worth trying, best first. A group that holds processes can have no bounded ones below it on version
    2, so there the one beside ours is tried as well.
    """
    name = f"{PREFIX}{zlib.crc32(os.path.abspath(node_folder).encode()):08x}"
    own = _own_groups(proc)
    found = []
    if "" in own:
        found = [Place("cgroup2", (f"{parent}/{name}",)) for parent in dict.fromkeys((own[""], _above(own[""])))]
    if all(controller in own for controller in NEEDED):
        found.append(Place("cgroup1", tuple(f"{own[controller]}/{name}" for controller in NEEDED)))
    return found


def _own_groups(proc: str) -> dict[str, str]:
    """The folder of our own group, by controller of version 1, and by "" for version 2."""
    mounts: dict[str, tuple[str, str]] = {}
    for line in _read(f"{proc}/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = [*after.split(" ", 2), "", ""][:3]
        root, point = before.split(" ")[3:5]
        names = [""] if kind == "cgroup2" else options.split(",") if kind == "cgroup" else []
        for each in names:
            mounts.setdefault(each, (root, point))
    found = {}
    for line in _read(f"{proc}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for each in controllers.split(","):
            if each in mounts:
                root, point = mounts[each]
                inside = path[len(root) :] if root != "/" and path.startswith(root) else path
                found[each] = (point + "/" + inside.strip("/")).rstrip("/")
    return found


def _above(folder: str) -> str:
    """The group above, as long as that is one."""
    above = os.path.dirname(folder)
    return above if os.path.exists(f"{above}/cgroup.procs") else folder


def _works(place: Place) -> bool:
    """Whether a group can be made there, bounded, entered by a process, and removed again."""
    trial = place.group(_TRIAL)
    try:
        place.make()
        trial.remove()  # a launcher that was killed in the middle of this
        trial.make(memory_bytes=1024**3, pids_max=64)
        entered = _enters(trial)
        if trial.remove() and entered:
            return True
    except OSError:
        pass  # the next candidate, or none
    place.remove()
    return False


def _enable(folder: str) -> None:
    """Have the controllers in the groups below. Raises OSError: not given to us, or a process is in this one."""
    there = _read(f"{folder}/cgroup.subtree_control").split()
    missing = " ".join(f"+{name}" for name in NEEDED if name not in there)
    if not missing:
        return
    try:
        _write(f"{folder}/cgroup.subtree_control", missing)
    except OSError as error:
        if error.errno != errno.EBUSY or _above(folder) != folder:
            raise
        _clear_out(folder)
        _write(f"{folder}/cgroup.subtree_control", missing)


def _clear_out(folder: str) -> None:
    """Move all processes of a container's outermost group, which is all we see, into one below it: else a container
    could have no bounded groups. Its limits hold as before. Raises OSError.
    """
    rest = f"{folder}/{REST}"
    os.makedirs(rest, 0o755, exist_ok=True)
    for _ in range(CLEAR_OUT_ROUNDS_MAX):
        pids = _read(f"{folder}/cgroup.procs").split()
        for pid in pids:
            try:
                _write(f"{rest}/cgroup.procs", pid)
            except ProcessLookupError:
                continue
        if not pids:
            return


def _enters(group: Group) -> bool:
    pid = group.fork()
    if pid == 0:
        try:
            group.enter()
            os._exit(0 if os.getpid() in group.members() else 1)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    return status == 0


# -- files -------------------------------------------------------------------------------------------------------------


def _tree(top: str) -> list[str]:
    """A group's folder and all below it, parents first."""
    return [folder for folder, _, _ in os.walk(top)]


def _rmdir(folder: str) -> bool:
    """Whether it is gone."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(READ_BYTES_MAX)
    except OSError:
        return ""


def _write(path: str, value: int | str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, str(value).encode())
    finally:
        os.close(file)


def _write_if_there(path: str, value: int) -> bool:
    try:
        _write(path, value)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP}:
            return False
        raise
    return True
