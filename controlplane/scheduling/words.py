"""How refusals and their numbers read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from controlplane.scheduling.ends import span
from events import messages as m

__all__ = ["amounts", "count", "moment", "no", "sentence_of", "span", "yes"]

GIB: Final = 1024**3


def no(kind: str, message: str, **more: object) -> m.Hindrance:
    """Something that a job waits for."""
    return m.Hindrance(ok=False, kind=kind, message=message, **more)  # type: ignore[arg-type]


def yes(kind: str, message: str, **more: object) -> m.Hindrance:
    """Something that is in order."""
    return m.Hindrance(ok=True, kind=kind, message=message, **more)  # type: ignore[arg-type]


def count(number: int, noun: str) -> str:
    """`1 GPU`, `2 GPUs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def amounts(cpus: float, memory_bytes: int, gpus: float) -> str:
    """`4 CPUs, 8 GiB and 1 GPU`, `… and 0.5 GPU`."""
    return f"{cpus:g} CPUs, {memory_bytes / GIB:.3g} GiB and {gpus:g} GPU{'' if 0 < gpus <= 1 else 's'}"


def sentence_of(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def moment(at: float, now: float) -> str:
    """A moment, for a person: `18:00 UTC`, or with its day where that is another one."""
    there, here = (datetime.fromtimestamp(each, UTC) for each in (at, now))
    return f"{there:%H:%M} UTC" if there.date() == here.date() else f"{there:%Y-%m-%d %H:%M} UTC"
