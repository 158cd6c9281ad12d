"""Whose the folders of an attempt are, where attempts have users of their own.

    <node>/                      ours     0711   passed through, never listed; so are attempts/ jobs/ environments/
      attempts/<attempt>/        ours     0710   its group is the attempt's: nobody else passes
        home/ scratch/ source/ spool/   the attempt's  0700
        everything else          ours     0600
      jobs/<job>/                the attempt's 0700 while one lives; sealed (ours, 0700) otherwise

A sealed folder's group says whose its content is, so that the next attempt, which is another user, is given that and
nothing else: a job may have made hard links to what belongs to somebody else, and that must not become its successor's.
No process of the user lives while any of this works.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from runtime.removing import remove

HOME: Final = "home"
OWN: Final = (HOME, "scratch", "source", "spool")
SHARED_PLACES: Final = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run/lock"), Path("/dev/mqueue"))
"""Where every user may leave something. In the last one POSIX message queues are, where it is mounted."""


def open_node(path: Path, *folders: Path) -> None:
    """Let other users pass, by names that they know, and list nothing. Raises OSError."""
    for folder in (path, *folders):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711)


def give_attempt(folder: Path, uid: int) -> None:
    """What is there by now of an attempt's own folders becomes its user's. Again is harmless. Raises OSError."""
    (folder / HOME).mkdir(exist_ok=True)
    for name in OWN:
        if (own := folder / name).is_dir():
            give(own, uid, of=os.geteuid())
            own.chmod(0o700)
    os.chown(folder, -1, uid)
    folder.chmod(0o710)


def give_job(folder: Path, uid: int) -> None:
    """A job's folder becomes its new attempt's, with all that the attempt before has left in it. Raises OSError."""
    found = folder.lstat()
    if found.st_uid != os.geteuid():  # it was never sealed
        before = found.st_uid
    elif found.st_gid != os.getegid():
        before = found.st_gid
    else:
        before = found.st_uid
    folder.chmod(0o700)
    give(folder, uid, of=before)
    os.chown(folder, uid, uid)


def seal_job(folder: Path, uid: int) -> None:
    """Let nobody in until the next attempt. Nothing, if it is another's by now. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        if folder.lstat().st_uid == uid:
            folder.chmod(0o700)  # the owner may have opened it to all
            os.chown(folder, os.geteuid(), uid)


def give_cache(cache: Path, builder: int) -> None:
    """What uv has kept becomes the user's who runs it from now on, once. Raises OSError."""
    before = cache.lstat().st_uid
    if before != builder:
        for folder, _, names in os.walk(cache):
            for path in (folder, *(os.path.join(folder, name) for name in names)):
                os.chown(path, builder, builder, follow_symlinks=False)


def give(top: Path, uid: int, *, of: int) -> None:
    """What belongs to the user `of`, this folder and all below it, becomes `uid`'s. Follows no link. Raises OSError.

    Of what is ours, a file with several names stays: one of them may be elsewhere, in a cache of all jobs.
    """
    stack = [os.fspath(top)]
    while stack:
        folder = stack.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                is_folder = stat.S_ISDIR(found.st_mode)
                if is_folder:
                    stack.append(entry.path)
                if found.st_uid == of and (is_folder or found.st_nlink == 1 or of != os.geteuid()):
                    os.chown(entry.path, uid, uid, follow_symlinks=False)
        if os.lstat(folder).st_uid == of:
            os.chown(folder, uid, uid)


def clear_shared(uid: int) -> None:
    """Remove what a user has left where everybody may leave something. What cannot be removed stays."""
    for place in SHARED_PLACES:
        try:
            with os.scandir(place) as entries:
                left = [entry.path for entry in entries if _is_of(entry, uid)]
        except OSError:
            continue
        for path in left:
            remove(Path(path))


def _is_of(entry: os.DirEntry[str], uid: int) -> bool:
    try:
        return entry.stat(follow_symlinks=False).st_uid == uid
    except OSError:
        return False  # gone meanwhile
