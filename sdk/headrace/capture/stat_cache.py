"""What files hashed to last time, so that a file that did not change is not read again.

One JSON file per tree in the cache folder. An entry holds size, both times and inode; a file that was touched within
`RACY_NS` of being read is not remembered, because a second write within the same tick of the clock would not show
(git calls these racily clean). Losing the cache costs time, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, Final

from headrace.capture.tree import File

VERSION: Final = 1
RACY_NS: Final = 2_000_000_000
"""The coarsest clock of a file system in use (FAT: 2 s)."""
BYTES_MAX: Final = 256 * 1024 * 1024


class StatCache:
    """Digests by file and by pack. Opened for one capture, then saved with what that capture used."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._path = folder / "sources" / (hashlib.sha256(os.fsencode(root)).hexdigest()[:24] + ".json")
        loaded = _load(self._path)
        self._files: dict[str, list[Any]] = loaded["files"]
        self._packs: dict[str, str] = loaded["packs"]
        self._files_used: dict[str, list[Any]] = {}
        self._packs_used: dict[str, str] = {}
        self._opened_ns = time.time_ns()

    def digest(self, file: File) -> str | None:
        """What this very file hashed to when it was last read, if nothing of it changed since."""
        entry = self._files.get(file.path)
        if entry is None or entry[:4] != [file.size, file.mtime_ns, file.ctime_ns, file.inode]:
            return None
        self._files_used[file.path] = entry
        return str(entry[4])

    def keep(self, file: File, digest: str) -> None:
        if max(file.mtime_ns, file.ctime_ns if os.name != "nt" else 0) < self._opened_ns - RACY_NS:
            self._files_used[file.path] = [file.size, file.mtime_ns, file.ctime_ns, file.inode, digest]

    def pack(self, digests: list[str]) -> str | None:
        """Digest of the pack of files with these digests, in this order."""
        key = _key(digests)
        found = self._packs.get(key)
        if found is not None:
            self._packs_used[key] = found
        return found

    def keep_pack(self, digests: list[str], digest: str) -> None:
        self._packs_used[_key(digests)] = digest

    def save(self) -> None:
        """Write down what was used, if that differs from what was loaded. A disk that refuses costs only time."""
        if self._files_used == self._files and self._packs_used == self._packs:
            return
        content = {"version": VERSION, "files": self._files_used, "packs": self._packs_used}
        beside = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
            os.replace(beside, self._path)
        except OSError:
            beside.unlink(missing_ok=True)


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size <= BYTES_MAX:
            content = json.loads(path.read_bytes())
            if content["version"] == VERSION and isinstance(content["files"], dict):
                return {"files": content["files"], "packs": dict(content["packs"])}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"files": {}, "packs": {}}


def _key(digests: list[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
