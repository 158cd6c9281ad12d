"""The one wrapper over git: which files a work tree has, and how it differs from its last commit.

Every call is read-only (`GIT_OPTIONAL_LOCKS=0`: not even the index is refreshed on disk) and bounded in time.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

CALL_S_MAX: Final = 120.0
"""Of one git call: a cold index of a very large repository on a network drive takes tens of seconds."""


class GitError(Exception):
    """git is missing, is too slow, or refused; the message is git's own."""


class WorkTree(NamedTuple):
    """A repository's work tree around a folder."""

    root: Path
    folder: str
    """Of the folder that was asked about, relative to the root, with forward slashes; empty for the root itself."""


class Listing(NamedTuple):
    """What git knows of a work tree. Paths are relative to its root, with forward slashes."""

    tracked: list[bytes]
    untracked: list[bytes]
    executable: frozenset[bytes]
    """Tracked files that the index calls executable; asked for only where the file system cannot say."""
    commit: str
    branch: str
    changed_lines: int


def work_tree(folder: Path) -> WorkTree | None:
    """The work tree that a folder is in, or None if it is in none. Raises GitError if git cannot say."""
    try:
        text = _git(folder, "rev-parse", "--show-toplevel", "--show-prefix").decode(errors="surrogateescape")
    except GitError as error:
        if "not a git repository" in str(error) or "must be run in a work tree" in str(error):
            return None
        raise
    root, prefix = text.split("\n")[:2]
    return WorkTree(Path(root), prefix.rstrip("/"))


def listing(root: Path, *, also_ignored: Sequence[str]) -> Listing:
    """All that git says about a work tree, its questions asked at once. Raises GitError."""
    ignored = [f"--exclude={pattern}" for pattern in also_ignored]
    with ThreadPoolExecutor(max_workers=5) as pool:
        tracked = pool.submit(_git, root, "ls-files", "-z", "--cached")
        untracked = pool.submit(_git, root, "ls-files", "-z", "--others", "--exclude-standard", *ignored)
        commit = pool.submit(_git_or_nothing, root, "rev-parse", "--verify", "--quiet", "HEAD")
        branch = pool.submit(_git_or_nothing, root, "symbolic-ref", "--quiet", "--short", "HEAD")
        changes = pool.submit(_git_or_nothing, root, "diff", "--numstat", "--no-ext-diff", "--no-textconv", "HEAD")
        staged = pool.submit(_git, root, "ls-files", "-z", "--stage") if os.name == "nt" else None
        return Listing(
            tracked=_paths(tracked.result()),
            untracked=_paths(untracked.result()),
            executable=_executable(staged.result()) if staged else frozenset(),
            commit=commit.result().decode().strip(),
            branch=branch.result().decode(errors="replace").strip(),
            changed_lines=_changed_lines(changes.result()),
        )


def files_below(root: Path, *, also_ignored: Sequence[str]) -> list[bytes]:
    """The files of a work tree inside another one (a submodule, or a clone that nobody added). Raises GitError."""
    ignored = [f"--exclude={pattern}" for pattern in also_ignored]
    return _paths(_git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", *ignored))


def _paths(output: bytes) -> list[bytes]:
    return [path for path in output.split(b"\0") if path]


def _executable(staged: bytes) -> frozenset[bytes]:
    entries = (entry.partition(b"\t") for entry in _paths(staged))
    return frozenset(path for mode, _, path in entries if mode.startswith(b"100755"))


def _changed_lines(numstat: bytes) -> int:
    """Lines added plus lines removed; a binary file (`-`) has none."""
    counts = (line.split(b"\t", 2)[:2] for line in numstat.splitlines() if b"\t" in line)
    return sum(int(number) for pair in counts for number in pair if number.isdigit())


def _git_or_nothing(folder: Path, *arguments: str) -> bytes:
    """For questions that a repository without a commit, or a detached one, has no answer to."""
    try:
        return _git(folder, *arguments)
    except GitError:
        return b""


def _git(folder: Path, *arguments: str) -> bytes:
    environ = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    environ |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CALL_S_MAX,
            env=environ,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise GitError(f"git {arguments[0]} took longer than {CALL_S_MAX:.0f} s") from error
    except OSError as error:
        raise GitError(f"git cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise GitError(done.stderr.decode(errors="replace").strip() or f"git {arguments[0]}: exit {done.returncode}")
    return done.stdout


_MISLEADING: Final = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"})
"""Set while git runs a hook: they would make it answer for another repository than the folder's."""
