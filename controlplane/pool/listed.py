"""What the scheduler should hear of machines that an operator lists in a file (`controlplane.hosts`). Pure.

They join by `ray start`, and no one makes them join: one that is listed and is not there is a problem for a person. One
that is there and not listed is as one that has lost its label on Kubernetes: it gets no jobs. Which machine is gone for
good no list can say: its lease decides, or an operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from controlplane.hosts import Host
from controlplane.pool.standing import Say, Standing, Wanted, change

BY: Final = "hosts-file"
"""As whom we speak to the scheduler."""
UNLISTED: Final = Wanted(cordon="it is not in the file of hosts")


class Listed:
    """The newest list that could be read, and what the scheduler said last."""

    def __init__(self) -> None:
        self._hosts: Mapping[str, Host] | None = None
        self._standing: Mapping[str, Standing] | None = None

    def on_hosts(self, hosts: Mapping[str, Host]) -> None:
        self._hosts = hosts

    def on_standing(self, standing: Mapping[str, Standing]) -> None:
        self._standing = standing

    def decide(self) -> tuple[Say, ...]:
        """What to say now; nothing that was heard already."""
        return tuple(self._say()) if self._hosts is not None else ()

    def _say(self) -> Iterator[Say]:
        for name, standing in (self._standing or {}).items():
            host = (self._hosts or {}).get(name)
            wanted = UNLISTED if host is None else Wanted(drain=host.drain, cordon=host.cordon)
            if standing.state != "gone" and (said := change(wanted, standing, by=BY)) is not None:
                yield Say(name, said)

    @property
    def problems(self) -> dict[str, str]:
        """Of machines, by name, for a person."""
        if self._hosts is None or self._standing is None:
            return {}
        there = {name for name, standing in self._standing.items() if standing.state != "gone"}
        missing = (name for name in self._hosts if name not in there)
        return {name: f"has not joined: there, ray start --address=… --labels hr.node={name}" for name in missing}

    @property
    def machines(self) -> int:
        """How many are listed."""
        return len(self._hosts or ())
