"""The manifest of a source: what it may say. It comes from a client, so every path in it is checked before it is used.

Written by `headrace.capture`; format in docs/concepts/source.md. A tree that passes can be written below a folder
without leaving it: no path goes up, none leads through a file or a link, and links are made last.
"""

from __future__ import annotations

import posixpath
from typing import Annotated, Final

import msgspec

from events.blobs import is_digest
from events.wire import UNREADABLE
from runtime.materialise.errors import SourceFailed

BYTES_MAX: Final = 64 * 1024**2
"""Of the manifest itself."""
ENTRIES_MAX: Final = 200_000
TREE_BYTES_MAX: Final = 64 * 1024**3
PATH_BYTES_MAX: Final = 2048
NAME_BYTES_MAX: Final = 255
MODES: Final = (0o644, 0o755)

_Size = Annotated[int, msgspec.Meta(ge=0, le=TREE_BYTES_MAX)]


class File(msgspec.Struct, frozen=True):
    """`parts` are (chunk, offset in the chunk, length), one behind the other."""

    path: str
    mode: int
    size: _Size
    digest: str
    parts: tuple[tuple[str, _Size, _Size], ...]


class Link(msgspec.Struct, frozen=True):
    path: str
    target: str


class Manifest(msgspec.Struct, frozen=True):
    version: int
    files: tuple[File, ...]
    links: tuple[Link, ...] = ()

    @property
    def entries(self) -> tuple[File | Link, ...]:
        return (*self.files, *self.links)


_DECODER: Final = msgspec.json.Decoder(Manifest)


def read(content: bytes) -> Manifest:
    """The manifest in a blob, checked. Raises SourceFailed."""
    if len(content) > BYTES_MAX:
        raise SourceFailed(f"the manifest has {len(content)} bytes, more than {BYTES_MAX}")
    try:
        manifest = _DECODER.decode(content)
    except UNREADABLE as error:
        raise SourceFailed(f"the source's manifest cannot be read: {error}") from error
    if manifest.version != 1:
        raise SourceFailed(f"the source's manifest has version {manifest.version}; this node reads version 1")
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    if len(manifest.files) + len(manifest.links) > ENTRIES_MAX:
        raise SourceFailed(f"the source has more than {ENTRIES_MAX} files and links")
    total = sum(file.size for file in manifest.files)
    if total > TREE_BYTES_MAX:
        raise SourceFailed(f"the source has {total} bytes, more than {TREE_BYTES_MAX}")
    leaves: set[str] = set()
    for entry in manifest.entries:
        _check_path(entry.path)
        if entry.path in leaves:
            raise SourceFailed(f"the source lists {entry.path!r} twice")
        leaves.add(entry.path)
    folders: set[str] = set()
    for path in leaves:
        while (path := posixpath.dirname(path)) and path not in folders:
            if path in leaves:
                raise SourceFailed(f"the source has {path!r} as a folder and as a file or link")
            folders.add(path)
    for file in manifest.files:
        _check_file(file)
    for link in manifest.links:
        _check_link(link)


def _check_path(path: str) -> None:
    names = path.split("/")
    if (
        any(name in ("", ".", "..") or len(_bytes(name)) > NAME_BYTES_MAX for name in names)
        or "\0" in path
        or len(_bytes(path)) > PATH_BYTES_MAX
    ):
        raise SourceFailed(f"the source has a path that is not allowed: {path[:200]!r}")


def _check_file(file: File) -> None:
    if file.mode not in MODES:
        raise SourceFailed(f"{file.path!r} has the mode {file.mode:o}; 644 and 755 are possible")
    if sum(length for _, _, length in file.parts) != file.size or not all(is_digest(part[0]) for part in file.parts):
        raise SourceFailed(f"the parts of {file.path!r} do not make up its {file.size} bytes")


def _check_link(link: Link) -> None:
    """A first look; where it really leads is asked when the tree is there (`sources`)."""
    if (
        not link.target
        or link.target.startswith("/")
        or "\0" in link.target
        or len(_bytes(link.target)) > PATH_BYTES_MAX
    ):
        raise SourceFailed(f"the link {link.path!r} leads out of the source")
    if posixpath.normpath(posixpath.join(posixpath.dirname(link.path), link.target)).split("/")[0] == "..":
        raise SourceFailed(f"the link {link.path!r} leads out of the source")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
