"""One kind of objects, as it is: a list, then what happens after it, for ever.

As client-go's reflector does: a watch that ends goes on from the newest version that was seen, also after the server
was away; a new list is made only when the server keeps that version no more (410), has said nothing for too long, or
tells of something that is too large for an event, which would come again and again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from controlplane.pool.api import Api, ApiError, Event, Expired, Object, Silent, TooLarge, version_of

LOG: Final = logging.getLogger("headrace.pool")
SILENCE_S: Final = 150.0
"""Without even a bookmark; the server sends one each minute."""
WATCH_S: Final = 290
"""For so long the server keeps a watch: shorter than what most proxies end by themselves."""
PAUSE_S_MIN: Final = 0.5
PAUSE_S_MAX: Final = 30.0


class Sink(Protocol):
    """Who is told."""

    async def listed(self, items: list[Object]) -> None: ...

    def happened(self, event: Event) -> Awaitable[None] | None: ...

    def failing(self, why: str) -> None:
        """Why nothing can be seen; empty: it can again."""


class Watching:
    """`path` with its query, watched until cancelled."""

    def __init__(
        self,
        api: Api,
        path: str,
        query: Mapping[str, str],
        sink: Sink,
        draw: Callable[[], float],
        *,
        silence_s: float = SILENCE_S,
    ) -> None:
        """`draw` gives a random number between 0 and 1: how much longer a pause is, so that not all come at once."""
        self._api, self._path, self._query, self._sink, self._draw = api, path, query, sink, draw
        self._silence_s = silence_s
        self._version = ""
        self.lists = self.watches = self.events = 0

    async def run(self) -> None:
        pause_s = 0.0
        while True:
            try:
                if not self._version:
                    await self._list()
                pause_s = 0.0 if await self._watch() else PAUSE_S_MIN
                self._sink.failing("")
            except (Expired, Silent) as error:
                LOG.info("lists anew", extra={"path": self._path, "why": str(error)})
                self._version = ""
                pause_s = min(PAUSE_S_MAX, max(PAUSE_S_MIN, 2 * pause_s))
            except TooLarge as error:
                self._version = ""
                pause_s = self._failed(error, pause_s)
            except ApiError as error:
                pause_s = self._failed(error, pause_s)
            if pause_s:
                await asyncio.sleep(pause_s * (1 + self._draw()))

    def _failed(self, error: ApiError, pause_s: float) -> float:
        LOG.warning("cannot be seen", extra={"path": self._path, "why": str(error)})
        self._sink.failing(str(error))
        return min(PAUSE_S_MAX, max(PAUSE_S_MIN, 2 * pause_s))

    async def _list(self) -> None:
        self.lists += 1
        listed = await self._api.list(self._path, self._query)
        await self._sink.listed(listed.items)
        self._version = listed.version
        self._sink.failing("")

    async def _watch(self) -> bool:
        """Until the server ends it. Gives whether anything came."""
        self.watches += 1
        came = False
        query = {**self._query, "timeoutSeconds": str(WATCH_S)}
        async for event in self._api.watch(self._path, self._version, query, silence_s=self._silence_s):
            if event.type == "OPENED":
                self._sink.failing("")
                continue
            came = True
            if event.type != "BOOKMARK":
                self.events += 1
                waits = self._sink.happened(event)
                if waits is not None:
                    await waits
            self._version = version_of(event.object) or self._version
        return came
