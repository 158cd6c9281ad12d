"""`headrace run` as a person and as a program sees it: whole transcripts, times and sizes masked."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import headrace
from tests.support.fake_gateway import (
    AT,
    JOB,
    PLACED,
    RUNNING,
    SUCCEEDED,
    WHY,
    FakeGateway,
)
from tests.support.terminal import Terminal, read_until, start

LOSS = {"name": "loss", "count": 4, "steps": [0, 1, 2, 3], "values": [3.2, 1.6, 0.8, 0.6039], "attempt": 1, "rank": 0}
USAGE = {"cpu_s": 11.2, "memory_bytes_max": 38 * 2**20}
RUN = ("run", "--no-source", "--no-environment", "--", "python", "train.py")


def a_whole_run(gateway: FakeGateway, body: dict[str, Any]) -> None:
    gateway.state()
    gateway.tell("events", "why", WHY)
    gateway.state(**PLACED)
    gateway.state(**RUNNING)
    gateway.prints(b"epoch 1/2 loss=0.8\n")
    gateway.prints(b"UserWarning: slow\n", "stderr")
    gateway.prints(b"epoch 2/2 loss=0.6\n")
    gateway.series = [LOSS]
    gateway.tell("metrics", "latest", [{"name": "loss", "step": 3, "value": 0.6039}])
    gateway.state(**SUCCEEDED, usage=USAGE)
    gateway.ends()


def running(fake: FakeGateway, body: dict[str, Any]) -> None:
    """The job runs, and goes on."""
    fake.state(**RUNNING)
    fake.prints(b"running\n")


def ending(gateway: FakeGateway, **end: Any) -> None:
    """The job runs, and ends like this."""

    def on_submit(fake: FakeGateway, body: dict[str, Any]) -> None:
        fake.state(**RUNNING)
        fake.state(**RUNNING | {"finished_at": AT + 5} | end)
        fake.ends()

    gateway.on_submit = on_submit


def test_a_run_tells_the_road_on_stderr_and_the_output_where_it_belongs(
    terminal: Terminal, gateway: FakeGateway
) -> None:
    gateway.on_submit = a_whole_run
    (terminal.folder / "project" / "train.py").write_text("print(1)\n")
    assert terminal.run("run", "--no-environment", "--", "python", "train.py") == dedent("""\
        epoch 1/2 loss=0.8
        epoch 2/2 loss=0.6
        stderr:
          source       1 files, 9 B                              [SIZE] sent  [TIME]
          queued       vision, place 2 of 11                     j-7f3a91c2
                       4 GPUs of one node are not free
          placed       gpu-a03 GPUs 0–3
          running      gpu-a03 GPUs 0–3, started in 41 ms        j-7f3a91c2

        UserWarning: slow

          loss █▄▁▁ 0.6039
          succeeded    in 12.3 s, 38 MiB memory, 11.2 s CPU      exit code 0""")


def test_output_that_overtakes_the_road_waits_for_it(terminal: Terminal, gateway: FakeGateway) -> None:
    def on_submit(fake: FakeGateway, body: dict[str, Any]) -> None:
        fake.prints(b"first line\n", "stderr")
        fake.tell("log", "end", {})
        threading.Timer(0.3, goes_on).start()

    def goes_on() -> None:
        gateway.state(**RUNNING)
        gateway.state(**SUCCEEDED)
        gateway.ends()

    gateway.on_submit = on_submit
    transcript = terminal.run(*RUN)
    assert transcript.index("running") < transcript.index("first line") < transcript.index("succeeded")


def test_the_submit_carries_what_the_options_say(terminal: Terminal, gateway: FakeGateway) -> None:
    gateway.on_submit = a_whole_run
    options = "--tier gpu4 --queue vision --name vit --time-limit 2h --priority 5 --env A=1 --env B=x=y --hold"
    more = "--label team=x --max-attempts 2 --retries 3 --grace 45s --no-source --no-environment --detach"
    when = f"--array 0-9%2 --after {JOB}:any --after j-abcdefghij23 --begin 2100-01-01T00:00Z"
    when += " --deadline 2100-01-02T00:00:00+01:00"
    words = [*options.split(), *more.split(), *when.split()]
    gateway.state()
    transcript = terminal.run("run", *words, "python", "train.py", "--epochs", "3")
    assert transcript == f"{JOB}\nstderr:\n  detached     headrace logs -f j-7f3a91c2"
    (body,) = [json.loads(content) for method, path, content in gateway.asked if path == "/v1/jobs"]
    assert len(body.pop("id")) == 32
    assert body == {
        "type": "submit",
        "entrypoint": ["python", "train.py", "--epochs", "3"],
        "tier": "gpu4",
        "queue": "vision",
        "name": "vit",
        "time_limit_s": 7200,
        "priority": 5,
        "env": {"A": "1", "B": "x=y"},
        "labels": {"team": "x"},
        "attempts_max": 2,
        "retries": 3,
        "array": "0-9%2",
        "after": [{"job": JOB, "on": "any"}, {"job": "j-abcdefghij23", "on": "ok"}],
        "begin_at": 4_102_444_800,
        "deadline_at": 4_102_527_600,
        "grace_s": 45,
        "hold": True,
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], {}),
        (["--priority", "0", "--no-preemptible"], {"priority": 0, "preemptible": False}),
        (["--preemptible"], {"preemptible": True}),
    ],
)
def test_what_is_not_said_of_priority_and_preemption_is_left_to_the_queue(
    terminal: Terminal, gateway: FakeGateway, options: list[str], said: dict[str, Any]
) -> None:
    gateway.on_submit = a_whole_run
    gateway.state()
    terminal.run("run", *options, "--no-source", "--no-environment", "--detach", "true")
    (body,) = [json.loads(content) for _, path, content in gateway.asked if path == "/v1/jobs"]
    assert {name: body[name] for name in ("priority", "preemptible") if name in body} == said
    headrace.submit("true", source=None, environment=None, **said)
    body = json.loads(gateway.asked[-1][2])
    assert {name: body[name] for name in ("priority", "preemptible") if name in body} == said


def test_constraints_are_sent_from_the_command_line_and_from_python(terminal: Terminal, gateway: FakeGateway) -> None:
    gateway.on_submit = a_whole_run
    gateway.state()
    terminal.run("run", "--on", "gpu=A100,H100", "--on", "node=!n7", "--no-source", "--no-environment", "-d", "true")
    (body,) = [json.loads(content) for _, path, content in gateway.asked if path == "/v1/jobs"]
    assert body["on"] == {"gpu": ["A100", "H100"], "node": ["!n7"]}
    headrace.submit("true", source=None, environment=None, on={"gpu": ["A100", "H100"], "node": "!n7"})
    assert json.loads(gateway.asked[-1][2])["on"] == body["on"]


def test_for_a_program_each_thing_that_happens_is_one_line_of_json(terminal: Terminal, gateway: FakeGateway) -> None:
    gateway.on_submit = a_whole_run
    lines = [json.loads(line) for line in terminal.run("run", "--json", *RUN[1:]).splitlines()]
    events = [line["event"] for line in lines if line["event"] != "metrics"]
    assert sorted(events) == sorted(["state"] * 4 + ["why"] + ["output"] * 3 + ["end"])
    assert lines[-1] == {"event": "end", "job": JOB, "state": "succeeded", "exit_status": 0}
    started = next(line for line in lines if line.get("state") == "running")["started_at"]
    assert started == "2026-09-21T14:13:22.041000Z"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ({"state": "succeeded", "exit_code": 0}, 0),
        ({"state": "failed", "exit_code": 3, "reason": "exit code 3"}, 3),
        ({"state": "failed", "signal": 11, "reason": "killed by SIGSEGV"}, 139),
        ({"state": "failed", "reason": "its environment cannot be built"}, 1),
        ({"state": "cancelled", "signal": 15, "reason": "cancelled by ana"}, 130),
    ],
)
def test_a_run_exits_as_its_job_did(terminal: Terminal, gateway: FakeGateway, end: Any, status: int) -> None:
    ending(gateway, **end)
    transcript = terminal.run(*RUN)
    assert transcript.startswith(f"exit status {status}\n" if status else "stderr:")


def test_a_lost_connection_is_told_once_and_the_run_goes_on(terminal: Terminal, gateway: FakeGateway) -> None:
    gateway.on_submit = a_whole_run
    gateway.cut_after["events"] = 3
    transcript = terminal.run(*RUN)
    assert "  connection   lost, trying again …\n" in transcript
    assert transcript.count("connection   ") == 2
    assert "  succeeded " in transcript


def test_a_rejected_submit_says_every_mistake_with_its_field(terminal: Terminal, gateway: FakeGateway) -> None:
    problems = [
        {"path": "$.tier", "message": "there is no tier `gpu3`", "hint": "did you mean `gpu2`?"},
        {"path": "$.time_limit_s", "message": "31 days are more than 30"},
    ]
    gateway.refusals["/v1/jobs"] = (422, {"error": {"message": "the job was rejected", "problems": problems}})
    assert terminal.run(*RUN) == dedent("""\
        exit status 1
        stderr:
        error: the job was rejected
          tier: there is no tier `gpu3`
          hint: did you mean `gpu2`?
          time_limit_s: 31 days are more than 30""")


def test_ctrl_c_without_a_terminal_cancels_and_exits_130(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.on_submit = running

    def on_control(fake: FakeGateway, verb: str) -> None:
        fake.state(state="cancelled", finished_at=AT + 5, signal=15, reason="cancelled by ana")
        fake.ends()

    gateway.on_control = on_control
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(RUN, url=gateway.url, folder=tmp_path, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20) == 130
        finally:
            process.kill()
    assert [path for method, path, _ in gateway.asked if method == "POST"][-1] == f"/v1/jobs/{JOB}/cancel"


@pytest.mark.parametrize("answer", [b"d\r", b"\x03"], ids=["d", "ctrl-c"])
def test_ctrl_c_in_a_terminal_asks_and_a_second_one_detaches(
    gateway: FakeGateway, tmp_path: Path, answer: bytes
) -> None:
    gateway.on_submit = running
    ours, theirs = pty.openpty()
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = start(
        RUN,
        url=gateway.url,
        folder=tmp_path,
        start_new_session=True,
        preexec_fn=_controlling_terminal(theirs),
        **streams,
    )
    try:
        os.close(theirs)
        assert b"running\r\n" in read_until(ours, b"running\r\n")
        os.write(ours, b"\x03")
        assert b"Detach (d), cancel (c)" in read_until(ours, b"go on (enter)? ")
        os.write(ours, answer)
        assert b"headrace logs -f j-7f3a91c2" in read_until(ours, b"j-7f3a91c2")
        read_until(ours, b"(to the end)")
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert not [path for method, path, _ in gateway.asked if path.endswith("/cancel")]


def _controlling_terminal(terminal: int) -> Any:
    def take() -> None:
        import fcntl
        import termios

        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    return take
