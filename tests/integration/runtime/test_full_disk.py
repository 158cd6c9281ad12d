"""A node whose disk is full: it says so, starts nothing, loses nothing, and goes on when there is room. Real tmpfs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from events.bus import Bus
from runtime import cgroups, exit_record
from runtime.settings import RunnerSettings
from runtime.supervised import LauncherClient
from tests.support.attempts import Node, lives
from tests.support.leader import a_launch
from tests.support.nats import NatsServer
from tests.support.runners import RunnerWorld, a_runner

DISK = "48m"
WAITS = "import signal; open('pid', 'w').write(f'{__import__(\"os\").getpid()}\\n'); signal.pause()"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(path)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("nothing may be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Take every free byte; gives the file that holds them."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


@pytest.fixture
async def world(nats: NatsServer, bus: Bus, disk: Path) -> AsyncIterator[RunnerWorld]:
    settings = RunnerSettings(
        node="n1", folder=str(disk / "n1"), nats_url=nats.url, blobs_url="", cpus=2, memory_bytes=1, pythons=("3.11.7",)
    )
    async with a_runner(nats, bus, settings) as world:
        yield world


def says(world: RunnerWorld) -> str:
    """Why the node can start nothing, by its newest exchange."""
    return world.leader.exchanges[-1].capacity.cannot_start if world.leader.exchanges else ""


async def test_a_node_says_that_it_can_start_nothing_until_there_is_room(world: RunnerWorld, disk: Path) -> None:
    await world.leader.until(lambda: bool(world.leader.exchanges))
    assert says(world) == ""
    ballast = fill(disk)
    await world.leader.until(lambda: "its disk is full" in says(world))
    ballast.unlink()
    await world.leader.until(lambda: says(world) == "")


async def test_an_attempt_without_room_is_no_fault_of_its_program(world: RunnerWorld, disk: Path) -> None:
    await world.leader.until(lambda: bool(world.leader.exchanges))
    ballast = fill(disk)
    launch = a_launch("j-full", "pass")
    await world.leader.want(launch)
    end = await world.leader.end_of(launch.ref)
    assert (end.cause, "No space left" in end.message) == ("output_failed", True)
    ballast.unlink()
    await world.leader.until(lambda: says(world) == "its disk is full: an attempt found no room")


async def test_an_environment_that_finds_no_room_closes_the_node(world: RunnerWorld) -> None:
    world.layer.broken = "uv failed: No space left on device (os error 28)"
    launch = a_launch("j-large", "pass")
    await world.leader.want(launch)
    assert (await world.leader.end_of(launch.ref)).cause == "environment_failed"
    await world.leader.until(lambda: says(world) == "its disk is full: an attempt found no room")


async def test_runner_and_launcher_start_again_on_a_full_disk(world: RunnerWorld, disk: Path) -> None:
    launch = a_launch("j-lives", WAITS)
    await world.leader.want(launch)
    await world.leader.until_running(launch.ref)
    pid = await world.pid_of(launch)
    ballast = fill(disk)
    await world.stop()
    await LauncherClient(world.folder.path).retire()
    before = len(world.leader.exchanges)
    await world.start()
    await world.leader.until(lambda: len(world.leader.exchanges) > before and says(world) != "")
    live = await world.leader.until_running(launch.ref)
    assert (live.ref, lives(pid)) == (launch.ref, True)
    assert exit_record.holder(str(world.folder.path / "launcher.lock")) != 0
    ballast.unlink()


async def test_a_launch_without_room_for_its_record_says_so(node: Node, disk: Path) -> None:
    """The folder of the attempt is on the full disk, its spec was written before."""
    client = LauncherClient(disk)
    await client.ensure()
    name = Node(disk).lay_out("true")
    ballast = fill(disk)
    with pytest.raises(Exception, match="No space left on device"):
        await client.launch(name)
    ballast.unlink()
    await client.retire()


async def test_a_choice_that_is_the_same_is_not_written_again(node: Node) -> None:
    if node.launcher.place is None:
        pytest.skip("no control group can be made here")
    chosen = node.folder / cgroups.CHOSEN
    before = os.stat(chosen).st_ino
    await node.launcher.retire()
    await node.launcher.ensure()
    assert os.stat(chosen).st_ino == before
