"""Processes below this one: adopt them, find them, end them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time

_PR_SET_CHILD_SUBREAPER = 36
LOOK_S = 0.005


def adopt_orphans() -> None:
    """Become the parent of every orphan among the descendants. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def children() -> set[int]:
    """Those of this process that live."""
    return {pid for pid, parent in _living().items() if parent == os.getpid()}


def below(roots: set[int]) -> list[int]:
    """These and all of their descendants, as far as they live. As of a moment."""
    living = _living()
    younger: dict[int, list[int]] = {}
    for pid, parent in living.items():
        younger.setdefault(parent, []).append(pid)
    found = [pid for pid in sorted(roots) if pid in living]
    for pid in found:
        found.extend(child for child in younger.get(pid, ()) if child not in roots)
    return found


def name(pid: int) -> str:
    """What it calls itself; empty: it is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def end(roots: set[int], *, wait_s: float) -> None:
    """SIGKILL to these and to all below them; returns when they are gone, or after `wait_s`.

    What slips through, because it is forked in this moment, is left to the supervisor, as everything is that a
    program leaves behind.
    """
    found = set(below(roots))
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + wait_s
    while found & _living().keys() and time.monotonic() < until:
        time.sleep(LOOK_S)


def _living() -> dict[int, int]:
    """Every process that is no zombie, with its parent."""
    found = {int(name): _stat(name) for name in os.listdir("/proc") if name.isdigit()}
    return {pid: stat[1] for pid, stat in found.items() if stat is not None and stat[0] not in "ZX"}


def _stat(pid: str) -> tuple[str, int] | None:
    """State and parent."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read(1024)
    except OSError:
        return None
    state, parent = stat[stat.rindex(b")") + 2 :].split()[:2]
    return state.decode(), int(parent)
