"""Packages that the project itself lists: a lock, a requirements file, or the script's own header.

The nearest to the script wins, a lock before a requirements file. A lock that no longer fits its `pyproject.toml`
does not count, and the user is told.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from headrace.capture.errors import CaptureError, CaptureWarning
from headrace.capture.interpreter import normalised
from headrace.capture.requirement import Requirement, parse

FILE_BYTES_MAX: Final = 32 * 1024 * 1024
INCLUDES_MAX: Final = 32
"""Requirements files that include others."""
_INLINE: Final = re.compile(r"^# /// script$\s(?P<content>(?:^#(?:| .*)$\s)+)^# ///$", re.MULTILINE)
"""Inline script metadata, as PEP 723 gives the pattern."""


@dataclass
class Declared:
    """What a file lists. `exact`: it names every package, so the laptop's own versions play no part."""

    how: str
    file: Path
    roots: list[str] = field(default_factory=list)
    preferences: list[str] = field(default_factory=list)
    exact: bool = False
    warnings: list[CaptureWarning] = field(default_factory=list)


def inline(script: Path) -> Declared | None:
    """The packages in a script's own header."""
    match = _INLINE.search(_text(script))
    if match is None:
        return None
    lines = (line[2:] if line.startswith("# ") else line[1:] for line in match["content"].splitlines())
    content = _toml("\n".join(lines), script)
    if "dependencies" not in content:
        return None
    found = Declared("inline", script)
    for text in _strings(content["dependencies"]):
        _add(found, text)
    return found


def nearest(folders: Iterable[Path]) -> tuple[Declared | None, list[CaptureWarning]]:
    """The first declaration on the way through some folders, and why others on the way did not count."""
    passed_over: list[CaptureWarning] = []
    for folder in folders:
        for name, read in _READERS:
            if (folder / name).is_file():
                found = read(folder / name)
                if found is not None:
                    return found, passed_over
                hint = "run `uv lock`" if name == "uv.lock" else "lock again"
                passed_over.append(CaptureWarning(f"{name} does not fit pyproject.toml any more: not used", hint))
    return None, passed_over


def requirements(file: Path) -> Declared:
    """The packages in a requirements file and in those that it includes. Raises CaptureError if it is not there."""
    if not file.is_file():
        raise CaptureError(f"{file}: no such file", "give --requirements a requirements file")
    found = Declared(file.name, file)
    constraints: list[str] = []
    for line in _requirement_lines(file, found, constraints, [INCLUDES_MAX]):
        _add(found, line)
    found.preferences.extend(pin for pin in constraints if "==" in pin)
    return found


def _requirement_lines(file: Path, found: Declared, constraints: list[str], left: list[int]) -> Iterator[str]:
    left[0] -= 1
    if left[0] < 0:
        raise CaptureError(f"{file}: more than {INCLUDES_MAX} requirements files include each other")
    for raw in _text(file).replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        line = re.sub(r"(?:^|\s)#.*$", "", raw).strip()
        option, _, value = line.partition(" ") if " " in line else line.partition("=")
        if option in {"-r", "--requirement"} or re.match(r"-r\S", line):
            yield from _requirement_lines(file.parent / (value or line[2:]).strip(), found, constraints, left)
        elif option in {"-c", "--constraint"}:
            included = file.parent / value.strip()
            constraints.extend(each for each in _requirement_lines(included, found, constraints, left))
        elif option in {"-e", "--editable"}:
            yield value.strip()
        elif line.startswith("-"):
            hint = "the cluster's operator chooses the indexes"
            found.warnings.append(CaptureWarning(f"{file.name}: {option} plays no part in a job", hint))
        elif line:
            yield re.split(r"\s--(?:hash|global-option|config-settings)\b", line)[0]


def _add(found: Declared, text: str) -> None:
    requirement = parse(text)
    if requirement is not None and not _is_local(text):
        if normalised(requirement.name) not in _OURS:
            found.roots.append(str(requirement))
        return
    if (found.file.parent / text.partition("[")[0]).exists():
        return  # the project itself: it travels as source
    hint = "use a version from a package index, or copy its source into the project"
    found.warnings.append(CaptureWarning(f"{found.how}: {text} is not from a package index: left out", hint))


def _is_local(text: str) -> bool:
    return text.startswith((".", "/", "~")) or text.endswith((".whl", ".tar.gz", ".zip"))


# -- locks -------------------------------------------------------------------------------------------------------------


def _uv_lock(file: Path) -> Declared | None:
    lock, project = _toml(_text(file), file), file.parent / "pyproject.toml"
    content = _toml(_text(project), project)
    name = normalised(str(content.get("project", {}).get("name", "")))
    listed = _strings(content.get("project", {}).get("dependencies", []))
    own = next((each for each in _tables(lock, "package") if normalised(str(each.get("name", ""))) == name), None)
    if own is None or _wanted(own) != {_comparable(each) for each in map(parse, listed) if each is not None}:
        return None
    return _from_lock("uv.lock", file, listed, _tables(lock, "package"))


def _wanted(own: dict[str, Any]) -> set[tuple[str, frozenset[str]]]:
    """What the project wanted when it was locked, comparable with what it wants now."""
    wanted = own.get("metadata", {}).get("requires-dist", [])
    return {
        (normalised(str(each.get("name", ""))), frozenset(str(each.get("specifier", "")).replace(" ", "").split(",")))
        for each in wanted
        if isinstance(each, dict) and "extra ==" not in str(each.get("marker", ""))
    }


def _comparable(requirement: Requirement) -> tuple[str, frozenset[str]]:
    return normalised(requirement.name), frozenset(requirement.versions.split(","))


def _poetry_lock(file: Path) -> Declared | None:
    lock, project = _toml(_text(file), file), file.parent / "pyproject.toml"
    content = _toml(_text(project), project)
    listed = _strings(content.get("project", {}).get("dependencies", []))
    wanted = content.get("tool", {}).get("poetry", {}).get("dependencies", {})
    listed += [str(name) for name in wanted if str(name).lower() != "python"]
    locked = {normalised(str(each.get("name", ""))) for each in _tables(lock, "package")}
    names = {normalised(each.name) for each in map(parse, listed) if each is not None}
    return _from_lock("poetry.lock", file, listed, _tables(lock, "package")) if names <= locked else None


def _pylock(file: Path) -> Declared | None:
    """PEP 751: every package is listed, none is marked as wanted by the project itself, so all are roots."""
    packages = _tables(_toml(_text(file), file), "packages")
    found = Declared(file.name, file, exact=True)
    for each in packages:
        name, version = str(each.get("name", "")), str(each.get("version", ""))
        if version and not {"vcs", "directory", "archive"} & each.keys():
            marker = str(each.get("marker", ""))
            found.roots.append(str(Requirement(name, "", f"=={version.partition('+')[0]}", marker)))
        elif "directory" not in each:
            found.warnings.append(CaptureWarning(f"{file.name}: {name} is not from a package index: left out"))
    return found


def _from_lock(how: str, file: Path, listed: Iterable[str], packages: list[dict[str, Any]]) -> Declared:
    """What the project lists, pinned where the lock has one version of it, and all that is locked as preferences."""
    versions: dict[str, set[str]] = {}
    strange: set[str] = set()
    for each in packages:
        source, name = each.get("source", {}), normalised(str(each.get("name", "")))
        if isinstance(source, dict) and ("registry" in source or not source or how == "poetry.lock"):
            versions.setdefault(name, set()).add(str(each.get("version", "")).partition("+")[0])
        elif isinstance(source, dict) and {"git", "url", "path"} & source.keys():
            strange.add(name)
    found = Declared(how, file, exact=True)
    for text in listed:
        requirement = parse(text)
        name = normalised(requirement.name) if requirement else ""
        if requirement is None or name in strange:
            _add(found, text if requirement is None else f"{name} @ elsewhere")
        elif name in versions and name not in _OURS:
            one = next(iter(versions[name])) if len(versions[name]) == 1 else ""
            found.roots.append(str(requirement._replace(versions=f"=={one}") if one else requirement))
    found.preferences = [f"{name}=={next(iter(each))}" for name, each in sorted(versions.items()) if len(each) == 1]
    return found


_OURS: Final = frozenset({"headrace", "headrace-server"})
_READERS: Final = (
    ("uv.lock", _uv_lock),
    ("poetry.lock", _poetry_lock),
    ("pylock.toml", _pylock),
    ("requirements.txt", requirements),
)


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(FILE_BYTES_MAX).decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise CaptureError(f"cannot read {file}: {error.strerror}") from error


def _toml(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        raise CaptureError(f"{file}: not TOML: {error}", "correct it, or move it away") from error


def _tables(content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    tables = content.get(name, [])
    return [each for each in tables if isinstance(each, dict)] if isinstance(tables, list) else []


def _strings(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
