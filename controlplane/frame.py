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


SLEW_MAX: Final = 500e-6
"""How fast a clock follows a wall clock that was set: the most that Linux's own `adjtimex(2)` does."""


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Seconds since the epoch, in even steps: what the shell hands to a core as `now`.

    Leases are counted by it, so it never jumps: when the machine's wall clock is set, it follows slowly, 500 µs a
    second. `steady` counts a machine's sleep as well.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _since_boot) -> None:
        self._wall = wall
        self._steady = steady
        self._now, self._read_at = wall(), steady()

    def now(self) -> float:
        read_at = self._steady()
        passed = read_at - self._read_at
        self._now, self._read_at = self._now + passed, read_at
        behind = self._wall() - self._now
        self._now += max(-SLEW_MAX * passed, min(behind, SLEW_MAX * passed))
        return self._now


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
