"""Sources on a node: a tree for each digest, made once, and a private copy of it for each attempt.

A job may write into its source, so it gets a copy: by reflink where the file system can (btrfs, XFS), else byte by
byte; never by hard link. Chunks are verified against their digests, and the manifest against its own, so the `digest`
of each file needs no checking of its own.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Final

from events.blobs import BlobDamaged, BlobError, BlobMissing, Blobs, is_digest
from runtime.materialise import folders, manifest
from runtime.materialise.errors import SourceFailed
from runtime.materialise.manifest import Manifest

FETCHES: Final = 8
"""Chunks in memory at once, of 8 MiB at most as the gateway takes them."""
TREES_MAX: Final = 50
"""Kept; the one that was longest not used goes first. Attempts have copies, so none is in use for long."""
RETRY_PAUSES_S: Final = (0.2, 1.0)
"""When the blob store does not answer."""

_Piece = tuple[str, int, int, int]
"""Path, offset in the file, offset in the chunk, length."""
_FICLONE: Final = 0x40049409
_NO_REFLINK: Final = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)


class Sources:
    """The trees in one folder."""

    def __init__(self, folder: Path, blobs: Blobs) -> None:
        self._folder = folder
        self._blobs = blobs
        self._flights = folders.Flights()

    async def lay_out(self, digest: str, into: Path) -> None:
        """Put a private copy of a source at `into`, whole or not at all. Raises SourceFailed, OSError.

        If something is there already it is left as it is: it was laid out before a restart.
        """
        if not is_digest(digest):
            raise SourceFailed(f"{digest[:80]!r} is not the digest of a source")
        async with self._flights.of(digest):
            tree = await self._tree(digest)
            async with folders.made(into) as fresh:
                await asyncio.to_thread(copy_tree, tree, fresh)
        await self._prune()

    async def _tree(self, digest: str) -> Path:
        """The tree of this digest, made if it is not there."""
        place = self._folder / digest.removeprefix("sha256:")
        try:
            os.utime(place)
        except FileNotFoundError:
            async with folders.made(place) as fresh:
                await self._make(digest, fresh)
        return place

    async def _make(self, digest: str, root: Path) -> None:
        described = manifest.read(await self._fetch(digest))
        await asyncio.to_thread(_outline, described, root)
        pieces = _pieces(described)
        slots = asyncio.Semaphore(FETCHES)

        async def fill(chunk: str) -> None:
            async with slots:
                content = await self._fetch(chunk)
                await asyncio.to_thread(_write, root, pieces[chunk], chunk, content)

        try:
            async with asyncio.TaskGroup() as group:
                for chunk in pieces:
                    group.create_task(fill(chunk))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        await asyncio.to_thread(_link, described, root)

    async def _fetch(self, digest: str) -> bytes:
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                return await self._blobs.get(digest)
            except BlobMissing:
                raise SourceFailed(f"a part of the source is not in the blob store: {digest}") from None
            except BlobDamaged as error:
                raise SourceFailed(f"a part of the source is damaged: {error}") from error
            except BlobError as error:
                if pause_s is None:
                    raise SourceFailed(f"the blob store does not give the source: {error}") from error
                await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    async def _prune(self) -> None:
        """Remove the trees that were longest not used, and what killed makers have left.

        Chosen and taken away without a pause, so that no task of ours begins to copy one meanwhile.
        """
        folders.sweep(self._folder)
        trees = [path for path in self._folder.iterdir() if not path.name.startswith(folders.UNFINISHED)]
        trees.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for tree in trees[TREES_MAX:]:
            if not self._flights.under_way(f"sha256:{tree.name}"):
                away = folders.take_away(tree)
                await asyncio.to_thread(shutil.rmtree, away, ignore_errors=True)


def _pieces(described: Manifest) -> dict[str, list[_Piece]]:
    """What each chunk is needed for."""
    pieces: defaultdict[str, list[_Piece]] = defaultdict(list)
    for file in described.files:
        at = 0
        for chunk, offset, length in file.parts:
            pieces[chunk].append((file.path, at, offset, length))
            at += length
    return pieces


def _outline(described: Manifest, root: Path) -> None:
    """All folders, and all files, still empty."""
    for folder in sorted({os.path.dirname(entry.path) for entry in described.entries}):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for file in described.files:
        os.close(os.open(root / file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        os.chmod(root / file.path, file.mode)


def _write(root: Path, pieces: list[_Piece], chunk: str, content: bytes) -> None:
    view = memoryview(content)
    for path, at, offset, length in pieces:
        if offset + length > len(content):
            raise SourceFailed(f"{path!r} wants more of {chunk} than its {len(content)} bytes")
        file = os.open(root / path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            while length:
                written = os.pwrite(file, view[offset : offset + length], at)
                at, offset, length = at + written, offset + written, length - written
        finally:
            os.close(file)


def _link(described: Manifest, root: Path) -> None:
    """The links, last of all, so that nothing is ever written through one; then where they lead."""
    for link in described.links:
        os.symlink(link.target, root / link.path)
    top = os.path.realpath(root)
    for link in described.links:
        if not (os.path.realpath(root / link.path) + os.sep).startswith(top + os.sep):
            raise SourceFailed(f"the link {link.path!r} leads out of the source")


def copy_tree(source: Path, target: Path) -> None:
    """Copy what is in a folder into another, links as links. Raises OSError."""
    stack = [(os.fspath(source), os.fspath(target))]
    reflink = True
    while stack:
        here, there = stack.pop()
        with os.scandir(here) as entries:
            for entry in entries:
                copy = os.path.join(there, entry.name)
                if entry.is_symlink():
                    os.symlink(os.readlink(entry.path), copy)
                elif entry.is_dir():
                    os.mkdir(copy)
                    stack.append((entry.path, copy))
                else:
                    reflink = _copy_file(entry.path, copy, reflink=reflink)


def _copy_file(source: str, target: str, *, reflink: bool) -> bool:
    """Copy one file; gives whether a reflink is worth trying for the next one."""
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        status = os.fstat(reading)
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, status.st_mode & 0o777)
        try:
            if reflink:
                reflink = _clone(reading, writing)
            if not reflink:
                left = status.st_size
                while left > 0 and (sent := os.sendfile(writing, reading, None, left)):
                    left -= sent
        finally:
            os.close(writing)
    finally:
        os.close(reading)
    return reflink


def _clone(reading: int, writing: int) -> bool:
    try:
        fcntl.ioctl(writing, _FICLONE, reading)
    except OSError as error:
        if error.errno in _NO_REFLINK:
            return False
        raise
    return True
