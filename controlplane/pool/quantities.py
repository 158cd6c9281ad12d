"""Quantities as Kubernetes writes them: "8000m", "1.5Ti", "2e3" (resource.Quantity in its API conventions)."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

CHARACTERS_MAX: Final = 40
EXPONENT_MAX: Final = 30

_FORM: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([numkMGTPE]|[KMGTPE]i)?|[eE]([+-]?\d{1,3}))", re.ASCII)
_FACTORS: Final = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    **{letter: Fraction(1000**power) for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", 1)},
}


class BadQuantity(ValueError):
    """Not a quantity. The message shows it."""


def quantity(raw: str | int | float) -> Fraction:
    """What it says, exactly. Raises BadQuantity."""
    text = str(raw).strip()
    found = _FORM.fullmatch(text) if len(text) <= CHARACTERS_MAX else None
    if found is None:
        raise BadQuantity(f"{text[:CHARACTERS_MAX]!r} is no quantity, such as 8, 8000m or 1.5Ti")
    number, suffix, exponent = found.groups()
    if exponent is not None:
        if abs(int(exponent)) > EXPONENT_MAX:
            raise BadQuantity(f"{text!r} is no quantity of any machine")
        return Fraction(number) * Fraction(10) ** int(exponent)
    return Fraction(number) * _FACTORS.get(suffix or "", Fraction(1))
