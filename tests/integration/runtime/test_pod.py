"""Process 1 of a node's pod, with a script in the place of Ray, and a real runner with real attempts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.pool import raycluster
from controlplane.pool.machines import Amounts
from controlplane.pool.raycluster import Group, Shape
from events.bus import Bus
from runtime import pod
from runtime.supervised import LauncherClient
from tests.support.attempts import END_S_MAX, children, lives
from tests.support.leader import Leader, a_launch
from tests.support.nats import NatsServer
from tests.support.runner_process import ROOT, RunnerProcess

SETTINGS = raycluster.Settings(name="pool", namespace="n", pool="p", node_image="i", ray_version="2", token_secret="t")
RAY = """\
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open(f"{folder}/ended", "a").write("x"), sys.exit(0)))
if os.fork() == 0:  # leaves a grandchild behind
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.3)
    os._exit(0)
os.wait()
with open(f"{folder}/starts", "a") as file:
    file.write(f"{os.getpid()} {' '.join(sys.argv[1:])}\\n")
time.sleep(600)
"""


class PodProcess:
    """The real `python -m runtime.pod`, and what its Ray notes down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own = folder / "own"
        script = folder / "ray.py"
        script.write_text(f"folder = {str(folder)!r}\n{RAY}")
        self.start_command = f"{sys.executable} {script} start --block"

    async def start(self) -> None:
        environ = os.environ | {pod.COMMAND: self.start_command, pod.NODE: "n1", pod.OWN_FOLDER: str(self.own)}
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "runtime.pod", str(self.folder)), cwd=ROOT, env=environ
        )

    @property
    def starts(self) -> list[str]:
        file = self.folder / "starts"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def ray(self) -> int:
        """Process id of the newest Ray."""
        return int(self.starts[-1].split()[0])

    async def until_started(self, times: int) -> None:
        async with asyncio.timeout(END_S_MAX):
            while len(self.starts) < times:  # noqa: ASYNC110  what it waits for is a file
                await asyncio.sleep(0.02)

    async def end(self) -> int:
        self.process.terminate()
        async with asyncio.timeout(END_S_MAX):
            return await self.process.wait()


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[PodProcess]:
    process = PodProcess(tmp_path)
    await process.start()
    await process.until_started(1)
    yield process
    if process.process.returncode is None:
        process.process.kill()
        await process.process.wait()
        os.kill(process.ray, signal.SIGKILL)


async def test_ray_is_started_with_the_nodes_name(here: PodProcess) -> None:
    assert here.starts[0].partition(" ")[2] == "start --block --labels hr.node=n1"
    assert await here.end() == 0


async def test_ray_is_started_again_whenever_it_ends(here: PodProcess) -> None:
    first = here.ray
    os.kill(first, signal.SIGKILL)
    await here.until_started(2)
    assert here.ray != first
    assert here.process.returncode is None
    assert await here.end() == 0


async def passes(here: PodProcess, file: str, *, silent_s: int = raycluster.SILENT_S) -> bool:
    """Whether a probe says yes, in the words that Kubernetes is given."""
    command = raycluster.probe(str(here.own / Path(file).name), silent_s=silent_s)
    probe = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    return await probe.wait() == 0


async def test_a_dead_ray_is_not_ready_and_ends_nothing(here: PodProcess) -> None:
    spec = raycluster.render(SETTINGS, [Group(shape=Shape(Amounts(1000, 1, 0)))])["spec"]
    container = spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    for name, file in (("livenessProbe", pod.ALIVE), ("readinessProbe", pod.RAY_RUNS)):
        assert container[name]["exec"]["command"] == raycluster.probe(f"{pod.OWN_FOLDER_DEFAULT}/{file}")
    async with asyncio.timeout(END_S_MAX):
        while not await passes(here, pod.RAY_RUNS):  # noqa: ASYNC110  what it waits for is a file
            await asyncio.sleep(0.02)
    assert (here.own.stat().st_mode & 0o777) == 0o700
    os.kill(here.ray, signal.SIGSTOP)  # so that it is not started again before we have looked
    os.kill(here.ray, signal.SIGKILL)
    async with asyncio.timeout(END_S_MAX):
        while await passes(here, pod.RAY_RUNS):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await passes(here, pod.ALIVE)
    await here.until_started(2)
    assert await here.end() == 0


async def test_a_process_1_that_stands_still_is_not_alive(here: PodProcess) -> None:
    here.process.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(END_S_MAX):
            while await passes(here, pod.ALIVE, silent_s=1):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    finally:
        here.process.send_signal(signal.SIGCONT)
    assert await here.end() == 0


async def test_a_sigterm_ends_ray_in_peace_and_leaves_nothing(here: PodProcess) -> None:
    assert await here.end() == 0
    assert (here.folder / "ended").read_text() == "x"
    assert not lives(here.ray)


async def test_what_ray_leaves_behind_is_adopted_and_reaped(here: PodProcess) -> None:
    os.kill(here.ray, signal.SIGKILL)
    await here.until_started(2)
    async with asyncio.timeout(END_S_MAX):
        while children(here.process.pid) != [here.ray]:  # noqa: ASYNC110  zombies are children, too
            await asyncio.sleep(0.02)
    assert await here.end() == 0


async def test_a_sigterm_stops_what_runs_with_its_grace_and_the_leader_hears_of_it_first(
    here: PodProcess, bus: Bus, nats: NatsServer
) -> None:
    leader = Leader(bus)
    await leader.listen()
    runner = RunnerProcess(here.folder, nats)
    await runner.start()
    try:
        code = "import signal, sys, time; signal.signal(15, lambda *_: (print('saved'), sys.exit(0)))\n"
        launch = a_launch("j-a", code + "open('here', 'w'); time.sleep(600)", grace_s=5.0)
        await leader.want(launch)
        await leader.until_running(launch.ref)
        here.process.terminate()
        end = await leader.end_of(launch.ref)
        assert end.cause == "stopped"
        assert not (here.folder / "ended").exists(), "Ray went first, and the runner with it"
        assert leader.exchanges[-1].capacity.cannot_start == "its pod is being ended"
        async with asyncio.timeout(END_S_MAX):
            assert await here.process.wait() == 0
        assert (here.folder / "ended").exists()
    finally:
        await runner.end()
        await LauncherClient(runner.node.path).retire()


async def test_without_the_command_of_kuberay_it_says_what_is_missing(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != pod.COMMAND}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runtime.pod", str(tmp_path)), cwd=ROOT, env=environ, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"KUBERAY_GEN_RAY_START_CMD is not set" in said
