"""The runner as it is run: a process of its own, with the real laying out and shipping. It is killed the hard way."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events import subjects
from events.bus import Bus
from events.messages import Launch
from events.streams import LOGS
from runtime import short_way
from runtime.supervised import LauncherClient
from tests.support.attempts import END_S_MAX, line_in, lives
from tests.support.leader import Leader, a_launch
from tests.support.nats import NatsServer
from tests.support.runner_process import ROOT, RunnerProcess


@pytest.fixture
async def leader(bus: Bus) -> Leader:
    leader = Leader(bus)
    await leader.listen()
    return leader


@pytest.fixture
async def runner(leader: Leader, tmp_path: Path, nats: NatsServer) -> AsyncIterator[RunnerProcess]:
    runner = RunnerProcess(tmp_path, nats, gpus=1)
    await runner.start()
    yield runner
    assert await runner.end() == 0
    await LauncherClient(runner.node.path).retire()


async def shipped(bus: Bus, launch: Launch, stream: str) -> bytes:
    """The whole of a stream, once its end has arrived. What a new runner sends again counts once, by its offset."""
    subject = subjects.logs("n1", launch.ref.team, launch.ref.job, launch.ref.attempt, stream)
    found = b""
    async with asyncio.timeout(END_S_MAX):
        async for delivery in bus.tail(LOGS.name, subjects=(subject,), after=0):
            headers, body = getattr(delivery, "headers", {}), getattr(delivery, "body", b"")
            if not headers:
                continue
            offset = int(headers["hr-offset"])
            assert offset <= len(found), "bytes are missing"
            again = found[offset : offset + len(body)]
            assert body[: len(again)] == again, "sent again, and different"
            found += body[len(again) :]
            if "hr-end" in headers:
                assert offset == len(found)
                return found
    raise AssertionError("unreachable")


SHARED = """\
import multiprocessing, os, tempfile
with multiprocessing.get_context("forkserver").Manager() as manager:  # by a socket below TMPDIR
    print(manager.list([1]), os.path.samefile(tempfile.gettempdir(), os.environ["HEADRACE_SCRATCH"]))
"""


async def test_processes_of_a_job_meet_at_sockets_however_deep_the_nodes_folder_is(
    bus: Bus, leader: Leader, nats: NatsServer, tmp_path: Path
) -> None:
    runner = RunnerProcess(tmp_path / ("deep" * 20), nats)
    await runner.start()
    try:
        launch = a_launch("j-a", SHARED)
        await leader.want(launch)
        end = await leader.end_of(launch.ref)
        assert (end.exit_code, await shipped(bus, launch, "stdout")) == (0, b"[1] True\n")
        scratch = runner.node.attempt(launch.ref) / "scratch"
        async with asyncio.timeout(END_S_MAX):
            while os.path.lexists(short_way.way(scratch)):  # noqa: ASYNC110, ASYNC240  it goes with the folder
                await asyncio.sleep(0.02)
    finally:
        assert await runner.end() == 0
        await LauncherClient(runner.node.path).retire()


async def test_a_job_runs_and_all_of_its_output_is_shipped(bus: Bus, leader: Leader, runner: RunnerProcess) -> None:
    launch = a_launch("j-a", "import sys; print('x' * 300_000); print('oh', file=sys.stderr)")
    await leader.want(launch)
    end = await leader.end_of(launch.ref)
    assert (end.cause, end.exit_code) == ("exited", 0)
    assert await shipped(bus, launch, "stdout") == b"x" * 300_000 + b"\n"
    assert await shipped(bus, launch, "stderr") == b"oh\n"
    await leader.until(lambda: not runner.node.attempt(launch.ref).exists())


async def test_killed_and_started_again_it_finds_its_attempt_and_every_byte_counts_once(
    bus: Bus, leader: Leader, runner: RunnerProcess
) -> None:
    code = "import os\nprint('before', flush=True); print(os.getpid(), file=open('pid', 'w'), flush=True)\n"
    code += "open('go').read(); print('after')"
    launch = a_launch("j-b", code)
    job_folder = runner.node.job(launch.ref)
    job_folder.mkdir(parents=True)
    os.mkfifo(job_folder / "go")
    await leader.want(launch)
    await leader.until_running(launch.ref)
    pid = int(await line_in(job_folder / "pid"))
    await runner.kill()
    assert lives(pid)
    leader.exchanges.clear()
    await runner.start()
    await leader.until_running(launch.ref)
    await asyncio.to_thread((job_folder / "go").write_text, "go")
    assert (await leader.end_of(launch.ref)).exit_code == 0
    assert await shipped(bus, launch, "stdout") == b"before\nafter\n"


async def test_settings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"node": "n1", "folder": "/f", "nats_url": 7, "blobs_url": ""}')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runtime.runner", "--settings", str(file)), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, complaint = await process.communicate()
    assert process.returncode == 1
    assert "settings.json" in complaint.decode()
    assert "$.nats_url" in complaint.decode()
