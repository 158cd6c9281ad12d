"""The shell of a pool of listed hosts: read the file, ask the scheduler, say what it has not heard, look again.

It writes nothing but what it says, and says the same whenever it looks, so that several of it do no harm.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, Final

import msgspec

from controlplane import hosts
from controlplane.frame import Tools
from controlplane.hosts import HostsError
from controlplane.pool import scheduler
from controlplane.pool.listed import BY, Listed
from controlplane.pool.scheduler import LOOK_S, PROBLEMS_MAX, Unheard
from events import subjects
from events.bus import Asked

LOG: Final = logging.getLogger("headrace.pool")


async def serve(tools: Tools) -> None:
    """Keep the scheduler's word about nodes to what the file says, until cancelled."""
    pool = StaticPool(tools)
    door = await tools.bus.answer(subjects.ask("pool", "status"), pool.answer_status)
    try:
        tools.ready()
        while True:
            await pool.look()
            await asyncio.sleep(LOOK_S)
    finally:
        await door.close()


class StaticPool:
    """One process of the pool."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._file = Path(tools.config.hosts_file)
        self._core = Listed()
        self._failing: dict[str, str] = {}
        self._said = 0

    async def look(self) -> None:
        """Once. A file that cannot be read leaves in force what it said before."""
        before, self._failing = self._failing, {}
        try:
            self._core.on_hosts(await asyncio.to_thread(hosts.read, self._file))
        except HostsError as error:
            self._failing["hosts"] = str(error)
        try:
            self._core.on_standing(await scheduler.standing(self._tools.bus))
            for say in self._core.decide():
                if why_not := await scheduler.tell(self._tools.bus, say, by=BY):
                    self._failing[f"node {say.node}"] = why_not
                self._said += 1
        except Unheard as error:
            self._failing["scheduling"] = str(error)
        for about, why in self._failing.items() - before.items():
            LOG.warning("was not done", extra={"about": about, "why": why})

    async def answer_status(self, _: Asked) -> bytes:
        problems = self._core.problems | self._failing
        status: dict[str, Any] = {"machines": self._core.machines, "said": self._said}
        return msgspec.json.encode(status | {"problems": dict(sorted(problems.items())[:PROBLEMS_MAX])})
