"""Plays all steps; see the package."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Final

from load_tests import overload
from load_tests.overload import clients, stores
from load_tests.overload.world import Overload, connect
from load_tests.stack import Stack, report
from load_tests.without_ray import running

SMALL_BYTES: Final = stores.SMALL_BYTES
CONFIG: Final = f"""
dead_bytes_max = {SMALL_BYTES}
logs_bytes_max = {SMALL_BYTES}
metrics_bytes_max = {SMALL_BYTES}
default_tier = "small"
[[tiers]]
name = "small"
resources = {{cpus = 0.05, memory_bytes = 100_000_000}}
"""


async def run(stack: Stack, submits: int) -> Overload:
    """All steps, each with its judgement."""
    bus = await connect(stack)
    world = Overload(stack, bus)
    world.look("before")
    small = max(20, submits // 50)
    steps = (
        ("burst", clients.burst(world, submits)),
        ("silent clients", clients.silent(world, min(1000, small))),
        ("hanging consumer", clients.hanging_consumer(world, small)),
        ("one of two hangs", clients.one_of_two_hangs(world, small)),
        ("full DEAD", stores.full_dead(world, 400)),
        ("full LOGS", stores.full_logs(world, 40)),
        ("full METRICS", stores.full_metrics(world, 40)),
        ("LEDGER at 95 %", stores.ledger_at_95_percent(world)),
        ("full LEDGER", stores.full_ledger(world)),
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
    parser = argparse.ArgumentParser(description=overload.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submits", type=int, default=50_000)
    options = parser.parse_args()
    with running(CONFIG) as stack:
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
