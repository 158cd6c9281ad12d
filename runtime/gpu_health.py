"""The watch over a node's GPUs: what the leader is told of them, and what an attempt that failed is told of its own.

A thread waits for the driver's events, and looks at every GPU now and then. The thread is nobody's to wait for: a call
into a failing driver may hang, and costs only news.

Events are kept for as long as the runner lives; the ledger keeps them beyond (`controlplane.scheduling.gpu_faults`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from events.messages import GpuError, GpuFault, GpuHealth
from runtime import xids
from runtime.nvml import DOUBLE_BIT_ECC, Condition, Event, Nvml
from runtime.xids import Blame

LOG: Final = logging.getLogger("headrace.runner")

LOOK_S: Final = 30.0
"""Between two looks at all GPUs, if nothing happens."""
WAIT_S: Final = 0.25
"""For an event, before it is seen whether somebody wants a look."""
SETTLE_S_MAX: Final = 3.0
"""For what the driver has to say of an attempt that failed: it speaks before the program does, and we hear it later."""
ERRORS_MAX: Final = 256
"""Kept for attempts that have not ended yet."""
TOLD_MAX: Final = 16
"""Of one attempt."""


class GpuWatch:
    """`start` it once inside a running loop; without GPUs, or without NVIDIA's library, it stays silent."""

    def __init__(self, boot: str, changed: Callable[[], None]) -> None:
        self._boot = boot
        self._changed = changed
        self._events: dict[tuple[int, str], GpuFault] = {}
        self._standing: dict[tuple[int, str], GpuFault] | None = None
        """None: nobody has looked yet."""
        self._errors: deque[GpuError] = deque(maxlen=ERRORS_MAX)
        self._wanted: list[asyncio.Future[None]] = []
        self._is_wanted = threading.Event()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, gpus: int) -> None:
        if gpus:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._watch, args=(gpus,), name="gpus", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Does not wait for it."""
        self._is_over.set()

    # -- what the runner and attempts ask ------------------------------------------------------------------------------

    @property
    def health(self) -> GpuHealth | None:
        """None: nobody watches, or has looked yet."""
        if self._standing is None:
            return None
        return GpuHealth(faults=tuple(fault for _, fault in sorted((self._events | self._standing).items())))

    async def settled(self) -> None:
        """What the driver has to say by now was heard, or it takes too long."""
        if self._standing is None:
            return
        wanted: asyncio.Future[None] = self._loop.create_future()
        self._wanted.append(wanted)
        self._is_wanted.set()
        try:
            async with asyncio.timeout(SETTLE_S_MAX):
                await wanted
        except TimeoutError:
            LOG.warning("the driver of the GPUs does not answer")

    def errors(self, gpus: Iterable[int], since: float) -> tuple[GpuError, ...]:
        """What was reported of these since then, or is seen since, each once."""
        mine, found = set(gpus), dict[tuple[int, str], GpuError]()
        seen = [
            GpuError(gpu=fault.gpu, why=f"a fault ({fault.why})", at=fault.since_at, hardware=True)
            for fault in (self._standing or {}).values()
            if fault.ends
        ]
        for error in (*self._errors, *seen):
            if error.gpu in mine and error.at >= since:
                found.setdefault((error.gpu, error.why), error)
        return tuple(found.values())[:TOLD_MAX]

    # -- what the thread tells -----------------------------------------------------------------------------------------

    def on_event(self, event: Event, at: float) -> None:
        """The driver says that this happened."""
        blame = xids.meaning(event.xid).blame if event.xid else Blame.HARDWARE
        sign, why = (xids.sign(event.xid), xids.words(event.xid)) if event.xid else (DOUBLE_BIT_ECC, DOUBLE_BIT_ECC)
        LOG.warning("GPU %d: %s; blamed is %s", event.gpu, why, blame.value)
        self._errors.append(GpuError(gpu=event.gpu, why=why, at=at, hardware=blame is Blame.HARDWARE))
        if blame in (Blame.HARDWARE, Blame.WORN):
            fault = GpuFault(
                gpu=event.gpu, sign=sign, why=why, since_at=at, ends=blame is Blame.HARDWARE, boot=self._boot
            )
            self._events[event.gpu, sign] = fault
            self._changed()

    def on_look(self, conditions: Iterable[Condition], at: float) -> None:
        """All that is wrong now. What was wrong before has stood since then."""
        known = self._standing or {}
        standing = {}
        for gpu, sign, why, ends in conditions:
            since_at = known[gpu, sign].since_at if (gpu, sign) in known else at
            standing[gpu, sign] = GpuFault(
                gpu=gpu, sign=sign, why=why, since_at=since_at, stands=True, ends=ends, boot=self._boot
            )
        if standing != self._standing:
            self._standing = standing
            self._changed()

    def _on_settled(self, wanted: list[asyncio.Future[None]]) -> None:
        for future in wanted:
            if not future.done():
                future.set_result(None)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _watch(self, gpus: int) -> None:
        nvml = Nvml.open(gpus)
        if nvml is None:
            return
        look_at, is_clean = 0.0, True
        try:
            while not self._is_over.is_set():
                if not is_clean and time.monotonic() >= look_at:  # a GPU that was reset is another one to the library
                    nvml.close()
                    while (again := Nvml.open(gpus)) is None:
                        if self._is_over.wait(LOOK_S):
                            return
                    nvml, is_clean = again, True
                if self._is_wanted.is_set() or time.monotonic() >= look_at:
                    self._is_wanted.clear()
                    wanted, self._wanted = self._wanted, []
                    while (event := nvml.wait(0)) is not None:
                        self._tell(self.on_event, event, time.time())
                    conditions = nvml.look()
                    is_clean = not conditions
                    self._tell(self.on_look, conditions, time.time())
                    self._tell(self._on_settled, wanted)
                    look_at = time.monotonic() + LOOK_S
                if (event := nvml.wait(WAIT_S)) is not None:
                    self._tell(self.on_event, event, time.time())
                    look_at = 0.0
        except _LoopClosed:
            pass
        nvml.close()

    def _tell(self, what: Callable[..., None], *about: object) -> None:
        try:
            self._loop.call_soon_threadsafe(what, *about)
        except RuntimeError as error:
            raise _LoopClosed from error


class _LoopClosed(Exception):
    """Nobody is there to be told."""
