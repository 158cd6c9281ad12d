"""How files become chunks: small ones share a pack, large ones are cut, and an edit changes one chunk.

A pack ends behind a file whose *path* hashes to a multiple of `FILES_A_PACK`, or before it grows too large. So where
packs end depends on names and sizes alone: editing a file changes its own pack and no other, adding or removing one
changes the pack that it falls into, and everybody who has the same tree cuts it in the same places.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from headrace.capture.tree import File

CHUNK_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of any chunk: a large file is cut every so many bytes, so one that only grew shares all but its last chunk."""
SMALL_BYTES_MAX: Final = 128 * 1024
"""A file up to here goes into a pack; a larger one is worth an upload of its own."""
PACK_BYTES_MAX: Final = 1024 * 1024
"""A pack is what an edit of one line sends again."""
FILES_A_PACK: Final = 16
"""On average: fewer make too many uploads the first time, more make each edit send more."""


def grouped(files: Iterable[File]) -> Iterator[tuple[File, ...]]:
    """The files in path order, in the groups that are read and stored together. Empty files need no chunk."""
    pack: list[File] = []
    size = 0
    for file in files:
        if file.size == 0:
            continue
        if file.size > SMALL_BYTES_MAX:
            yield (file,)
            continue
        if size + file.size > PACK_BYTES_MAX:
            yield tuple(pack)
            pack, size = [], 0
        pack.append(file)
        size += file.size
        if zlib.crc32(file.path.encode()) % FILES_A_PACK == 0:
            yield tuple(pack)
            pack, size = [], 0
    if pack:
        yield tuple(pack)
