"""What every service shares: the tools it is handed, and how it says that it is ready.

A service is one coroutine, `serve(tools)`: it sets itself up, calls `tools.ready()`, and works until it is cancelled;
then it stops taking in, finishes what it holds and returns. `controlplane.main` runs one, several or all of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from typing import Final, NamedTuple

from controlplane.config import Configuration
from events.blobs import Blobs
from events.bus import Bus
from events.ledger import Ledger

LOG: Final = logging.getLogger("headrace")


class Clock:
    """Seconds since the epoch that never go back: what the shell hands to a core as `now`."""

    def __init__(self) -> None:
        self._last = 0.0

    def now(self) -> float:
        self._last = max(self._last, time.time())
        return self._last


class Tools(NamedTuple):
    """What a service works with. `instance` names this very process: two of a service at once are two instances."""

    config: Configuration
    bus: Bus
    ledger: Ledger
    blobs: Blobs
    clock: Clock
    instance: str
    ready: Callable[[], None]


async def ensure_streams(bus: Bus, config: Configuration) -> None:
    """Every service makes sure of all streams, so that they may start in any order. Raises Refused, Unknown."""
    for stream in config.streams:
        await bus.ensure(stream, replicas=config.replicas)


Serve = Callable[[Tools], Coroutine[None, None, None]]
