"""Whether the ledger has room for new jobs.

The last tenth of it is kept for what is said about jobs that are there already, for leadership, and for the archive:
a ledger that new jobs had filled to the brim could not even take in what makes room in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from events.bus import Bus
from events.streams import LEDGER

SHARE_MAX: Final = 0.9
"""Of the ledger, that new jobs may fill."""
LOOK_S: Final = 1.0
"""How long an answer of the store is believed: in a second some MB can be written, which a reserve has to bear."""


class Room:
    """Asks the store at most once in a while."""

    def __init__(self, bus: Bus, now: Callable[[], float]) -> None:
        self._bus = bus
        self._now = now
        self._looked_at = 0.0
        self._share = 0.0

    async def is_short(self) -> bool:
        """Whether new jobs have to wait. Raises BusError."""
        if self._now() - self._looked_at >= LOOK_S:
            self._looked_at = self._now()
            used = await self._bus.usage(LEDGER.name)
            self._share = used.bytes / used.bytes_max if used.bytes_max > 0 else 0.0
        return self._share >= SHARE_MAX

    @property
    def percent(self) -> int:
        """How full the ledger was when somebody looked."""
        return round(100 * self._share)
