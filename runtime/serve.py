"""Wires a runner up: the same for a process of its own, for the Ray actor and for the embedded stack."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from events import logs, uids
from events.blobs import Blobs
from events.bus import Bus
from runtime.layout import Layout
from runtime.materialise import Materialiser
from runtime.node_folder import NodeFolder
from runtime.runner import AnotherRunner, Runner
from runtime.settings import RunnerSettings, SettingsError, load
from runtime.shipping import Shipping
from runtime.supervised import LaunchFailed


async def serve(settings: RunnerSettings) -> None:
    """Run a runner until this is cancelled. Raises AnotherRunner, LaunchFailed, OSError."""
    with logs.about(node=settings.node):
        await _serve(settings)


async def _serve(settings: RunnerSettings) -> None:
    folder = NodeFolder(Path(settings.folder))
    bus = await Bus.connect(
        settings.nats_url, user=settings.nats_user, password=settings.nats_password, name=f"runner/{settings.node}"
    )
    try:
        users = uids.parse(settings.attempt_uids)
        materialiser = Materialiser(folder.path, Blobs.at(settings.blobs_url), builder=users[0] if users else 0)
        layout = Layout(settings, folder, materialiser)
        await Runner(settings, bus, layout, Shipping(bus, settings.node)).run()
    finally:
        await bus.drain()


async def _until_signalled(settings: RunnerSettings) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serve(settings)


def main() -> None:
    """`python -m runtime.runner --settings file.json`. Attempts live on when it ends."""
    parser = argparse.ArgumentParser(prog="python -m runtime.runner", description="The runner of one node.")
    parser.add_argument("--settings", required=True, type=Path, help="a JSON file with the fields of RunnerSettings")
    arguments = parser.parse_args()
    logs.configure("info")
    try:
        asyncio.run(_until_signalled(load(arguments.settings)))
    except (SettingsError, AnotherRunner, LaunchFailed) as error:
        sys.exit(f"error: {error}")
