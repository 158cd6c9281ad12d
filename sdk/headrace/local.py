"""The embedded stack, from outside: bring it up, wait until it is there, bring it down. Never imports it.

Starts `python -m controlplane.embedded` detached, follows what it writes to `starting.ndjson`, and is done when
`stack.json` is there. Two who start at once start one: `up.lock` in the state folder says who does it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from headrace import errors, state
from headrace.transport import Transport

START_S_MAX = 180.0
"""The stack gives up by itself before that; this is for one that hangs."""
STOP_S_MAX = 90.0
PROBE_S = 2.0
LOOK_S = 0.05
"""How often another process's files are looked at. No system call that is portable waits for one."""
LINES_MAX = 10_000

Say = Callable[[str], None]


def ensure(folder: Path, say: Say = lambda text: None) -> tuple[state.Endpoint, bool]:
    """The server to talk to, and whether it had to be started: the environment's, the running stack, or a new one."""
    named = state.remote()
    if named is not None:
        return named, False
    if answers(state.stack(folder)):
        return _endpoint(folder), False
    require()
    return start(folder, say)


def require() -> None:
    """Raises NoServer with what to do where no stack can be started on this machine."""
    if sys.platform == "win32":
        raise errors.NoServer(
            "no server is configured, and the embedded stack does not run on Windows",
            "set HEADRACE_URL and HEADRACE_TOKEN to those of your team's server",
        )
    if importlib.util.find_spec("controlplane") is None:
        raise errors.NoServer(
            "no server is configured, and the embedded stack is not installed",
            "pip install headrace[local], or set HEADRACE_URL and HEADRACE_TOKEN",
        )


def answers(stack: state.Stack | None) -> bool:
    """Whether a stack is not only written down but there."""
    if stack is None:
        return False
    try:
        Transport(state.Endpoint(stack.url, stack.token), timeout_s=PROBE_S).request("GET", "/readyz")
    except errors.HeadraceError:
        return False
    return True


def start(folder: Path, say: Say = lambda text: None) -> tuple[state.Endpoint, bool]:
    """Brings the stack up, or waits for the one who does; gives whether it was we who did. Raises StartFailed."""
    state.prepare(folder)
    deadline = time.monotonic() + START_S_MAX
    progress = Progress(folder / state.STARTING_FILE)
    with (folder / "up.lock").open("a+b") as lock:
        waited = False
        while not try_lock(lock):
            if not waited:
                waited = True
                say("another headrace is starting the stack")
            for line in progress.new():
                say(str(line.get("text") or ""))
            if time.monotonic() > deadline:
                raise errors.StartFailed(f"another headrace holds {folder / 'up.lock'}, and no stack comes up")
            time.sleep(LOOK_S)
        if answers(state.stack(folder)):
            return _endpoint(folder), False
        process = _spawn(folder)
        _await_up(folder, process, deadline, say)
    return _endpoint(folder), True


def foreground(folder: Path) -> NoReturn:
    """Becomes the stack: this process is it from here on, and Ctrl-C or SIGTERM ends it in order."""
    require()
    state.prepare(folder)
    os.chdir(folder)
    os.execve(sys.executable, _command(folder), environ())


def stop(folder: Path) -> bool:
    """Ends the stack and waits until it is gone; False if none ran. Raises HeadraceError if it does not go."""
    found = state.stack(folder)
    if found is None or not alive(folder):
        (folder / state.STACK_FILE).unlink(missing_ok=True)
        return False
    os.kill(found.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S_MAX
    while alive(folder):
        if time.monotonic() > deadline:
            raise errors.HeadraceError(
                f"the stack (process {found.pid}) is still there after {STOP_S_MAX:.0f} s",
                f"look into {folder / 'logs'}",
            )
        time.sleep(LOOK_S)
    return True


def alive(folder: Path) -> bool:
    """Whether the stack of this folder lives: it holds `embedded.lock` as long as it does."""
    try:
        with (folder / "embedded.lock").open("r+b") as lock:
            return not try_lock(lock)
    except FileNotFoundError:
        return False


def try_lock(file: IO[bytes]) -> bool:
    """Takes the lock of an open file unless somebody has it; it goes with the file's closing or our death."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


class Progress:
    """What a starting stack has said since the last look."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._position = 0
        self._rest = b""

    def new(self) -> Iterator[dict[str, Any]]:
        """The lines that are new and whole."""
        with self._opened() as handle:
            if handle is None:
                return
            if handle.seek(0, os.SEEK_END) < self._position:  # begun anew
                self._position, self._rest = 0, b""
            handle.seek(self._position)
            data = self._rest + handle.read(1024 * 1024)
            self._position = handle.tell()
        *lines, self._rest = data.split(b"\n")
        for line in lines[:LINES_MAX]:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict):
                yield said

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes] | None]:
        try:
            handle = self._file.open("rb")
        except FileNotFoundError:
            yield None
            return
        with handle:
            yield handle


def _endpoint(folder: Path) -> state.Endpoint:
    found = state.endpoint(folder)
    if found is None:
        raise errors.StartFailed("the stack ended as soon as it was up", f"look into {folder / 'logs'}")
    return found


def _command(folder: Path) -> list[str]:
    """`-P`, and another folder to run in: a user's own `events.py` must not be taken for the server's."""
    return [sys.executable, "-P", "-m", "controlplane.embedded", "--state", str(folder)]


def environ() -> dict[str, str]:
    """Ours, with paths that mean the same in another folder, and with the server's code where it is not installed."""
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    found = importlib.util.find_spec("controlplane")
    home = Path(found.origin).parents[1] if found is not None and found.origin else None
    if home is not None and home.name not in {"site-packages", "dist-packages"} and str(home) not in paths:
        paths.append(str(home))
    return os.environ | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})


def _spawn(folder: Path) -> subprocess.Popen[bytes]:
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    (folder / state.STARTING_FILE).unlink(missing_ok=True)
    with (logs / "embedded.log").open("ab") as log:
        return subprocess.Popen(
            _command(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environ(),
            start_new_session=True,
        )


def _await_up(folder: Path, process: subprocess.Popen[bytes], deadline: float, say: Say) -> None:
    """Until the stack is up; tells what it says meanwhile. Raises StartFailed with its own reason."""
    progress = Progress(folder / state.STARTING_FILE)
    failed: dict[str, Any] = {}
    while True:
        try:
            ended: int | None = process.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            ended = None
        for line in progress.new():
            if "error" in line:
                failed = line
            elif line.get("text"):
                say(str(line["text"]))
        if ended is not None:
            reason = str(failed.get("error") or f"it ended with status {ended}")
            hint = str(failed.get("hint") or f"look into {folder / 'logs' / 'embedded.log'}")
            raise errors.StartFailed(f"the stack did not come up: {reason}", hint)
        found = state.stack(folder)
        if found is not None and found.pid == process.pid:
            return
        if time.monotonic() > deadline:
            os.kill(process.pid, signal.SIGTERM)
            raise errors.StartFailed(
                f"the stack did not come up in {START_S_MAX:.0f} s", f"look into {folder / 'logs'}"
            )
