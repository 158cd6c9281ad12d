"""The stack that is flooded, and what was acknowledged by it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.error
from collections.abc import Awaitable, Callable
from typing import Any, Final

from events import subjects
from events.bus import Bus, Outgoing
from load_tests.stack import Stack, rss_mib

TEAM: Final = "default"
USER: Final = "flood"
LIMIT_S: Final = 900.0
SERVICES: Final = ("submission", "environments", "scheduling", "monitoring", "gateway", "nats")
HELD: Final = {"entrypoint": ["true"], "hold": True}


class Overload:
    """One stack, its bus, and what was acknowledged so far."""

    def __init__(self, stack: Stack, bus: Bus) -> None:
        self.stack = stack
        self.bus = bus
        self.acknowledged = 0
        self.figures: dict[str, Any] = {}
        self.violations: list[str] = []
        self.memory: dict[str, list[float]] = {name: [] for name in SERVICES}

    def must(self, holds: bool, what: str) -> None:
        if not holds:
            self.violations.append(what)
            print("VIOLATION", what, flush=True)

    def must_say_when(self, told: tuple[int, float], what: str, *, least_s: float = 1.0) -> None:
        """It must have been refused, with a time to come back."""
        status, retry_after_s = told
        self.must(status == 503 and retry_after_s >= least_s, f"{what}: {status}, come back in {retry_after_s}")

    def look(self, step: str) -> None:
        """Note the memory of every service."""
        pids = self.stack.children()
        for name, seen in self.memory.items():
            seen.append(rss_mib(pids[name]))
        now = {name: round(seen[-1]) for name, seen in self.memory.items()}
        print(f"{step:22} MiB: {now}", flush=True)

    async def publish(self, count: int) -> None:
        """Submits over NATS; the store's acknowledgement is what counts."""
        body = json.dumps(HELD).encode()
        items = [Outgoing(subjects.submit(TEAM, USER), body, {"ce-id": f"{time.monotonic_ns()}"}) for _ in range(count)]
        results = await self.bus.publish_many(items)
        self.acknowledged += sum(isinstance(result, int) for result in results)

    async def submit(self, client_id: str = "", **fields: Any) -> tuple[int, float]:
        """One submit over HTTP: status, and when to come back (0: not said)."""
        told = await self.tried("POST", "/v1/jobs", HELD | fields | ({"id": client_id} if client_id else {}))
        self.acknowledged += told[0] == 201
        return told

    async def tried(self, method: str, path: str, body: object = None) -> tuple[int, float]:
        """A call that may be refused: status, and when to come back (0: not said)."""
        try:
            await asyncio.to_thread(self.stack.call, method, path, body, timeout_s=60)
        except urllib.error.HTTPError as error:
            return error.code, float(error.headers.get("retry-after") or 0)
        return 201 if method == "POST" else 200, 0.0

    async def all_there(self, what: str) -> None:
        """Every acknowledged submit is a job, and exactly one."""

        async def are_there() -> bool:
            return await self.jobs() >= self.acknowledged

        await reached(are_there, limit_s=LIMIT_S, what=f"all jobs {what}")
        found = await self.jobs()
        self.must(found == self.acknowledged, f"{what}: {self.acknowledged} acknowledged, {found} jobs")

    async def call(self, method: str, path: str) -> Any:
        return await asyncio.to_thread(self.stack.patient, method, path, limit_s=LIMIT_S)

    async def jobs(self) -> int:
        return sum((await self.call("GET", "/v1/status"))["jobs"].values())

    async def monitoring(self) -> dict[str, Any]:
        """What monitoring says of itself."""
        said: dict[str, Any] = (await self.call("GET", "/v1/status"))["services"]["monitoring"]
        return said

    def stopped(self, service: str) -> Callable[[], None]:
        """SIGSTOP a service; gives what wakes it."""
        return stopped(self.stack.children()[service])


def stopped(pid: int) -> Callable[[], None]:
    """SIGSTOP a process; gives what wakes it."""
    os.kill(pid, signal.SIGSTOP)
    return lambda: os.kill(pid, signal.SIGCONT)


async def reached(holds: Callable[[], Awaitable[bool]], *, limit_s: float, what: str) -> None:
    """Wait for something that nothing announces. Raises TimeoutError that says what."""
    end = time.monotonic() + limit_s
    while not await holds():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come in {limit_s:.0f} s")
        await asyncio.sleep(0.2)


async def connect(stack: Stack) -> Bus:
    about = stack.about
    return await Bus.connect(about["nats"], user=about["nats_user"], password=about["nats_password"], name="overload")
