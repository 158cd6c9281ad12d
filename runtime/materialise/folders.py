"""Folders that are there whole or not at all: made under another name beside their place, then renamed.

Of several makers, in this process or in others, one wins the rename; the others throw theirs away and use the winner's.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

UNFINISHED: Final = ".new-"
"""Begins the name of what is not finished; no digest begins so."""
UNFINISHED_S_MAX: Final = 86_400.0
"""After this long nobody works on it any more: its maker was killed."""


class Flights:
    """Lets only one task at a time make a thing of a given name; the others find it made."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    def under_way(self, name: str) -> bool:
        lock = self._locks.get(name)
        return lock is not None and lock.locked()


@asynccontextmanager
async def made(place: Path) -> AsyncIterator[Path]:
    """A new, empty folder to fill, which is at `place` when the block ends without an error. Raises OSError."""
    fresh = await asyncio.to_thread(_new, place)
    try:
        yield fresh
        publish(fresh, place)
    finally:
        await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)


def publish(fresh: Path, place: Path) -> bool:
    """Put a finished folder where it belongs; False if somebody else's is there already. Raises OSError."""
    try:
        fresh.rename(place)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def take_away(place: Path) -> Path:
    """Make a folder vanish at once; gives what is to be deleted. Raises OSError."""
    away = Path(tempfile.mkdtemp(dir=place.parent, prefix=UNFINISHED))
    place.rename(away / "gone")
    return away


def sweep(folder: Path) -> None:
    """Remove what makers that were killed have left."""
    long_ago = time.time() - UNFINISHED_S_MAX
    for path in folder.glob(f"{UNFINISHED}*"):
        try:
            if path.lstat().st_mtime < long_ago:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:  # its maker lives after all, and has just finished
            continue


def _new(place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=place.parent, prefix=UNFINISHED))
    fresh.chmod(0o755)
    return fresh
