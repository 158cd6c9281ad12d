"""What every service shares: the tools it is handed, and how it says that it is ready.

A service is one coroutine, `serve(tools)`: it sets itself up, calls `tools.ready()`, and works until it is cancelled;
then it stops taking in, finishes what it holds and returns. `controlplane.main` runs one, several or all of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final, NamedTuple, TypeVar

from controlplane.config import Configuration
from events.blobs import Blobs
from events.bus import Bus, Refused, Unknown
from events.ledger import Ledger

T = TypeVar("T")
LOG: Final = logging.getLogger("headrace")
START_PAUSE_S: Final = 2.0
"""Between two tries of a step of the start."""


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
    """Every service makes sure of all streams, so that they may start in any order."""
    for stream in config.streams:
        await patiently(partial(bus.ensure, stream, replicas=config.replicas), f"stream {stream.name}")


async def patiently(step: Callable[[], Coroutine[None, None, T]], what: str) -> T:
    """Do a step of a service's start, again until the bus takes it: no leader, a full disk, nothing is for ever."""
    while True:
        try:
            return await step()
        except (Refused, Unknown) as error:
            LOG.warning("waits to start", extra={"for": what, "why": str(error)})
            await asyncio.sleep(START_PAUSE_S)


Serve = Callable[[Tools], Coroutine[None, None, None]]
