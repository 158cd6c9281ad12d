"""Monitoring: follows METRICS, LOGS and the ledger into the store, seals what is finished, answers questions.

One process writes. A second one waits for its lock, holding nothing, and goes on where the first stopped: how far each
stream was read is in the store itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from controlplane.frame import Tools, ensure_streams
from controlplane.monitoring import answers, door
from controlplane.monitoring.archiver.service import Archiver
from controlplane.monitoring.follow import Follower, Handler
from controlplane.monitoring.logs import Logs
from controlplane.monitoring.owner import Owner, sole_writer
from controlplane.monitoring.store import Store
from controlplane.monitoring.writer import Writer
from events import streams, subjects

LOG: Final = logging.getLogger("headrace.monitoring")

STORE: Final = "metrics.duckdb"
REREAD: Final = 2_000
"""Messages of METRICS and LOGS that are read again at a start, and after a reconnect. Their server acknowledges before
it is on disk: after it was killed, it may give the newest sequences a second time, to other messages (up to eight were
seen). What is stored already is known as a repeat."""


async def begin(tools: Tools, store: Store, owner: Owner, stream: streams.Stream, *, reread: int) -> int:
    """Behind which sequence to go on reading a stream."""
    place = await owner.run(store.place, stream.name)
    last = await tools.bus.last_sequence(stream.name)
    if last < place:
        LOG.warning(
            "%s ends at %d, but was read up to %d: it was made anew, or its server was killed", stream.name, last, place
        )
    return max(0, min(place, last) - reread)


def followers(writer: Writer) -> list[Follower]:
    """The three streams, each from where its last reader stopped."""
    tools, store, owner = writer.tools, writer.store, writer.owner

    def follower(stream: streams.Stream, filters: Sequence[str], handler: Handler, reread: int) -> Follower:
        return Follower(
            lambda: begin(tools, store, owner, stream, reread=reread),
            lambda after: tools.bus.tail(stream.name, subjects=filters, after=after),
            handler,
        )

    numbers = follower(streams.METRICS, subjects.METRICS, writer.take_metrics, REREAD)
    output = follower(streams.LOGS, (subjects.LOGS,), writer.take_logs, REREAD)
    facts = follower(streams.LEDGER, (subjects.JOBS,), writer.take_facts, 0)
    for follows in (numbers, output):  # the ledger forgets nothing
        tools.bus.on_reconnected(follows.begin_again)
    return [numbers, output, facts]


def folder(tools: Tools) -> Path:
    """Where monitoring keeps its files."""
    return Path(tools.config.state) / "monitoring"


async def serve(tools: Tools) -> None:
    """Run until cancelled."""
    await ensure_streams(tools.bus, tools.config)
    tools.ready()  # a standby is ready: it has nothing to answer as long as the writer does
    async with sole_writer(folder(tools) / "lock"):
        owner = Owner()
        store = await owner.run(Store, folder(tools) / STORE)
        logs = Logs(folder(tools) / "logs", store)
        try:
            await _run(Writer(tools, store, logs, owner))
        finally:
            await asyncio.shield(owner.run(close, store, logs))
            owner.close()


async def _run(writer: Writer) -> None:
    tools = writer.tools
    await writer.open()
    following = followers(writer)
    archiver = Archiver(tools, writer.store, writer.owner)
    await archiver.open()
    sock = door.listener(tools.config.host, tools.config.otlp_port)
    entrance = door.Door(tools.config.otlp_secret.encode(), tools.bus.publish_many, answers.Closed(writer).asks)
    async with door.listening(entrance.application(), sock), asyncio.TaskGroup() as group:
        for follower in following:
            group.create_task(follower.run())
        group.create_task(writer.seal_for_ever())
        group.create_task(archiver.run())
        port = sock.getsockname()[1]
        LOG.info("monitoring is the writer", extra={"otlp": f"http://{tools.config.host}:{port}"})
        await answers.answer(writer, entrance, port, following, archiver)


def close(store: Store, logs: Logs) -> None:
    """Let go of the files, in the store's thread."""
    logs.close()
    store.close()
