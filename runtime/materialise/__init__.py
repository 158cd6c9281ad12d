"""Brings what a job needs onto the node: its source, its environment, an interpreter.

Everything appears whole or not at all, is made once however many attempts ask at the same time, and is found in a
moment when it was made before. Never here: what a job's process looks like (`runtime.layout`).
"""

from __future__ import annotations

from pathlib import Path

from events.blobs import Blobs
from runtime.materialise.environments import Environments
from runtime.materialise.errors import EnvironmentFailed, MaterialiseFailed, SourceFailed
from runtime.materialise.interpreters import Interpreters
from runtime.materialise.sources import Sources

__all__ = ["EnvironmentFailed", "MaterialiseFailed", "Materialiser", "SourceFailed"]


class Materialiser:
    """What a node makes of blobs, in `sources/`, `environments/` and `uv-cache/` of its folder.

    `builder`: the user that installs and builds packages; 0: as we are.
    """

    def __init__(self, folder: Path, blobs: Blobs, *, builder: int = 0) -> None:
        self._interpreters = Interpreters()
        self._sources = Sources(folder / "sources", blobs)
        self._environments = Environments(
            folder / "environments", folder / "uv-cache", blobs, self._interpreters, builder=builder
        )

    async def source(self, digest: str, into: Path) -> None:
        """Lay a private copy of a source out at `into`; what is there already stays. Raises SourceFailed, OSError."""
        await self._sources.lay_out(digest, into)

    async def environment(self, lock_digest: str) -> Path:
        """The virtual environment of a lock, to be shared. Raises EnvironmentFailed, OSError."""
        return await self._environments.get(lock_digest)

    async def interpreter(self, python: str) -> Path | None:
        """An installed interpreter for `3.11` or `3.11.7`; None if the node has none."""
        return await self._interpreters.find(python)
