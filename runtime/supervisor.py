"""The supervisor: the one process that owns one attempt. Standard library only; one thread; forked by the launcher.

It starts the entrypoint, keeps its output, watches the clock, ends what must end, waits until nothing of the attempt
lives, and leaves the exit record. Everything else (launcher, runner, Ray, the control plane) may die meanwhile.

Ends, in order: SIGTERM to the entrypoint's process group → grace → SIGKILL to every descendant. When the entrypoint has
ended by itself, what it left running gets SIGTERM, a short grace, SIGKILL. As a subreaper the supervisor is the parent
of every orphan, so that "no child left" means that nothing lives, daemons included; it reports no end before.

SIGTERM and SIGINT to the supervisor itself mean: stop the attempt. SIGKILL takes the entrypoint along (its death
signal); the runner sweeps up the rest. Its own lease: a node that was not cleared for `lease_s` ends its attempts; the
runner notes each clearance in a file, so this holds even when the runner is dead.

On `control.sock`, and on the connection that asked for the launch: one JSON object a line. It says its whole status at
once and on each change: `{"state": "starting|running|stopping|ended", "pid", "started_at", "cause", "record"}`. It
takes `{"do": "stop", "cause", "grace_s", "message"}` and `{"do": "status"}`.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import struct
import time
from typing import Any, Final, NoReturn

from runtime import bounds, exit_record, processes
from runtime.cgroups import Place
from runtime.exit_record import (
    CONTROL,
    STREAMS,
    Damaged,
    Record,
    Spec,
    boot_clock,
    lease_cleared_at,
    read_spec,
    reserve_record,
    write_record,
)
from runtime.output import Stream

LEFTOVER_GRACE_S: Final = 5.0
"""For what the entrypoint left running when it ended by itself, or the attempt's own grace if that is shorter."""
KILL_AGAIN_S: Final = (0.01, 1.0)
"""First and longest pause between two rounds of SIGKILL: a process may fork while it is being looked for."""
DISK_RETRY_S: Final = 1.0
DISK_WAIT_S: Final = 60.0
"""How long the job stands still for a disk that takes no output, before the attempt ends with `output_failed`."""
LOOK_S_MAX: Final = 60.0
"""Longest wait for a deadline: a poll takes no month, nor does it count the time that a machine sleeps."""
CONNECTIONS_MAX: Final = 8
LINE_BYTES_MAX: Final = 65536
FOREVER: Final = float("inf")


class Supervisor:
    """One attempt from its start to its exit record. `run` returns when all is over."""

    def __init__(self, spec: Spec, limits: bounds.Bounds, *, reserved: int) -> None:
        self._spec = spec
        self._bounds = limits
        self._reserved = reserved
        self._poll = selectors.DefaultSelector()
        self._connections: dict[socket.socket, bytearray] = {}
        self._streams: dict[str, Stream] = {}
        self._lease_until = boot_clock() + spec.lease_s
        cleared_at = lease_cleared_at(spec.lease_file) if spec.lease_s else None
        if cleared_at is not None:  # it began then: the order to start may have lain somewhere since
            self._lease_until = min(self._lease_until, cleared_at + spec.lease_s)
        self._pid = 0
        self._verdict = -1
        self._failure: processes.Failure | None = None
        self._started_at: float | None = None
        self._status: int | None = None  # of the entrypoint, as wait(2) gives it
        self._exited_at: float | None = None
        self._childless = False
        self._leftovers_told = False
        self._cause = ""  # why we end it; empty: we do not
        self._message = ""
        self._limit_at = FOREVER  # monotonic, like all that end in _at below
        self._kill_at = FOREVER
        self._kill_pause_s = KILL_AGAIN_S[0]
        self._disk_retry_at = FOREVER
        self._disk_failed_at = FOREVER

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self, first: socket.socket | None) -> None:
        self._listen(first)
        if self._lease_left_s() <= 0:
            self._finish(Record("fenced", time.time(), message=f"its node was cut off for {self._spec.lease_s:g} s"))
            return
        try:
            self._begin()
        except OSError as error:
            self._finish(Record("output_failed", time.time(), message=f"cannot keep its output: {error}"))
            return
        while not (self._childless and self._status is not None):
            self._turn()
        self._drain()
        self._finish(self._record())

    def _turn(self) -> None:
        for key, _ in self._poll.select(self._wait_s()):
            key.data()
        now = time.monotonic()
        if now >= self._limit_at:
            self._limit_at = FOREVER
            self.stop("time_limit", f"over its time limit of {self._spec.time_limit_s:g} s")
        if now >= self._disk_retry_at:
            self._retry_disk(now)
        if now >= self._bounds.next_look_at and (over := self._bounds.look(now)):
            self.stop(over.cause, over.message, grace_s=0.0)
        if self._lease_left_s() <= 0:
            self.stop("fenced", f"its node was cut off for {self._spec.lease_s:g} s")
        if now >= self._kill_at:
            self._kill(now)

    def _wait_s(self) -> float | None:
        next_at = min(self._limit_at, self._kill_at, self._disk_retry_at, self._bounds.next_look_at)
        wait_s = min(next_at - time.monotonic(), self._lease_left_s())
        return None if wait_s == FOREVER else min(max(wait_s, 0.0), LOOK_S_MAX)

    # -- start --------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        for name in STREAMS:
            stream = Stream(name, bytes_max=self._spec.output_bytes_max)
            self._streams[name] = stream
            self._poll.register(stream.pipe, selectors.EVENT_READ, lambda stream=stream: self._on_output(stream))
        self._watch_signals()
        stdout, stderr = (self._streams[name].writer for name in STREAMS)
        self._pid, self._verdict = processes.start(self._spec, self._bounds, stdout=stdout, stderr=stderr)
        os.close(stdout)
        os.close(stderr)
        self._poll.register(self._verdict, selectors.EVENT_READ, self._on_verdict)
        if self._spec.time_limit_s is not None:
            self._limit_at = time.monotonic() + self._spec.time_limit_s

    def _on_verdict(self) -> None:
        self._failure = processes.read_verdict(self._verdict)
        self._poll.unregister(self._verdict)
        os.close(self._verdict)
        if self._failure is None:
            self._started_at = time.time()
            self._tell_all()

    def _watch_signals(self) -> None:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _noted)
        for number in (signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        self._poll.register(reader, selectors.EVENT_READ, lambda: self._on_signals(reader))

    def _on_signals(self, reader: int) -> None:
        seen = set(os.read(reader, 4096))
        if seen & {signal.SIGTERM, signal.SIGINT}:
            self.stop("stopped", "its supervisor was told to stop by a signal")
        self._reap()

    # -- end ----------------------------------------------------------------------------------------------------------

    def stop(self, cause: str, message: str, grace_s: float | None = None) -> None:
        """End the attempt; the first cause counts, a shorter grace shortens. Harmless when it has ended by itself."""
        grace_s = self._spec.grace_s if grace_s is None else grace_s
        if self._status is None and not self._cause:
            self._cause, self._message = cause, message
            processes.send_group(self._pid, signal.SIGTERM)
            processes.send_group(self._pid, signal.SIGCONT)  # one that was stopped shall have its grace as well
            self._tell_all()
        self._kill_at = min(self._kill_at, time.monotonic() + grace_s)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return
            if pid == 0:
                break
            if pid == self._pid:
                self._status, self._exited_at = status, time.time()
        if self._status is not None and not self._leftovers_told:
            self._leftovers_told = True
            self._end_leftovers()

    def _end_leftovers(self) -> None:
        """The entrypoint is gone: whatever of it still lives has a short while to follow."""
        processes.send(processes.descendants(os.getpid()), signal.SIGTERM)
        self._kill_at = min(self._kill_at, time.monotonic() + min(self._spec.grace_s, LEFTOVER_GRACE_S))

    def _kill(self, now: float) -> None:
        """A round of SIGKILL. There is no last one: as long as anything lives, its GPUs are not free."""
        self._bounds.kill()
        self._kill_at = now + self._kill_pause_s
        self._kill_pause_s = min(2 * self._kill_pause_s, KILL_AGAIN_S[1])

    def _lease_left_s(self) -> float:
        if not self._spec.lease_s or self._cause:
            return FOREVER
        now = boot_clock()
        if now >= self._lease_until:  # as far as we know; the runner may have noted more since we looked
            cleared_at = lease_cleared_at(self._spec.lease_file)
            if cleared_at is not None and cleared_at <= now:  # a later one is from before the last boot
                self._lease_until = max(self._lease_until, cleared_at + self._spec.lease_s)
        return self._lease_until - now

    # -- output -------------------------------------------------------------------------------------------------------

    def _on_output(self, stream: Stream) -> None:
        stream.pump()
        if stream.over or stream.paused:
            self._poll.unregister(stream.pipe)
        if stream.paused and self._disk_retry_at == FOREVER:
            now = time.monotonic()
            self._disk_retry_at, self._disk_failed_at = now + DISK_RETRY_S, now + DISK_WAIT_S

    def _retry_disk(self, now: float) -> None:
        paused = [stream for stream in self._streams.values() if stream.paused]
        for stream in paused:
            stream.pump()
            if not stream.paused and not stream.over:
                self._poll.register(stream.pipe, selectors.EVENT_READ, lambda stream=stream: self._on_output(stream))
        still = [stream for stream in paused if stream.paused]
        if still and now >= self._disk_failed_at:
            self.stop("output_failed", f"its node could not keep its output: {still[0].error}")
        self._disk_retry_at = now + DISK_RETRY_S if still else FOREVER

    def _drain(self) -> None:
        for stream in self._streams.values():
            if not stream.over:
                stream.drain()
            if stream.paused and not self._cause:
                self._cause, self._message = "output_failed", f"its last output could not be kept: {stream.error}"

    # -- the record ---------------------------------------------------------------------------------------------------

    def _record(self) -> Record:
        status = self._status or 0
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        ran = self._started_at is not None
        usage = processes.usage_of_children()
        cause, message = self._verdict_on(number)
        return Record(
            cause=cause,
            ended_at=time.time(),
            started_at=self._started_at,
            exit_code=os.WEXITSTATUS(status) if ran and number is None else None,
            signal=number if ran else None,
            message=message,
            cpu_s=usage.cpu_s,
            memory_bytes_max=max(usage.memory_bytes_max, self._bounds.peak_bytes()),
            output_bytes={name: stream.kept_bytes for name, stream in self._streams.items()},
            exited_at=self._exited_at if ran else None,
        )

    def _verdict_on(self, number: int | None) -> tuple[str, str]:
        """Cause and sentence of the end, from what we did, what the kernel did, and what the entrypoint did."""
        if self._failure is not None:
            return "start_failed", self._failure.sentence(self._spec)
        if self._cause:
            return self._cause, self._message
        if self._status != 0 and (why := self._bounds.out_of_memory(killed=number == signal.SIGKILL)):
            return "out_of_memory", why
        return ("exited", "") if number is None else ("signalled", "")

    def _finish(self, record: Record) -> None:
        for stream in self._streams.values():
            stream.close()
        self._bounds.remove()
        write_record(".", record, self._reserved)
        self._tell_all(record)

    # -- control ------------------------------------------------------------------------------------------------------

    def _listen(self, first: socket.socket | None) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(CONTROL)  # relative: a path to a unix socket may not be long
        listener.listen(CONNECTIONS_MAX)
        listener.setblocking(False)
        self._poll.register(listener, selectors.EVENT_READ, lambda: self._on_connect(listener))
        if first is not None:
            self._serve(first)

    def _on_connect(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # gone again
        if len(self._connections) >= CONNECTIONS_MAX or peer_uid(connection) != os.getuid():
            connection.close()
            return
        self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connections[connection] = bytearray()
        self._poll.register(connection, selectors.EVENT_READ, lambda: self._on_line(connection))
        self._tell(connection, self._snapshot(None))

    def _on_line(self, connection: socket.socket) -> None:
        buffer = self._connections.get(connection)
        if buffer is None:
            return  # dropped a moment ago, in the same turn
        try:
            received = connection.recv(LINE_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        buffer += received
        if not received or len(buffer) > LINE_BYTES_MAX:
            self._drop(connection)
            return
        *lines, rest = bytes(buffer).split(b"\n")
        buffer[:] = rest
        for line in lines:
            self._obey(line)
            if connection in self._connections:
                self._tell(connection, self._snapshot(None))

    def _obey(self, line: bytes) -> None:
        """Carry out one request; what cannot be understood is answered by the status alone, like anything else."""
        try:
            request = json.loads(line)
        except ValueError:
            return
        if isinstance(request, dict) and request.get("do") == "stop":
            grace_s = request.get("grace_s")
            self.stop(
                str(request.get("cause", "stopped"))[:32],
                str(request.get("message", ""))[:1000],
                max(float(grace_s), 0.0) if isinstance(grace_s, int | float) else None,
            )

    def _snapshot(self, record: Record | None) -> dict[str, Any]:
        if record is not None:
            state = "ended"
        elif self._cause:
            state = "stopping"
        else:
            state = "starting" if self._started_at is None else "running"
        return {
            "state": state,
            "pid": self._pid,
            "started_at": self._started_at,
            "cause": self._cause,
            "record": record._asdict() if record is not None else None,
        }

    def _tell_all(self, record: Record | None = None) -> None:
        for connection in list(self._connections):
            self._tell(connection, self._snapshot(record))

    def _tell(self, connection: socket.socket, snapshot: dict[str, Any]) -> None:
        line = json.dumps(snapshot).encode() + b"\n"
        try:
            if connection.send(line) != len(line):
                self._drop(connection)
        except OSError:  # gone, or does not read: it can come again
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        self._poll.unregister(connection)
        del self._connections[connection]
        connection.close()


def _noted(number: int, frame: object) -> None:
    """The number is in the wakeup pipe; nothing is done inside a signal handler."""


def peer_uid(connection: socket.socket) -> int:
    """Whose process is at the other end of a unix socket."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)


def _refuse(first: socket.socket | None, why: str) -> NoReturn:
    """Nothing was started, and nothing of it can be kept: only who asked for it is told."""
    if first is not None:
        first.sendall(json.dumps({"error": why}).encode() + b"\n")
    os._exit(1)


def supervise(folder: str, lock: int, first: socket.socket | None, place: Place | None) -> NoReturn:
    """Supervise the attempt in `folder`, whose lock is held; its group is made at `place`. Ends the process."""
    os.setsid()
    os.chdir(folder)
    processes.become_guardian("hr-supervisor")
    try:
        exit_record.sign_lock(lock)
        reserved = reserve_record(".")
    except OSError as error:
        _refuse(first, f"no room for its exit record: {error}")
    try:
        spec = read_spec(".")
    except (Damaged, OSError) as error:
        write_record(".", Record("start_failed", time.time(), message=str(error)), reserved)
    else:
        limits = bounds.bind(spec, place, os.path.basename(folder))
        Supervisor(spec, limits, reserved=reserved).run(first)
    os.close(lock)
    os._exit(0)
