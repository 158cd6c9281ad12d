"""The gateway's shell: follows the ledger, serves HTTP in the same loop, says where it listens.

Stateless between facts: any number of these may run side by side, each with a projection of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvicorn

from controlplane import http
from controlplane.frame import Tools, ensure_streams, patiently
from controlplane.gateway import app
from controlplane.gateway.context import Gateway
from controlplane.gateway.projection import FACTS_OF_JOBS, Projection
from events.blobs import BlobError
from events.bus import CaughtUp
from events.ledger import UnknownFact
from events.wire import UNREADABLE

LOG: Final = logging.getLogger("headrace.gateway")

SNAPSHOTS: Final = "snapshots/gateway/"
SNAPSHOT_EVERY: Final = 20_000
"""Facts between two snapshots: about a second of replay."""
SNAPSHOTS_KEPT: Final = 3
BACKLOG: Final = 1024
GRACE_S: Final = 5.0
"""For answers under way when the gateway closes; streams of events end at once."""


async def serve(tools: Tools) -> None:
    """Listen once the ledger was read up to its end; until cancelled."""
    await ensure_streams(tools.bus, tools.config)
    gateway = Gateway(tools, await _restore(tools))
    caught_up = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        following = group.create_task(_follow(gateway, caught_up))
        await caught_up.wait()
        gateway.is_caught_up = True
        listener = listen(tools.config.host, tools.config.gateway_port)
        server = _server(gateway)
        serving = group.create_task(server.serve(sockets=[listener]))
        try:
            _announce(tools, listener)
            tools.ready()
            await asyncio.wait({serving, following}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gateway.close()
            server.should_exit = True
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(serving)
            following.cancel()
            await _snapshot(gateway)


class Server(uvicorn.Server):
    """uvicorn in a loop of ours: signals are the business of `main`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(gateway: Gateway) -> Server:
    return Server(
        uvicorn.Config(
            http.Identified(app.build(gateway)),
            lifespan="off",
            ws=http.Abrupt,
            ws_max_size=http.HEARD_BYTES_MAX,
            ws_per_message_deflate=False,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http=http.Impatient,
            backlog=BACKLOG,
            timeout_graceful_shutdown=int(GRACE_S),
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where it sees that this is TCP; with it an answer takes 40 ms more.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _announce(tools: Tools, listener: socket.socket) -> None:
    """Say where we listen: in the log, and for programs on this machine in `gateway.json`."""
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    LOG.info("listening on %s", url, extra={"url": url})
    if not tools.config.state:
        return
    folder = Path(tools.config.state)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".gateway.{os.getpid()}.json"
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"url": url}, file)
    draft.replace(folder / "gateway.json")


async def _follow(gateway: Gateway, caught_up: asyncio.Event) -> None:
    """Take in every fact about jobs and environments, for ever."""
    projection, since_snapshot = gateway.projection, 0
    while True:
        tail = gateway.tools.ledger.tail(after=projection.sequence, subjects=FACTS_OF_JOBS)
        try:
            async for item in tail:
                if isinstance(item, CaughtUp):
                    caught_up.set()
                    continue
                projection.apply(item)
                since_snapshot += 1
                if since_snapshot >= SNAPSHOT_EVERY:
                    since_snapshot = 0
                    await _snapshot(gateway)
        except UnknownFact as error:  # of a newer version: what it means for a job, its next facts will show
            LOG.warning("%s", error, extra={"subject": error.subject, "sequence": error.sequence})
            projection.sequence = error.sequence


async def _restore(tools: Tools) -> Projection:
    """The projection of the newest snapshot that can be read; an empty one if there is none."""
    blobs, last = tools.blobs, await patiently(tools.ledger.last_sequence, "the ledger")
    try:
        names = await blobs.names(SNAPSHOTS)
    except BlobError as error:
        LOG.warning("no snapshots: %s", error)
        return Projection()
    for name in sorted(names, key=_sequence_of, reverse=True):
        if _sequence_of(name) > last:
            continue  # of another ledger, which is gone
        try:
            return Projection.restore(await blobs.read(name))
        except (BlobError, *UNREADABLE) as error:
            LOG.warning("snapshot %s cannot be read: %s", name, error)
    return Projection()


async def _snapshot(gateway: Gateway) -> None:
    """Keep the projection, and the newest few snapshots only. Without one the next start only takes longer."""
    blobs, sequence = gateway.tools.blobs, gateway.projection.sequence
    if not sequence:
        return
    try:
        await blobs.write(f"{SNAPSHOTS}{sequence}", gateway.projection.snapshot())
        names = sorted(await blobs.names(SNAPSHOTS), key=_sequence_of)
        for name in names[:-SNAPSHOTS_KEPT]:
            await blobs.delete(name)
    except BlobError as error:
        LOG.warning("no snapshot at %d: %s", sequence, error)


def _sequence_of(name: str) -> int:
    last = name.rpartition("/")[2]
    return int(last) if last.isdigit() else 0
