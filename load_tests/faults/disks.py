"""Disks of a world: small ones, that can be filled, and one whose power can be cut. They need the right to mount."""

from __future__ import annotations

import asyncio
import contextlib
import os
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
        self.switch = asyncio.Lock()
        """Held by who needs it to stay as it is. While its power is off, the folder is the machine's own disk."""

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
        """No byte is free inside of this. Raises OSError where this is only a folder of the machine's disk."""
        try:
            async with self.switch:
                await asyncio.to_thread(_fill_up, self.path, self._ballast.name)
            yield
        finally:
            async with self.switch:
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


def _fill_up(mounted: Path, name: str) -> None:
    """Take all that is free on what is mounted there, whoever else takes some meanwhile."""
    folder = os.open(mounted, os.O_DIRECTORY)
    try:
        if os.fstat(folder).st_dev == mounted.parent.stat().st_dev:
            raise OSError(f"{mounted} is not mounted: the machine's own disk would be filled")
        space = os.fstatvfs(folder)
        ballast = os.open(name, os.O_RDWR | os.O_CREAT, 0o600, dir_fd=folder)
    finally:
        os.close(folder)
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        os.posix_fallocate(ballast, 0, max(space.f_bavail * space.f_frsize - 65536, 1))
        while True:
            file.seek(0, os.SEEK_END)
            file.write(bytes(4096))
