"""A real runner on a real bus, with real processes; the leader, the laying out and the shipping are stand-ins."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from events import subjects
from events.bus import Bus
from events.ledger import Ledger, Write
from events.messages import Allocation, Capacity, NodeJoined, NodeSuspected
from runtime.runner import AnotherRunner, Runner
from runtime.settings import RunnerSettings
from tests.support.attempts import gone, line_in, lives, supervisor_of
from tests.support.leader import a_launch
from tests.support.nats import NatsServer
from tests.support.runners import RunnerWorld, a_runner

SAYS_ITS_PID = "import os; f = open('pid', 'w'); print(os.getpid(), file=f, flush=True); "
WAITS = SAYS_ITS_PID + "import signal; signal.pause()"


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


async def test_what_is_wanted_runs_and_its_end_is_reported_and_forgotten(world: RunnerWorld) -> None:
    launch = a_launch("j-a", "print('hello'); raise SystemExit(3)")
    await world.leader.want(launch)
    end = await world.leader.end_of(launch.ref)
    assert (end.cause, end.exit_code, end.output_bytes["stdout"]) == ("exited", 3, 6)
    assert end.started_at is not None
    await world.until_forgotten(launch)


async def test_it_tells_what_the_node_has(world: RunnerWorld) -> None:
    await world.leader.until(lambda: bool(world.leader.exchanges))
    exchange = world.leader.exchanges[0]
    assert (exchange.node, exchange.capacity.cpus, exchange.capacity.gpus) == ("n1", 2, 2)
    assert len(exchange.boot) == 36
    assert exchange.capacity.pythons


async def test_an_attempt_sees_its_own_variables_and_none_of_ours(
    world: RunnerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    code = "import os; print(*(f'{k}={v}' for k, v in os.environ.items()), sep='\\n', file=open('env', 'w'))"
    launch = a_launch("j-env", code, gpus=(1,), env={"MINE": "yes", "HEADRACE_JOB": "forged", "PYTHONPATH": "/p"})
    await world.leader.want(launch)
    await world.leader.end_of(launch.ref)
    env = dict(line.split("=", 1) for line in (await line_in(world.folder.job(launch.ref) / "env")).splitlines())
    assert env["MINE"] == "yes"
    assert (env["HEADRACE_JOB"], env["HEADRACE_ATTEMPT"], env["HEADRACE_TEAM"]) == ("j-env", "1", "vision")
    assert env["CUDA_VISIBLE_DEVICES"] == "1"
    assert env["PYTHONPATH"] == f"{world.folder.pythonpath}:/p"
    assert "RAY_AUTH_TOKEN" not in env


async def test_what_is_not_wanted_any_more_is_stopped(world: RunnerWorld) -> None:
    launch = a_launch("j-b", WAITS)
    await world.leader.want(launch)
    await world.leader.until_running(launch.ref)
    pid = await world.pid_of(launch)
    await world.leader.want_no_more(launch.ref)
    end = await world.leader.end_of(launch.ref)
    assert (end.cause, end.signal) == ("stopped", signal.SIGTERM)
    assert not lives(pid)


async def test_laying_out_is_given_up_when_the_attempt_is_not_wanted_any_more(world: RunnerWorld) -> None:
    world.layer.gate.clear()
    launch = a_launch("j-c", WAITS)
    await world.leader.want(launch)
    await world.leader.until(lambda: launch.ref in world.layer.begun)
    await world.leader.want_no_more(launch.ref)
    end = await world.leader.end_of(launch.ref)
    assert (end.cause, end.started_at) == ("stopped", None)


async def test_what_cannot_be_laid_out_says_why(world: RunnerWorld) -> None:
    world.layer.broken = "no wheel of torch for this platform"
    launch = a_launch("j-d", WAITS)
    await world.leader.want(launch)
    end = await world.leader.end_of(launch.ref)
    assert (end.cause, end.message, end.started_at) == ("environment_failed", world.layer.broken, None)


async def test_a_fault_of_ours_with_one_attempt_does_not_touch_the_others(world: RunnerWorld) -> None:
    other = a_launch("j-x", WAITS)
    await world.leader.want(other)
    await world.leader.until_running(other.ref)
    world.layer.bug = True
    launch = a_launch("j-y", "pass")
    await world.leader.want(launch)
    end = await world.leader.end_of(launch.ref)
    assert (end.cause, end.started_at) == ("start_failed", None)
    assert "ZeroDivisionError" in end.message
    assert world.leader.exchanges[0].runner == world.leader.exchanges[-1].runner


async def test_a_new_runner_finds_the_attempt_undisturbed(world: RunnerWorld) -> None:
    launch = a_launch("j-e", WAITS)
    await world.leader.want(launch)
    before = await world.leader.until_running(launch.ref)
    pid = await world.pid_of(launch)
    await world.stop()
    assert lives(pid)
    world.leader.exchanges.clear()
    await world.start()
    after = await world.leader.until_running(launch.ref)
    assert after.started_at == before.started_at
    assert lives(pid)
    assert world.layer.begun == [launch.ref]


async def test_an_end_that_came_while_no_runner_lived_is_reported(world: RunnerWorld) -> None:
    launch = a_launch("j-f", SAYS_ITS_PID + "import sys; open('go').read(); sys.exit(5)")
    job_folder = world.folder.job(launch.ref)
    job_folder.mkdir(parents=True)
    os.mkfifo(job_folder / "go")
    await world.leader.want(launch)
    pid = await world.pid_of(launch)
    await world.leader.until_running(launch.ref)
    supervisor = supervisor_of(pid)
    await world.stop()
    await asyncio.to_thread((job_folder / "go").write_text, "go")
    await gone(supervisor)
    await world.start()
    assert (await world.leader.end_of(launch.ref)).exit_code == 5


async def test_an_end_is_kept_until_the_ledger_has_it(world: RunnerWorld) -> None:
    world.leader.records = False
    launch = a_launch("j-g", "pass")
    await world.leader.want(launch)
    await world.leader.end_of(launch.ref)
    told = len(world.leader.exchanges)
    await world.leader.until(lambda: len(world.leader.exchanges) > told + 1)
    assert world.leader.reported(launch.ref) is not None
    assert world.folder.attempt(launch.ref).exists()
    world.leader.records = True
    await world.until_forgotten(launch)


async def test_a_recorded_attempt_keeps_its_folder_until_its_output_is_shipped(world: RunnerWorld) -> None:
    world.shipping.drained.clear()
    launch = a_launch("j-h", "print('x')")
    await world.leader.want(launch)
    await world.leader.end_of(launch.ref)
    await world.leader.until(lambda: world.leader.reported(launch.ref) is None)
    assert world.folder.attempt(launch.ref).exists()
    world.shipping.drained.set()
    await world.until_forgotten(launch)


async def test_an_ended_attempt_is_not_started_again(world: RunnerWorld) -> None:
    launch = a_launch("j-i", "open('count', 'a').write('x')")
    await world.leader.want(launch)
    await world.leader.end_of(launch.ref)
    await world.until_forgotten(launch)
    await world.leader.want(launch)  # a leader that is behind
    other = a_launch("j-j", "pass")
    await world.leader.want(other)
    await world.leader.end_of(other.ref)
    assert (world.folder.job(launch.ref) / "count").read_text() == "x"


async def test_an_older_term_is_ignored_also_by_the_next_runner(world: RunnerWorld) -> None:
    launch = a_launch("j-k", WAITS)
    await world.leader.want(launch)
    await world.leader.until_running(launch.ref)
    world.leader.wanted.clear()
    await world.leader.say(term=3)
    world.leader.wanted[launch.ref] = launch
    await world.stop()
    await world.start()
    world.leader.wanted.clear()
    await world.leader.say(term=3)
    world.leader.wanted[launch.ref] = launch
    assert (await world.leader.until_running(launch.ref)).end is None


async def test_a_killed_supervisor_is_reported_when_nothing_of_the_attempt_lives(world: RunnerWorld) -> None:
    code = "import subprocess; subprocess.Popen(['setsid', 'sh', '-c', 'echo $$ > child; exec sleep 1000']);" + WAITS
    launch = a_launch("j-l", code)
    await world.leader.want(launch)
    pid = await world.pid_of(launch)
    child = int(await line_in(world.folder.job(launch.ref) / "child"))
    os.kill(supervisor_of(pid), signal.SIGKILL)
    end = await world.leader.end_of(launch.ref)
    assert end.cause == "supervisor_lost"
    assert not lives(pid)
    assert not lives(child)


async def test_a_second_attempt_waits_for_the_end_of_the_first(world: RunnerWorld) -> None:
    first = a_launch("j-m", WAITS, gpus=(0,))
    await world.leader.want(first)
    await world.leader.until_running(first.ref)
    del world.leader.wanted[first.ref]
    second = a_launch("j-m", "pass", attempt=2, gpus=(0,))
    await world.leader.want(second)
    await world.leader.end_of(second.ref)
    first_end, second_end = world.leader.ends[first.ref], world.leader.ends[second.ref]
    assert second_end.started_at is not None
    assert second_end.started_at >= first_end.ended_at


async def test_attempts_share_a_gpu_as_far_as_it_goes(world: RunnerWorld) -> None:
    part = Allocation(node="n1", cpus=1, memory_bytes=1, gpus=(1,), gpu_milli=400)
    tells = "import os; e = os.environ; "
    tells += "print(e['HEADRACE_GPU_SHARE'], e['CUDA_VISIBLE_DEVICES'], file=open('gpu', 'w')); "
    codes = {"j-1": tells + WAITS, "j-2": tells + WAITS, "j-3": tells}
    first, second, third = (
        msgspec.structs.replace(a_launch(job, code), allocation=part) for job, code in codes.items()
    )
    await world.leader.want(first, second, third)
    await world.leader.until_running(first.ref)
    await world.leader.until_running(second.ref)
    await world.pid_of(second)
    assert await line_in(world.folder.job(second.ref) / "gpu") == "0.4 1"
    await world.leader.want_no_more(first.ref)
    third_end, first_end = await world.leader.end_of(third.ref), await world.leader.end_of(first.ref)
    assert third_end.started_at is not None
    assert third_end.started_at >= first_end.ended_at
    assert second.ref not in world.leader.ends


async def test_a_second_runner_of_a_folder_is_refused(world: RunnerWorld) -> None:
    await world.leader.until(lambda: bool(world.leader.exchanges))
    with pytest.raises(AnotherRunner, match="another runner"):
        await Runner(world.settings, world.leader.bus, world.layer, world.shipping).run()


async def test_a_disk_that_takes_no_note_does_not_end_the_runner(world: RunnerWorld) -> None:
    """Found by the campaign: a full disk did. Folders stand where the notes of lease and term would be written."""
    await world.leader.until(lambda: bool(world.leader.exchanges))
    await world.stop()
    for note in (world.folder.lease, world.folder.seen):
        note.unlink(missing_ok=True)
        note.mkdir()
    await world.start()
    launch = a_launch("j-full", "pass")
    await world.leader.want(launch)
    assert (await world.leader.end_of(launch.ref)).exit_code == 0
    await world.until_forgotten(launch)


async def test_a_node_that_is_not_suspected_goes_on_without_a_leader(world: RunnerWorld) -> None:
    """And one that is suspected ends its attempts when its lease is over."""
    await world.stop()
    world.settings = msgspec.structs.replace(world.settings, lease_s=1.0)
    world.layer.settings = world.settings
    ledger = Ledger(world.leader.bus, source="test")
    await world.start()
    launch = a_launch("j-n", WAITS)
    await world.leader.want(launch)
    await world.leader.until_running(launch.ref)
    await world.leader.fall_silent()
    joined = await _join(ledger)
    pid = await world.pid_of(launch)
    process = asyncio.ensure_future(gone(pid))
    _, running = await asyncio.wait([process], timeout=1.5)
    assert running, "ended although it was not suspected"
    await ledger.append(Write(subjects.node("n1"), NodeSuspected(term=7, since_at=0.0), joined))
    await process
    await world.leader.listen()
    assert (await world.leader.end_of(launch.ref)).cause == "fenced"


async def test_what_was_wanted_before_the_lease_was_over_is_not_started_after_it(
    world: RunnerWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Found by the campaign, seed 3248: a runner that had been frozen started what had been lost meanwhile."""
    await world.stop()
    world.settings = msgspec.structs.replace(world.settings, lease_s=1.0)
    world.layer.settings = world.settings
    ledger = Ledger(world.leader.bus, source="test")
    caplog.set_level("INFO", "headrace.runner")
    await world.start()
    first, late = a_launch("j-first", WAITS), a_launch("j-late", WAITS)
    await world.leader.want(first)
    await world.leader.until_running(first.ref)
    pid = await world.pid_of(first)
    await world.leader.fall_silent()
    await ledger.append(Write(subjects.node("n1"), NodeSuspected(term=7, since_at=0.0), await _join(ledger)))
    await gone(pid)
    del world.leader.wanted[first.ref]
    await world.leader.want(late)  # as if it had lain in a buffer since then
    async with asyncio.timeout(20):
        while "not started: 1 of j-late" not in caplog.text:  # noqa: ASYNC110  the leader hears nothing
            await asyncio.sleep(0.02)
    assert not world.folder.attempt(late.ref).exists()
    await world.leader.listen()
    await world.leader.until_running(late.ref)


async def _join(ledger: Ledger) -> int:
    fact = NodeJoined(boot="b", capacity=Capacity(cpus=1, memory_bytes=1))
    return await ledger.append(Write(subjects.node("n1"), fact, 0))
