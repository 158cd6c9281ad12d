"""Runs one service, several or all of them in one process: `python -m controlplane scheduling gateway`.

A process is crash-only. A service that fails takes the process with it, loudly, and whoever started the process starts
it again: the state of every service is a snapshot and the facts after it. SIGTERM and SIGINT drain instead.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final

from controlplane.config import Configuration, ConfigurationError, load
from controlplane.frame import LOG, Clock, Serve, Tools
from controlplane.health import Health
from events import logs
from events.blobs import Blobs
from events.bus import Bus
from events.ledger import Ledger

SERVICES: Final = ("submission", "environments", "scheduling", "monitoring", "gateway", "capacity", "pool")
"""All of them: the last only where somebody else says which machines are ours (`Configuration.has_pool`)."""
DRAIN_S: Final = 10.0
"""A service that has not finished what it holds by then is dropped: the facts are in the ledger all the same."""

M_TRIM_THRESHOLD: Final = -1
"""In glibc's malloc.h."""
TRIM_BYTES: Final = 1024**2
"""Free memory at the end of the heap beyond which it goes back to the system."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit status: 0 after a drain, 1 after a failure, 2 for a mistake in the call."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        config = configuration(options)
        names = _names(options.services, config)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    logs.configure(options.log_level)
    if "monitoring" in names:
        _give_memory_back()
    return asyncio.run(run(names, config))


def _names(asked: Sequence[str], config: Configuration) -> tuple[str, ...]:
    """Which services to run. Raises ConfigurationError."""
    if not config.ray_address and {"all", "capacity"}.intersection(asked):
        raise ConfigurationError("ray_address: capacity has to know where Ray's head is, such as ray://head:10001")
    if "all" in asked:
        return SERVICES if config.has_pool else SERVICES[:-1]
    if "pool" in asked and not config.hosts_file:
        import_module("controlplane.pool.service").settings_of(config)
    return tuple(dict.fromkeys(asked))


def _give_memory_back() -> None:
    """Have malloc keep no more than `TRIM_BYTES` of what was freed at the end of the heap.

    By itself it keeps twice as much as the largest block that was ever freed, up to 64 MiB: M_TRIM_THRESHOLD and
    M_MMAP_THRESHOLD in mallopt(3). Monitoring has large batches and answers, and lives for months. With this the other
    threshold stays at 128 KiB, too: what is larger is mapped, and given back at once. Services that have nothing of the
    kind do without. Another C library than glibc has no such habit, and no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)


def configuration(options: argparse.Namespace) -> Configuration:
    """The configuration that these options and the environment ask for. Raises ConfigurationError."""
    flags = {}
    for setting in options.set:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {setting}: write --set <name>=<value>")
        flags[key] = value
    if options.state:
        flags["state"] = options.state
    return load(Path(options.config) if options.config else None, os.environ, flags)


async def run(names: Sequence[str], config: Configuration) -> int:
    """Run these services until a signal asks to stop, or one of them fails."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    instance = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    health = Health(names)
    async with health.door(config.host, config.health_port):
        bus = await Bus.connect(
            config.nats_url, user=config.nats_user, password=config.nats_password, name="+".join(names)
        )
        health.watch(bus)
        try:
            return await _serve(names, config, bus, instance, health, stop)
        finally:
            await bus.drain()


async def _serve(
    names: Sequence[str], config: Configuration, bus: Bus, instance: str, health: Health, stop: asyncio.Event
) -> int:
    blobs = Blobs.at(config.blobs)
    clock = Clock()
    tasks: dict[asyncio.Task[None], str] = {}
    for name in names:
        ledger = Ledger(bus, source=f"headrace/{name}/{instance}")
        tools = Tools(config, bus, ledger, blobs, clock, instance, partial(health.ready, name))
        tasks[asyncio.create_task(_service(name)(tools))] = name
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
    failed = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    stopping.cancel()
    _, late = await asyncio.wait(tasks, timeout=DRAIN_S)
    for task in late:
        LOG.warning("service did not drain in time", extra={"service": tasks[task], "drain_s": DRAIN_S})
    for task in failed:
        LOG.error("service ended by itself", extra={"service": tasks[task]}, exc_info=task.exception())
    return 1 if failed else 0


def _service(name: str) -> Serve:
    serve: Serve = import_module(f"controlplane.{name}.service").serve
    return serve


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m controlplane", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument(
        "services", nargs="+", choices=(*SERVICES, "all"), metavar="SERVICE", help=", ".join((*SERVICES, "all"))
    )
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of everything that reads the configuration."""
    parser.add_argument("--state", default="", help="folder of everything this installation keeps on this machine")
    parser.add_argument("--config", default="", help="configuration file (TOML)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; may be repeated")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
