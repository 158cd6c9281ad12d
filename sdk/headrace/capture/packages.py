"""The packages of a job, as an environment request: what must be there, and which versions the laptop has.

A lock or requirements file that the project keeps wins. Otherwise the roots are found from the entrypoint's imports on
and pinned to the installed versions; everything else that is installed is a preference, kept where the target allows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from headrace.capture import declared, entrypoint, git, interpreter, reach
from headrace.capture.declared import Declared
from headrace.capture.entrypoint import Run
from headrace.capture.errors import CaptureError, CaptureWarning
from headrace.capture.interpreter import Interpreter, normalised
from headrace.capture.requirement import parse

MISSING_NAMED_MAX: Final = 5


class Request(NamedTuple):
    """Fields of the contract's `EnvironmentRequest`."""

    python: str
    roots: tuple[str, ...] = ()
    preferences: tuple[str, ...] = ()
    platform: str = ""


@dataclass(frozen=True)
class Captured:
    """What was found. `request` is an `EnvironmentRequest` as plain data; None if the entrypoint runs no Python."""

    request: dict[str, str | list[str]] | None
    how: str
    """`uv.lock`, `requirements.txt`, `inline`, `imports`, …; `none` where there is no Python."""
    packages: tuple[str, ...] = ()
    """The roots, for people."""
    interpreter: str = ""
    """Path of the interpreter that was asked."""
    warnings: tuple[CaptureWarning, ...] = ()


def environment(
    command: Sequence[str],
    folder: Path,
    *,
    python: str = "",
    cache: Path,
    requirements: Path | None = None,
    platform: str = "",
) -> Captured:
    """The environment that an entrypoint needs, started in `folder`. Raises CaptureError.

    `python` (`3.12`) asks for another version than the laptop's; `requirements` names a file to follow instead of all
    that would be found; `platform` asks for another one than the nodes'.
    """
    folder = folder.resolve()
    run = entrypoint.read(command, folder)
    if not run.targets and not run.python and requirements is None:
        return Captured(None, "none")
    root = _root(folder)
    warnings: list[CaptureWarning] = []
    found = declared.requirements(requirements) if requirements else _declared(run, folder, root, warnings)
    theirs = _ask(run, folder, cache, warnings, needed=found is None)
    if found is None and theirs is not None:
        if not run.python and not _runs_python(run, theirs):
            return Captured(None, "none")
        found = _imported(run, folder, root, theirs, warnings)
    found = found or Declared("imports", folder)
    warnings.extend(found.warnings)
    if run.python and Path(run.python).is_absolute():
        warnings.append(CaptureWarning(f"{run.python} is an interpreter of this machine", "write `python` instead"))
    version = python or (theirs.python if theirs else f"{sys.version_info[0]}.{sys.version_info[1]}")
    preferences = found.preferences if found.exact or theirs is None else _installed(theirs, found.preferences)
    request = Request(version, tuple(sorted(set(found.roots))), tuple(sorted(set(preferences))), platform)
    content: dict[str, str | list[str]] = {"python": request.python, "roots": list(request.roots)}
    content |= {"preferences": list(request.preferences), "platform": request.platform}
    return Captured(content, found.how, request.roots, theirs.command if theirs else "", tuple(warnings))


def _root(folder: Path) -> Path:
    try:
        within = git.work_tree(folder)
    except git.GitError:
        return folder
    return within.root.resolve() if within else folder


def _declared(run: Run, folder: Path, root: Path, warnings: list[CaptureWarning]) -> Declared | None:
    """What the project lists itself: in the script's header, else in the nearest file from the script upwards."""
    files = [folder / target.value for target in run.targets if target.kind == "file"]
    for file in files:
        if found := declared.inline(file):
            return found
    found, passed_over = declared.nearest(_upwards([*(file.parent for file in files[:1]), folder], root))
    warnings.extend(passed_over)
    return found


def _upwards(starts: Sequence[Path], root: Path) -> Iterator[Path]:
    seen: set[Path] = set()
    for start in starts:
        start = start.resolve()
        for folder in (start, *start.parents):
            if folder not in seen and folder.is_relative_to(root):
                seen.add(folder)
                yield folder


def _ask(run: Run, folder: Path, cache: Path, warnings: list[CaptureWarning], *, needed: bool) -> Interpreter | None:
    """The user's interpreter; None if there is none and a file lists the packages anyway."""
    name = run.python or "python"
    command = interpreter.find(name, folder)
    if command is None and needed:
        raise CaptureError(f"no `{name}` on the PATH", "activate the environment that you run this with")
    if command is None:
        return None
    try:
        return interpreter.ask(command, folder, cache)
    except CaptureError as error:
        if needed:
            raise
        warnings.append(CaptureWarning(str(error), error.hint))
        return None


def _runs_python(run: Run, theirs: Interpreter) -> bool:
    """Whether anything of an entrypoint that names no interpreter is Python after all."""
    return any(target.kind != "command" or theirs.script(target.value) for target in run.targets)


def _imported(run: Run, folder: Path, root: Path, theirs: Interpreter, warnings: list[CaptureWarning]) -> Declared:
    """What the entrypoint's imports reach, pinned to what is installed."""
    reached = reach.walk(run, folder=folder, root=root, interpreter=theirs)
    found = Declared("imports", folder, roots=[each.pin for each in reached.roots.values()])
    for name, each in reached.local.items():
        if each.local is None:
            hint = "use a version from a package index, or copy its source into the project"
            warnings.append(CaptureWarning(f"{name} was installed from {each.elsewhere}: left out", hint))
        elif not each.local.is_relative_to(root):
            hint = "move it into the project, or use a version from a package index"
            warnings.append(CaptureWarning(f"{name} is installed from {each.local}, outside the source", hint))
    for module, file in list(reached.missing.items())[:MISSING_NAMED_MAX]:
        shown = Path(file).relative_to(root) if Path(file).is_relative_to(root) else file
        hint = "install it there, or list it in a requirements.txt"
        warnings.append(CaptureWarning(f"{shown} imports {module}, which {theirs.command} does not have", hint))
    files = [target.value for target in run.targets if target.kind == "file"]
    warnings.extend(
        CaptureWarning(f"{file} lies outside the source {root}", "start from its folder")
        for file in files
        if not (folder / file).resolve().is_relative_to(root)
    )
    return found


def _installed(theirs: Interpreter, first: Sequence[str]) -> list[str]:
    """Exact pins of all that came from an index, `first` taking the place of what it names."""
    named = {normalised(each.name) for each in map(parse, first) if each is not None}
    pins = [
        each.pin
        for name, each in theirs.distributions.items()
        if name not in named and name not in {"headrace", "headrace-server"} and not (each.local or each.elsewhere)
    ]
    return [*first, *(pin for pin in pins if "==" in pin)]
