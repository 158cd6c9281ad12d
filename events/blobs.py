"""Content-addressed blobs: what is too large for a message. Sources, locks, logs, snapshots, sealed metrics.

One URL says where they are: a folder (`file:///…`), S3, Google or Azure. A thin wrapper over `obstore`; it lives with
the contract because both sides of it, control plane and nodes, read and write the same blobs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from events.identity import digest

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class BlobError(Exception):
    """The blob store did not do what it was asked: unreachable, full, forbidden."""


class BlobMissing(BlobError):
    """No blob of that name."""


class BlobDamaged(BlobError):
    """The content does not have the digest that it is named by."""


def is_digest(text: str) -> bool:
    """Whether this is a well-formed name of a blob. Nothing else ever becomes part of a path."""
    return _DIGEST.fullmatch(text) is not None


class Blobs:
    """The blob store. `put` and `get` are by digest; `write` and `read` by a name of ours, for snapshots and seals."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def at(cls, url: str) -> Blobs:
        """The store at a URL; a folder that does not exist yet is made."""
        if url.startswith("file://"):
            return cls(LocalStore(Path(url.removeprefix("file://")), mkdir=True))
        return cls(from_url(url))

    async def put(self, content: bytes) -> str:
        """Keep some bytes; gives their digest. Again is the same."""
        name = digest(content)
        await self.write(_path(name), content)
        return name

    async def get(self, name: str) -> bytes:
        """The bytes of a digest, verified. Raises BlobMissing, BlobDamaged."""
        content = await self.read(_path(name))
        if digest(content) != name:
            raise BlobDamaged(f"blob {name} does not have its digest")
        return content

    async def has(self, name: str) -> bool:
        try:
            await obstore.head_async(self._store, _path(name))
        except FileNotFoundError:
            return False
        except BaseError as error:
            raise BlobError(str(error)) from error
        return True

    async def write(self, path: str, content: bytes | Path) -> None:
        """Keep bytes, or a file's, under a name of ours; replaces what was there, at once or not at all."""
        try:
            await obstore.put_async(self._store, path, content)
        except (BaseError, OSError) as error:
            raise BlobError(str(error)) from error

    async def read(self, path: str) -> bytes:
        try:
            result = await obstore.get_async(self._store, path)
            return bytes(await result.bytes_async())
        except FileNotFoundError as error:
            raise BlobMissing(f"no blob {path}") from error
        except (BaseError, OSError) as error:
            raise BlobError(str(error)) from error

    async def names(self, prefix: str) -> list[str]:
        """Names of ours below a prefix, in order."""
        found = [meta["path"] async for batch in obstore.list(self._store, prefix) for meta in batch]
        return sorted(found)

    async def delete(self, path: str) -> None:
        try:
            await obstore.delete_async(self._store, path)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise BlobError(str(error)) from error


def _path(name: str) -> str:
    if not is_digest(name):
        raise BlobMissing(f"{name[:80]!r} is not a digest")
    hexadecimal = name.removeprefix("sha256:")
    return f"sha256/{hexadecimal[:2]}/{hexadecimal[2:]}"
