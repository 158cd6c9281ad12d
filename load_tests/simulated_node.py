"""A node that is none: it speaks the exchange as a runner does, and lets each attempt run for a given time.

Runs one or many of them on one connection; used by `pipeline.py` and by tests.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import Final

import msgspec

from events import messages as m
from events import subjects
from events.bus import AskRefused, Bus, BusError, Delivery

GIB: Final = 1024**3
_JSON: Final = msgspec.json.Encoder()
_DESIRED: Final = msgspec.json.Decoder(m.Desired)


class SimulatedNode:
    """One node. `duration_s` says how long an attempt takes, `gather_s` how long news wait for more news."""

    def __init__(
        self,
        bus: Bus,
        name: str,
        *,
        capacity: m.Capacity,
        duration_s: Callable[[m.Launch], float],
        heartbeat_s: float = 5.0,
        gather_s: float = 0.0,
        boot: str = "boot-1",
    ) -> None:
        self._bus = bus
        self.name = name
        self.boot = boot
        self._capacity = capacity
        self._duration_s = duration_s
        self._heartbeat_s = heartbeat_s
        self._gather_s = gather_s
        self.attempts: dict[m.AttemptRef, m.LiveAttempt] = {}
        self.launched: list[m.AttemptRef] = []
        """Every attempt that was ever started here, in order."""
        self.answered = 0
        """Exchanges that a leader answered."""
        self._ends: list[tuple[float, int, m.AttemptRef]] = []
        self._seen = (0, 0)
        """Term and revision of the newest list that was heard."""
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Exchange at once when something changed, and each heartbeat. Until cancelled."""
        subscription = await self._bus.listen(subjects.to_node(self.name), self._on_desired)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._end_attempts())
                while True:
                    await self._exchange()
                    try:
                        async with asyncio.timeout(self._heartbeat_s):
                            await self._news.wait()
                    except TimeoutError:
                        pass
                    await asyncio.sleep(self._gather_s)
        finally:
            await subscription.close()

    async def _exchange(self) -> None:
        self._news.clear()
        exchange = m.Exchange(
            node=self.name,
            boot=self.boot,
            runner="simulated",
            capacity=self._capacity,
            attempts=tuple(self.attempts.values()),
        )
        try:
            answer = await self._bus.ask(subjects.exchange(self.name), _JSON.encode(exchange))
        except (BusError, AskRefused):
            await asyncio.sleep(min(1.0, self._heartbeat_s))  # nobody leads just now
            self._news.set()
            return
        self.answered += 1
        self._obey(_DESIRED.decode(answer))

    def finish(self, ref: m.AttemptRef) -> None:
        """Let an attempt end by itself, now, if it still runs."""
        live = self.attempts.get(ref)
        if live is not None and live.state == "running":
            end = m.AttemptEnd(cause="exited", ended_at=time.time(), started_at=live.started_at, exit_code=0)
            self._end(ref, end)

    async def _on_desired(self, delivery: Delivery) -> None:
        self._obey(_DESIRED.decode(delivery.body))

    def _obey(self, desired: m.Desired) -> None:
        """Start what is missing, end what is extra, forget what is recorded."""
        if (desired.term, desired.revision) < self._seen:
            return
        self._seen = (desired.term, desired.revision)
        for ref in desired.recorded:
            self.attempts.pop(ref, None)
        wanted = set()
        for launch in desired.attempts:
            wanted.add(launch.ref)
            known = self.attempts.get(launch.ref)
            if known is None and launch.gang is not None:
                self._lay_out(launch.ref, launch.gang)
            elif known is None or (known.state == "ready" and launch.gang is not None and launch.gang.meeting):
                self._start(launch)
        for ref, live in self.attempts.items():
            if live.state != "ended" and ref not in wanted:
                self._end(ref, m.AttemptEnd(cause="stopped", ended_at=time.time(), signal=15))

    def _lay_out(self, ref: m.AttemptRef, gang: m.GangPart) -> None:
        """A part of a gang: it waits for the others."""
        offered = m.Meeting(address=self.name, port=20_000) if gang.rank == 0 else None
        self.attempts[ref] = m.LiveAttempt(ref=ref, state="ready", meeting=offered)
        self._news.set()

    def _start(self, launch: m.Launch) -> None:
        meeting = launch.gang.meeting if launch.gang is not None else None
        running = m.LiveAttempt(ref=launch.ref, state="running", started_at=time.time(), meeting=meeting)
        self.attempts[launch.ref] = running
        self.launched.append(launch.ref)
        at = asyncio.get_running_loop().time() + self._duration_s(launch)
        heapq.heappush(self._ends, (at, len(self.launched), launch.ref))
        self._news.set()

    def _end(self, ref: m.AttemptRef, end: m.AttemptEnd) -> None:
        live = self.attempts[ref]
        self.attempts[ref] = m.LiveAttempt(
            ref=ref, state="ended", started_at=live.started_at, end=end, meeting=live.meeting
        )
        self._news.set()

    async def _end_attempts(self) -> None:
        """Let attempts end when their time is over, in steps of some milliseconds, as a clock would."""
        loop = asyncio.get_running_loop()
        while True:
            while self._ends and self._ends[0][0] <= loop.time():
                self.finish(heapq.heappop(self._ends)[-1])
            await asyncio.sleep(max(0.005, min(0.05, self._ends[0][0] - loop.time())) if self._ends else 0.05)
