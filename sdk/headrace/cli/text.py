"""How numbers, durations and moments read. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

SHORT_ID_CHARACTERS = 10
"""`j-` and eight more: the server takes any unambiguous beginning of an id."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def clean(text: object) -> str:
    """Somebody else's text, without what would steer this terminal."""
    return _CONTROL.sub("?", str(text))


def width(text: str) -> int:
    """Columns that a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, columns: int) -> str:
    """The text in at most so many columns; `…` stands for what was left out."""
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 1:
        text = text[:-1]
    return text.rstrip() + "…"


def fill(text: str, columns: int, *, right: bool = False) -> str:
    """The text padded to so many columns."""
    space = " " * max(0, columns - width(text))
    return space + text if right else text + space


def duration(seconds: float | None) -> str:
    """`41ms`, `12s`, `6m12s`, `3h24m`, `2d4h`; `–` where there is none."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f}ms"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3_600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3_600}h{whole % 3_600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3_600}h"


def span(seconds: float | None) -> str:
    """A duration in at most five characters: `12s`, `6m`, `3h24m`, `2d4h`; `–` where there is none."""
    if seconds is None or seconds < 60 or seconds >= 36_000:
        return duration(seconds)
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours}h{rest:02d}m" if rest and hours else f"{hours}h" if hours else f"{minutes}m"


def took(seconds: float) -> str:
    """A duration in a sentence: `41 ms`, `0.2 s`, `12.3 s`, `3h24m`."""
    if seconds < 0.1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def ago(seconds: float) -> str:
    """`now`, `12s ago`."""
    return "now" if seconds < 1 else f"{duration(seconds)} ago"


def size(count: float) -> str:
    """`41 KiB`, `1.5 GiB`."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        if count < 1024 or unit == "TiB":
            break
    return f"{count:.1f} {unit}" if count < 10 else f"{count:.0f} {unit}"


def number(value: float | None) -> str:
    """A metric's value in four or five digits: `0.8413`, `97.2`, `1.2e+06`; `nan` for None."""
    if value is None:
        return "nan"
    if value == int(value) and abs(value) < 100_000:
        return str(int(value))
    if 0.001 <= abs(value) < 100_000:
        return f"{value:.{max(0, 4 - len(str(int(abs(value)))) + (abs(value) < 1))}f}"
    return f"{value:.3g}"


def count(value: int) -> str:
    """`1,284`."""
    return f"{value:,}"


def short(job: str) -> str:
    """An id as people copy it."""
    return job[:SHORT_ID_CHARACTERS]


def digest(text: str) -> str:
    """A digest as people read it: its first eight digits."""
    return text.removeprefix("sha256:")[:8]


def ranges(numbers: Sequence[int]) -> str:
    """`0–3, 6`."""
    runs: list[tuple[int, int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], n)
        else:
            runs.append((n, n))
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)


def rfc3339(at: float) -> str:
    """A moment for programs, in UTC, to the microsecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def clock(at: float) -> str:
    """A moment for people, in their own time: `13:58:02`, with the day if it is not today's."""
    moment = datetime.fromtimestamp(at)
    today = moment.date() == datetime.now().date()
    return f"{moment:%H:%M:%S}" if today else f"{moment:%Y-%m-%d %H:%M:%S}"


def hour(at: float, now: float) -> str:
    """A moment to come, for people, to the minute: `14:20`, with the day if it is not today's."""
    moment = datetime.fromtimestamp(at)
    return f"{moment:%H:%M}" if moment.date() == datetime.fromtimestamp(now).date() else f"{moment:%a %d %b %H:%M}"


def timed(value: Any, key: str = "") -> Any:
    """JSON with its moments (`at`, `…_at`) as RFC 3339, everything else as it was."""
    if isinstance(value, Mapping):
        return {name: timed(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [timed(inner, key) for inner in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and (key == "at" or key.endswith("_at")):
        return rfc3339(value) if value > 0 else None
    return value


def alternatives(on: Sequence[Mapping[str, Sequence[str]]]) -> str:
    """Which nodes will do: `gpu=A100,H100 zone=a, or else gpu=V100`."""
    told = (" ".join(f"{label}={','.join(values)}" for label, values in sorted(each.items())) for each in on)
    return ", or else ".join(filter(None, told))
