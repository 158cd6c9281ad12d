"""What an environment request may say: names and versions that an index can answer, and nothing that points elsewhere.

The resolver is handed these lines as a file, and a requirements file can do more than name packages: include files of
this machine, choose another index, fetch an address. So each line must be one plain requirement.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from events.messages import EnvironmentRequest, Problem

ROOTS_MAX: Final = 2_000
PREFERENCES_MAX: Final = 10_000
CHARACTERS_MAX: Final = 500
"""Of one requirement, its marker included."""

_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_ROOT: Final = re.compile(
    rf"{_NAME}[ ]*(?:\[[A-Za-z0-9._, -]*\])?"
    r"[ ]*(?:\(?(?:[ ]*(?:===|==|~=|!=|<=|>=|<|>)[ ]*[A-Za-z0-9.*+!_-]+[ ]*,?)*[ ]*\)?)"
    r"[ ]*(?:;[A-Za-z0-9 ._'\"<>=!~()*,+-]*)?"
)
_PREFERENCE: Final = re.compile(rf"{_NAME}==(?P<version>[A-Za-z0-9.+!_-]+)")
_VERSION: Final = re.compile(
    r"v?(?:\d+!)?\d+(?:\.\d+)*(?:[-_.]?(?:a|b|c|rc|alpha|beta|pre|preview)[-_.]?\d*)?"
    r"(?:-\d+|[-_.]?(?:post|rev|r)[-_.]?\d*)?(?:[-_.]?dev[-_.]?\d*)?(?:\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?",
    re.IGNORECASE,
)
"""PEP 440."""
_PYTHON: Final = re.compile(r"3\.(\d{1,2})(?:\.\d{1,3})?")
_PLATFORM: Final = re.compile(r"[a-z0-9_-]{1,60}")


def problems(request: EnvironmentRequest, path: str = "$.environment") -> tuple[Problem, ...]:
    """All that is wrong with a request, each with the path of its field; nothing if it can be tried."""
    found = []
    if _PYTHON.fullmatch(request.python) is None:
        hint = "write a version such as 3.11"
        found.append(Problem(path=f"{path}.python", message=f"{request.python[:40]!r} is no Python 3", hint=hint))
    if request.platform and _PLATFORM.fullmatch(request.platform) is None:
        hint = "leave it out for that of the nodes, or write one such as x86_64-manylinux_2_28"
        found.append(Problem(path=f"{path}.platform", message="is no platform", hint=hint))
    found += _lines(f"{path}.roots", request.roots, ROOTS_MAX, _ROOT, "name a package, as in `numpy>=2`")
    preference = "name a package and its exact version, as in `numpy==2.1.0`"
    found += _lines(f"{path}.preferences", request.preferences, PREFERENCES_MAX, _PREFERENCE, preference)
    return tuple(found)


def usable(preferences: Iterable[str]) -> list[str]:
    """The preferences that uv can read. Of a version that it cannot (`2004d`) nothing is lost: nothing has it."""
    matches = ((line, _PREFERENCE.fullmatch(line)) for line in preferences)
    return [line for line, match in matches if match and _VERSION.fullmatch(match["version"])]


def minor(python: str) -> str:
    """`3.11` of `3.11.7`."""
    return ".".join(python.split(".")[:2])


def _lines(path: str, lines: tuple[str, ...], most: int, form: re.Pattern[str], hint: str) -> list[Problem]:
    if len(lines) > most:
        return [Problem(path=path, message=f"{len(lines):,} entries, at most {most:,} are possible")]
    return [
        Problem(path=f"{path}[{at}]", message=f"{line[:80]!r} is not a plain requirement", hint=hint)
        for at, line in enumerate(lines)
        if len(line) > CHARACTERS_MAX or form.fullmatch(line) is None
    ]
