"""Forecasts for who asks: made by a process of their own, when somebody wants one, and kept for a while.

A forecast of a long queue takes seconds. Nobody waits for it longer than a moment: the newest that there is answers.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from typing import Final

import msgspec

from controlplane.scheduling.core import Core
from controlplane.scheduling.forecast import Forecast
from controlplane.scheduling.forecast_child import Task
from events.wire import UNREADABLE

LOG: Final = logging.getLogger("headrace.scheduling")

PYTHON: Final = sys.executable
FRESH_S: Final = 10.0
"""A forecast that is younger than this is as good as a new one."""
WAIT_S_MAX: Final = 2.0
"""The gateway does not wait for an answer much longer."""
STALE_S: Final = 300.0
"""One that is older than this says nothing any more."""
BUDGET_S: Final = 10.0
"""What the runs of one forecast may take, unless the first alone takes longer."""
CHILD_S_MAX: Final = 60.0
REST: Final = 2.0
"""After a forecast, so many times as long as it took nothing is forecast: at most a third of a core goes into it."""
WAITING_MAX: Final = 4_000
"""Jobs that a forecast is about, of each queue the first ones: to gather them takes some 25 µs each of the leader."""


class Forecaster:
    """Of one core. `run` does the work."""

    def __init__(self, core: Core, clock: Callable[[], float]) -> None:
        self._core = core
        self._clock = clock
        self._newest: Forecast | None = None
        self._wanted = asyncio.Event()
        self._made = asyncio.Event()
        """One has been made since it was waited for, or could not be made."""

    async def newest(self, wait_s: float | None) -> Forecast | None:
        """The newest forecast, and wish for another one if it is old; if there is none, it is waited for so long.
        `wait_s` None: nothing is wished for. None: there is none.
        """
        now, newest = self._clock(), self._usable()
        if wait_s is None:
            return newest
        if newest is None or now > newest.made_at + FRESH_S:
            self._wanted.set()
        if newest is None:
            self._made.clear()
            try:
                async with asyncio.timeout(min(max(0.0, wait_s), WAIT_S_MAX)):
                    await self._made.wait()
            except TimeoutError:
                return None
        return self._usable()

    def _usable(self) -> Forecast | None:
        newest = self._newest
        return newest if newest is not None and self._clock() <= newest.made_at + STALE_S else None

    async def run(self) -> None:
        """Forecast whenever somebody wants it."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            begun = loop.time()
            now = self._clock()
            content = self._core.excerpt(WAITING_MAX)
            task = Task(content, self._core.settings, now, self._core.sequence, BUDGET_S)
            self._newest = await _forecast(task) or self._newest
            self._made.set()
            self._wanted.clear()
            await asyncio.sleep(REST * (loop.time() - begun))


async def _forecast(task: Task) -> Forecast | None:
    """A forecast by a child of this process; None, and it is in the log: it could not be made."""
    command = (PYTHON, "-m", "controlplane.scheduling.forecast_child")
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    except OSError as error:  # no memory, too many processes: the scheduler goes on without forecasts
        LOG.warning("no forecast", extra={"why": str(error)})
        return None
    try:
        async with asyncio.timeout(CHILD_S_MAX):
            said, told = await process.communicate(msgspec.msgpack.encode(task))
        return msgspec.msgpack.decode(said, type=Forecast)
    except TimeoutError:
        LOG.warning("no forecast", extra={"why": f"it took longer than {CHILD_S_MAX:g} s"})
    except UNREADABLE:
        LOG.warning("no forecast", extra={"why": told.decode(errors="replace")[-500:]})
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return None
