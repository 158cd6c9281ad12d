"""A service running inside a test, on a bus of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from controlplane.config import Configuration
from controlplane.frame import Clock, Serve, Tools
from events.blobs import Blobs
from events.bus import Bus
from events.ledger import Ledger
from tests.support.nats import NatsServer

READY_S = 20.0


@asynccontextmanager
async def serving(
    serve: Serve, nats: NatsServer, config: Configuration, *, blobs: Path, instance: str = "one"
) -> AsyncIterator[Tools]:
    """Run `serve` until the block is left; fails if it is not ready in time, or ends by itself."""
    bus = await Bus.connect(nats.url, user=nats.user, password=nats.password, name=instance)
    ready = asyncio.Event()
    ledger = Ledger(bus, source=f"test/{instance}")
    tools = Tools(config, bus, ledger, Blobs.at(f"file://{blobs}"), Clock(), instance, ready.set)
    task = asyncio.ensure_future(serve(tools))
    waiting = asyncio.ensure_future(ready.wait())
    try:
        await asyncio.wait({task, waiting}, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        assert ready.is_set(), "the service is not ready"
        yield tools
        assert not task.done(), "the service ended by itself"
    finally:
        waiting.cancel()
        task.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)
        await bus.drain()
