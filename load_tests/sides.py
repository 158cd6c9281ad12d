"""Two schedulers of one node, each by the same few calls: what `load_tests.waits` asks of Headrace and of Slurm."""

from __future__ import annotations

import asyncio
import getpass
import itertools
import os
import time
from typing import Any, Final, Protocol

import msgspec

from events import messages as m
from events import subjects
from events.bus import Bus, BusError, Outgoing
from load_tests import slurm
from load_tests.stack import Stack, until

CPUS: Final = os.cpu_count() or 1
SHAPES: Final = {"small": 1, "half": CPUS // 2, "whole": CPUS}
"""CPUs of a job."""
CONFIG: Final = 'default_tier = "small"\n' + "".join(
    f'[[tiers]]\nname = "{name}"\nresources = {{cpus = {cpus}, memory_bytes = 50_000_000}}\n'
    for name, cpus in SHAPES.items()
)
"""Of Headrace's stack, so that it has these shapes."""
TAKEN_IN_S_MAX: Final = 600.0


class Side(Protocol):
    """A scheduler with one node, as a load test sees it."""

    def submit(self, command: list[str], *, shape: str, limit_s: int) -> str:
        """The job, once it is taken in."""

    def is_over(self, job: str) -> bool:
        """Whether it has ended and its CPUs are free again."""

    def is_running(self, job: str) -> bool: ...

    def cancel(self, job: str) -> None: ...

    def waiting(self) -> int:
        """How many jobs are queued."""


class Headrace:
    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._numbers = itertools.count()

    def submit(self, command: list[str], *, shape: str, limit_s: int) -> str:
        body = {"id": f"w{next(self._numbers)}", "tier": shape, "time_limit_s": limit_s, "entrypoint": command}
        return str(self._stack.patient("POST", "/v1/jobs", body)["job"])

    def publish(self, command: list[str], *, shape: str, limit_s: int, jobs: int) -> float:
        """Submit many over NATS, none of which waits for the one before; seconds until all are queued."""
        submit = m.Submit(entrypoint=tuple(command), tier=shape, time_limit_s=limit_s)
        begun, there = time.monotonic(), self.waiting() + jobs
        asyncio.run(self._publish([msgspec.structs.replace(submit, id=f"p{number}") for number in range(jobs)]))
        until(lambda: self.waiting() >= there, limit_s=TAKEN_IN_S_MAX, what="all that was published")
        return time.monotonic() - begun

    async def _publish(self, submits: list[m.Submit]) -> None:
        about = self._stack.about
        subject = subjects.submit("default", getpass.getuser())
        bus = await Bus.connect(about["nats"], user=about["nats_user"], password=about["nats_password"], name="waits")
        try:
            items = [Outgoing(subject, msgspec.json.encode(submit), {}) for submit in submits]
            for result in await bus.publish_many(items):
                if isinstance(result, BusError):
                    raise result
        finally:
            await bus.drain()

    def is_over(self, job: str) -> bool:
        return self._stack.job(job)["state"] in {"succeeded", "failed", "cancelled"}

    def is_running(self, job: str) -> bool:
        return bool(self._stack.job(job)["state"] == "running")

    def cancel(self, job: str) -> None:
        self._stack.patient("POST", f"/v1/jobs/{job}/cancel", {})

    def waiting(self) -> int:
        return int(self._queue().get("waiting", 0))

    def set_queue(self, **settings: Any) -> None:
        """Give the queue other settings, and see them in force."""
        queue = self._queue()
        self._stack.patient("PATCH", f"/v1/queues/{queue['team']}/{queue['queue']}", settings)
        until(lambda: settings.items() <= self._settings().items(), limit_s=30, what=f"{settings}")

    def _settings(self) -> dict[str, Any]:
        """All of the queue's, also those at their defaults."""
        view = msgspec.convert(self._queue(), m.QueueView)
        return msgspec.structs.asdict(view)

    def _queue(self) -> dict[str, Any]:
        (queue,) = self._stack.patient("GET", "/v1/queues")["queues"]
        return dict(queue)


class Slurm:
    def __init__(self, environ: dict[str, str]) -> None:
        """`environ`: of its commands, as `slurm.a_cluster` gives it."""
        self._environ = environ

    def submit(self, command: list[str], *, shape: str, limit_s: int) -> str:
        words = ("--parsable", "--output=/dev/null", f"--cpus-per-task={SHAPES[shape]}", f"--time={limit_s // 60}")
        return slurm.called(self._environ, "sbatch", *words, *command)

    def is_over(self, job: str) -> bool:
        return self._state(job) in {"COMPLETED", "FAILED", "CANCELLED"}

    def is_running(self, job: str) -> bool:
        return self._state(job) == "RUNNING"

    def cancel(self, job: str) -> None:
        slurm.called(self._environ, "scancel", job)

    def waiting(self) -> int:
        return len(slurm.called(self._environ, "squeue", "--noheader", "--states=PENDING", "--format=%i").split())

    def schedule_by(self, parameters: str) -> None:
        """Give its scheduler other parameters; empty: its defaults."""
        slurm.reconfigure(self._environ, parameters)

    def _state(self, job: str) -> str:
        return slurm.called(self._environ, "squeue", "--noheader", f"--jobs={job}", "--states=all", "--format=%T")
