"""What uv says when there is no solution, in the words of somebody who only named a package."""

from __future__ import annotations

import re
from typing import Final

REASON_CHARACTERS_MAX: Final = 600

_PASSING: Final = (
    "failed to fetch",
    "failed to download",
    "error sending request",
    "dns error",
    "operation timed out",
    "connection reset",
    "request failed after",
    "service unavailable",
    "bad gateway",
    "too many requests",
)
_FINAL: Final = ("404 not found", "401 unauthorized", "403 forbidden")
_NO_WHEEL: Final = ("building from source is disabled", "no usable wheels", "has no wheels", "no matching wheels")
_UNKNOWN: Final = re.compile(r"[Bb]ecause (?P<name>[\w.-]+) was not found in the")
_NO_VERSION: Final = re.compile(
    r"there (?:is|are) no versions? of (?P<name>[\w.-]+?)(?P<extras>\[[^\]]*\])?(?P<versions>(?:[=<>!~]=?|\s).*?)?"
    r"(?: and| we can|,|$)"
)
_ONLY: Final = re.compile(r"only (?P<name>[\w.-]+?)(?:\[[^\]]*\])?[=<>!~]\S* (?:is|are) available")
_PYTHON: Final = re.compile(r"(?P<name>[\w.-]+)(?P<version>(?:==|>=|<=|<|>)\S+)? depends on Python(?P<needs>\S+?),? ")
_WHEEL: Final = re.compile(r"(?P<name>[\w.-]+)(?P<version>==\S+)? has no (?:usable |matching )?wheels")


def needs_a_build(stderr: str) -> bool:
    """Whether there is no solution because some package is only there as source."""
    return any(phrase in stderr.lower() for phrase in _NO_WHEEL)


def is_passing(stderr: str) -> bool:
    """Whether another try may go better: the index was not reached, or not well."""
    said = stderr.lower()
    return any(phrase in said for phrase in _PASSING) and not any(phrase in said for phrase in _FINAL)


def passing(stderr: str) -> str:
    """Why the index could not be used, without its address."""
    causes = [line for line in _cause(stderr).splitlines() if "://" not in line] or ["it does not answer"]
    return f"the package index could not be reached: {causes[-1].strip()}"[:REASON_CHARACTERS_MAX]


def reason(stderr: str, *, python: str, platform: str) -> str:
    """Why there is no solution: what is wrong, uv's own derivation, and what may help."""
    derivation = " ".join(_cause(stderr).split())
    told = derivation.removesuffix(", we can conclude that your requirements are unsatisfiable.")
    head, hint = _head(derivation, python=python, platform=platform)
    text = f"{head}: {told}" if told else head
    return text[: REASON_CHARACTERS_MAX - len(hint) - 3].rstrip(". ") + (f". {hint}" if hint else "")


def _head(said: str, *, python: str, platform: str) -> tuple[str, str]:
    if "--python-platform" in said:
        return f"`{platform}` is no platform that the resolver knows", ""
    if match := _UNKNOWN.search(said):
        return f"no package `{match['name']}` on the index", "Check its name; a private index is set by the operator"
    if match := _PYTHON.search(said):
        needs = f"no version of `{match['name']}` fits Python {python}"
        return needs, "Choose another version of it, or another Python with --python"
    if match := _WHEEL.search(said):
        return f"`{match['name']}` has no wheel for Python {python} on {platform}", "Choose a version that has one"
    if match := _NO_VERSION.search(said) or _ONLY.search(said):
        return f"no version of `{match['name']}` fits Python {python}", "Choose a version that exists"
    if "Failed to build" in said or "build backend" in said:
        return "a package has no wheel, and building it failed", "Choose a version that has a wheel"
    if "parse" in said:
        return "a requirement cannot be read", ""
    return f"the requirements contradict each other on Python {python}", "Loosen one of them"


def _cause(stderr: str) -> str:
    """What stands behind `error:`, without uv's ornaments: `cause:`, `╰─▶`, `hint:`."""
    lines = stderr.splitlines()
    start = next((at for at, line in enumerate(lines) if line.startswith(("error:", "  ×"))), 0)
    kept = []
    for line in lines[start:]:
        if line.startswith("hint:"):
            break
        if not line.startswith(("warning:", "error: No solution found", "  × No solution found")):
            kept.append(re.sub(r"^\s*(?:cause:|error:|╰─▶|├─▶|×)?\s*", "", line))
    return "\n".join(kept)
