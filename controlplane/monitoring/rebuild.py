"""Makes the metrics store again, while monitoring is stopped: `python -m controlplane.monitoring.rebuild --state …`.

Sealed jobs come from the blob store, the others from what METRICS and LOGS still hold. The old store is kept beside the
new one until the next rebuild. What neither has is gone, and the gaps say so.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

from controlplane import main as command
from controlplane.config import Configuration, ConfigurationError
from controlplane.frame import Clock, Tools
from controlplane.monitoring import archive, questions, records, service
from controlplane.monitoring.logs import Logs
from controlplane.monitoring.owner import Owner, sole_writer
from controlplane.monitoring.store import Store
from controlplane.monitoring.writer import Writer
from events import logs as log_lines
from events.blobs import BlobError, Blobs
from events.bus import Bus
from events.ledger import Ledger

LOG: Final = logging.getLogger("headrace.monitoring")
WRITER_S_MAX: Final = 5.0
"""How long a writer may take to go away before we say that it is still there."""
KEPT: Final = "before-rebuild"


class Rebuilt(NamedTuple):
    """What the new store holds."""

    sealed_jobs: int
    points: int
    gaps: dict[str, int]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m controlplane.monitoring.rebuild", description=__doc__)
    command.add_options(parser)
    options = parser.parse_args(arguments)
    log_lines.configure(options.log_level)
    try:
        rebuilt = asyncio.run(_run(command.configuration(options)))
    except TimeoutError:
        print("error: another process writes the store\nhint: stop monitoring first", file=sys.stderr)
        return 2
    except (ConfigurationError, BlobError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{rebuilt.points} points; {rebuilt.sealed_jobs} sealed jobs; records missing: {rebuilt.gaps['records']}")
    return 0


async def _run(config: Configuration) -> Rebuilt:
    bus = await Bus.connect(
        config.nats_url, user=config.nats_user, password=config.nats_password, name="monitoring-rebuild"
    )
    try:
        ledger = Ledger(bus, source="headrace/monitoring/rebuild")
        instance = "rebuild-" + secrets.token_hex(3)
        return await rebuild(Tools(config, bus, ledger, Blobs.at(config.blobs), Clock(), instance, lambda: None))
    finally:
        await bus.drain()


async def rebuild(tools: Tools) -> Rebuilt:
    """Make the store again. Raises TimeoutError if another process writes it, BlobError."""
    folder = service.folder(tools)
    async with AsyncExitStack() as held:
        async with asyncio.timeout(WRITER_S_MAX):
            await held.enter_async_context(sole_writer(folder / "lock"))
        _put_aside(folder)
        owner = Owner()
        store = await owner.run(Store, folder / service.STORE)
        logs = Logs(folder / "logs", store)
        try:
            return await _fill(Writer(tools, store, logs, owner))
        finally:
            await owner.run(service.close, store, logs)
            owner.close()


def _put_aside(folder: Path) -> None:
    for name in (service.STORE, service.STORE + ".wal"):
        old = folder / name
        if old.exists():
            old.replace(folder / f"{KEPT}.{name}")


async def _fill(writer: Writer) -> Rebuilt:
    owner, store = writer.owner, writer.store
    manifests = await archive.manifests(writer.tools.blobs)
    for manifest in manifests:
        await archive.restore(owner, store, writer.logs, writer.tools.blobs, manifest)
        record = await owner.run(records.load, store, (manifest.team, manifest.job))
        if record is not None:
            writer.core.load((manifest.team, manifest.job), record)  # so that its old facts change nothing
    async with asyncio.TaskGroup() as group:
        for follower in service.followers(writer):
            group.create_task(follower.run(until_caught_up=True))
    points, gaps = await owner.run(questions.totals, store)
    return Rebuilt(len(manifests), points, gaps)


if __name__ == "__main__":
    sys.exit(main())
