"""The process that forecasts, so that the scheduler's loop never waits: a `Task` on stdin, a `Forecast` on stdout.

Runs of the simulation are made as long as there is time for them, and one at least.
"""

from __future__ import annotations

import os
import random
import sys
import time
from typing import Final

import msgspec

from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.forecast import gathered, starts

RUNS_MAX: Final = 7
NICE: Final = 15


class Task(msgspec.Struct, array_like=True):
    content: bytes
    settings: Settings
    now: float
    seed: int
    budget_s: float


def main() -> None:
    os.nice(NICE)
    task = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Task)
    begun, runs = time.monotonic(), []
    for number in range(RUNS_MAX):
        runs.append(starts(task.content, task.settings, task.now, random.Random(f"{task.seed} {number}")))
        each_s = (time.monotonic() - begun) / len(runs)
        if time.monotonic() - begun + each_s > task.budget_s:
            break
    sys.stdout.buffer.write(msgspec.msgpack.encode(gathered(task.now, runs)))


if __name__ == "__main__":
    main()
