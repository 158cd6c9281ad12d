"""What a job that trains ships, without the job: its numbers and its output, as its node would send them.

A step a second of three values and one line, and each minute the four values that a machine says of itself. A minute of
a job is one message of each kind, as from a node that was cut off for so long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from events import subjects
from events.bus import Bus, BusError, Outgoing
from events.messages import AttemptRef
from runtime import otlp
from runtime.spool import Layout

NAMES: Final = ("loss", "accuracy", "learning_rate")
SYSTEM_NAMES: Final = ("cpu", "memory", "gpu", "power")
MINUTE: Final = 60
WINDOW: Final = 5
"""Minutes that are on their way at once."""
START_NS: Final = 1_700_000_000_000_000_000


class Training:
    """One attempt. `run` ships all of it and returns; what did not arrive is sent again, as a node would."""

    def __init__(self, bus: Bus, node: str, ref: AttemptRef, steps: int) -> None:
        self._bus = bus
        self._node = node
        self._ref = ref
        self._steps = steps
        self.points = 0
        self.lines = 0
        self.bytes = 0
        """Of output, so far."""

    async def run(self, may_go_on: asyncio.Event) -> None:
        """To the end; waits while `may_go_on` is not set."""
        minutes = [range(first, min(first + MINUTE, self._steps)) for first in range(0, self._steps, MINUTE)]
        for start in range(0, len(minutes), WINDOW):
            await may_go_on.wait()
            await self._send(
                [message for minute in minutes[start : start + WINDOW] for message in self._minute(minute)]
            )
        await self._send(
            [
                self._metrics("train", self._steps, 0, b"", end=True),
                self._metrics("system", len(minutes), 0, b"", end=True),
                self._logs("stdout", self.bytes, b"", end=True),
                self._logs("stderr", 0, b"", end=True),
            ]
        )

    def _minute(self, steps: range) -> list[Outgoing]:
        return [self._numbers(steps), self._output(steps), self._system(steps.start // MINUTE)]

    async def _send(self, messages: Sequence[Outgoing]) -> None:
        while messages:
            results = await self._bus.publish_many(messages)
            messages = [
                message for message, result in zip(messages, results, strict=True) if isinstance(result, BusError)
            ]

    def _numbers(self, steps: range) -> Outgoing:
        self.points += len(steps) * len(NAMES)
        return self._metrics("train", steps.start, len(steps), self._encoded(NAMES, steps, every_s=1))

    def _system(self, minute: int) -> Outgoing:
        self.points += len(SYSTEM_NAMES)
        body = self._encoded(SYSTEM_NAMES, range(minute, minute + 1), every_s=MINUTE)
        return self._metrics("system", minute, 1, body)

    def _encoded(self, names: tuple[str, ...], steps: range, *, every_s: int) -> bytes:
        layout = Layout(names=names, rank=0, start=0, size=0, slots=0)
        records = np.zeros(len(steps), layout.dtype)
        records["step"] = steps
        records["time"] = START_NS + records["step"] * (every_s * 1_000_000_000)
        records["values"] = 1 / (1 + records["step"][:, None] + np.arange(len(names)))
        return otlp.encoded(self._ref, layout, records)

    def _output(self, steps: range) -> Outgoing:
        text = "".join(f"step {step:6d}  loss {1 / (1 + step):.6f}  0.98 s/step\n" for step in steps).encode()
        offset = self.bytes
        self.lines += len(steps)
        self.bytes += len(text)
        return self._logs("stdout", offset, text)

    def _metrics(self, spool: str, first: int, count: int, body: bytes, *, end: bool = False) -> Outgoing:
        headers = {
            "hr-spool": f"{self._ref.job}/{self._ref.attempt}/{spool}.spool",
            "hr-first": str(first),
            "hr-count": str(count),
        }
        return Outgoing(subjects.metrics(self._node, self._ref.team, self._ref.job), body, headers | _end(end))

    def _logs(self, stream: str, offset: int, body: bytes, *, end: bool = False) -> Outgoing:
        subject = subjects.logs(self._node, self._ref.team, self._ref.job, self._ref.attempt, stream)
        return Outgoing(subject, body, {"hr-offset": str(offset)} | _end(end))


def _end(is_end: bool) -> dict[str, str]:
    return {"hr-end": "1"} if is_end else {}
