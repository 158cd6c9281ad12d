"""Which paths are no source: the patterns of `.gitignore`, without git.

Follows gitignore(5): the last pattern that matches decides, `!` takes a path back in, a pattern with a slash before
its end is anchored to the folder of its file, one that ends in a slash matches folders only, `**` crosses folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

DEFAULTS: Final = (
    ".git/",
    ".hg/",
    ".svn/",
    ".headrace/",
    ".venv/",
    "venv/",
    "__pycache__/",
    "node_modules/",
    ".tox/",
    ".nox/",
    ".mypy_cache/",
    ".ruff_cache/",
    ".pytest_cache/",
    ".ipynb_checkpoints/",
    "*.egg-info/",
    "*.pyc",
    "*.pyo",
    ".DS_Store",
)
"""What is never source, although nobody wrote it into an ignore file: made by tools, and made again by them."""

FILE: Final = ".headraceignore"
FILE_BYTES_MAX: Final = 1024 * 1024


class Rule(NamedTuple):
    """One pattern. `base` is the folder of its file, relative to the root."""

    matches: re.Pattern[str]
    base: str
    anchored: bool
    folders_only: bool
    back_in: bool


class Ignore:
    """An ordered set of rules; a deeper file's come later and so win."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def with_file(self, file: Path, base: str) -> Ignore:
        """These rules and those of a file in the folder `base`; a file that is not there has none."""
        try:
            with file.open("rb") as opened:
                text = opened.read(FILE_BYTES_MAX).decode(errors="replace")
        except OSError:
            return self
        return Ignore((*self._rules, *parse(text.splitlines(), base)))

    def hides(self, path: str, *, is_folder: bool) -> bool:
        """Whether a path (relative to the root, forward slashes) is left out, judged by itself alone."""
        for rule in reversed(self._rules):
            if rule.folders_only and not is_folder:
                continue
            below = path
            if rule.base:
                if not path.startswith(rule.base + "/"):
                    continue
                below = path[len(rule.base) + 1 :]
            if rule.matches.fullmatch(below if rule.anchored else below.rpartition("/")[2]):
                return not rule.back_in
        return False

    def hides_file(self, path: str) -> bool:
        """Whether a file is left out, by itself or because a folder above it is."""
        parts = path.split("/")
        folders = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
        return any(self.hides(folder, is_folder=True) for folder in folders) or self.hides(path, is_folder=False)


def parse(lines: Iterable[str], base: str = "") -> list[Rule]:
    """The rules in the lines of an ignore file. A line that is no pattern is none."""
    rules = []
    for line in lines:
        pattern = line.rstrip("\r\n")
        if not pattern.endswith("\\ "):
            pattern = pattern.rstrip(" ")
        if not pattern or pattern.startswith("#"):
            continue
        back_in = pattern.startswith("!")
        pattern = pattern[1:] if back_in else pattern
        folders_only = pattern.endswith("/")
        pattern = pattern.rstrip("/")
        anchored = "/" in pattern
        pattern = pattern.lstrip("/")
        if pattern:
            rules.append(Rule(_compile(pattern), base, anchored, folders_only, back_in))
    return rules


def _compile(pattern: str) -> re.Pattern[str]:
    parts, at = [], 0
    while at < len(pattern):
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            parts.append("(?:.*/)?")
            at += 3
        elif pattern.startswith("**", at):
            parts.append(".*")
            at += 2
        elif pattern[at] == "*":
            parts.append("[^/]*")
            at += 1
        elif pattern[at] == "?":
            parts.append("[^/]")
            at += 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            parts.append("[" + ("^" + inside[1:] if inside[0] == "!" else inside) + "]")
            at = end + 1
        else:
            at += 1 if pattern[at] == "\\" and at + 1 < len(pattern) else 0
            parts.append(re.escape(pattern[at]))
            at += 1
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error:
        return re.compile(re.escape(pattern))
