"""The launcher: a small process beside the runner that forks the supervisors. Standard library only; one thread.

It exists because forking from the runner would be slow (it is large and has threads) and because what Ray's processes
start dies with them. The launcher is forked twice, in a session of its own, with none of Ray's environment, and none
of Ray's descriptors: nothing leads from it to Ray. It never executes a program itself; a launch is one fork, about a
millisecond. If it dies, supervisors do not care, and the runner starts another one.

One launcher a node folder, held by `launcher.lock`. A newer runner replaces one whose code differs: it asks the old to
retire, and starts its own.

On `launcher.sock`: one JSON object a line, one request a connection.

    {"do": "hello"}                       → {"version": …, "pid": …}
    {"do": "retire"}                      → {"version": …, "pid": …}, then the launcher is gone
    {"do": "launch", "attempt": "<name>"} → the connection becomes the supervisor's (see there), or {"error": …}
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import signal
import socket
import sys
import zlib
from typing import Any, Final, NoReturn

from runtime import bounds, cgroups, credentials, exit_record, output, processes, supervisor

SOCKET: Final = "launcher.sock"
LOCK: Final = "launcher.lock"
LOG: Final = "launcher.log"
ATTEMPTS: Final = "attempts"
REQUEST_BYTES_MAX: Final = 4096
REQUEST_WAIT_S: Final = 2.0
"""A client that connects and says nothing may hold up the others for this long."""
LOCK_WAIT_S: Final = 5
"""For a launcher that was asked to retire."""
LOG_BYTES_MAX: Final = 1024 * 1024
"""Only tracebacks are written there; a longer log is begun anew."""
BACKLOG: Final = 512

HELD_BY_ANOTHER: Final = 3
"""Exit code when another launcher holds the folder."""


def version() -> str:
    """Of the code that launchers and supervisors run: another text, another version."""
    total = 0
    for module in (bounds, cgroups, credentials, exit_record, output, processes, supervisor):
        total = _checksum(module.__file__ or "", total)
    return f"{_checksum(__file__, total):08x}"


def _checksum(path: str, so_far: int) -> int:
    with open(path, "rb") as file:
        return zlib.crc32(file.read(), so_far)


def main(folder: str) -> None:
    """Become the launcher of a node folder, in the background: returns (by exit code 0) once it can be reached."""
    os.chdir(folder)
    os.umask(0o077)
    _close_inherited()
    held = _take_lock()
    processes.shield_from_oom()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    place = cgroups.choose(".")
    listener = _listen()
    _leave_parents()
    exit_record.sign_lock(held)
    gc.freeze()  # what is there now stays in memory pages that all supervisors share
    Launcher(listener, held, place).serve()


class Launcher:
    """Answers requests one after the other, for ever."""

    def __init__(self, listener: socket.socket, held: int, place: cgroups.Place | None) -> None:
        self._listener = listener
        self._place = place
        self._held = held
        self._me = {"version": version(), "pid": os.getpid()}

    def serve(self) -> NoReturn:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                continue  # it went away before it was accepted
            with connection:
                if supervisor.peer_uid(connection) == os.getuid():
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(REQUEST_WAIT_S)
        try:
            request = _receive(connection)
            if request.get("do") == "launch":
                self._launch(str(request.get("attempt", "")), connection)
            else:
                _send(connection, self._me)
                if request.get("do") == "retire":
                    if self._place is not None:
                        self._place.remove()
                    os._exit(0)
        except TimeoutError:
            return  # it asks again if it is a runner that was slow
        except (OSError, ValueError, TypeError) as error:
            _complain(connection, str(error))

    def _launch(self, attempt: str, connection: socket.socket) -> None:
        if not attempt or "/" in attempt or attempt in {".", ".."}:
            raise ValueError(f"{attempt!r} cannot be the name of an attempt's folder")
        folder = os.path.join(ATTEMPTS, attempt)
        # Taken before the fork: whoever is answered after this request sees this attempt as launched.
        lock = exit_record.take_lock(folder)
        try:
            pid = os.fork()
        except OSError:
            os.unlink(os.path.join(folder, exit_record.LOCK))
            raise
        finally:
            if os.getpid() == self._me["pid"]:
                os.close(lock)
        if pid == 0:
            self._become_supervisor(folder, lock, connection)

    def _become_supervisor(self, folder: str, lock: int, connection: socket.socket) -> NoReturn:
        try:
            self._listener.close()
            os.close(self._held)  # a forked copy would hold the folder for as long as the attempt lives
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            supervisor.supervise(folder, lock, connection, self._place)
        finally:
            sys.excepthook(*sys.exc_info())  # only reached by an error, which goes to the log
            os._exit(1)


def _receive(connection: socket.socket) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        received = connection.recv(REQUEST_BYTES_MAX)
        line += received
        if not received or len(line) > REQUEST_BYTES_MAX:
            raise ValueError("a request is one line of JSON")
    request = json.loads(line)
    if not isinstance(request, dict):
        raise TypeError("a request is a JSON object")
    return request


def _send(connection: socket.socket, answer: dict[str, Any]) -> None:
    connection.sendall(json.dumps(answer).encode() + b"\n")


def _complain(connection: socket.socket, message: str) -> None:
    try:
        _send(connection, {"error": message})
    except OSError:
        return  # nobody listens


def _close_inherited() -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            os.closerange(int(name), int(name) + 1)  # the one of the listing itself is closed already: no error


def _take_lock() -> int:
    """Hold the folder's lock: gives the locked file. Exits if another launcher does not let go of it."""
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(LOCK_WAIT_S)
    fcntl.flock(lock, fcntl.LOCK_EX)
    signal.alarm(0)
    return lock


def _give_up(number: int, frame: object) -> None:
    sys.stderr.write(f"another launcher holds {os.getcwd()}/{LOCK}\n")
    os._exit(HELD_BY_ANOTHER)


def _listen() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    temporary = f"{SOCKET}.new"
    if os.path.exists(temporary):
        os.unlink(temporary)
    listener.bind(temporary)
    listener.listen(BACKLOG)
    os.rename(temporary, SOCKET)
    return listener


def _leave_parents() -> None:
    """Fork twice: no parent but init, a session without a terminal, nothing of the caller's."""
    if os.fork() != 0:
        os._exit(0)
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    processes.reset_signals()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)  # ignored, SIGCHLD makes the kernel reap the supervisors
    if os.path.exists(LOG) and os.path.getsize(LOG) > LOG_BYTES_MAX:
        os.truncate(LOG, 0)
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for target, source in enumerate((null, log, log)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)


if __name__ == "__main__":
    main(sys.argv[1])
