"""The source of a job: a manifest of files, links and chunks, and the chunks' contents when somebody asks for them.

The manifest is canonical JSON, so the same tree at the same commit has the same digest on every machine: times, owners
and the order of a directory play no part. A file is taken as the bytes that it had when it was listed; one that has
only grown since (a log) still has them, one that was rewritten or cut is listed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from headrace.capture import packs, tree
from headrace.capture.errors import CaptureError, CaptureWarning, SourceChanged, TreeTooLarge
from headrace.capture.stat_cache import StatCache

MANIFEST_VERSION: Final = 1
TRIES_MAX: Final = 3
"""Of a capture during which files keep changing."""
READERS: Final = min(8, (os.cpu_count() or 1) + 2)
LARGEST_NAMED: Final = 5
_LFS_POINTER: Final = b"version https://git-lfs"
_LFS_POINTER_BYTES_MAX: Final = 1024

KEEPS_CHANGING: Final = "stop what writes it, or list it in .headraceignore"
TOO_LARGE: Final = (
    "list what the job does not need in .headraceignore (one pattern a line, such as `data/`); "
    "for files that git does not track, .gitignore does as well"
)


class Span(NamedTuple):
    """Some bytes of a file of this machine."""

    place: str
    offset: int
    length: int


class Summary(NamedTuple):
    """What a person wants to know about a source."""

    commit: str
    branch: str
    changed_lines: int
    new_files: int
    files: int
    size_bytes: int


@dataclass(frozen=True)
class Source:
    """A captured tree. `chunks` gives each chunk's digest and where its bytes lie; `read` gives the bytes."""

    root: Path
    folder: str
    """Where in the source the work starts, relative to its root, with forward slashes."""
    manifest: bytes
    digest: str
    summary: Summary
    chunks: Mapping[str, tuple[Span, ...]] = field(repr=False)
    warnings: tuple[CaptureWarning, ...] = ()

    def size_bytes(self, chunk: str) -> int:
        return sum(span.length for span in self.chunks[chunk])

    def read(self, chunk: str) -> bytes:
        """The bytes of a chunk, verified. Raises SourceChanged if the files do not have them any more."""
        spans = self.chunks[chunk]
        try:
            content = b"".join(map(_bytes_of, spans))
        except OSError as error:
            raise SourceChanged(f"{error.filename}: {error.strerror} since it was captured", KEEPS_CHANGING) from error
        if _digest(content) != chunk:
            names = ", ".join(span.place for span in spans[: tree.NAMED_MAX])
            raise SourceChanged(f"changed since it was captured: {names}", KEEPS_CHANGING)
        return content


class _Taken(NamedTuple):
    """A file with its digest and its parts: (chunk, offset in the chunk, length)."""

    file: tree.File
    digest: str
    parts: list[tuple[str, int, int]]


def source(folder: Path, *, cache: Path, bytes_max: int) -> Source:
    """Capture the tree around a folder: the repository that it is in, or else the folder itself.

    `cache` is a folder for digests of unchanged files. Nothing is kept in memory: `Source.read` reads the files again.
    Raises TreeTooLarge if there are more than `bytes_max` bytes, CaptureError if something cannot be read.
    """
    tries = 1
    while True:
        listed = tree.read(folder)
        _check_size(listed, bytes_max)
        try:
            return _capture(listed, StatCache(cache, listed.root))
        except SourceChanged:
            if tries == TRIES_MAX:
                raise
            tries += 1


def _capture(listed: tree.Tree, cache: StatCache) -> Source:
    chunks: dict[str, tuple[Span, ...]] = {}
    taken: list[_Taken] = [_Taken(file, _digest(b""), []) for file in listed.files if file.size == 0]
    with ThreadPoolExecutor(max_workers=READERS) as pool:
        for files, spans in pool.map(lambda group: _take(group, cache), packs.grouped(listed.files)):
            taken.extend(files)
            chunks.update(spans)
    cache.save()
    taken.sort(key=lambda each: each.file.path)
    manifest = _manifest(listed, taken)
    size = sum(file.size for file in listed.files)
    summary = Summary(listed.commit, listed.branch, listed.changed_lines, listed.new_files, len(listed.files), size)
    warnings = (*listed.warnings, *_lfs_pointers(taken))
    return Source(listed.root, listed.folder, manifest, _digest(manifest), summary, chunks, warnings)


def _manifest(listed: tree.Tree, taken: Iterable[_Taken]) -> bytes:
    content: dict[str, Any] = {
        "version": MANIFEST_VERSION,
        "commit": listed.commit,
        "branch": listed.branch,
        "changed_lines": listed.changed_lines,
        "new_files": listed.new_files,
        "files": [
            {"path": t.file.path, "mode": t.file.mode, "size": t.file.size, "digest": t.digest, "parts": t.parts}
            for t in taken
        ],
        "links": [{"path": link.path, "target": link.target} for link in sorted(listed.links)],
    }
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _take(group: tuple[tree.File, ...], cache: StatCache) -> tuple[list[_Taken], dict[str, tuple[Span, ...]]]:
    try:
        if len(group) == 1 and group[0].size > packs.CHUNK_BYTES_MAX:
            return _take_large(group[0], cache)
        return _take_pack(group, cache)
    except FileNotFoundError as error:
        raise SourceChanged(f"{error.filename} vanished while it was read", KEEPS_CHANGING) from error
    except OSError as error:
        raise CaptureError(f"cannot read {error.filename}: {error.strerror}", tree.LEAVE_OUT) from error


def _take_pack(group: tuple[tree.File, ...], cache: StatCache) -> tuple[list[_Taken], dict[str, tuple[Span, ...]]]:
    """Files that share one chunk: their contents one behind the other."""
    known = [cache.digest(file) for file in group]
    digests = [digest for digest in known if digest is not None]
    pack = cache.pack(digests) if len(digests) == len(group) else None
    if pack is None:
        contents = [_whole(file) for file in group]
        digests = [_digest(content) for content in contents]
        pack = _digest(b"".join(contents))
        for file, digest in zip(group, digests, strict=True):
            cache.keep(file, digest)
        cache.keep_pack(digests, pack)
    taken, offset = [], 0
    for file, digest in zip(group, digests, strict=True):
        taken.append(_Taken(file, digest, [(pack, offset, file.size)]))
        offset += file.size
    return taken, {pack: tuple(Span(file.place, 0, file.size) for file in group)}


def _take_large(file: tree.File, cache: StatCache) -> tuple[list[_Taken], dict[str, tuple[Span, ...]]]:
    """A file of several chunks, cut at fixed places."""
    spans = [
        Span(file.place, at, min(packs.CHUNK_BYTES_MAX, file.size - at))
        for at in range(0, file.size, packs.CHUNK_BYTES_MAX)
    ]
    digest = cache.digest(file)
    cut = [cache.pack([digest, str(at)]) for at in range(len(spans))] if digest else []
    if digest is None or None in cut:
        whole, cut = hashlib.sha256(), []
        with open(file.place, "rb") as opened:
            for span in spans:
                content = _exactly(opened, span.length)
                whole.update(content)
                cut.append(_digest(content))
            _check_unchanged(opened, file)
        digest = "sha256:" + whole.hexdigest()
        cache.keep(file, digest)
    names = [name for name in cut if name is not None]
    for at, name in enumerate(names):
        cache.keep_pack([digest, str(at)], name)
    parts = [(name, 0, span.length) for name, span in zip(names, spans, strict=True)]
    return [_Taken(file, digest, parts)], {name: (span,) for name, span in zip(names, spans, strict=True)}


def _whole(file: tree.File) -> bytes:
    with open(file.place, "rb") as opened:
        content = _exactly(opened, file.size)
        _check_unchanged(opened, file)
        return content


def _bytes_of(span: Span) -> bytes:
    with open(span.place, "rb") as opened:
        opened.seek(span.offset)
        return opened.read(span.length)


def _exactly(opened: BinaryIO, length: int) -> bytes:
    content = opened.read(length)
    if len(content) < length:
        raise SourceChanged(f"{opened.name} became shorter while it was read", KEEPS_CHANGING)
    return content


def _check_unchanged(opened: BinaryIO, file: tree.File) -> None:
    """A file that grew still begins with what was read; any other change means that it may be half old, half new."""
    status = os.fstat(opened.fileno())
    if status.st_size <= file.size and status.st_mtime_ns != file.mtime_ns:
        raise SourceChanged(f"{file.place} changed while it was read", KEEPS_CHANGING)


def _check_size(listed: tree.Tree, bytes_max: int) -> None:
    size = sum(file.size for file in listed.files)
    if size <= bytes_max:
        return
    largest = sorted(listed.files, key=lambda file: (-file.size, file.path))[:LARGEST_NAMED]
    names = ", ".join(f"{file.path} ({readable(file.size)})" for file in largest)
    raise TreeTooLarge(
        f"the source {listed.root} has {readable(size)}, more than the {readable(bytes_max)} allowed; largest: {names}",
        TOO_LARGE,
    )


def _lfs_pointers(taken: Sequence[_Taken]) -> list[CaptureWarning]:
    """Files whose content was never fetched: a job would read three lines of text where it expects data."""
    if not any(each.file.path.rpartition("/")[2] == ".gitattributes" and _uses_lfs(each.file) for each in taken):
        return []
    small = (each.file for each in taken if len(_LFS_POINTER) < each.file.size < _LFS_POINTER_BYTES_MAX)
    pointers = [file.path for file in small if _starts_as_pointer(file)]
    warnings: list[CaptureWarning] = []
    tree.warn(warnings, pointers, "only a Git LFS pointer, not the content", "run `git lfs pull`")
    return warnings


def _uses_lfs(file: tree.File) -> bool:
    return file.size <= packs.SMALL_BYTES_MAX and b"filter=lfs" in _whole(file)


def _starts_as_pointer(file: tree.File) -> bool:
    try:
        with open(file.place, "rb") as opened:
            return opened.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError:
        return False


def readable(size_bytes: int) -> str:
    """A size for people: `1.2 GiB`, `41 KiB`."""
    size, units = float(size_bytes), ["GiB", "MiB", "KiB", "bytes"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop()
    return f"{size:.0f} {units[-1]}" if units[-1] == "bytes" or size >= 10 else f"{size:.1f} {units[-1]}"


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
