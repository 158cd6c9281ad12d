"""A range of user ids, as it is written: `200000-265535`, both ends included. Pure."""

from __future__ import annotations

import re
from typing import Final

FIRST_MIN: Final = 1000
"""Below are the users that a system makes for itself, root before all."""
LAST_MAX: Final = 2**32 - 3
"""The two above mean "nobody at all" and "as it was" to the kernel."""
COUNT_MIN: Final = 2
"""One builds packages, the others are for attempts."""
_WRITTEN: Final = re.compile(r"(\d{1,10})-(\d{1,10})")
_FIX: Final = (
    "such as 200000-265535: users that nobody else on the machine has; empty: attempts run as the node's own user"
)


class BadRange(ValueError):
    """The text is no range that can be used; the message says what would be one."""


def parse(text: str) -> range | None:
    """The user ids that a text names; None if it is empty. Raises BadRange."""
    if not text:
        return None
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise BadRange(f"{text[:40]!r} is not a range of user ids, {_FIX}")
    first, last = int(found[1]), int(found[2])
    if first < FIRST_MIN or last > LAST_MAX:
        raise BadRange(f"{text}: user ids from {FIRST_MIN} to {LAST_MAX}, {_FIX}")
    if last - first + 1 < COUNT_MIN:
        raise BadRange(f"{text}: at least {COUNT_MIN} of them, the smaller one first, {_FIX}")
    return range(first, last + 1)
