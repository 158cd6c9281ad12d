"""What each kind of fault does to a world."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import nats
import nats.errors

from load_tests.faults.disks import PoweredDisk
from load_tests.faults.processes import frozen, held, launchers, of_nodes, send, supervisors, with_word
from load_tests.faults.schedule import LINKS, Fault
from load_tests.faults.world import World

CLOCK_STEP_S: Final = 45.0
ROOM: Final = 2048
"""Bytes that a stream at its limit still takes."""
ASK_S: Final = 2.0


async def hurt(world: World, fault: Fault) -> bool:
    """Do it, and undo it after its time. False: it cannot be done in this world, or there was nobody to be hurt."""
    if fault.kind in LINKS:
        return await _hold_line(world, fault)
    return await _KINDS[fault.kind](world, fault)


async def _kill(world: World, fault: Fault) -> bool:
    if pid := _pid_in_ray(world, fault.target):
        return send(pid, signal.SIGKILL)
    process = world.processes.get(fault.target)
    if process is not None:
        process.kill()
    return process is not None


async def _stop(world: World, fault: Fault) -> bool:
    process = world.processes.get(fault.target)
    pid = _pid_in_ray(world, fault.target) or (process.pid if process is not None else 0)
    await frozen(pid, fault.for_s)
    return bool(pid)


def _pid_in_ray(world: World, name: str) -> int:
    """Who works under this name if Ray started him: `runner-n1`, `ray-n1` (its raylet), `ray-head` (its GCS); or 0."""
    if not world.ray:
        return 0
    kind, _, node = name.partition("-")
    if kind == "runner":
        pids = with_word("ray::Host", opened=world.node_folder(node))
    elif name == "ray-head":
        pids = with_word("gcs_server", opened=world.folder)
    elif kind == "ray":
        label = f'"hr.node":"{node}"'
        pids = [pid for pid in with_word("raylet/raylet", opened=world.folder) if label in _command(pid)]
    else:
        return 0
    return _first(pids)


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace(" ", "")
    return ""


async def _hold_line(world: World, fault: Fault) -> bool:
    lines = world.lines.get(fault.target) or world.lines.get("capacity-1", [])  # Ray's runners share a line
    try:
        for line in lines:
            line.set(fault.kind)
        await asyncio.sleep(fault.for_s)
    finally:
        for line in lines:
            line.set("")
    return True


async def _kill_supervisor(world: World, fault: Fault) -> bool:
    pid = _first(supervisors(world.node_folder(fault.target)))
    return bool(pid) and send(pid, signal.SIGKILL)


async def _kill_supervisor_unheard(world: World, fault: Fault) -> bool:
    """Its runner tells of the end, and hears nothing of what became of it: it goes on telling, whatever comes next."""
    line = asyncio.create_task(_hold_line(world, Fault(fault.at_s, "deaf", f"runner-{fault.target}", fault.for_s)))
    killed = await _kill_supervisor(world, fault)
    await line
    return killed


async def _stop_supervisor(world: World, fault: Fault) -> bool:
    pid = _first(supervisors(world.node_folder(fault.target)))
    await frozen(pid, fault.for_s)
    return bool(pid)


async def _kill_launcher(world: World, fault: Fault) -> bool:
    pid = _first(launchers(world.node_folder(fault.target)))
    return bool(pid) and send(pid, signal.SIGKILL)


def _first(pids: list[int]) -> int:
    """0: there is none."""
    return pids[0] if pids else 0


async def _machine(world: World, fault: Fault) -> bool:
    """All that works on a node ends at one moment, jobs too, as if its machine had lost its power."""
    runner = world.processes.get(f"runner-{fault.target}")
    if runner is None:
        return False
    with held(runner):
        runner.kill()
        for pid, _ in of_nodes(world.node_folder(fault.target)):
            send(pid, signal.SIGKILL)  # a process of a job ends with its supervisor
        await asyncio.sleep(fault.for_s)
    return True


async def _step_clock(world: World, fault: Fault) -> bool:
    clock = world.folder / "clocks" / fault.target
    if not clock.exists():
        return False
    clock.write_text(str(CLOCK_STEP_S if int(fault.at_s * 10) % 2 else -CLOCK_STEP_S))
    await asyncio.sleep(fault.for_s)
    clock.write_text("0")
    return True


async def _fill(world: World, fault: Fault) -> bool:
    disk = world.disks[fault.target]
    if not disk.is_mounted:
        return False
    async with disk.full():
        await asyncio.sleep(fault.for_s)
    return True


async def _cut_power(world: World, fault: Fault) -> bool:
    """A server of NATS dies, and with it everything that it had not synced to its disk."""
    disk, server = world.disks[fault.target], world.processes[fault.target]
    if not isinstance(disk, PoweredDisk) or not disk.is_mounted:
        return False
    async with disk.switch:
        with held(server):
            server.kill()
            while server.pid:  # noqa: ASYNC110 (a moment)
                await asyncio.sleep(0.01)
            await asyncio.to_thread(disk.cut_power)
            await asyncio.sleep(fault.for_s)
    return True


async def _upgrade(world: World, fault: Fault) -> bool:
    """Another release takes over from this one, beside siblings of this one, and after a while this one again."""
    process = world.processes.get(fault.target)
    if process is None:
        return False
    process.tree = world.previous
    await process.end()
    await asyncio.sleep(fault.for_s)
    process.tree = world.tree
    await process.end()
    return True


async def _limit(world: World, fault: Fault) -> bool:
    """A stream takes next to nothing any more. A second one comes after the first, or would restore what that set."""
    stream = fault.target
    async with world.limits[stream]:
        found = await _asked(world, f"$JS.API.STREAM.INFO.{stream}")
        if "config" not in found:
            return False
        before = found["config"]  # as it is: nats-py's own type forgets what it does not know
        small = before | {"max_bytes": found["state"]["bytes"] + ROOM}
        try:
            answer = await _asked(world, f"$JS.API.STREAM.UPDATE.{stream}", small)
            await asyncio.sleep(fault.for_s)
        finally:  # also where nobody answered: it may have been set
            update = f"$JS.API.STREAM.UPDATE.{stream}"
            while "config" not in await _asked(world, update, before):  # noqa: ASYNC110 (nobody tells of NATS)
                await asyncio.sleep(ASK_S)
        return "config" in answer


async def _asked(world: World, subject: str, body: object = None) -> dict[str, Any]:
    """What JetStream answers, which may be an error; empty: nobody did."""
    try:
        connection = await nats.connect(
            world.nats_url.split(","),
            user=world.user,
            password=world.password,
            connect_timeout=ASK_S,
            allow_reconnect=False,
            error_cb=_quiet,
        )
        try:
            content = b"" if body is None else json.dumps(body).encode()
            answer: dict[str, Any] = json.loads((await connection.request(subject, content, timeout=ASK_S)).data)
            return answer
        finally:
            await connection.close()
    except (nats.errors.Error, OSError, TimeoutError):
        return {}


async def _quiet(error: Exception) -> None:
    """nats-py would print it."""


_KINDS: Final[dict[str, Callable[[World, Fault], Awaitable[bool]]]] = {
    "kill": _kill,
    "stop": _stop,
    "kill supervisor": _kill_supervisor,
    "stop supervisor": _stop_supervisor,
    "kill supervisor unheard": _kill_supervisor_unheard,
    "kill launcher": _kill_launcher,
    "machine": _machine,
    "clock": _step_clock,
    "full": _fill,
    "power": _cut_power,
    "upgrade": _upgrade,
    "limit": _limit,
}
