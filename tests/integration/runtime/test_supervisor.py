"""What a supervisor does with a real process."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from runtime import bounds, exit_record, supervised
from runtime.supervised import LaunchFailed, Standing, SupervisorLost, standing
from tests.support.attempts import Node, gone, line_in, lives, supervisor_of

IGNORES_SIGTERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); "
FOREVER = "signal.pause()"


@pytest.mark.parametrize("code", [0, 1, 3, 127, 255])
async def test_the_exit_code_is_recorded(node: Node, code: int) -> None:
    record = await (await node.sh(f"exit {code}")).end()
    assert (record.cause, record.exit_code, record.signal) == ("exited", code, None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
async def test_the_signal_that_ended_it_is_recorded(node: Node, number: signal.Signals) -> None:
    record = await (await node.sh(f"kill -{int(number)} $$")).end()
    assert (record.cause, record.exit_code, record.signal) == ("signalled", None, number)


async def test_usage_and_times_are_recorded(node: Node) -> None:
    record = await (await node.python("x = bytearray(80_000_000); sum(range(3_000_000))")).end()
    assert record.cpu_s > 0.02
    assert record.memory_bytes_max > 80_000_000
    assert record.started_at is not None
    assert record.started_at < record.ended_at


async def test_over_its_time_limit_it_is_ended(node: Node) -> None:
    job = await node.sh("sleep 1000", time_limit_s=0.2)
    record = await job.end()
    assert (record.cause, record.signal) == ("time_limit", signal.SIGTERM)
    assert record.message == "over its time limit of 0.2 s"


async def test_what_ignores_sigterm_is_killed_after_its_grace(node: Node) -> None:
    job = await node.python(IGNORES_SIGTERM + FOREVER)
    await line_in(job.folder / "stdout")
    job.supervised.stop("stopped", "cancelled", grace_s=0.1)
    record = await job.end()
    assert (record.cause, record.signal, record.message) == ("stopped", signal.SIGKILL, "cancelled")


async def test_it_may_use_its_grace_and_end_by_itself(node: Node) -> None:
    job = await node.sh("trap 'echo saved; exit 7' TERM; echo up; while :; do sleep 0.01; done")
    await line_in(job.folder / "stdout")
    job.supervised.stop("stopped", "preempted")
    record = await job.end()
    assert (record.cause, record.exit_code) == ("stopped", 7)
    assert "saved" in job.output()


async def test_stopping_the_supervisor_by_sigterm_stops_the_attempt(node: Node) -> None:
    job = await node.sh("sleep 1000")
    status = await job.until("running")
    os.kill(supervisor_of(status.pid), signal.SIGTERM)
    assert (await job.end()).cause == "stopped"


async def test_a_daemonised_child_does_not_outlive_the_attempt(node: Node) -> None:
    double_fork = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "        print(os.getpid(), file=open('daemon', 'w'), flush=True)\n"
        "        while True: time.sleep(1)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "while not os.path.exists('daemon') or not open('daemon').read(): time.sleep(0.01)\n"
    )
    job = await node.python(double_fork, grace_s=0.1)
    record = await job.end()
    daemon = int((job.folder / "scratch" / "daemon").read_text())
    assert (record.cause, record.exit_code) == ("exited", 0)
    assert not lives(daemon)


async def test_a_setsid_child_is_ended_with_its_attempt(node: Node) -> None:
    job = await node.sh("setsid sh -c 'echo $$ > child; exec sleep 1000' & sleep 1000", grace_s=0.1)
    child = int(await line_in(job.folder / "scratch" / "child"))
    job.supervised.stop("stopped", "cancelled")
    await job.end()
    assert not lives(child)


async def test_all_output_is_kept_however_large(node: Node) -> None:
    job = await node.python("import os\nfor _ in range(64): os.write(1, b'x' * 65536); os.write(2, b'e' * 1000)")
    record = await job.end()
    assert record.output_bytes == {"stdout": 64 * 65536, "stderr": 64_000}
    assert (job.folder / "stdout").stat().st_size == 64 * 65536


async def test_past_the_cap_output_is_cut_visibly_and_the_job_goes_on(node: Node) -> None:
    job = await node.python("import os\nfor _ in range(40): os.write(1, b'x' * 65536)", output_bytes_max=100_000)
    record = await job.end()
    assert record.exit_code == 0
    assert job.output() == "x" * 100_000 + "\n[headrace: output cut at 100000 bytes]\n"
    assert record.output_bytes["stdout"] == len(job.output())


async def test_a_job_may_close_its_output(node: Node) -> None:
    record = await (await node.sh("exec >&- 2>&-; sleep 0.05; exit 4")).end()
    assert record.exit_code == 4


async def test_its_environment_and_folder_are_those_of_the_spec(node: Node) -> None:
    job = await node.start("env", env={"PATH": "/usr/bin:/bin", "ONLY": "this"})
    await job.end()
    assert sorted(job.output().split()) == ["ONLY=this", "PATH=/usr/bin:/bin"]


async def test_it_gets_no_descriptor_but_the_three(node: Node) -> None:
    job = await node.sh("ls /proc/$$/fd; readlink /proc/$$/fd/0")  # no pipe: a shell that makes one has more
    await job.end()
    assert job.output().split() == ["0", "1", "2", "/dev/null"]


async def test_it_leads_a_session_and_a_group_with_default_signals(node: Node) -> None:
    code = (
        "import os, signal; print(os.getpid() == os.getsid(0) == os.getpgid(0));print(open('/proc/self/status').read())"
    )
    job = await node.python(code)
    await job.end()
    status = dict(line.split(":\t", 1) for line in job.output().splitlines() if ":\t" in line)
    assert job.output().startswith("True")
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) & (1 << (signal.SIGCHLD - 1)) == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"argv": ("no-such-program",)}, ["no-such-program", "No such file", "hint"]),
        ({"argv": ("/etc/passwd",)}, ["/etc/passwd", "Permission denied", "chmod +x"]),
        ({"cwd": "/no/such/folder"}, ["working folder /no/such/folder", "No such file"]),
        ({"argv": ("sh", "-c", "a\0b")}, ["cannot start 'sh'"]),
    ],
)
async def test_what_cannot_be_started_says_why(node: Node, fields: dict[str, object], words: list[str]) -> None:
    record = await (await node.sh("true", **fields)).end()
    assert (record.cause, record.exit_code, record.started_at) == ("start_failed", None, None)
    for word in words:
        assert word in record.message


async def test_an_attempt_is_launched_once(node: Node) -> None:
    name = node.lay_out("true")
    first = await node.launcher.launch(name)
    with pytest.raises(LaunchFailed, match="exists"):
        await node.launcher.launch(name)
    assert (await first.watch(lambda status: None)).exit_code == 0
    with pytest.raises(LaunchFailed, match="exists"):
        await node.launcher.launch(name)


async def test_without_a_clearance_for_its_lease_the_attempt_ends_itself(node: Node, tmp_path: Path) -> None:
    job = await node.sh("sleep 1000", lease_s=0.2, lease_file=str(tmp_path / "lease"))
    record = await job.end()
    assert (record.cause, record.signal) == ("fenced", signal.SIGTERM)


async def test_an_attempt_whose_lease_is_over_before_it_began_never_runs(node: Node, tmp_path: Path) -> None:
    """Whoever was frozen between the order and this: runner, launcher, or the machine."""
    lease = tmp_path / "lease"
    exit_record.renew_lease(str(lease), exit_record.boot_clock() - 10)
    job = await node.sh(f"touch {tmp_path}/ran", lease_s=5.0, lease_file=str(lease))
    record = await job.end()
    assert (record.cause, record.started_at, record.exit_code) == ("fenced", None, None)
    assert not (tmp_path / "ran").exists()


async def test_a_killed_supervisor_takes_the_entrypoint_along(node: Node) -> None:
    job = await node.sh("sleep 1000 & echo $!; wait")
    child = int(await line_in(job.folder / "stdout"))
    status = await job.until("running")
    supervisor = supervisor_of(status.pid)
    os.kill(supervisor, signal.SIGKILL)
    await gone(status.pid)
    await gone(supervisor)
    assert standing(job.folder) is Standing.VANISHED
    job.leave()
    # What the entrypoint had started is left to the runner's sweep.
    assert lives(child)
    assert bounds.sweep(f"HEADRACE_SCRATCH={job.folder}/scratch", node.group_of(job), wait_s=5) == 0
    assert not lives(child)


async def test_a_stopped_job_is_ended_with_its_grace(node: Node) -> None:
    job = await node.sh("trap 'echo saved; exit 7' TERM; echo up; while :; do sleep 0.01; done")
    await line_in(job.folder / "stdout")
    status = await job.until("running")
    os.kill(status.pid, signal.SIGSTOP)
    job.supervised.stop("stopped", "cancelled")
    record = await job.end()
    assert (record.cause, record.exit_code) == ("stopped", 7)
    assert "saved" in job.output()


async def test_a_stopped_supervisor_is_woken_and_keeps_its_time(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "LOOK_S", 0.3)
    job = await node.sh("sleep 1000", time_limit_s=0.1)
    status = await job.until("running")
    os.kill(supervisor_of(status.pid), signal.SIGSTOP)
    record = await job.end()
    assert (record.cause, [status.state for status in job.statuses][-1]) == ("time_limit", "stopping")


async def test_a_job_that_stops_its_supervisor_again_and_again_is_ended(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised, "LOOK_S", 0.05)
    job = await node.python(  # by a file: a supervisor that is stopped at once copies no output any more
        "import os, signal\nprint(os.getpid(), file=open('pid', 'w'), flush=True)\n"
        "while True: os.kill(os.getppid(), signal.SIGSTOP)"
    )
    pid = int(await line_in(job.folder / "scratch" / "pid"))
    with pytest.raises(SupervisorLost):
        await job.end()
    await gone(pid)


async def test_a_nohup_child_is_ended_with_its_attempt(node: Node) -> None:
    job = await node.sh("nohup sh -c 'echo $$ > child; exec sleep 1000' >/dev/null 2>&1 & sleep 1000", grace_s=0.1)
    child = int(await line_in(job.folder / "scratch" / "child"))
    job.supervised.stop("stopped", "cancelled")
    await job.end()
    assert not lives(child)


async def test_rubbish_on_the_control_socket_harms_nobody(node: Node) -> None:
    job = await node.sh("sleep 1000")
    await job.until("running")
    for rubbish in (b"\xff\x00\n", b"[1]\n", b'{"do": "stop', b"x" * 200_000):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(job.folder / "control.sock"))
            try:
                client.sendall(rubbish)
            except (BrokenPipeError, ConnectionResetError):
                continue
    job.supervised.stop("stopped", "cancelled")
    assert (await job.end()).cause == "stopped"
