"""Processes, as the supervisor needs them: start one, find all that came of it, end them, say what they used.

Standard library only. Starting is plain fork and execve: the caller is small and has one thread, so everything that a
child must set before its program runs (session, death signal, descriptors) can be set right there.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
from typing import Final, NamedTuple, Protocol

from runtime import credentials
from runtime.credentials import prctl
from runtime.exit_record import Spec

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36

OOM_SCORE: Final = b"500"
"""Of the entrypoint and all below it: when the node runs out of memory a job goes first, not what looks after it."""
SHIELDED_SCORES: Final = (b"-900", b"0")
"""Of launcher and supervisors: what root may have, what everybody may. Ray gives its workers' children 1000."""
UMASK: Final = 0o022
EXEC_FAILED: Final = 127

_EVERY_SIGNAL: Final = signal.valid_signals()
_NOT_DEFAULT: Final = (
    *(signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ),  # ignored by us or by Python, and that survives execve
    *(signal.SIGCHLD, signal.SIGTERM, signal.SIGINT),  # ours until execve: one that comes before must not be lost
)
"""The others are as the launcher made them when it began: default."""

_HINTS: Final = {
    errno.ENOENT: "is it in the source or in the environment's packages, and does its first line (#!) name a program "
    "that the node has?",
    errno.EACCES: "make it executable (chmod +x), or start it with its interpreter: python <file>",
    errno.ENOEXEC: "it has no first line (#!) and is no program for this machine; start it with its interpreter",
    errno.E2BIG: "the arguments and the environment together are too long",
}


def reset_signals() -> None:
    """Every signal to its default, none blocked: whoever started us may have had other wishes."""
    for number in _EVERY_SIGNAL - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def become_guardian(name: str) -> None:
    """Adopt every orphan among the descendants, and let no process of the same user look into this one."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    prctl(_PR_SET_DUMPABLE, 0)
    prctl(_PR_SET_NAME, name.encode()[:15])


class Failure(NamedTuple):
    """Why a program could not be started."""

    stage: str
    number: int

    def sentence(self, spec: Spec) -> str:
        if self.stage == "folder":
            return f"working folder {spec.cwd}: {os.strerror(self.number)}"
        if self.stage == "bounds":
            return f"its memory and processes cannot be bounded on this node: {os.strerror(self.number)}"
        if self.stage == "user":
            return (
                f"it cannot run as user {spec.uid} on this node: {os.strerror(self.number)}; hint: the node needs what "
                "`attempt_uids` asks for, see docs/kubernetes.md"
            )
        text = f"cannot start {spec.argv[0]!r}: {os.strerror(self.number)}"
        hint = _HINTS.get(self.number)
        where = f" (looked on PATH={spec.env.get('PATH', os.defpath)})" if "/" not in spec.argv[0] else ""
        return f"{text}{where}; hint: {hint}" if hint else text


class Started(NamedTuple):
    """A forked child. `verdict` is a pipe: empty at its end when the program runs, else a Failure."""

    pid: int
    verdict: int


class Bounded(Protocol):
    """What keeps the program within its limits; `runtime.bounds` has them."""

    def fork(self) -> int: ...

    def enter(self) -> None: ...


def start(spec: Spec, bounds: Bounded, *, stdout: int, stderr: int) -> Started:
    """Fork, and execute the program in its bounds, as its user, in a session of its own that dies with this process."""
    verdict, report = os.pipe()
    parent = os.getpid()
    # A signal that reached the child before its handlers are reset would be taken for one of the parent's.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _EVERY_SIGNAL)
    try:
        pid = bounds.fork()
        if pid == 0:
            _become(spec, bounds, parent, (stdout, stderr), report)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(report)
    os.set_blocking(verdict, False)
    return Started(pid, verdict)


def read_verdict(verdict: int) -> Failure | None:
    """What the verdict pipe says, once it is readable. None: the program runs."""
    text = os.read(verdict, 64).decode("ascii", "replace")
    stage, _, number = text.partition(" ")
    return Failure(stage, int(number)) if number.isdigit() else None


def _become(spec: Spec, bounds: Bounded, parent: int, outputs: tuple[int, int], report: int) -> None:
    """The child, from fork to execve. Never returns."""
    stage = "session"
    try:
        os.setsid()
        _die_with(parent)
        signal.set_wakeup_fd(-1)
        for number in _NOT_DEFAULT:
            signal.signal(number, signal.SIG_DFL)
        _score_for_oom(OOM_SCORE)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in enumerate((null, *outputs)):
            os.dup2(source, target)
        os.umask(UMASK)
        stage = "bounds"
        bounds.enter()
        stage = "user"
        if spec.uid:
            credentials.hide_others()
            credentials.become(spec.uid, 1, 2)
            _die_with(parent)
        stage = "folder"
        os.chdir(spec.cwd)
        stage = "program"
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(spec.argv[0], spec.argv, spec.env)
    except OSError as error:
        os.write(report, f"{stage} {error.errno or errno.EIO}".encode())
    except ValueError:  # a null byte in an argument or in the environment
        os.write(report, f"{stage} {errno.EINVAL}".encode())
    finally:
        os._exit(EXEC_FAILED)


def _die_with(parent: int) -> None:
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(EXEC_FAILED)


def shield_from_oom() -> None:
    """Have the kernel take others first: what this process starts inherits it, but for entrypoints."""
    for score in SHIELDED_SCORES:
        if _score_for_oom(score):
            return


def _score_for_oom(score: bytes) -> bool:
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(score)
    except OSError:
        return False  # a container may forbid it; then all are equal
    return True


def descendants(root: int) -> list[int]:
    """Every process below `root`, parents before children. As of a moment: call again until there is none."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (parent := parent_of(int(name))) is not None:
            children.setdefault(parent, []).append(int(name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found[1:]


def parent_of(pid: int) -> int | None:
    """Who looks after it now; None: it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read(1024)
    except OSError:
        return None
    return int(stat[stat.rindex(b")") + 2 :].split()[1])


def is_stopped(pid: int) -> bool:
    """Whether somebody has stopped it (SIGSTOP): it lives and does nothing."""
    return _state(pid) == b"T"


def lives(pid: int) -> bool:
    """Whether there is such a process; one whose parent has still to look is none."""
    return _state(pid) not in (b"Z", b"X", b"")


def _state(pid: int) -> bytes:
    """One letter, as proc(5) says; empty: it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read(1024)
    except OSError:
        return b""
    return stat[stat.rindex(b")") + 2 :][:1]


def marked(entry: str) -> list[int]:
    """Every process whose environment at its start held exactly this `NAME=value`."""
    wanted = b"\0" + entry.encode() + b"\0"
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if wanted in b"\0" + file.read():
                    found.append(int(name))
        except OSError:
            continue
    return found


def of_user(uid: int) -> list[int]:
    """Every process of this user that lives. The folder below /proc is the user's whatever a process does to hide the
    rest.
    """
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid and lives(int(name)):
                    found.append(int(name))
            except OSError:
                continue
    return found


def send(pids: list[int], number: signal.Signals) -> None:
    """Signal each of them that still lives. A zombie keeps its pid until its parent looks, so none is a stranger's."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def send_group(leader: int, number: signal.Signals) -> None:
    """Signal the process group of an entrypoint, or the entrypoint alone while it has not made its group yet."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        send([leader], number)


class Usage(NamedTuple):
    cpu_s: float
    memory_bytes_max: int


def usage_of_children() -> Usage:
    """CPU time of every descendant that was reaped, and the largest resident memory of any single one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Usage(cpu_s=round(used.ru_utime + used.ru_stime, 6), memory_bytes_max=used.ru_maxrss * 1024)


class OomWatch:
    """Tells whether the kernel killed something for want of memory since this was made.

    It counts for our own memory control group (v2, then v1) where that can be read, else for the whole node: then a
    kill elsewhere in the very same time can be mistaken for ours.
    """

    def __init__(self) -> None:
        self._before = _oom_kills()

    def saw_a_kill(self) -> bool:
        return _oom_kills() > self._before


def _oom_kills() -> int:
    for path, key in (*_oom_counters(), ("/proc/vmstat", b"oom_kill")):
        try:
            with open(path, "rb") as file:
                lines = file.read(65536).splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(b" ")
            if name == key:
                return int(value)
    return 0


def _oom_counters() -> list[tuple[str, bytes]]:
    found = []
    with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controllers == "":
                found.append((f"/sys/fs/cgroup{path}/memory.events", b"oom_kill"))
            elif "memory" in controllers.split(","):
                found.append((f"/sys/fs/cgroup/memory{path}/memory.oom_control", b"oom_kill"))
    return found
