"""A package of Ray's client (a zip) as a source: a manifest and chunks, cut as `headrace.capture` cuts them.

A package comes from outside and is read as hostile. Nothing of it is ever written to a path that it names: files become
chunks, links and devices are refused, and more bytes than allowed are refused before the first is inflated, since a
file gives no more than its entry says. Folders without files are left out: a source has none.
"""

from __future__ import annotations

import hashlib
import posixpath
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import msgspec

from events.identity import digest

CHUNK_BYTES_MAX: Final = 8 * 1024**2
SMALL_BYTES_MAX: Final = 128 * 1024
PACK_BYTES_MAX: Final = 1024**2
FILES_A_PACK: Final = 16
"""These four as in `headrace.capture.packs`: the same tree gives the same chunks, whoever sends it."""
DIRECTORY_BYTES_MAX: Final = 4 * 1024**2
"""Of the list at a zip's end, which is read whole and costs some 15 times as much memory: some 40,000 files."""
PATH_BYTES_MAX: Final = 2048
NAME_BYTES_MAX: Final = 255
"""These two as a node reads them (`runtime.materialise.manifest`)."""
LEAVE_OUT: Final = "leave out what the job does not need: `.gitignore`, `.rayignore`, or `excludes` in the runtime_env"
_UNREADABLE: Final = (BadZipFile, zlib.error, struct.error, EOFError, OverflowError, ValueError, NotImplementedError)
_END: Final = struct.Struct("<4s4H2LH")
_LOCATOR_BYTES: Final = 20


class BadPackage(Exception):
    """A package that cannot become a source."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class _File(NamedTuple):
    path: str
    mode: int
    entry: ZipInfo


class Unpacking:
    """One package. Read all of `chunks`, then `manifest` is whole. Raises BadPackage."""

    def __init__(self, package: IO[bytes], *, bytes_max: int) -> None:
        _check_directory(package)
        try:
            self._archive = ZipFile(package)
        except _UNREADABLE as error:
            raise BadPackage(f"is no zip that can be read: {error}") from error
        self._files = _checked(self._archive.infolist(), bytes_max)
        self._listed: list[dict[str, Any]] = []

    @property
    def manifest(self) -> bytes:
        """The manifest of the source, canonical as a laptop writes it."""
        content = {
            "version": 1,
            "commit": "",
            "branch": "",
            "changed_lines": 0,
            "new_files": 0,
            "files": sorted(self._listed, key=lambda each: str(each["path"])),
            "links": [],
        }
        return msgspec.json.encode(content, order="deterministic")

    def chunks(self) -> Iterator[bytes]:
        """The contents of the chunks, one after the other, each at most `CHUNK_BYTES_MAX`."""
        try:
            for file in self._files:
                if file.entry.file_size == 0:
                    self._list(file, digest(b""), [])
            for group in _grouped(self._files):
                yield from self._pack(group) if group[0].entry.file_size <= CHUNK_BYTES_MAX else self._cut(group[0])
        except _UNREADABLE as error:
            raise BadPackage(f"is damaged: {error}", "send it again") from error

    def _pack(self, group: tuple[_File, ...]) -> Iterator[bytes]:
        """Files that share one chunk: their contents one behind the other."""
        contents = [self._archive.read(file.entry) for file in group]
        whole, offset = b"".join(contents), 0
        chunk = digest(whole)
        for file, content in zip(group, contents, strict=True):
            self._list(file, digest(content), [(chunk, offset, len(content))])
            offset += len(content)
        yield whole

    def _cut(self, file: _File) -> Iterator[bytes]:
        """A file of several chunks."""
        whole, parts = hashlib.sha256(), []
        with self._archive.open(file.entry) as opened:
            while content := opened.read(CHUNK_BYTES_MAX):
                whole.update(content)
                parts.append((digest(content), 0, len(content)))
                yield content
        self._list(file, "sha256:" + whole.hexdigest(), parts)

    def _list(self, file: _File, whole: str, parts: list[tuple[str, int, int]]) -> None:
        size = sum(length for _, _, length in parts)
        if size != file.entry.file_size:
            raise BadPackage(f"is damaged: {_shown(file.path)} has {size} bytes and not {file.entry.file_size}")
        self._listed.append({"path": file.path, "mode": file.mode, "size": size, "digest": whole, "parts": parts})


def _check_directory(package: IO[bytes]) -> None:
    """A look at a zip's end, before `ZipFile` reads all that it announces. Ray's client writes no comment there."""
    size = package.seek(0, 2)
    package.seek(max(0, size - _END.size - _LOCATOR_BYTES))
    end = package.read()
    if len(end) < _END.size:
        raise BadPackage("is no zip that can be read: it is too short")
    signature, *_, directory_bytes, directory_at, comment_bytes = _END.unpack(end[-_END.size :])
    if signature != b"PK\5\6" or comment_bytes:
        raise BadPackage("is no zip that can be read: it does not end as one")
    if end[: -_END.size][:4] == b"PK\6\7" or directory_bytes > DIRECTORY_BYTES_MAX:
        raise BadPackage("has too many files: some 40,000 are possible", LEAVE_OUT)
    if directory_at + directory_bytes != size - _END.size:
        raise BadPackage("is no zip that can be read: its list of files is not where it should be")
    package.seek(0)


def _checked(entries: Iterable[ZipInfo], bytes_max: int) -> list[_File]:
    """The files in the order of their paths."""
    files: dict[str, _File] = {}
    total = 0
    for entry in entries:
        path = entry.filename.removesuffix("/")
        _check_path(path, entry)
        if entry.is_dir():
            continue
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise BadPackage(f"{_shown(path)} is no regular file", "a package has files only: no links, no devices")
        if entry.flag_bits & 0x1 or entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise BadPackage(f"{_shown(path)} is encrypted or packed in a way that is not read here")
        if path in files:
            raise BadPackage(f"lists {_shown(path)} twice")
        total += entry.file_size
        mode = 0o755 if entry.external_attr >> 16 & 0o111 else 0o644
        files[path] = _File(path, mode, entry)
    if total > bytes_max:
        limit = f"has {total / 1024**2:.0f} MiB unpacked; at most {bytes_max / 1024**2:.0f} MiB are possible"
        raise BadPackage(limit, LEAVE_OUT)
    _check_folders(files)
    return [files[path] for path in sorted(files)]


def _check_path(path: str, entry: ZipInfo) -> None:
    names = path.split("/")
    if (
        any(name in ("", ".", "..") or len(name.encode()) > NAME_BYTES_MAX for name in names)
        or len(path.encode()) > PATH_BYTES_MAX
        or "\\" in path
        or "\0" in entry.orig_filename
    ):
        raise BadPackage(f"has a path that is not allowed: {_shown(path)}", "relative, without `..` and backslashes")


def _check_folders(files: dict[str, _File]) -> None:
    folders: set[str] = set()
    for path in files:
        parent = path
        while (parent := posixpath.dirname(parent)) and parent not in folders:
            folders.add(parent)
    if both := folders & files.keys():
        raise BadPackage(f"has {_shown(min(both))} as a folder and as a file")


def _grouped(files: Iterable[_File]) -> Iterator[tuple[_File, ...]]:
    """Files that share a chunk, in the order of their paths; where a pack ends depends on names and sizes alone."""
    pack: list[_File] = []
    size = 0
    for file in files:
        if file.entry.file_size == 0:
            continue
        if file.entry.file_size > SMALL_BYTES_MAX:
            yield (file,)
            continue
        if size + file.entry.file_size > PACK_BYTES_MAX:
            yield tuple(pack)
            pack, size = [], 0
        pack.append(file)
        size += file.entry.file_size
        if zlib.crc32(file.path.encode()) % FILES_A_PACK == 0:
            yield tuple(pack)
            pack, size = [], 0
    if pack:
        yield tuple(pack)


def _shown(path: str) -> str:
    return f"`{path[:200]}`"
