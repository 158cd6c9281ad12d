"""The shell of capacity: look at the fleet, ask the core, start what is missing, look again.

Ray pushes nothing, so this service looks at a fixed pace; a node that joined waits at most that long for its runner.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar, TypeVarTuple

import msgspec

from controlplane import hosts
from controlplane.capacity.core import Capacity, SeenNode, StartRunner, mistakes
from controlplane.capacity.fleet import Fleet, FleetError, NoHead
from controlplane.config import Configuration
from controlplane.frame import Tools
from controlplane.hosts import HostsError
from events import subjects
from events.bus import Asked

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
LOG: Final = logging.getLogger("headrace.capacity")
LOOK_S: Final = 2.0
FAILURES_MAX: Final = 5
"""Looks in a row that Ray did not answer, though its head listens; then the process ends, and a new one tries."""

ANSWER_S_MAX: Final = 120.0
"""Of one look, or of one connection, for which Ray itself takes up to 70 s."""


async def serve(tools: Tools) -> None:
    """Keep a runner on every node of the fleet until cancelled. Raises FleetError when Ray listens and does not answer.

    A head that is not up yet, or not again, is waited for: the cluster may be younger than this service.
    """
    loop = asyncio.get_running_loop()
    worker = ThreadPoolExecutor(1, thread_name_prefix="ray")
    status: dict[str, Any] = {
        "nodes": 0,
        "runners": 0,
        "started": 0,
        "failures": 0,
        "looked_at": 0.0,
        "problems": {"ray": f"no answer yet from {tools.config.ray_address}"},
    }
    fleet: Fleet | None = None
    core = Capacity()

    async def ask(call: Callable[[*Ts], T], *args: *Ts) -> T:
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                return await loop.run_in_executor(worker, call, *args)
        except TimeoutError:
            LOG.critical("Ray has been silent for %d s: this process ends, and the thread that waits", ANSWER_S_MAX)
            os._exit(1)  # anything milder would wait for that thread

    async def answer_status(_: Asked) -> bytes:
        return msgspec.json.encode(status)

    door = await tools.bus.answer(subjects.ask("capacity", "status"), answer_status)
    try:
        failures = 0
        while True:
            try:
                if fleet is None:
                    fleet = await ask(Fleet, tools.config.ray_address)
                    LOG.info("connected to Ray at %s", tools.config.ray_address)
                    core = Capacity()  # of another head nothing was asked yet
                    tools.ready()
                starts = await ask(_look, fleet, core, tools, status)
                failures = 0
            except FleetError as error:
                starts = []
                failures = 0 if isinstance(error, NoHead) else failures + 1
                _note(status, error)
                if failures >= FAILURES_MAX:
                    raise
                if fleet is not None:  # a head that was lost is never found again by the same connection
                    await ask(fleet.close)
                    fleet = None
            for start in starts:
                LOG.info("runner asked for", extra={"node": start.node.name})
            await asyncio.sleep(LOOK_S)
    finally:
        await door.close()
        if fleet is not None:
            await ask(fleet.close)
        worker.shutdown(wait=False)


def _note(status: dict[str, Any], error: FleetError) -> None:
    if {"ray": str(error)} != status["problems"]:
        LOG.warning("the fleet does not answer", extra={"reason": str(error)})
    status["failures"] += 1
    status |= {"nodes": 0, "runners": 0, "problems": {"ray": str(error)}}


def _look(fleet: Fleet, core: Capacity, tools: Tools, status: dict[str, Any]) -> list[StartRunner]:
    nodes = fleet.nodes()
    listed, unreadable = _listed(tools.config)
    problems = mistakes(nodes, listed=None if unreadable else listed) | unreadable
    for about, problem in problems.items() - status["problems"].items():
        LOG.error(problem, extra={"about": about})
    runners = fleet.runners(nodes)
    starts = core.decide(nodes, runners, tools.clock.now(), listed=listed)
    for start in starts:
        fleet.start_runner(start.node.name, runner_settings(tools.config, start.node))
    status["nodes"] = sum(node.alive and bool(node.name) for node in nodes)
    status["runners"] = len(runners)
    status["started"] += len(starts)
    status |= {"looked_at": tools.clock.now(), "problems": problems}
    return starts


def _listed(config: Configuration) -> tuple[Collection[str] | None, dict[str, str]]:
    """Which nodes may have a runner (None: all), and why none gets one now."""
    if not config.hosts_file:
        return None, {}
    try:
        return hosts.read(Path(config.hosts_file)), {}
    except HostsError as error:
        return (), {"hosts": str(error)}


def runner_settings(config: Configuration, node: SeenNode) -> dict[str, Any]:
    """What the runner of a node is told, as plain data: the node's own release reads it (`runtime.runner`)."""
    return {
        "node": node.name,
        "folder": str(Path(config.node_folder or Path(config.state) / "nodes") / node.name),
        "nats_url": config.nats_url,
        "nats_user": config.nats_user,
        "nats_password": config.nats_password,
        "blobs_url": config.blobs,
        "otlp_url": config.otlp,
        "otlp_secret": config.otlp_secret,
        "cpus": node.cpus,
        "memory_bytes": node.memory_bytes,
        "gpus": node.gpus,
        "gpu_model": node.gpu_model,
        "labels": node.labels,
        "address": node.address,
        "lease_s": config.lease_s,
        "attempt_uids": config.attempt_uids,
    }
