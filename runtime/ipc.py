"""System V IPC objects that a user has left: shared memory, queues, semaphores. They outlive every process.

Only who owns one may remove it, or who has `CAP_SYS_ADMIN` (shmctl(2), msgctl(2), semctl(2)), which a node need not
have: so a process of that user does it, started only where there is anything.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

LOG: Final = logging.getLogger("headrace.runner")

LISTS: Final = {"shm": "shmid", "msg": "msqid", "sem": "semid"}
"""Lists below /proc/sysvipc, and the column with the number of an object."""
PLACE: Final = Path("/proc/sysvipc")
REMOVE_S_MAX: Final = 60.0
_REMOVE: Final = """
import ctypes, sys
libc = ctypes.CDLL(None)
for word in sys.argv[1:]:
    kind, number = word.split(":")
    more = (0,) if kind == "sem" else ()
    libc[kind + "ctl"](int(number), *more, 0, None)
"""
"""0 is IPC_RMID."""
AT_ONCE: Final = 1000
"""So many numbers are no line of arguments that the kernel refuses."""


def left_by(uid: int) -> list[str]:
    """`shm:<number>` and so on: what this user owns or has made. As of a moment."""
    return [f"{kind}:{row[LISTS[kind]]}" for kind in LISTS for row in _rows(kind) if uid in (row["uid"], row["cuid"])]


def clear(uid: int, as_user: dict[str, Any]) -> None:
    """Remove them. `as_user`: how a process of that user is started. No process of it works any more."""
    while words := left_by(uid)[:AT_ONCE]:
        try:
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", _REMOVE, *words],
                env={"LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=REMOVE_S_MAX,
                check=False,
                **as_user,
            )
        except (OSError, subprocess.SubprocessError) as error:
            LOG.error("System V IPC objects of user %d stay: %s", uid, error)
            return
        if set(words) & set(left_by(uid)):
            LOG.error("System V IPC objects of user %d cannot be removed: %s", uid, words[:5])
            return


def _rows(kind: str) -> list[dict[str, int]]:
    """Empty on a kernel that has none of them."""
    try:
        lines = (PLACE / kind).read_text().splitlines()
    except OSError:
        return []
    names = lines[0].split() if lines else []
    return [dict(zip(names, map(int, line.split()), strict=False)) for line in lines[1:]]
