"""The launcher: one a folder, away from everybody, replaceable, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from runtime import launcher, supervised
from runtime.supervised import LauncherClient, LaunchFailed, Standing, Supervised, standing
from tests.support.attempts import (
    Node,
    childless,
    environment_of,
    gone,
    line_in,
    lives,
    open_files,
    session_of,
    supervisor_of,
)


async def test_it_is_nobodys_child_and_holds_no_environment_of_ours(node: Node) -> None:
    pid = await node.launcher.ensure()
    assert supervisor_of(pid) != os.getpid()
    assert session_of(pid) not in {os.getsid(0), pid}  # in a session of its own that it does not lead
    assert {entry.split(b"=")[0] for entry in environment_of(pid)} == {b"PATH", b"LANG"}


async def test_a_long_path_to_its_folder_is_fine(tmp_path: Path) -> None:
    node = Node(tmp_path / ("long-" * 20) / ("name-" * 20))
    await node.launcher.ensure()
    try:
        assert (await (await node.sh("exit 5")).end()).exit_code == 5
    finally:
        await node.launcher.retire()


async def test_a_second_client_finds_the_same_one(node: Node) -> None:
    assert await LauncherClient(node.folder).ensure() == await node.launcher.ensure()


async def test_one_of_another_version_is_replaced_and_attempts_do_not_notice(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await node.sh("sleep 1000")
    status = await job.until("running")
    before = await node.launcher.ensure()
    monkeypatch.setattr(launcher, "version", lambda: "another")
    after = await node.launcher.ensure()
    assert after != before
    assert not lives(before)
    assert lives(status.pid)
    job.supervised.stop("stopped", "cancelled")
    assert (await job.end()).cause == "stopped"


async def test_a_killed_one_is_started_again_and_attempts_do_not_notice(node: Node) -> None:
    job = await node.sh("sleep 1000")
    status = await job.until("running")
    pid = await node.launcher.ensure()
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    assert (await (await node.sh("exit 6")).end()).exit_code == 6
    assert lives(status.pid)
    job.supervised.stop("stopped", "cancelled")
    await job.end()


async def test_a_stopped_one_is_woken(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "LOOK_S", 0.2)
    monkeypatch.setattr(supervised, "HELLO_S_MAX", 0.2)
    pid = await node.launcher.ensure()
    os.kill(pid, signal.SIGSTOP)
    assert await node.launcher.ensure() == pid
    os.kill(pid, signal.SIGSTOP)
    assert (await (await node.sh("exit 6")).end()).exit_code == 6


async def test_a_request_that_no_launcher_took_is_made_again(node: Node) -> None:
    """One that died after it had accepted the connection, or did not wait for a runner that was slow."""

    async def die(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dying.close()
        writer.close()

    await node.launcher.retire()
    dying = await asyncio.start_unix_server(die, node.folder / launcher.SOCKET)
    assert (await (await node.sh("exit 6")).end()).exit_code == 6


async def test_a_client_that_says_nothing_is_left_without_a_word(node: Node) -> None:
    await node.launcher.ensure()
    reader, writer = await supervised.connect(node.folder, launcher.SOCKET)
    async with asyncio.timeout(10 * launcher.REQUEST_WAIT_S):
        assert await reader.read() == b""
    writer.close()


async def test_a_name_that_leads_elsewhere_is_refused(node: Node) -> None:
    for name in ("..", "", "../../etc", "no-such-attempt"):
        with pytest.raises(LaunchFailed):
            await node.launcher.launch(name)


async def test_an_attempt_is_found_again_by_its_folder(node: Node) -> None:
    job = await node.sh("echo up; read line < go; exit 9")
    os.mkfifo(job.folder / "scratch" / "go")
    await line_in(job.folder / "stdout")
    job.leave()
    assert standing(job.folder) is Standing.LIVES
    again = asyncio.ensure_future(Supervised(job.folder).watch(lambda status: None))
    await asyncio.to_thread((job.folder / "scratch" / "go").write_text, "go\n")
    record = await again
    assert (record.cause, record.exit_code) == ("exited", 9)


async def test_fifty_short_attempts_leave_nothing_behind(node: Node) -> None:
    pid = await node.launcher.ensure()
    files = open_files(pid)
    jobs = [await node.sh("sleep 0.01 & true") for _ in range(50)]
    records = [await job.end() for job in jobs]
    assert [record.exit_code for record in records] == [0] * 50
    await childless(pid)
    assert open_files(pid) == files
