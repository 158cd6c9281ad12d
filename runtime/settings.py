"""What a runner is told when it starts: one JSON file, or the same fields from the Ray actor."""

from __future__ import annotations

from pathlib import Path

import msgspec

from events import uids
from events.wire import UNREADABLE
from runtime.exit_record import OUTPUT_BYTES_MAX


class SettingsError(Exception):
    """The settings cannot be used; the message names the file and the field."""


class RunnerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One runner. What is None is found out on the node."""

    node: str
    folder: str
    nats_url: str
    nats_user: str = ""
    nats_password: str = ""
    blobs_url: str
    otlp_url: str = ""
    otlp_secret: str = ""
    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    """A declared number is believed: GPUs may be fake."""
    gpu_model: str = ""
    platform: str = ""
    pythons: tuple[str, ...] = ()
    """Full versions; empty: what uv finds, which takes about a second."""
    labels: dict[str, str] = {}
    address: str = ""
    """At which other nodes reach this one. Empty: the one from which it reaches NATS."""
    lease_s: float = 900.0
    """0: attempts go on however long the node is cut off."""
    output_bytes_max: int = OUTPUT_BYTES_MAX
    """Kept of each stream of an attempt."""
    attempt_uids: str = ""
    """Users that attempts run as, each as one of its own: `200000-265535`. Empty: as the runner."""


def checked(settings: RunnerSettings) -> RunnerSettings:
    """The same, if they can be used. Raises SettingsError."""
    try:
        uids.parse(settings.attempt_uids)
    except uids.BadRange as error:
        raise SettingsError(f"attempt_uids: {error}") from error
    return settings


def load(file: Path) -> RunnerSettings:
    """The settings in a file. Raises SettingsError."""
    try:
        return checked(msgspec.json.decode(file.read_bytes(), type=RunnerSettings))
    except (OSError, SettingsError, *UNREADABLE) as error:
        raise SettingsError(f"{file}: {error}") from error
