"""Disks of a world: small ones, that can be filled, and one whose power can be cut. They need the right to mount."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

COMMIT_S: Final = 300
"""How long ext4 may keep to itself what nobody asked it to write (5 by default): a cut then loses the most."""


class Disk:
    """A file system of its own in memory, at `path`. Without the right to mount it is a plain folder."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size
        self.is_mounted = False

    def mount(self) -> None:
        self.path.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={self._size}", "none"]
        self.is_mounted = os.geteuid() == 0 and _did("mount", *options, str(self.path))

    def unmount(self) -> None:
        if self.is_mounted:
            _did("umount", "-l", str(self.path))
        self.is_mounted = False

    @contextlib.asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        """No byte is free inside of this."""
        try:
            await asyncio.to_thread(_fill_up, self._ballast, shutil.disk_usage(self.path).free)
            yield
        finally:
            self.make_room()

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)

    @property
    def is_full(self) -> bool:
        return self._ballast.exists()

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"


class PoweredDisk(Disk):
    """An ext4 in a file that lies in memory. What was written and not synced is with the kernel, not in that file."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path, size)
        self._platter = Disk(path.with_name(f"{path.name}-platter"), 3 * size)
        self._images = 0
        self.switch = asyncio.Lock()
        """Held while its power is off: a second cut comes after the first."""

    def mount(self) -> None:
        self._platter.mount()
        if self._platter.is_mounted:
            with self._image.open("wb") as image:
                image.truncate(self._size)
            if _did("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image)):
                self.path.mkdir()
                self.is_mounted = self._attach()
        if not self.is_mounted:
            self._platter.unmount()
            if not self.path.exists():
                self.path.mkdir()

    def unmount(self) -> None:
        super().unmount()
        self._platter.unmount()

    def cut_power(self) -> None:
        """What had not reached the disk is gone. Whoever wrote to it must be dead already. Raises OSError."""
        before = self._image
        self._images += 1
        _copy_sparse(before, self._image)
        _did("umount", "-l", str(self.path))
        before.unlink()
        if not self._attach():
            raise OSError(f"{self._image} cannot be mounted")

    def _attach(self) -> bool:
        return _did("mount", "-o", f"loop,commit={COMMIT_S}", str(self._image), str(self.path))

    @property
    def _image(self) -> Path:
        return self._platter.path / f"image-{self._images}"


def _did(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _copy_sparse(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", "--reflink=never", str(source), str(target)], check=True)


def _fill_up(file: Path, free: int) -> None:
    """Take all that is free, whoever else takes some meanwhile."""
    with file.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        os.posix_fallocate(ballast.fileno(), 0, max(free - 65536, 1))
        while True:
            ballast.seek(0, os.SEEK_END)
            ballast.write(bytes(4096))
