"""From a folder and a command to a Submit: capture, upload what the server lacks, fill in the request.

In steps, so that a command line can tell about each; `headrace.submit` takes them all at once.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from headrace import errors
from headrace.client import Client

if TYPE_CHECKING:
    from headrace.capture import Captured, Source

SOURCE_BYTES_MAX = 500 * 1024**2
"""Of a captured folder; the server's own default limit."""
TAKES_MAX = 3
"""Captures of a folder in which files change meanwhile, before it is an error."""
UPLOADERS = 6
ASKED_AT_ONCE = 1_000
"""Digests in one question about what is missing."""

_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([dhms])")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_JOB_ID = re.compile(r"j-[a-z2-7]{12}")
CONDITIONS = ("ok", "notok", "any")
"""How a job may have to end before another one starts."""


class Parts(NamedTuple):
    """What the capture adds to a request."""

    source: str = ""
    folder: str = ""
    environment: dict[str, Any] | None = None


class Wanted(NamedTuple):
    """What somebody says about the environment instead of leaving it to the capture."""

    python: str | None = None
    requirements: Path | None = None


class Sent(NamedTuple):
    """What an upload had to send."""

    blobs: int
    size_bytes: int


OnSent = Callable[[Sent, int], None]
"""Told after each blob: what has been sent, and how many bytes there are to send."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A Submit in the making: what a person says. Empty or None: the server's default."""

    entrypoint: tuple[str, ...]
    id: str = ""
    name: str = ""
    queue: str = ""
    tier: str = ""
    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    time_limit_s: float | None = None
    grace_s: float | None = None
    priority: int | None = None
    attempts_max: int | None = None
    hold: bool = False
    retries: int = 0
    after: tuple[dict[str, str], ...] = ()
    begin_at: float | None = None
    deadline_at: float | None = None
    preemptible: bool | None = None
    array: str = ""
    on: dict[str, tuple[str, ...]] = field(default_factory=dict)
    nodes: int | None = None
    kind: str = ""

    def request(self, parts: Parts) -> dict[str, Any]:
        """The message. It always has an id, so it may be sent again: the same job."""
        said = {
            "type": "submit",
            "entrypoint": list(self.entrypoint),
            "id": self.id or uuid.uuid4().hex,
            "name": self.name,
            "queue": self.queue,
            "tier": self.tier,
            "env": self.env,
            "source": parts.source,
            "folder": parts.folder,
            "environment": parts.environment,
            "time_limit_s": self.time_limit_s,
            "grace_s": self.grace_s,
            "priority": self.priority,
            "attempts_max": self.attempts_max,
            "hold": self.hold or None,
            "labels": self.labels,
            "retries": self.retries or None,
            "after": list(self.after),
            "begin_at": self.begin_at,
            "deadline_at": self.deadline_at,
            "preemptible": self.preemptible,
            "array": self.array,
            "on": {label: list(values) for label, values in self.on.items()},
            "nodes": self.nodes,
            "kind": self.kind,
        }
        return {key: value for key, value in said.items() if value not in ("", None, {}, [])}


def take_along(client: Client, folder: Path, *, cache: Path, on_sent: OnSent | None = None) -> tuple[Source, Sent]:
    """Captures the source around a folder and sends what the server lacks of it. Raises HeadraceError.

    An editor or a training run of one's own writes meanwhile: what changed after it was captured is captured again.
    """
    from headrace import capture

    takes = 1
    while True:
        source = capture_source(folder, cache=cache)
        try:
            return source, upload(client, source, on_sent)
        except capture.SourceChanged:
            if takes == TAKES_MAX:
                raise
            takes += 1


def capture_source(folder: Path, *, cache: Path) -> Source:
    """The source around a folder. Raises HeadraceError."""
    from headrace import capture

    try:
        return capture.source(folder, cache=cache, bytes_max=SOURCE_BYTES_MAX)
    except capture.CaptureError as error:
        raise errors.HeadraceError(str(error), error.hint) from error


def capture_environment(entrypoint: Sequence[str], folder: Path, wanted: Wanted, *, cache: Path) -> Captured:
    """The packages that an entrypoint needs. Raises HeadraceError."""
    from headrace import capture

    try:
        return capture.environment(
            entrypoint, folder, python=wanted.python or "", cache=cache, requirements=wanted.requirements
        )
    except capture.CaptureError as error:
        raise errors.HeadraceError(str(error), error.hint) from error


def upload(client: Client, source: Source, on_sent: OnSent | None = None) -> Sent:
    """Sends what the server lacks of a source; the manifest last, so that one that is there is whole.

    Raises SourceChanged if a file is not any more what was captured.
    """
    missing = [digest for part in _slices([*source.chunks, source.digest]) for digest in client.missing(part)]
    chunks = [digest for digest in missing if digest in source.chunks]
    total = sum(source.size_bytes(chunk) for chunk in chunks) + len(source.manifest) * (source.digest in missing)
    sent = Sent(0, 0)

    def send(chunk: str) -> int:
        content = source.read(chunk)
        client.put_blob(chunk, content)
        return len(content)

    with ThreadPoolExecutor(UPLOADERS, "upload") as pool:
        for size in pool.map(send, chunks):
            sent = Sent(sent.blobs + 1, sent.size_bytes + size)
            if on_sent:
                on_sent(sent, total)
    if source.digest in missing:
        client.put_blob(source.digest, source.manifest)
        sent = Sent(sent.blobs + 1, sent.size_bytes + len(source.manifest))
    return sent


def seconds(given: str | float | None, field_name: str) -> float | None:
    """A duration as people write it: `2h`, `1h30m`, `90` (seconds). Raises UsageError that names the field."""
    if given is None or isinstance(given, (int, float)):
        return given
    stripped = given.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", stripped):
        return float(stripped)
    if not stripped or _AMOUNT.sub("", stripped).strip():
        raise errors.UsageError(f"{field_name}: {given!r} is no duration", "write 90s, 45m, 2h or 1h30m")
    return sum(float(amount) * _UNITS[unit] for amount, unit in _AMOUNT.findall(stripped))


def moment(given: str | float | datetime | None, field_name: str, now: datetime) -> float | None:
    """A moment as people write it, in seconds since the epoch. Raises UsageError that names the field.

    `18:00` is the next one from `now` on; `2h` and `now+2h` count from there; else ISO 8601, in local time where it
    names no zone. A number is what it says.
    """
    if given is None or isinstance(given, (int, float)):
        return given
    if isinstance(given, datetime):
        return given.timestamp()
    text = given.strip()
    try:
        if clock := _CLOCK.fullmatch(text):
            hour, minute, second = (int(part or 0) for part in clock.groups())
            at = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
            return (at if at > now else at + timedelta(days=1)).timestamp()
        if text.startswith("now") or _AMOUNT.match(text):
            return now.timestamp() + (seconds(text.removeprefix("now").removeprefix("+") or "0", field_name) or 0.0)
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, errors.UsageError):
        hint = "write 18:00, 2h, now+2h or 2026-11-30T18:00"
        raise errors.UsageError(f"{field_name}: {given!r} is no time", hint) from None


def indices(given: str | Sequence[int] | None) -> str:
    """The indices of an array as a request has them."""
    if given is None or isinstance(given, str):
        return given or ""
    if isinstance(given, range) and len(given) > 1 and given.step > 0:
        return f"{given[0]}-{given[-1]}:{given.step}"
    return ",".join(map(str, given))


def constraint(given: Mapping[str, str | Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    """Labels of nodes with the values that will do; `"A100,H100"` stands for both."""
    return {
        label: tuple(value.strip() for value in (values.split(",") if isinstance(values, str) else values))
        for label, values in (given or {}).items()
    }


def dependencies(client: Client, given: Sequence[str]) -> tuple[dict[str, str], ...]:
    """Jobs to wait for, each as JOB or JOB:CONDITION, where a JOB is an id, the beginning of one, or a name.

    Raises HeadraceError where there is no such job.
    """
    return tuple(_dependency(client, each) for each in given)


def _dependency(client: Client, given: str) -> dict[str, str]:
    job, _, on = given.rpartition(":")
    if on not in CONDITIONS:
        job, on = given, "ok"
    return {"job": job if _JOB_ID.fullmatch(job) else str(client.job(job)["job"]), "on": on}


def _slices(digests: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(digests), ASKED_AT_ONCE):
        yield digests[begin : begin + ASKED_AT_ONCE]
