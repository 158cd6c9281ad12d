"""Ships what an attempt writes: output to LOGS, records of spools to METRICS. On the node, never in the job.

Everything is sent until it is acknowledged, pipelined, in order within a stream, with its place (the offset of output,
the index of records), so that what is sent twice counts once. While NATS is away nothing is lost and nothing grows but
the files on disk: the shipper just lags.

Files are looked at again and again, because what writes them (the supervisor, the job's own processes) knows nothing of
this process, which may be restarted at any time. The pace follows the silence: an attempt that has been silent for n
seconds is looked at after n/10 more, so a line is late by a tenth of the silence before it, by a second at most.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Final

from events import ranks
from events.bus import Bus
from events.messages import AttemptRef, Launch
from runtime.shipping.line import LANES, WINDOW_MESSAGES, Line
from runtime.shipping.output import STREAMS, Output
from runtime.shipping.positions import Shipped
from runtime.shipping.spools import Spools
from runtime.spool import SETTLE_S

LOG: Final = logging.getLogger("headrace.shipping")

LOOK_S: Final = (0.05, 1.0)
"""Shortest and longest pause between two looks at the output."""
SILENCE_SHARE: Final = 0.1
METRICS_S: Final = 1.0
METRICS_FIRST_S: Final = 0.2
"""Until the first records were shipped: the first point of a curve is what somebody is waiting for."""
SAVE_S: Final = 1.0


class Shipping:
    """What ships all attempts of one node."""

    def __init__(self, bus: Bus, node: str) -> None:
        self._bus = bus
        self._node = node
        self._lanes = asyncio.Semaphore(LANES)

    async def ship(self, launch: Launch, folder: Path, over: asyncio.Event) -> None:
        """Ship what the attempt in `folder` writes, until `over` is set and all has arrived."""
        shipper = Shipper(
            bus=self._bus,
            node=self._node,
            ref=launch.ref,
            folder=folder,
            spool=folder / "spool",
            lanes=self._lanes,
            rank=ranks.of(launch),
        )
        await shipper.run(over)


class Shipper:
    """What ships one attempt. `run` it once; a restarted runner makes another one, which goes on where this one was."""

    def __init__(
        self,
        *,
        bus: Bus,
        node: str,
        ref: AttemptRef,
        folder: Path,
        spool: Path,
        lanes: asyncio.Semaphore | None = None,
        rank: int = 0,
    ) -> None:
        """`folder` holds `stdout` and `stderr`, `spool` the spools. `lanes` is shared by all shippers of a node."""
        self._folder = folder
        self._shipped = Shipped.load(folder)
        self._saved_at = 0.0
        lanes = lanes or asyncio.Semaphore(LANES)
        self._outputs = [Output(node, ref, name, folder, self._shipped, rank=rank) for name in STREAMS]
        self._output_line = Line(bus, lanes)
        self._metrics_line = Line(bus, lanes)
        self._spools = Spools(node, ref, spool, self._shipped, rank=rank)

    async def run(self, ended: asyncio.Event) -> None:
        """Ship until `ended` is set (nothing of the attempt lives any more) and all has arrived. Raises nothing."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ship_output(ended))
            group.create_task(self._ship_metrics(ended))
        self._save(at_once=True)

    async def _ship_output(self, ended: asyncio.Event) -> None:
        moved_at = time.monotonic()
        while True:
            over = ended.is_set()  # asked before looking: what was written by then is seen
            window = [chunk for output in self._outputs for chunk in output.chunks(WINDOW_MESSAGES // 2)]
            if window:
                moved_at = time.monotonic()
                await self._output_line.send(window)
                self._save()
            elif over:
                break
            else:
                silent_s = time.monotonic() - moved_at
                await _wait(ended, min(max(silent_s * SILENCE_SHARE, LOOK_S[0]), LOOK_S[1]))
        while window := [output.end() for output in self._outputs if not output.position.ended]:
            await self._output_line.send(window)

    async def _ship_metrics(self, ended: asyncio.Event) -> None:
        while True:
            over = ended.is_set()
            found = self._spools.look(over=over)
            if found:
                await asyncio.sleep(2 * SETTLE_S)
                while window := self._spools.batches(WINDOW_MESSAGES):
                    await self._metrics_line.send(window)
                self._save()
            elif over:
                break
            if not over:
                await _wait(ended, METRICS_S if self._spools.any_shipped else METRICS_FIRST_S)
        while window := self._spools.ends(WINDOW_MESSAGES):
            await self._metrics_line.send(window)

    def _save(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and now - self._saved_at < SAVE_S:
            return
        self._saved_at = now
        try:
            self._shipped.save(self._folder)
        except OSError as error:  # then a restart sends more again than it would have to
            LOG.warning("cannot keep positions in %s: %s", self._folder, error)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
