"""The embedded stack keeps its processes up and leaves none behind. Real processes."""

from __future__ import annotations

import asyncio
import http.server
import os
import random
import signal
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from controlplane.embedded.children import Born, Child, Children, end_leftovers, start_ticks, wait_until
from controlplane.embedded.plan import PORTS, Plan, free_ports, prepare

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


def a_family(folder: Path, *children: Child) -> Children:
    return Children(children, logs=folder, record=folder / "children.json")


def born(folder: Path) -> dict[str, Born]:
    return {each.name: each for each in msgspec.json.decode((folder / "children.json").read_bytes(), type=list[Born])}


async def gone(pid: int) -> None:
    assert await wait_until(lambda: not start_ticks(pid), limit_s=10)


async def test_killed_child_starts_again(tmp_path: Path) -> None:
    marker = tmp_path / "starts"
    program = f"import time; open({str(marker)!r}, 'a').write('x'); time.sleep(600)"
    family = a_family(tmp_path, Child(name="a", command=(sys.executable, "-c", program)))
    family.start()
    assert await wait_until(lambda: marker.exists() and marker.read_text() == "x", limit_s=10)
    first = born(tmp_path)["a"].pid
    os.kill(first, signal.SIGKILL)
    assert await wait_until(lambda: marker.read_text() == "xx" and family.restarts["a"] == 1, limit_s=10)
    assert born(tmp_path)["a"].pid != first
    await family.stop()
    assert born(tmp_path) == {}


async def test_a_child_whose_health_door_says_that_it_is_ill_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlplane.embedded.stuck.LOOK_S", 0.01)
    said = {"status": 200}

    class Door(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(said["status"])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    door = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
    threading.Thread(target=door.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{door.server_address[1]}/"
    family = a_family(tmp_path, Child(name="a", command=SLEEP, health_url=url, store=str(tmp_path)))
    family.start()
    await family.up("a")
    first = born(tmp_path)["a"].pid
    assert not await wait_until(lambda: family.restarts["a"] > 0, limit_s=0.5)
    said["status"] = 503
    assert await wait_until(lambda: family.restarts["a"] > 0, limit_s=10)
    await gone(first)
    await family.stop()
    door.shutdown()


async def test_stop_ends_what_a_child_left_in_its_session(tmp_path: Path) -> None:
    program = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    family = a_family(tmp_path, Child(name="a", command=(sys.executable, "-c", program)))
    family.start()
    log = tmp_path / "a.log"
    assert await wait_until(lambda: log.exists() and log.read_text().endswith("\n"), limit_s=10)
    grandchild = int(log.read_text())
    assert start_ticks(grandchild)
    await family.stop()
    await gone(grandchild)


async def test_leftovers_of_a_killed_stack_are_ended_and_reused_pids_are_not(tmp_path: Path) -> None:
    left = await asyncio.create_subprocess_exec(*SLEEP, start_new_session=True)
    other = await asyncio.create_subprocess_exec(*SLEEP, start_new_session=True)
    record = tmp_path / "children.json"
    ticks = start_ticks(left.pid)
    record.write_bytes(msgspec.json.encode([Born("a", left.pid, ticks), Born("b", other.pid, ticks - 1000)]))
    assert end_leftovers(record) == 1
    await left.wait()
    assert other.returncode is None
    other.kill()
    await other.wait()
    assert end_leftovers(record) == 0


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    for name in list(os.environ):
        if name.startswith("HEADRACE_"):
            monkeypatch.delenv(name)
    return prepare(tmp_path / "state", gpus=None, split=False)


def test_secrets_and_ports_outlive_the_stack(plan: Plan) -> None:
    again = prepare(plan.state, gpus=None, split=False)
    assert again.secrets == plan.secrets
    assert again.ports == plan.ports


async def test_a_port_is_given_once_and_may_be_listened_at() -> None:
    begin = random.choice(PORTS[:-100])  # elsewhere than the last time, which was less than a minute ago perhaps
    among = range(begin, begin + 100)
    first, second = free_ports(40, among=among), free_ports(40, among=among)
    assert len({*first, *second}) == 80
    with pytest.raises(OSError, match=f"fewer than 40 of the ports {begin} to {begin + 99}"):
        free_ports(40, among=among)
    for port in first[:2]:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", port)
        server.close()


def test_only_the_owner_reads_what_is_secret(plan: Plan) -> None:
    assert plan.state.stat().st_mode & 0o777 == 0o700
    for file in (plan.state / "secrets.json", plan.config_file):
        assert file.stat().st_mode & 0o777 == 0o600
