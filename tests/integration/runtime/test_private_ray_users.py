"""Private Ray clusters whose attempts are users of their own: a real runner as root, a real Ray."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from events.bus import Bus
from events.messages import Allocation, AttemptRef, GangPart
from runtime import exit_record, ipc, processes
from runtime.ownership import SHARED_PLACES
from tests.support.attempts import END_S_MAX, line_in
from tests.support.nats import NatsServer
from tests.support.private_ray import GIB, HAS_RAY, READY_S_MAX
from tests.support.strangers import FIRST, OTHERS, UIDS, as_in_the_pod, needs_root, reachable_folder, reachable_venv
from tests.support.user_world import Ground, World, a_world

pytestmark = [
    needs_root,
    pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed"),
    pytest.mark.timeout(600),
]

WORKS = """
import json, os, ray, resource, signal
ray.init(logging_level="ERROR", log_to_driver=False)

@ray.remote(num_gpus=1, num_cpus=0)
class Holds:
    def who(self):
        return [os.getuid(), os.environ["CUDA_VISIBLE_DEVICES"]]

def who():
    return [os.getuid(), os.environ["CUDA_VISIBLE_DEVICES"]]

nodes = sum(node["Alive"] for node in ray.nodes())
actors = [Holds.remote() for _ in range(nodes)]
held = ray.get([actor.who.remote() for actor in actors])
for actor in actors:
    ray.kill(actor)
found = {
    "nodes": nodes,
    "actors": sorted(held),
    "tasks": sorted(ray.get([ray.remote(num_gpus=1, num_cpus=0)(who).remote() for _ in range(nodes)])),
    "stored": len(ray.get(ray.put(b"a" * 10**7))),
    "environ": {name: value for name, value in os.environ.items() if name.startswith("RAY_")},
}
open("found.new", "w").write(json.dumps(found) + "\\n")
os.rename("found.new", "found")
"""
WAITS = "signal.pause()"
READS = """
import json, os
found = []
def tries(path, read):
    try:
        if read(path):
            found.append(path)
    except OSError:
        pass
for path in FILES:
    tries(path, lambda path: open(path, "rb").read(1))
    tries(os.path.dirname(path), os.listdir)
for pid in PIDS:
    for name in ("environ", "maps", "auxv"):
        tries(f"/proc/{pid}/{name}", lambda path: open(path, "rb").read(1))
    for name in ("fd", "cwd"):
        tries(f"/proc/{pid}/{name}/", os.listdir)
    tries(str(pid), lambda pid: os.kill(int(pid), 0) is None)
print(json.dumps({"looked": len(PIDS), "found": found}), file=open("found", "w"))
"""
"""A process that has ended meanwhile lets itself be opened, and has nothing to read."""
RANGES = (UIDS, OTHERS)


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with reachable_folder() as folder:
        yield (folder, *reachable_venv(folder))


def holds(node: str, *gpus: int) -> Allocation:
    return Allocation(node=node, cpus=2, memory_bytes=2 * GIB, gpus=gpus)


async def found_by(world: World, ref: AttemptRef) -> dict[str, Any]:
    """What it has written."""
    place = world.node.job(ref) / "found"
    waiting = asyncio.ensure_future(line_in(place, wait_s=READY_S_MAX))
    ended = asyncio.ensure_future(world.leader.end_of(ref, wait_s=READY_S_MAX))
    await asyncio.wait([waiting, ended], return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if not place.exists():
        raise AssertionError(world.output(ref))
    return dict(json.loads(await waiting))


def left_by(uid: int, *, since: float, but: Path) -> list[str]:
    """What a user has left on this machine.

    since: unix time, in seconds: what has been here for longer is of other tests, which take the same ids.
    but: where nodes are, whose job folders are kept, and sealed.
    """
    found = [f"process {pid}" for pid in processes.of_user(uid)]
    places = [str(place) for place in SHARED_PLACES if place.is_dir()]
    looking = ["find", *places, "-uid", str(uid), "-newerct", f"@{since}", "-not", "-path", f"{but}/*"]
    looked = subprocess.run(looking, capture_output=True, text=True, timeout=60, check=False)  # fails where one goes
    found += looked.stdout.splitlines()
    return found + ipc.left_by(uid)


async def nothing_left_of(world: World, ref: AttemptRef, uid: int, *, since: float) -> None:
    """Wait until there is nothing, as long as may be."""
    async with asyncio.timeout(END_S_MAX):
        while world.node.attempt(ref).exists():  # noqa: ASYNC110  nothing announces that a folder is gone
            await asyncio.sleep(0.02)
    assert left_by(uid, since=since, but=world.node.path.parent.parent) == []


@pytest.mark.parametrize("killed", [False, True], ids=["ends", "loses its supervisor"])
async def test_a_cluster_is_its_users_alone_and_nothing_of_it_is_left(
    nats: NatsServer, bus: Bus, ground: Ground, tmp_path: Path, killed: bool
) -> None:
    started = time.time()
    async with a_world(nats, bus, ground, command=as_in_the_pod(), gpus=2, uids=RANGES[0]) as world:
        ref = await world.start("j-a", WORKS + WAITS, kind="ray", allocation=holds("n1", 1))
        found = await found_by(world, ref)
        uid = world.user_of(ref)
        assert uid - FIRST in range(1, 64)
        assert found["actors"] == found["tasks"] == [[uid, "1"]]
        assert found["stored"] == 10**7
        scratch = world.node.attempt(ref) / "scratch"
        token = scratch / "ray" / "token"
        assert real(found["environ"]["RAY_AUTH_TOKEN_PATH"]) == token
        assert (token.stat().st_uid, stat.S_IMODE(token.stat().st_mode)) == (uid, 0o600)
        session = real(scratch / "ray" / "session_latest")
        assert session.is_relative_to(scratch)
        marked = processes.marked(f"HEADRACE_SCRATCH={scratch}")
        assert len(marked) > 5
        assert {os.stat(f"/proc/{pid}").st_uid for pid in marked} == {uid}
        files = [token, session / "sockets" / "raylet", session / "logs" / "raylet.out"]
        told = f"FILES = {list(map(str, files))!r}\nPIDS = {processes.of_user(uid)!r}\n"
        neighbour = await world.run("j-b", told + READS)
        seen = json.loads((world.node.job(neighbour) / "found").read_text())
        assert seen["looked"] > 5
        assert seen["found"] == []
        assert set(await read_as_root(told, tmp_path)) >= {str(token), f"/proc/{marked[0]}/environ"}, "it has looked"
        if killed:
            os.kill(supervisor_of(world, ref), signal.SIGKILL)
        else:
            await world.leader.want_no_more(ref)
        assert (await world.leader.end_of(ref)).cause == ("supervisor_lost" if killed else "stopped")
        assert processes.of_user(uid) == []
        world.leader.records = True
        await nothing_left_of(world, ref, uid, since=started)


async def read_as_root(told: str, folder: Path) -> list[str]:
    """What who may read everything finds by the same look."""
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", told + READS], cwd=folder, check=True, timeout=60)
    return list(json.loads((folder / "found").read_text())["found"])


def real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def supervisor_of(world: World, ref: AttemptRef) -> int:
    return exit_record.holder(str(world.node.attempt(ref) / exit_record.LOCK))


async def test_a_gang_of_two_nodes_is_one_cluster_of_two_users(nats: NatsServer, bus: Bus, ground: Ground) -> None:
    """Two runners on this machine, each with users of its own."""
    started = time.time()
    async with (
        a_world(nats, bus, ground, command=as_in_the_pod(), gpus=2, node="n1", uids=RANGES[0]) as first,
        a_world(nats, bus, ground, command=as_in_the_pod(), gpus=2, node="n2", uids=RANGES[1]) as second,
    ):
        await part_of(first, 0, gpu=1)
        await part_of(second, 1, gpu=0)
        ref = AttemptRef(team="vision", job="j-gang", attempt=1)
        for world in (first, second):
            await until_ready(world, ref)
        offered = first.leader.reported(ref)
        assert offered is not None
        await part_of(second, 1, gpu=0, meeting=offered.meeting)
        await part_of(first, 0, gpu=1, meeting=offered.meeting)
        ends = [await world.leader.end_of(ref, wait_s=READY_S_MAX) for world in (first, second)]
        assert [end.exit_code for end in ends] == [0, 0], first.output(ref) + second.output(ref)
        found = await found_by(first, ref)
        uids = [world.user_of(ref) for world in (first, second)]
        assert (uids[0] - FIRST in range(1, 64), uids[1] - FIRST in range(501, 564)) == (True, True)
        assert found["nodes"] == 2
        assert found["actors"] == found["tasks"] == [[uids[0], "1"], [uids[1], "0"]]
        for world, uid in zip((first, second), uids, strict=True):
            assert processes.of_user(uid) == []
            world.leader.records = True
            await nothing_left_of(world, ref, uid, since=started)


async def until_ready(world: World, ref: AttemptRef) -> None:
    await world.leader.until(lambda: (live := world.leader.reported(ref)) is not None and live.state == "ready")


async def part_of(world: World, rank: int, *, gpu: int, meeting: Any = None) -> AttemptRef:
    part = GangPart(rank=rank, size=2, meeting=meeting)
    return await world.start("j-gang", WORKS, kind="ray", gang=part, allocation=holds(world.leader.node, gpu))
