"""The file of hosts: machines that join by `ray start`, and what their operator says of each.

    [[hosts]]
    name = "gpu-1"

    [[hosts]]
    name = "gpu-2"
    cordon = "new disks on Friday"        # no new jobs; what runs there runs on

    [[hosts]]
    name = "gpu-3"
    drain = "goes back to the vendor"     # no new jobs; what runs there gets its grace, and waits again

Read again and again, so that a change takes effect by itself.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

import msgspec

FILE_BYTES_MAX: Final = 64 * 1024**2


class HostsError(Exception):
    """The file cannot be used. The message names file, field and what would be right."""


class Host(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine of ours. `cordon`, `drain`: why; empty: it is not."""

    name: str
    """As its Ray is told: `ray start --labels hr.node=<name>`."""
    cordon: str = ""
    drain: str = ""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    hosts: tuple[Host, ...] = ()


def read(file: Path) -> dict[str, Host]:
    """Every host by its name. Raises HostsError."""
    try:
        with file.open("rb") as opened:
            return parse(opened.read(FILE_BYTES_MAX).decode())
    except OSError as error:
        raise HostsError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise HostsError(f"{file}: is not UTF-8") from error
    except HostsError as error:
        raise HostsError(f"{file}: {error}") from error


def parse(text: str) -> dict[str, Host]:
    """Every host by its name. Raises HostsError."""
    try:
        found = msgspec.convert(tomllib.loads(text), _File).hosts
    except tomllib.TOMLDecodeError as error:
        raise HostsError(f"cannot be read: {error}") from error
    except msgspec.ValidationError as error:
        raise HostsError(f'{error}: each machine is [[hosts]] with name = "…", and cordon or drain = "why"') from error
    if not found:
        raise HostsError('names no host: each machine is [[hosts]] with name = "…"')
    hosts: dict[str, Host] = {}
    for number, host in enumerate(found):
        if not host.name.strip():
            raise HostsError(f"hosts[{number}].name: must be what its Ray is told by --labels hr.node=<name>")
        if host.name in hosts:
            raise HostsError(f"hosts[{number}].name: {host.name} is there twice")
        if host.cordon and host.drain:
            raise HostsError(f"hosts[{number}]: {host.name} is either cordoned or drained: drain says both")
        hosts[host.name] = host
    return hosts
