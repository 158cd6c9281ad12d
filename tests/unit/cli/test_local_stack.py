"""The embedded stack from outside: started once, followed while it starts, ended; with a stand-in for the stack."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace import errors, local, state

STAND_IN = """
import fcntl, http.server, json, os, pathlib, signal, sys, threading, time
folder = pathlib.Path(sys.argv[1])
lock = open(folder / "embedded.lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
with open(folder / "starts", "a") as starts:
    starts.write("x")
def say(**line):
    with open(folder / "starting.ndjson", "a") as file:
        file.write(json.dumps({"at": time.time(), **line}) + "\\n")
say(text="NATS is up")
if (folder / "fail").exists():
    say(error="port 4222 is taken", hint="end what uses it")
    sys.exit(1)
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *said):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ready)
signal.signal(signal.SIGTERM, lambda *said: threading.Thread(target=server.shutdown).start())
stack = {"url": f"http://127.0.0.1:{server.server_port}", "token": "t", "pid": os.getpid(), "started_at": time.time()}
(folder / "stack.new").write_text(json.dumps(stack))
os.rename(folder / "stack.new", folder / "stack.json")
server.serve_forever(0.01)
(folder / "stack.json").unlink()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    command = [sys.executable, str(tmp_path / "stand_in.py")]
    monkeypatch.setattr(local, "_command", lambda where: [*command, str(where)])
    monkeypatch.delenv("HEADRACE_URL", raising=False)
    place = state.prepare(tmp_path / "state")
    yield place
    local.stop(place)


def test_a_stack_is_started_followed_and_ended(folder: Path) -> None:
    said: list[str] = []
    endpoint, started = local.ensure(folder, said.append)
    assert (endpoint.token, started, said) == ("t", True, ["NATS is up"])
    assert local.ensure(folder) == (endpoint, False)
    assert local.stop(folder)
    assert not local.alive(folder)
    assert not local.stop(folder)


def test_two_who_start_at_once_start_one(folder: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(local.start, [folder, folder])
    assert first[0] == second[0]
    assert sorted([first[1], second[1]]) == [False, True]
    assert (folder / "starts").read_text() == "x"


def test_a_stack_that_does_not_come_up_says_why(folder: Path) -> None:
    (folder / "fail").touch()
    with pytest.raises(errors.StartFailed, match="port 4222 is taken") as failed:
        local.start(folder)
    assert failed.value.hint == "end what uses it"


def test_a_stack_file_that_a_crash_left_behind_is_no_stack(folder: Path) -> None:
    stale = '{"url": "http://127.0.0.1:9", "token": "t", "pid": 1, "started_at": 1.0}'
    (folder / "stack.json").write_text(stale)
    assert not local.stop(folder)  # and process 1 lives on
    (folder / "stack.json").write_text(stale)
    _, started = local.ensure(folder)
    assert started


def test_a_damaged_stack_file_is_an_error_with_a_hint(folder: Path) -> None:
    (folder / "stack.json").write_text("{")
    with pytest.raises(errors.HeadraceError, match="is damaged") as damaged:
        state.endpoint(folder)
    assert damaged.value.hint
    (folder / "stack.json").unlink()


def test_the_state_folder_is_no_source_even_within_a_project(folder: Path) -> None:
    assert (folder / ".gitignore").read_text() == "*\n"
