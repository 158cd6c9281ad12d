"""What a tree holds: every file and link that is source, with its size and times, in path order.

In a git repository that is what git tracks plus what is new and not ignored, from the root of the repository on; in a
plain folder it is everything but the usual by-products. `.headraceignore` takes more away in both.
"""

from __future__ import annotations

import os
import stat
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from headrace.capture import git, ignore
from headrace.capture.errors import CaptureError, CaptureWarning, TreeTooLarge

FILES_MAX: Final = 200_000
"""Of a source. A folder with more is a home folder or a data set, and its manifest would be tens of MiB."""
NESTING_MAX: Final = 8
"""Repositories inside repositories."""
EXECUTABLE: Final = 0o755
PLAIN: Final = 0o644
NAMED_MAX: Final = 3
"""Examples in a warning."""
LEAVE_OUT: Final = f"make it readable, or list it in .gitignore or {ignore.FILE}"


class File(NamedTuple):
    """A regular file. `path` is what the manifest calls it, `place` where it lies on this machine."""

    path: str
    place: str
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class Link(NamedTuple):
    path: str
    target: str


class Tree(NamedTuple):
    """A tree as it was listed, and what was left out of it that somebody may miss."""

    root: Path
    folder: str
    files: list[File]
    links: list[Link]
    commit: str
    branch: str
    changed_lines: int
    new_files: int
    warnings: list[CaptureWarning]


def read(folder: Path) -> Tree:
    """The tree that a folder belongs to. Raises CaptureError."""
    if not folder.is_dir():
        raise CaptureError(f"{folder} is not a folder", "start from the folder of your project")
    folder = folder.resolve()
    try:
        within = git.work_tree(folder)
        if within is not None:
            tree = _of_repository(within)
            if tree is not None:
                return tree
            return _of_folder(folder, [])  # everything of it is ignored there: it is a project of its own
        return _of_folder(folder, [])
    except git.GitError as error:
        inside = any((above / ".git").exists() for above in (folder, *folder.parents))
        why = CaptureWarning(
            f"taken without git: {error}", "install git, or run `git status` here to see what is wrong"
        )
        return _of_folder(folder, [why] if inside else [])


def _of_repository(within: git.WorkTree) -> Tree | None:
    """The whole work tree; None if nothing in it lies in the folder that was asked for."""
    root = within.root
    found = git.listing(root, also_ignored=ignore.DEFAULTS)
    rules = ignore.Ignore().with_file(root / ignore.FILE, "")
    untracked = _without_virtual_environments(found.untracked)
    warnings: list[CaptureWarning] = []
    files: list[File] = []
    links: list[Link] = []
    raw = {*found.tracked, *untracked}
    for _ in range(NESTING_MAX):
        names = [name for name in _decoded(raw, warnings) if not rules or not rules.hides_file(name)]
        if len(files) + len(names) > FILES_MAX:
            raise _too_many(root)
        looked_at = _look_at(root, names, warnings, found.executable)
        files += looked_at.files
        links += looked_at.links
        if not looked_at.folders:
            break
        raw = set(_files_of_nested(root, looked_at.folders, warnings))
    files.sort(key=lambda file: file.path)
    if within.folder and not any(file.path.startswith(within.folder + "/") for file in files):
        return None
    new = {path.decode(errors="replace") for path in untracked}
    new_files = sum(file.path in new for file in files)
    return Tree(root, within.folder, files, links, found.commit, found.branch, found.changed_lines, new_files, warnings)


def _of_folder(root: Path, warnings: list[CaptureWarning]) -> Tree:
    names = []
    for name in _walk(root):
        names.append(name)
        if len(names) > FILES_MAX:
            raise _too_many(root)
    names = _decoded([os.fsencode(name) for name in names], warnings)
    looked_at = _look_at(root, names, warnings, frozenset())
    return Tree(root, "", looked_at.files, looked_at.links, "", "", 0, 0, warnings)


def _walk(root: Path) -> Iterator[str]:
    """Names of all files and links of a plain folder that are not ignored."""
    waiting = [("", ignore.Ignore(ignore.parse(ignore.DEFAULTS)))]
    while waiting:
        base, rules = waiting.pop()
        here = root / base
        for name in (".gitignore", ignore.FILE):
            rules = rules.with_file(here / name, base)
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            raise CaptureError(f"cannot read the folder {here}: {error.strerror}", LEAVE_OUT) from error
        if base and any(entry.name == "pyvenv.cfg" for entry in entries):
            continue
        for entry in entries:
            path = f"{base}/{entry.name}" if base else entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if rules.hides(path, is_folder=is_folder):
                continue
            if is_folder:
                waiting.append((path, rules))
            else:
                yield path


def _without_virtual_environments(paths: list[bytes]) -> list[bytes]:
    """An untracked virtual environment, whatever its name, is never source."""
    homes = tuple(path.removesuffix(b"pyvenv.cfg") for path in paths if path.endswith(b"/pyvenv.cfg"))
    return [path for path in paths if not path.startswith(homes)] if homes else paths


def _files_of_nested(root: Path, nested: Iterable[str], warnings: list[CaptureWarning]) -> list[bytes]:
    """The files of the repositories (submodules, clones) that lie at some folders."""
    found: list[bytes] = []
    for name in nested:
        place = root / name
        if (place / ".git").exists():
            prefix = os.fsencode(name.rstrip("/")) + b"/"
            found += [prefix + path for path in git.files_below(place, also_ignored=ignore.DEFAULTS)]
        else:
            hint = "run `git submodule update --init --recursive`"
            warnings.append(CaptureWarning(f"the submodule {name} is not checked out: left out", hint))
    return found


def _decoded(raw: Iterable[bytes], warnings: list[CaptureWarning]) -> list[str]:
    names, strange = [], []
    for path in raw:
        try:
            names.append(path.decode())
        except UnicodeDecodeError:
            strange.append(repr(path)[1:])
    warn(warnings, strange, "not named in UTF-8: left out", "rename, if the job needs it")
    return sorted(names)


class _LookedAt(NamedTuple):
    files: list[File]
    links: list[Link]
    folders: list[str]
    """Where git names a folder and not what is in it: a repository of its own."""


def _look_at(
    root: Path, names: Iterable[str], warnings: list[CaptureWarning], executable: frozenset[bytes]
) -> _LookedAt:
    """What lies at the names: regular files and links of the tree. The rest is left out, with a warning."""
    found = _LookedAt([], [], [])
    aliases: set[str] = set()
    outward, special = [], []
    base, real_root = str(root), os.path.realpath(root)
    for name in names:
        place = os.path.join(base, name)
        try:
            status = os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            continue  # deleted, but still in git's index
        except OSError as error:
            raise CaptureError(f"cannot read {name}: {error.strerror}", LEAVE_OUT) from error
        if stat.S_ISREG(status.st_mode):
            found.files.append(_file(name, place, status, executable))
        elif stat.S_ISLNK(status.st_mode):
            aliases.add(name)
            target = _target_inside(place, name, real_root)
            if target is None:
                outward.append(f"{name} → {os.readlink(place)}")
            else:
                found.links.append(Link(_spelled(name), target))
        elif stat.S_ISDIR(status.st_mode):
            found.folders.append(name)
        else:
            special.append(name)
    warn(warnings, outward, "points out of the tree: left out", "copy what it points to, or use a path on the nodes")
    warn(warnings, special, "is no regular file: left out", "")
    if aliases:  # a folder that became a link is still a folder in git's index, with files behind the link
        found.files[:] = [file for file in found.files if aliases.isdisjoint(_above(file.path))]
    return found


def _file(name: str, place: str, status: os.stat_result, executable: frozenset[bytes]) -> File:
    runs = status.st_mode & 0o100 if os.name != "nt" else name.encode() in executable
    times = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return File(_spelled(name), place, EXECUTABLE if runs else PLAIN, *times)


def _spelled(name: str) -> str:
    """The name as the manifest has it: some file systems of macOS take accents apart."""
    return unicodedata.normalize("NFC", name) if sys.platform == "darwin" else name


def _above(path: str) -> Iterator[str]:
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def _target_inside(place: str, name: str, real_root: str) -> str | None:
    """Where a link points if that is inside the tree, as text and on this disk; else None."""
    target = os.readlink(place).replace(os.sep, "/")
    if os.path.isabs(target) or not target:
        return None
    plain = os.path.normpath(os.path.join(os.path.dirname(name), target)).replace(os.sep, "/")
    if plain == ".." or plain.startswith("../"):
        return None
    real = os.path.realpath(place)
    return target if real == real_root or real.startswith(real_root + os.sep) else None


def warn(warnings: list[CaptureWarning], names: list[str], what: str, hint: str) -> None:
    if names:
        more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
        warnings.append(CaptureWarning(f"{', '.join(names[:NAMED_MAX])}{more}: {what}", hint))


def _too_many(root: Path) -> TreeTooLarge:
    return TreeTooLarge(
        f"{root} has more than {FILES_MAX:,} files",
        f"start from the folder of your project, or list data folders in .gitignore or {ignore.FILE}",
    )
