"""Becoming another user for good: between fork and execve, standard library only.

What the kernel clears when root becomes somebody (permitted and effective capabilities), and what only a word clears
(supplementary groups, inheritable and ambient ones), is all gone afterwards. With `no_new_privs` no program that is
executed later gives any of it back: setuid bits and file capabilities do not count (prctl(2)).
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CLONE_NEWNS: Final = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_SLAVE = 2, 4, 8, 1 << 14, 1 << 19
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAPABILITY_WORDS: Final = 6
"""Effective, permitted, inheritable, of 32 capabilities each, twice."""


def prctl(option: int, argument: int | bytes) -> None:
    """prctl(2). Raises OSError."""
    _call("prctl", option, argument, 0, 0, 0)


def hide_others() -> bool:
    """From here on, show below /proc nothing of other users' processes (`hidepid=2` in proc(5)). Raises OSError.

    In a mount namespace of one's own, that goes on to have what is mounted outside of it. Before `become`: it takes
    CAP_SYS_ADMIN, and a container that lets its root mount (AppArmor, or a /proc of which parts are masked, refuse it).
    Gives whether that was so; where not, all is as before.
    """
    try:
        _call("unshare", _CLONE_NEWNS)
        _call("mount", b"none", b"/", None, _MS_REC | _MS_SLAVE, None)
        _call("mount", b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, b"hidepid=2")
    except PermissionError:
        return False
    return True


def become(uid: int, *owned: int) -> None:
    """Be this user and its group of the same number, and nothing else, from here on. Raises OSError.

    `owned`: pipes that it may open again by name (`/dev/stdout`), which their owner alone can. Whatever was to be sent
    on the parent's death (PR_SET_PDEATHSIG) the kernel forgets here.
    """
    for pipe in owned:
        os.fchown(pipe, uid, uid)
    os.setgroups(())
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _drop_capabilities()
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * _CAPABILITY_WORDS)()
    _call("capset", ctypes.byref(header), ctypes.byref(nothing))


def _call(name: str, *arguments: object) -> None:
    if getattr(_LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
