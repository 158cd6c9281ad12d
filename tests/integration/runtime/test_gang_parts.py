"""One part of a gang on a real runner: laid out, ready, started with the leader's word. The leader is a stand-in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from events.bus import Bus
from events.messages import GangPart, Launch, LiveAttempt, Meeting
from runtime import exit_record
from runtime.settings import RunnerSettings
from runtime.shipping import output
from tests.support.attempts import line_in
from tests.support.leader import a_launch
from tests.support.nats import NatsServer
from tests.support.runners import RunnerWorld, a_runner

SAYS_WHERE = (
    "import os, signal; e = os.environ; f = open('where', 'w'); "
    "print(e['RANK'], e['WORLD_SIZE'], e['MASTER_ADDR'], e['MASTER_PORT'], file=f, flush=True); signal.pause()"
)
ELSEWHERE = Meeting(address="10.0.0.7", port=20_001)


@pytest.fixture
async def world(nats: NatsServer, bus: Bus, tmp_path: Path) -> AsyncIterator[RunnerWorld]:
    settings = RunnerSettings(
        node="n1",
        folder=str(tmp_path / "n1"),
        nats_url=nats.url,
        blobs_url="",
        cpus=2,
        memory_bytes=1,
        gpus=2,
        pythons=("3.11.7",),
    )
    async with a_runner(nats, bus, settings) as world:
        yield world


def a_part(rank: int = 0, *, job: str = "j-gang", meeting: Meeting | None = None, code: str = SAYS_WHERE) -> Launch:
    return a_launch(job, code, gang=GangPart(rank=rank, size=2, meeting=meeting))


async def until_ready(world: RunnerWorld, launch: Launch) -> LiveAttempt:
    await world.leader.until(lambda: (live := world.leader.reported(launch.ref)) is not None and live.state == "ready")
    found = world.leader.reported(launch.ref)
    assert found is not None
    return found


async def where(world: RunnerWorld, launch: Launch) -> list[str]:
    return (await line_in(world.folder.job(launch.ref) / "where")).split()


async def test_a_part_waits_with_a_port_of_its_own_and_starts_with_the_word(world: RunnerWorld) -> None:
    await world.leader.want(a_part())
    offered = (await until_ready(world, a_part())).meeting
    assert offered is not None
    assert offered.address == "127.0.0.1"
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("", offered.port))
    await world.leader.want(a_part(meeting=offered))
    assert await where(world, a_part()) == ["0", "2", offered.address, str(offered.port)]
    assert (await world.leader.until_running(a_part().ref)).meeting == offered
    socket.create_server(("", offered.port)).close()


async def test_a_private_cluster_has_a_token_that_travels_with_where_its_parts_meet(world: RunnerWorld) -> None:
    launch = msgspec.structs.replace(a_part(), kind="ray")
    await world.leader.want(launch)
    offered = (await until_ready(world, launch)).meeting
    assert offered is not None
    assert len(offered.token) == 64
    await world.leader.want(msgspec.structs.replace(launch, gang=GangPart(rank=0, size=2, meeting=offered)))
    await world.leader.until_running(launch.ref)
    spec = exit_record.read_spec(str(world.folder.attempt(launch.ref)))
    assert spec.env["HEADRACE_RAY_TOKEN"] == offered.token
    assert offered.token not in " ".join(spec.argv)
    assert "MASTER_PORT" not in spec.env


async def test_another_rank_offers_nothing_and_goes_where_it_is_told(world: RunnerWorld) -> None:
    await world.leader.want(a_part(rank=1))
    assert (await until_ready(world, a_part())).meeting is None
    await world.leader.want(a_part(rank=1, meeting=ELSEWHERE))
    assert await where(world, a_part()) == ["1", "2", "10.0.0.7", "20001"]


async def test_rank_0_takes_the_port_at_which_others_have_begun_if_it_is_free(world: RunnerWorld) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    begun = Meeting(address="127.0.0.1", port=port)
    await world.leader.want(a_part(meeting=begun))
    assert await where(world, a_part()) == ["0", "2", "127.0.0.1", str(port)]


async def test_rank_0_does_not_start_where_a_stranger_listens(world: RunnerWorld) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        await world.leader.want(a_part(meeting=Meeting(address="127.0.0.1", port=port)))
        end = await world.leader.end_of(a_part().ref)
    assert (end.cause, end.message, end.started_at) == ("meeting_failed", f"port {port} is taken", None)


async def test_a_part_that_waits_is_stopped_at_once_when_it_is_not_wanted(world: RunnerWorld) -> None:
    await world.leader.want(a_part())
    offered = (await until_ready(world, a_part())).meeting
    assert offered is not None
    await world.leader.want_no_more(a_part().ref)
    end = await world.leader.end_of(a_part().ref)
    assert (end.cause, end.started_at) == ("stopped", None)
    socket.create_server(("", offered.port)).close()


async def test_a_part_that_runs_for_another_meeting_is_stopped(world: RunnerWorld) -> None:
    await world.leader.want(a_part(rank=1, meeting=ELSEWHERE))
    await world.leader.until_running(a_part().ref)
    await world.leader.want(a_part(rank=1, meeting=Meeting(address="10.0.0.7", port=20_002)))
    end = await world.leader.end_of(a_part().ref)
    assert (end.cause, end.message) == ("stopped", "its gang meets elsewhere by now")


async def test_the_next_runner_lays_a_part_out_anew_and_knows_where_another_met(world: RunnerWorld) -> None:
    waits, runs = a_part(job="j-waits"), a_part(1, job="j-runs", meeting=ELSEWHERE)
    await world.leader.want(waits, runs)
    await until_ready(world, waits)
    await world.leader.until_running(runs.ref)
    await world.stop()
    world.leader.exchanges.clear()
    await world.start()
    assert (await until_ready(world, waits)).meeting is not None
    assert (await world.leader.until_running(runs.ref)).meeting == ELSEWHERE
    assert world.layer.begun.count(waits.ref) == 2


async def test_the_end_of_a_part_says_what_it_wrote_last_under_the_names_of_its_rank(world: RunnerWorld) -> None:
    code = "import sys; print('step 1'); sys.stderr.write('one\\n\\n\\x1b[31mtwo\\n' + 'x' * 500); sys.exit(3)"
    await world.leader.want(a_part(1, meeting=ELSEWHERE, code=code))
    end = await world.leader.end_of(a_part().ref)
    assert end.last_lines == ("one", "[31mtwo", "x" * 200)
    assert end.output_bytes.keys() == {"stdout-1", "stderr-1"}
    assert end.exited_at is not None
    assert end.exited_at <= end.ended_at


async def test_what_lingers_does_not_make_its_end_look_later(world: RunnerWorld) -> None:
    code = (
        "import subprocess, sys; "
        "subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(15, signal.SIG_IGN); "
        "print(flush=True); time.sleep(60)'], stdout=subprocess.PIPE).stdout.readline(); sys.exit(3)"
    )
    await world.leader.want(msgspec.structs.replace(a_part(1, meeting=ELSEWHERE, code=code), grace_s=0.5))
    end = await world.leader.end_of(a_part().ref)
    assert end.exited_at is not None
    assert end.ended_at - end.exited_at >= 0.4


async def test_a_job_on_one_node_says_nothing_of_all_this(world: RunnerWorld) -> None:
    launch = a_launch("j-alone", "import sys; sys.stderr.write('oh\\n'); sys.exit(3)")
    await world.leader.want(launch)
    end = await world.leader.end_of(launch.ref)
    assert (end.last_lines, set(end.output_bytes)) == ((), {"stdout", "stderr"})


def test_the_last_lines_are_those_of_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of somebody else\n")
    (tmp_path / "stderr").symlink_to(tmp_path / "secret")
    (tmp_path / "stdout").write_bytes(b"a\nb\n\xff\n" + b"\n" * 9)
    assert output.last_lines(tmp_path) == ("a", "b", "�")
    (tmp_path / "stdout").write_text("".join(f"line {number}\n" for number in range(5000)))
    assert output.last_lines(tmp_path) == tuple(f"line {number}" for number in range(4995, 5000))
    assert output.last_lines(tmp_path / "nowhere") == ()


async def test_nothing_starts_on_a_node_that_is_not_cleared_though_the_word_came(world: RunnerWorld) -> None:
    await world.stop()
    world.settings = msgspec.structs.replace(world.settings, lease_s=1.0)
    world.layer.settings = world.settings
    await world.start()
    await world.leader.want(a_part(1))
    await until_ready(world, a_part())
    await world.leader.fall_silent()
    await asyncio.sleep(1.2)
    await world.leader.want(a_part(1, meeting=ELSEWHERE))  # as if it had lain in a buffer since then
    await asyncio.sleep(0.3)
    assert not (world.folder.attempt(a_part().ref) / "spec.json").exists()
    await world.leader.listen()
    await world.leader.until_running(a_part().ref)
