"""Sends windows of messages: pipelined, acknowledged, and again and again until they are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from events.bus import Bus, BusError, Outgoing

LOG: Final = logging.getLogger("headrace.shipping")

WINDOW_MESSAGES: Final = 8
"""In flight at once, of one attempt's output or of its metrics: 2 MiB or 7 MiB."""
LANES: Final = 4
"""Windows in flight at once from one node: what a node with many loud jobs holds in memory stays bounded."""
RETRY_S: Final = (0.1, 5.0)


class Source(Protocol):
    """What messages come from, in an order that must be kept."""

    def arrived(self, parcel: Parcel) -> None:
        """This one and all before it have arrived."""

    def rewind(self) -> None:
        """Something did not arrive: go on behind what did."""


class Parcel(NamedTuple):
    """A message, and what to do when it has arrived, or when it has not (and so nothing behind it counts)."""

    outgoing: Outgoing
    source: Source
    places: int
    records: int
    is_end: bool = False


class Line:
    """Sends windows of messages, and waits longer and longer while they do not arrive."""

    def __init__(self, bus: Bus, lanes: asyncio.Semaphore) -> None:
        self._bus = bus
        self._lanes = lanes
        self._retry_s = RETRY_S[0]

    async def send(self, window: Sequence[Parcel]) -> None:
        """Send a window; every source is told how far its messages have arrived. Pauses after a failure."""
        async with self._lanes:
            results = await self._bus.publish_many([parcel.outgoing for parcel in window])
        failed: dict[Source, BusError] = {}
        for parcel, result in zip(window, results, strict=True):
            if isinstance(result, BusError):
                failed.setdefault(parcel.source, result)
            elif parcel.source not in failed:
                parcel.source.arrived(parcel)
        for source in failed:
            source.rewind()
        if not failed:
            self._retry_s = RETRY_S[0]
            return
        error = next(iter(failed.values()))
        LOG.warning(
            "cannot ship, again in %.1f s: %s", self._retry_s, error, extra={"subject": window[0].outgoing.subject}
        )
        await asyncio.sleep(self._retry_s)
        self._retry_s = min(self._retry_s * 2, RETRY_S[1])
