"""The program: an order and an entrypoint in, the entrypoint's own end out.

On rank 0 the entrypoint runs when the cluster is ready; it is in this program's process group, so that what the
supervisor sends reaches it, and Ray is not, so that there is a cluster for as long as the job's grace lasts. The other
ranks of a gang hold their part until the head is gone.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from typing import NoReturn

from headrace.private_ray import cluster, order, processes
from headrace.private_ray.cluster import Cluster, NotReady

FAILURE = "private_ray.json"
"""In the scratch folder: what went wrong, for the end of the attempt."""
BROKEN_GRACE_S = 10.0
"""For an entrypoint whose cluster has broken: most fail by themselves, some wait for ever."""
HEAD_LOOK_S = 1.0
HEAD_MISSES = 2
"""Looks in a row that find no head, before it is taken for gone."""


def main(words: list[str]) -> NoReturn:
    """`[order, *entrypoint]`. Ends as the entrypoint ends; with 1, and a word in `FAILURE`, if Ray fails."""
    begun_at = time.monotonic()
    wanted, entrypoint = order.read(words[0]), words[1:]
    processes.adopt_orphans()
    try:
        ready = cluster.start(wanted, dict(os.environ))
    except (NotReady, OSError) as error:
        _leave_word(str(error), getattr(error, "cause", "start_failed"))
        sys.exit(1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _noted)  # for the entrypoint, which has them too; the cluster is there until it has ended
    if wanted.rank:
        _stay(ready, wanted.head)
    took_s = time.monotonic() - begun_at
    machines = f"{wanted.size} nodes" if wanted.size > 1 else "1 node"
    _say(f"Ray {machines}, {max(1, int(wanted.cpus))} CPUs and {wanted.gpus} GPUs each, ready in {took_s:.1f} s")
    _run(ready, entrypoint)


def _run(ready: Cluster, entrypoint: list[str]) -> NoReturn:
    try:
        pid = os.posix_spawnp(entrypoint[0], entrypoint, ready.env, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ])
    except (OSError, ValueError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        _leave_word(f"cannot start {entrypoint[0]!r}: {why}", "start_failed")
        cluster.end(ready)
        sys.exit(1)
    status, broken = _wait(pid, ready)
    if broken:
        _leave_word(broken, "exited")
    cluster.end(ready)
    if broken:
        sys.exit(1)
    _end_as(status)


def _wait(pid: int, ready: Cluster) -> tuple[int, str]:
    """The status of the entrypoint; and, if that was its end, what broke in the cluster."""
    broken = ""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            signal.setitimer(signal.ITIMER_REAL, 0)
            return status, broken
        if ended in ready.vital and not broken:
            broken = f"Ray's {ready.vital[ended]} {_how(status)}"
            _say(f"{broken}: the job cannot go on")
            signal.signal(signal.SIGALRM, lambda number, frame: _press(pid))
            signal.setitimer(signal.ITIMER_REAL, BROKEN_GRACE_S, BROKEN_GRACE_S)


def _press(pid: int) -> None:
    """SIGTERM first, SIGKILL the next time."""
    number = signal.SIGKILL if signal.getsignal(signal.SIGUSR2) is _noted else signal.SIGTERM
    signal.signal(signal.SIGUSR2, _noted)
    os.kill(pid, number)


def _stay(ready: Cluster, head: str) -> NoReturn:
    """A part without the entrypoint: as long as the head is there."""
    misses, broken = 0, ""
    while misses < HEAD_MISSES:
        misses = 0 if cluster.answers(head) else misses + 1
        broken = broken or _reaped(ready)
        if broken and cluster.answers(head):
            _leave_word(broken, "exited")
            cluster.end(ready)
            sys.exit(1)
        time.sleep(HEAD_LOOK_S)
    cluster.end(ready)
    sys.exit(0)


def _reaped(ready: Cluster) -> str:
    """Reap children; what broke by their end."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ""
        if not pid:
            return ""
        if pid in ready.vital:
            return f"Ray's {ready.vital[pid]} {_how(status)}"


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with exit code {os.WEXITSTATUS(status)}"


def _end_as(status: int) -> NoReturn:
    """By the same exit code or the same signal."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def _leave_word(message: str, cause: str) -> None:
    _say(message)
    path = os.path.join(os.environ["HEADRACE_SCRATCH"], FAILURE)
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"cause": cause, "message": message}, file)


def _say(text: str) -> None:
    print(f"headrace: {text}", file=sys.stderr, flush=True)


def _noted(number: int, frame: object) -> None:
    """Nothing is done about it here."""
