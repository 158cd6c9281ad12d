"""Which installed distributions an entrypoint reaches, through the user's own modules.

From the entrypoint's files on: each import that is a module of the user's is followed, each that is an installed
distribution's becomes a root. Beside imports count dotted names in strings and configuration files, the modules beside
a computed import, and a short table of packages that are only imported on demand.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from headrace.capture import imports
from headrace.capture.entrypoint import Run
from headrace.capture.interpreter import Distribution, Interpreter, normalised

FILES_MAX: Final = 5_000
"""Of the user's own that are read."""
FILE_BYTES_MAX: Final = 2 * 1024 * 1024
"""A larger file of Python is generated data."""
CONFIGURATIONS_MAX: Final = 1_000
_OURS: Final = frozenset({"headrace", "headrace-server"})
_CONFIGURED: Final = frozenset({"hydra", "omegaconf", "yaml", "ruamel", "jsonargparse", "lightning", "mmengine"})
"""Who imports one of these may name classes in configuration files."""
_SKIPPED: Final = frozenset({".git", ".venv", "venv", "node_modules", "__pycache__", ".headrace", "site-packages"})

SOFT: Final = (
    (re.compile(r"torch\.utils\.tensorboard"), ("tensorboard",)),
    (re.compile(r"\.(?:read|to)_parquet\b"), ("pyarrow", "fastparquet")),
    (re.compile(r"\.(?:read|to)_excel\b|\bExcelWriter\b"), ("openpyxl",)),
    (re.compile(r"\bdevice_map\s*=|\bTrainingArguments\b"), ("accelerate",)),
)
"""Code that makes a package import another one, which nothing else names. Taken if the laptop has it."""


@dataclass
class Reached:
    """What an entrypoint reaches."""

    roots: dict[str, Distribution] = field(default_factory=dict)
    local: dict[str, Distribution] = field(default_factory=dict)
    """Installed from a folder of this machine: their source has to travel, or is missing."""
    missing: dict[str, str] = field(default_factory=dict)
    """A module that is imported at once but is neither installed nor the user's → the file that wants it."""
    files: set[Path] = field(default_factory=set)


def walk(run: Run, *, folder: Path, root: Path, interpreter: Interpreter) -> Reached:
    """All that a run reaches. `root` bounds what counts as the user's own."""
    walker = _Walker(folder, root, interpreter)
    for target in run.targets:
        if target.kind == "file":
            walker.start(folder / target.value)
        elif target.kind == "module":
            walker.name(target.value, None, needed=True, bases=(folder,))
            walker.name(f"{target.value}.__main__", None, needed=False, bases=(folder,))
        elif target.kind == "code":
            walker.scan(imports.of_python(target.value), None, folder)
        elif (script := interpreter.script(target.value)) is not None:
            walker.take(script[0])
            walker.name(script[1], None, needed=False)
    walker.drain()
    if any(word.endswith((".yaml", ".yml")) for word in run.words) or walker.configured:
        walker.configurations()
        walker.drain()
    return walker.reached


class _Walker:
    def __init__(self, folder: Path, root: Path, interpreter: Interpreter) -> None:
        self.reached = Reached()
        self.configured = False
        self._folder, self._root, self._interpreter = folder, root, interpreter
        self._waiting: list[Path] = []
        paths = [Path(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        homes = [each.local for each in interpreter.distributions.values() if each.local and each.local.is_dir()]
        inside = [path for path in (*paths, *homes) if path.absolute().is_relative_to(root)]
        self._bases = [base for path in inside for base in (path / "src", path)]
        self._loose_bases = (folder, folder / "src", root, root / "src")
        """Where a module is looked for at last: programs that extend `sys.path` themselves."""

    def start(self, file: Path) -> None:
        """Begin at a script: the modules beside it come first."""
        self._bases.insert(0, file.parent)
        self._add(file)

    def take(self, distribution: Distribution) -> None:
        name = normalised(distribution.name)
        if name in _OURS:
            return
        if distribution.local or distribution.elsewhere:
            self.reached.local[name] = distribution
        else:
            self.reached.roots[name] = distribution

    def name(self, dotted: str, wanted_by: Path | None, *, needed: bool, bases: Iterable[Path] = ()) -> None:
        """A dotted name: of the user's own code, of the standard library, of a distribution, or of nobody."""
        if dotted.partition(".")[0] == "headrace":
            return  # every job has it
        found = self._local(dotted, (*bases, *self._bases), loose=False)
        if not found and dotted.partition(".")[0] in self._interpreter.stdlib:
            return
        owners = self._interpreter.owners(dotted)
        for distribution in owners if not found else ():
            self.take(distribution)
        if not found and not owners:
            found = self._local(dotted, self._loose_bases, loose=True)
        if not found and not owners and needed and not self._is_namespace(dotted) and wanted_by is not None:
            self.reached.missing.setdefault(dotted.partition(".")[0], str(wanted_by))
        for file in found:
            self._add(file)

    def scan(self, asked: imports.Asked, file: Path | None, beside: Path) -> None:
        """Follow all that one file asks for."""
        for dotted, needed in asked.imports.items():
            if dotted.startswith("."):
                self._relative(dotted, beside)
            else:
                self.name(dotted, file, needed=needed)
                self.configured |= dotted.partition(".")[0] in _CONFIGURED
        for dotted in asked.names:
            self.name(dotted, None, needed=False)
        for beginning in asked.computed:
            for neighbour in self._computed(beginning, beside):
                self._add(neighbour)
        for text in asked.texts:
            if text.endswith(".py"):
                for base in (beside, self._folder):
                    self._add(base / text)
        said = " ".join((asked.code, *asked.imports))
        for pattern, names in SOFT:
            if pattern.search(said):
                for distribution in map(self._interpreter.distributions.get, names):
                    if distribution is not None:
                        self.take(distribution)

    def drain(self) -> None:
        while self._waiting:
            file = self._waiting.pop()
            text = _text(file)
            if text is not None:
                self.scan(imports.of_python(text), file, file.parent)

    def configurations(self) -> None:
        """Names in all YAML below the working folder."""
        for count, file in enumerate(_configurations(self._folder)):
            if count == CONFIGURATIONS_MAX:
                return
            for dotted in imports.of_yaml(_text(file) or "").names:
                self.name(dotted, None, needed=False)

    def _add(self, file: Path) -> None:
        file = Path(os.path.normpath(file.absolute()))
        new = file not in self.reached.files and len(self.reached.files) < FILES_MAX
        if new and file.is_relative_to(self._root) and file.is_file():
            self.reached.files.add(file)
            self._waiting.append(file)

    def _local(self, dotted: str, bases: Iterable[Path], *, loose: bool) -> list[Path]:
        """The user's files that importing a dotted name runs, from the first base that has its top-level name.

        A folder without `__init__.py` gives way to an installed package of its name, as it does in Python itself.
        """
        parts = dotted.split(".")
        if not all(parts):
            return []
        for base in bases:
            strong = (base / parts[0] / "__init__.py").is_file() or (base / f"{parts[0]}.py").is_file()
            wins = strong or loose or not self._interpreter.owners(parts[0])
            if wins and (found := _files_of(base, parts)):
                return found
        return []

    def _relative(self, dotted: str, beside: Path) -> None:
        rest = dotted.lstrip(".")
        base = beside
        for _ in range(len(dotted) - len(rest) - 1):
            base = base.parent
        self._add(base / "__init__.py")
        for file in _files_of(base, rest.split(".")) if rest else ():
            self._add(file)

    def _computed(self, beginning: str, beside: Path) -> Iterator[Path]:
        """The modules that a computed import may mean: those of the package it begins with, else those beside."""
        package = beginning.rpartition(".")[0]
        folders = [beside]
        if package.strip("."):
            bases = (beside, *self._bases, *self._loose_bases)
            folders = [folder for base in bases if (folder := base.joinpath(*package.strip(".").split("."))).is_dir()]
        for folder in folders[:1]:
            yield from sorted(folder.glob("*.py"))
            yield from sorted(folder.glob("*/__init__.py"))

    def _is_namespace(self, dotted: str) -> bool:
        """Whether the top-level name is there, but belongs to nobody alone (`import google`)."""
        top = dotted.partition(".")[0]
        bases = (*self._bases, *self._loose_bases)
        return self._interpreter.shares(top) or any((base / top).is_dir() for base in bases)


def _files_of(base: Path, parts: list[str]) -> list[Path]:
    found: list[Path] = []
    here = base
    for part in parts:
        if (module := here / f"{part}.py").is_file() and not (here / part / "__init__.py").is_file():
            return [*found, module]
        here = here / part
        if not here.is_dir():
            break
        if (package := here / "__init__.py").is_file():
            found.append(package)
    return found


def _configurations(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        yield from (Path(here, name) for name in sorted(names) if name.endswith((".yaml", ".yml")))


def _text(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
    except OSError:
        return None
    return content.decode(errors="replace") if len(content) <= FILE_BYTES_MAX else None
