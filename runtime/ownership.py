"""Whose the folders of an attempt are, where attempts have users of their own.

    <node>/                      ours     0711   passed through, never listed; so are attempts/ jobs/ environments/
      attempts/<attempt>/        ours     0710   its group is the attempt's: nobody else passes
        home/ scratch/ source/ spool/   the attempt's  0700
        everything else          ours     0600
      jobs/<job>/                the attempt's 0700 while one lives; sealed (ours, 0700) otherwise
      environments/<environment>/, uv-cache/    the builder's

A sealed folder's group says whose its content is, so that the next attempt, which is another user, is given that and
nothing else: a job may have made hard links to what belongs to somebody else, and that must not become its successor's.
While it is given, its user is the next one, and its group says whose the content was: a giving that was interrupted is
finished before anything else is done.

No process of the user lives while any of this works. A neighbour's may, in a folder that a job has opened to all: what
is given is held by a descriptor, and never named twice.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

from runtime.removing import remove

HOME: Final = "home"
OWN: Final = (HOME, "scratch", "source", "spool")
SHARED_PLACES: Final = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run/lock"), Path("/dev/mqueue"))
"""Where every user may leave something. In the last one POSIX message queues are, where it is mounted."""
_GIVEN: Final = 0o710
"""The mode of an attempt's folder whose group is a user."""
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HELD: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


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
    folder.chmod(_GIVEN)


def user_of_attempt(folder: Path) -> int:
    """To whom `give_attempt` gave it; 0: to nobody. Raises OSError."""
    found = folder.lstat()  # a volume may have a group of its own, which what is made there inherits: the mode tells
    given = stat.S_IMODE(found.st_mode) == _GIVEN and found.st_gid != os.getegid()
    return found.st_gid if given else 0


def give_job(folder: Path, uid: int) -> None:
    """A job's folder becomes its new attempt's, with all that the attempt before has left in it. Raises OSError."""
    found = folder.lstat()
    folder.chmod(0o700)
    if found.st_uid != os.geteuid():  # it was never sealed
        before = found.st_uid
        _finish(folder, found)
    elif found.st_gid != os.getegid():
        before = found.st_gid
    else:
        before = found.st_uid
    os.chown(folder, uid, before)
    give(folder, uid, of=before)
    os.chown(folder, uid, uid)


def seal_job(folder: Path, uid: int) -> None:
    """Let nobody in until the next attempt. Nothing, if it is another's by now. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        found = folder.lstat()
        if found.st_uid == uid:
            folder.chmod(0o700)  # the owner may have opened it to all
            _finish(folder, found)
            os.chown(folder, os.geteuid(), uid)


def _finish(folder: Path, found: os.stat_result) -> None:
    """What belongs to its group is its user's, if a giving was interrupted."""
    if found.st_gid != found.st_uid:
        give(folder, found.st_uid, of=found.st_gid)


def give_built(folder: Path, builder: int) -> None:
    """What uv has kept or built becomes the user's who runs it from now on, once. Raises OSError.

    The folder's group is the new builder's at once, its user only when all below it is.
    """
    found = folder.lstat()
    if (found.st_uid, found.st_gid) != (builder, builder):
        os.chown(folder, -1, builder)
        for held in _all_in(folder):
            _chown(held, builder)


def give(top: Path, uid: int, *, of: int) -> None:
    """What belongs to the user `of`, this folder and all below it, becomes `uid`'s. Follows no link. Raises OSError.

    Of what is ours, a file with several names stays: one of them may be elsewhere, in a cache of all jobs.
    """
    for held in _all_in(top):
        found = os.fstat(held)
        if found.st_uid == of and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1 or of != os.geteuid()):
            _chown(held, uid)


def _chown(held: int, uid: int) -> None:
    """fchown(2) refuses a descriptor that only holds; the name that /proc has for it leads to that, be it a link."""
    os.chown(f"/proc/self/fd/{held}", uid, uid)


def _all_in(top: Path) -> Iterator[int]:
    """All that is in a folder and, after it, the folder: descriptors, each open until the next one is asked for.

    Equivalent to `os.fwalk` from the bottom up, but three descriptors are open at most and nothing calls itself, so
    that folders in folders, some thousand deep, are gone through. Raises OSError.
    """
    here = os.open(top, _FOLDER)
    try:
        names, above = os.listdir(here), list[tuple[tuple[int, int], list[str]]]()
        while True:
            below = yield from _next_folder(here, names)
            if below is not None:
                above.append((_identity(here), names))
                os.close(here)
                here, names = below, os.listdir(below)
                continue
            yield here
            if not above:
                return
            identity, names = above.pop()
            below, here = here, os.open("..", _FOLDER, dir_fd=here)
            os.close(below)
            if _identity(here) != identity:
                raise OSError(errno.ESTALE, "a folder was moved while it was given", os.fspath(top))
    finally:
        os.close(here)


def _next_folder(here: int, names: list[str]) -> Generator[int, None, int | None]:
    """What is no folder of these names; returns the first that is one, open. Takes from the list what it has seen."""
    while names:
        try:
            held = os.open(names.pop(), _HELD, dir_fd=here)
        except FileNotFoundError:
            continue  # gone meanwhile
        try:
            if stat.S_ISDIR(os.fstat(held).st_mode):
                return os.open(".", _FOLDER & ~os.O_NOFOLLOW, dir_fd=held)
            yield held
        finally:
            os.close(held)
    return None


def _identity(folder: int) -> tuple[int, int]:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino


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
