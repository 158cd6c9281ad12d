"""Removes what a job has made, whatever that is.

`shutil.rmtree` walks down by calling itself and by growing paths, so that folders in folders, some thousand deep, end
it, and with it whoever asked. Equivalent to it, but what is below a folder is lifted to the top before the folder goes:
nothing is ever deeper than two levels, and no path is longer than a name.

For folders in which their owner works no more. Somebody else may, where the owner let all in, and exchange what is
there at any moment: no link is followed, what is opened to us is held first, and there is an end however often it is
refilled.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LIFTED: Final = ".headrace-lifted-"
ROUNDS_MAX: Final = 100_000
"""Each takes away one level (10,000 took 8 s); of what is deeper a later removal takes the rest."""
_TAKEN: Final = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HELD: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: Path) -> bool:
    """Remove a file, or a folder with all that is in it; gives whether nothing is left. Raises nothing."""
    try:
        parent = os.open(path.parent, _FOLDER & ~os.O_NOFOLLOW)
    except OSError:
        return not path.exists()
    try:
        if _is_folder(path.name, parent):
            _open_up(path.name, parent)
            top = os.open(path.name, _FOLDER, dir_fd=parent)
            try:
                numbers = itertools.count()
                for _ in range(ROUNDS_MAX):
                    if not _lift(top, numbers):
                        break
                else:
                    return False
            finally:
                os.close(top)
            os.rmdir(path.name, dir_fd=parent)
        else:
            os.unlink(path.name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    finally:
        os.close(parent)
    return True


def _lift(top: int, numbers: Iterator[int]) -> bool:
    """Remove what is no folder, here and one level below; lift folders that were there. Whether any was. Raises OSError
    if something cannot be removed.
    """
    lifted = False
    for name in os.listdir(top):
        if not _is_folder(name, top):
            os.unlink(name, dir_fd=top)
            continue
        _open_up(name, top)
        folder = os.open(name, _FOLDER, dir_fd=top)
        try:
            for inner in os.listdir(folder):
                if _is_folder(inner, folder):
                    _open_up(inner, folder)
                    _move_up(inner, folder, top, numbers)
                    lifted = True
                else:
                    os.unlink(inner, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=top)
    return lifted


def _move_up(name: str, folder: int, top: int, numbers: Iterator[int]) -> None:
    for number in numbers:
        try:
            os.rename(name, f"{LIFTED}{number}", src_dir_fd=folder, dst_dir_fd=top)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        else:
            return


def _is_folder(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _open_up(name: str, parent: int) -> None:
    """A folder that its owner may not look into cannot be emptied. chmod(2) follows links, so it is given the folder
    that is held, and no name. Raises OSError.
    """
    folder = os.open(name, _HELD, dir_fd=parent)
    try:
        if os.fstat(folder).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{folder}", stat.S_IRWXU)
    finally:
        os.close(folder)
