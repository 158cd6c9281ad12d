"""The scheduler's service with very much waiting, and how long nobody decides when its leader is killed:
`python -m load_tests.scheduler_service --waiting 100000`.

NATS with `sync_interval: always`, submission, and two schedulers, each a process of its own; only the nodes are
simulated (as in `load_tests.pipeline`, which measures how many jobs a second go through). All jobs are submitted first;
a few machines keep working on them. Then the leader gets SIGKILL. Times are the ledger's own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from events import messages as m
from events.bus import Bus, CaughtUp
from events.ledger import Ledger
from load_tests.pipeline import USER, WINDOW, a_process, a_server, environment, publish, until_status
from load_tests.stack import report, rss_mib

DECIDES_S_MAX: Final = 120.0
GOAL_S: Final = 5.0


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start everything, fill the queue, kill the leader, and wait for the next one."""
    password = os.urandom(8).hex()
    with contextlib.ExitStack() as stack:
        nats_url = stack.enter_context(a_server(folder, password))
        environ = environment(nats_url, password)

        def a_service(name: str) -> int:
            return stack.enter_context(
                a_process(["-m", "controlplane", name, "--state", str(folder), "--log-level", "warning"], environ)
            )

        a_service("submission")
        leader = a_service("scheduling")
        bus = await Bus.connect(nats_url, user=USER, password=password, name="scheduler_service")
        try:
            await until_status(bus, "submission", lambda _: True)
            await until_status(bus, "scheduling", lambda status: status["term"] > 0)
            nodes = ["-m", "load_tests.pipeline", "--be-the-nodes", "--nodes", str(options.nodes)]
            nodes += ["--slots", str(options.slots), "--duration-s", str(options.duration_s)]
            stack.enter_context(a_process(nodes, environ))
            began = time.monotonic()
            for first in range(0, options.waiting, WINDOW):
                await publish(bus, range(first, min(first + WINDOW, options.waiting)))
            there = options.waiting
            await until_status(bus, "scheduling", lambda status: status["jobs"] + status["ended"] >= there)
            filled_s = time.monotonic() - began
            follower = a_service("scheduling")
            await asyncio.sleep(options.settle_s)  # a follower reads the ledger long before it is needed
            return {
                "waiting": (await until_status(bus, "scheduling", lambda _: True))["waiting"],
                "taken_in_per_s": round(options.waiting / filled_s),
                "leader_mib": round(rss_mib(leader)),
                "follower_mib": round(rss_mib(follower)),
                **await takeover(bus, leader),
            }
        finally:
            await bus.drain()


async def takeover(bus: Bus, leader: int) -> dict[str, Any]:
    """Seconds from SIGKILL until another one leads, and until its first decision is in the ledger."""
    ledger = Ledger(bus, source="scheduler_service")
    os.kill(leader, signal.SIGKILL)
    killed_at = time.time()
    last = await ledger.last_sequence()
    led_at = 0.0
    async with asyncio.timeout(DECIDES_S_MAX):
        async for item in ledger.tail(after=last):
            if isinstance(item, CaughtUp):
                continue
            if isinstance(item.fact, m.Led):
                led_at = item.at
            elif led_at and isinstance(item.fact, m.Placed | m.Started | m.Finished):
                return {"led_s": round(led_at - killed_at, 2), "first_decision_s": round(item.at - killed_at, 2)}
    raise TimeoutError("nobody decided")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--slots", type=int, default=16, help="CPUs of a node: jobs that it runs at once")
    parser.add_argument("--duration-s", type=float, default=2.0, help="how long each job takes")
    parser.add_argument("--settle-s", type=float, default=30.0, help="how long the follower has to read the ledger")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-scheduler-") as folder:
        figures = asyncio.run(measure(Path(folder), options))
    print("| " + " | ".join(figures) + " |\n|" + " ---: |" * len(figures))
    print("| " + " | ".join(f"{value:,}" for value in figures.values()) + " |")
    report("scheduler_service", figures, {})


if __name__ == "__main__":
    main()
