"""One requirement, as far as a laptop needs to understand it: its name, and whether an index can provide it."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?P<extras>\[[A-Za-z0-9._,\s-]*\])?\s*"
    r"(?P<versions>\(?[^;@()]*\)?)\s*(?P<marker>;.*)?"
)
_VERSION: Final = re.compile(
    r"v?(?:\d+!)?\d+(?:\.\d+)*(?:[-_.]?(?:a|b|c|rc|alpha|beta|pre|preview)[-_.]?\d*)?"
    r"(?:-\d+|[-_.]?(?:post|rev|r)[-_.]?\d*)?(?:[-_.]?dev[-_.]?\d*)?(?:\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?",
    re.IGNORECASE,
)
"""PEP 440. Old packages, and conda's, have versions that it does not know (`2004d`); no resolver takes them."""


class Requirement(NamedTuple):
    """`name[extras] versions ; marker`. Each part as it was written, without white space at its ends."""

    name: str
    extras: str = ""
    versions: str = ""
    marker: str = ""

    def __str__(self) -> str:
        marker = f" ; {self.marker}" if self.marker else ""
        return f"{self.name}{self.extras}{self.versions}{marker}"


def parse(text: str) -> Requirement | None:
    """The requirement in a text; None if it is none that an index can provide (an address, a path)."""
    match = _REQUIREMENT.fullmatch(text.strip())
    if match is None:
        return None
    return Requirement(
        match["name"],
        re.sub(r"\s", "", match["extras"] or ""),
        re.sub(r"\s", "", match["versions"].strip("() ")),
        (match["marker"] or "").lstrip("; ").strip(),
    )


def is_version(text: str) -> bool:
    """Whether a resolver can read this version."""
    return _VERSION.fullmatch(text) is not None
