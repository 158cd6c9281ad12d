"""A short way to an attempt's scratch folder, for its TMPDIR.

The path of a unix socket has 107 bytes at most (`sun_path`, unix(7)), and programs put theirs deep below the temporary
folder: Python's multiprocessing 32 bytes (managers, forkserver, tensors between PyTorch's processes), Ray some 75. An
attempt's folder alone may have more than is left. So where its path is long there is a link to it in /tmp, as long as
the attempt's folder is there.

/tmp belongs to everybody. A name that somebody else has taken is not used; nobody but its owner can replace a link
there (the sticky bit), and what it leads to is the owner's alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Final

ROOM: Final = 107 - 75
"""A path of so many bytes needs no other way."""
PLACE: Final = Path("/tmp")
PREFIX: Final = "hr-"


def to(scratch: Path) -> Path:
    """A way to this folder that is short, if one can be made; else its own path. Again is harmless."""
    link = way(scratch)
    if len(os.fsencode(scratch)) <= ROOM:
        return scratch
    with contextlib.suppress(OSError):
        link.symlink_to(scratch)
    return link if _is_ours(link, scratch) else scratch


def remove(scratch: Path) -> None:
    """The folder is not there any more."""
    link = way(scratch)
    if _is_ours(link, scratch):
        with contextlib.suppress(OSError):
            link.unlink()


def sweep(attempts: Path) -> None:
    """Ways that lead to attempts of this node which are not there any more: left by a runner that died in between."""
    for link in PLACE.glob(f"{PREFIX}*"):
        try:
            target = Path(os.readlink(link))
        except OSError:
            continue
        if target.is_relative_to(attempts) and not target.exists():
            remove(target)


def way(scratch: Path) -> Path:
    """Where the link to it is, if there is one."""
    return PLACE / f"{PREFIX}{hashlib.sha256(os.fsencode(scratch)).hexdigest()[:10]}"


def _is_ours(link: Path, scratch: Path) -> bool:
    try:
        return os.lstat(link).st_uid == os.geteuid() and os.readlink(link) == str(scratch)
    except OSError:
        return False
