"""Too much of everything, one thing after another: `python -m load_tests.overload --submits 50000`.

A burst of submits, clients that never read or never ask, a consumer that hangs, DEAD, LOGS and LEDGER at their limits.
Each refusal must be an answer with a time to come back, each acknowledged submit must become one job, and all must be
well afterwards. The resident memory of each service is read after every step.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import time
import urllib.error
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from events import streams, subjects
from events.bus import Bus, Outgoing
from load_tests.stack import Stack, report, rss_mib, running

TEAM: Final = "default"
USER: Final = "flood"
LIMIT_S: Final = 900.0
SMALL_BYTES: Final = 4 * 1024**2
CONFIG: Final = f"dead_bytes_max = {SMALL_BYTES}\nlogs_bytes_max = {SMALL_BYTES}\n"
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

    async def submit(self, client_id: str = "") -> tuple[int, float]:
        """One submit over HTTP: status, and when to come back (0: not said)."""
        body = HELD | ({"id": client_id} if client_id else {})
        try:
            await asyncio.to_thread(self.stack.call, "POST", "/v1/jobs", body, timeout_s=30)
        except urllib.error.HTTPError as error:
            return error.code, float(error.headers.get("retry-after") or 0)
        self.acknowledged += 1
        return 201, 0.0

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

    def stopped(self, service: str) -> Callable[[], None]:
        """SIGSTOP a service; gives what wakes it."""
        pid = self.stack.children()[service]
        os.kill(pid, signal.SIGSTOP)
        return lambda: os.kill(pid, signal.SIGCONT)


async def burst(world: Overload, submits: int) -> None:
    began = time.monotonic()
    await world.publish(submits)
    world.figures["publish_s"] = round(time.monotonic() - began, 1)
    await world.all_there("after the burst")
    world.figures["burst_s"] = round(time.monotonic() - began, 1)


async def silent_clients(world: Overload, clients: int) -> None:
    """Half of them say nothing, half ask for a stream of events and never read it."""
    host, port = world.stack.about["url"].removeprefix("http://").split(":")
    job = (await world.call("GET", "/v1/jobs?limit=1"))["jobs"][0]["job"]
    head = (
        f"GET /v1/jobs/{job}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {world.stack.about['token']}\r\n\r\n"
    )
    sockets = [socket.create_connection((host, int(port))) for _ in range(clients)]
    try:
        for each in sockets[::2]:
            each.sendall(head.encode())
        began = time.monotonic()
        status, _ = await world.submit()
        world.figures["submit_beside_silent_s"] = round(time.monotonic() - began, 2)
        world.must(status == 201, f"a submit beside silent clients: {status}")
        world.look("silent clients")
    finally:
        for each in sockets:
            each.close()


async def hanging_consumer(world: Overload, submits: int) -> None:
    wake = world.stopped("submission")
    try:
        status, retry_after_s = await world.submit("in doubt")
        world.must(status == 503 and retry_after_s > 0, f"nobody takes submits: {status}, come back in {retry_after_s}")
        await world.publish(submits)
    finally:
        wake()

    async def taken() -> bool:  # the questions of before may have been answered by now, to nobody
        status, _ = await world.submit("in doubt")
        return status == 201

    await reached(taken, limit_s=60, what="an answer after the consumer hung")
    await world.all_there("after the consumer hung")


async def full_dead(world: Overload, letters: int) -> None:
    poison = Outgoing("hr.v1.submit.default.a=zz", b"x" * 20_000, {})
    await world.bus.publish_many([poison] * letters)
    limit_s = 120.0

    async def is_full() -> bool:
        return (await world.bus.usage("DEAD")).bytes > SMALL_BYTES * 0.9

    await reached(is_full, limit_s=limit_s, what="a full DEAD")
    status, _ = await world.submit()
    world.must(status == 201, f"a submit beside a full DEAD: {status}")
    await world.publish(100)
    await world.all_there("beside a full DEAD")
    dropped = 0
    end = time.monotonic() + limit_s
    while dropped < letters and time.monotonic() < end:
        page = await world.call("GET", "/v1/admin/dead?limit=500")
        for letter in page["letters"]:
            await world.call("DELETE", f"/v1/admin/dead/{letter['sequence']}")
        dropped += len(page["letters"])
        await asyncio.sleep(0 if page["letters"] else 1)
    world.must(dropped == letters, f"{letters} poison messages, {dropped} letters")


async def full_logs(world: Overload, mebibytes: int) -> None:
    wake = world.stopped("monitoring")
    subject = subjects.logs("n1", TEAM, "j-flooded", 1, "stdout")
    size = 256 * 1024
    try:
        chunks = [Outgoing(subject, bytes(size), {"hr-offset": str(n * size)}) for n in range(mebibytes * 4)]
        results = await world.bus.publish_many(chunks)
        world.must(all(isinstance(result, int) for result in results), "LOGS refused output")
        world.must((await world.bus.usage("LOGS")).bytes <= SMALL_BYTES, "LOGS is over its limit")
    finally:
        wake()

    async def caught_up() -> bool:
        said = (await world.call("GET", "/v1/status"))["services"]["monitoring"]
        return bool(said.get("answers")) and said["places"]["LOGS"]["read"] == said["places"]["LOGS"]["last"]

    await reached(caught_up, limit_s=120, what="monitoring after a full LOGS")


async def full_ledger(world: Overload) -> None:
    used = await world.bus.usage("LEDGER")
    await world.bus.ensure(msgspec.structs.replace(streams.LEDGER, bytes_max=int(used.bytes / 0.95)))
    await asyncio.sleep(1.5)  # what the door knows of the ledger is a second old
    status, retry_after_s = await world.submit()
    world.must(status == 503 and retry_after_s >= 10, f"a full LEDGER: {status}, come back in {retry_after_s}")
    await world.publish(100)
    await world.bus.ensure(streams.LEDGER)
    await world.all_there("after LEDGER had room again")


async def reached(holds: Callable[[], Awaitable[bool]], *, limit_s: float, what: str) -> None:
    """Wait for something that nothing announces. Raises TimeoutError that says what."""
    end = time.monotonic() + limit_s
    while not await holds():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come in {limit_s:.0f} s")
        await asyncio.sleep(0.2)


async def _connect(stack: Stack) -> Bus:
    about = stack.about
    return await Bus.connect(about["nats"], user=about["nats_user"], password=about["nats_password"], name="overload")


async def run(stack: Stack, submits: int) -> Overload:
    """All steps, each with its judgement."""
    bus = await _connect(stack)
    world = Overload(stack, bus)
    world.look("before")
    small = max(20, submits // 50)
    steps = (
        ("burst", burst(world, submits)),
        ("silent clients", silent_clients(world, min(1000, small))),
        ("hanging consumer", hanging_consumer(world, small)),
        ("full DEAD", full_dead(world, 400)),
        ("full LOGS", full_logs(world, 40)),
        ("full LEDGER", full_ledger(world)),
    )
    try:
        for name, step in steps:
            began = time.monotonic()
            await step
            world.figures[f"{name}_s"] = round(time.monotonic() - began, 1)
            world.look(name)
    finally:
        await bus.drain()
    return world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--submits", type=int, default=50_000)
    options = parser.parse_args()
    with running("--split", config=CONFIG) as stack:
        world = asyncio.run(run(stack, options.submits))
    memory = {
        name: {"before": round(seen[0]), "peak": round(max(seen)), "after": round(seen[-1])}
        for name, seen in world.memory.items()
    }
    figures = {"submits": options.submits, "acknowledged": world.acknowledged, **world.figures, "rss_mib": memory}
    report("overload", figures | {"violations": len(world.violations)}, {})
    raise SystemExit(1 if world.violations else 0)


if __name__ == "__main__":
    main()
