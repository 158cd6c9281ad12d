"""Process 1 of a node's pod: `python -m runtime.pod FOLDER`, below which the node keeps its attempts.

It runs Ray as KubeRay would (`$KUBERAY_GEN_RAY_START_CMD`), with the node's name as a label, and again whenever that
has ended: raylet and runner may die, the container and the attempts in it do not. Attempts are no children of Ray; once
their launcher is gone they are ours, and their ends are reaped here (`reap_zombies` of krallin/tini is the model).

SIGTERM empties the node before Ray goes: the runner says that it takes no more, every attempt is stopped with its own
grace, and their ends are given to the leader. Kubernetes kills whatever is left after the pod's grace.

Kubernetes asks whether this process goes round, and not whether Ray does: `alive` is touched all the while, `ray-runs`
as long as there is a Ray. Both are in a folder that nobody else may look into, and so is Ray's session, whose files are
for everybody (`--temp-dir` says `ray` below it).

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from runtime import processes

COMMAND: Final = "KUBERAY_GEN_RAY_START_CMD"
NODE: Final = "HEADRACE_NODE"
"""Name of the Kubernetes node; a head has none, and no attempts."""
LABEL: Final = "hr.node"
"""As `controlplane.capacity.core` looks for it."""
CLOSING: Final = "closing"
"""A file in the node's folder: why it takes no attempts any more (`NodeFolder.closing`)."""
END_ALL: Final = "runtime.end_all"
OWN_FOLDER: Final = "HEADRACE_POD_FOLDER"
"""Where our own files are, if not in OWN_FOLDER_DEFAULT."""
OWN_FOLDER_DEFAULT: Final = "/tmp/headrace-pod"
ALIVE: Final = "alive"
RAY_RUNS: Final = "ray-runs"
BEAT_S: Final = 10.0
"""Longest time between two signs of life."""
PAUSE_S_MIN: Final = 1.0
PAUSE_S_MAX: Final = 30.0
"""Between two starts of Ray."""
STEADY_S: Final = 60.0
"""Ray that has run for so long is started again at once."""
REPORT_S_MAX: Final = 15.0
"""For the runner to give the ends of all attempts to the leader."""
RAY_S_MAX: Final = 20.0
LOOK_S: Final = 0.2
_NEVER: Final = frozenset({signal.SIGKILL, signal.SIGSTOP})
"""They cannot be set to anything."""
_SIGNALS: Final = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT})


class Child:
    """Something that this process has started, in a process group of its own."""

    def __init__(self, command: list[str]) -> None:
        self.started_at = time.monotonic()
        self.pid = os.posix_spawn(
            command[0], command, os.environ, setpgroup=0, setsigmask=(), setsigdef=signal.valid_signals() - _NEVER
        )

    def signal(self, number: signal.Signals) -> None:
        """Also what is left of its group when it has ended itself."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class Pod:
    """What runs in this pod."""

    def __init__(self, start: str, folder: Path | None, own: Path) -> None:
        self._start, self._folder, self._own = start, folder, own
        self._ray: Child | None = None
        self._again_at = 0.0
        self._pause_s = PAUSE_S_MIN
        self._gone: set[int] = set()
        """Children that have ended."""
        self._is_closing = False

    def run(self) -> int:
        """Until SIGTERM or SIGINT, and all is over."""
        if self._folder is not None:
            (self._folder / CLOSING).unlink(missing_ok=True)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        while not self._is_closing:
            if self._ray is None and time.monotonic() >= self._again_at:
                self._ray = Child(["/bin/sh", "-c", f"ulimit -n 65536 2>/dev/null; exec {self._start}"])
            self._wait(max(LOOK_S, self._again_at - time.monotonic()) if self._ray is None else BEAT_S)
            self._look_after_ray()
        self._empty()
        self._end_ray()
        return 0

    def _wait(self, limit_s: float) -> None:
        """For a signal; reaps whatever has ended."""
        self._give_signs()
        got = signal.sigtimedwait(_SIGNALS, min(limit_s, BEAT_S))
        if got is not None and got.si_signo != signal.SIGCHLD:
            self._is_closing = True
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._gone.add(pid)

    def _give_signs(self) -> None:
        """A disk that has become full takes a touch; one that takes nothing at all is no reason to end."""
        with contextlib.suppress(OSError):
            (self._own / ALIVE).touch()
            if self._ray is not None and self._ray.pid not in self._gone:
                (self._own / RAY_RUNS).touch()
            else:
                (self._own / RAY_RUNS).unlink(missing_ok=True)

    def _look_after_ray(self) -> None:
        ray = self._ray
        if ray is not None and ray.pid not in self._gone:
            return
        if ray is not None:
            steady = time.monotonic() - ray.started_at >= STEADY_S
            self._pause_s = PAUSE_S_MIN if steady else min(PAUSE_S_MAX, 2 * self._pause_s)
            self._again_at = time.monotonic() + (0.0 if steady else self._pause_s / 2)
            later_s = max(0.0, self._again_at - time.monotonic())
            print(f"Ray has ended; it is started again in {later_s:.0f} s", flush=True)
            ray.signal(signal.SIGKILL)  # whatever is left of it
        self._ray = None
        self._gone.clear()

    def _empty(self) -> None:
        """Stop what runs here, and wait until the leader knows."""
        if self._folder is None:
            return
        (self._folder / CLOSING).write_text("its pod is being ended")
        ending = Child([sys.executable, "-m", END_ALL, str(self._folder)])
        while ending.pid not in self._gone:
            self._wait(LOOK_S)
        attempts = self._folder / "attempts"
        self._until(lambda: not any(attempts.glob("*")), REPORT_S_MAX)

    def _end_ray(self) -> None:
        ray = self._ray
        if ray is None or ray.pid in self._gone:
            return
        ray.signal(signal.SIGTERM)
        self._until(lambda: ray.pid in self._gone, RAY_S_MAX)
        ray.signal(signal.SIGKILL)

    def _until(self, holds: Callable[[], bool], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not holds() and time.monotonic() < deadline:
            self._wait(LOOK_S)


def private(folder: Path) -> None:
    """Make a folder that nobody else may look into. Raises OSError if it is somebody else's."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise FileExistsError(f"{folder} is somebody else's")
    folder.chmod(0o700)


def command(start: str, node: str) -> str:
    """How Ray is started here: as KubeRay says, with the node's name."""
    return f"{start} --labels {LABEL}={shlex.quote(node)}" if node else start


def main() -> int:
    start, node = os.environ.get(COMMAND, ""), os.environ.get(NODE, "")
    if not start:
        print(f"error: {COMMAND} is not set: this runs in a pod of KubeRay, annotated with", file=sys.stderr)
        print("  ray.io/overwrite-container-cmd: true", file=sys.stderr)
        return 2
    processes.become_guardian("headrace-pod")
    folder = Path(sys.argv[1]) / node if node and len(sys.argv) > 1 else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    own = Path(os.environ.get(OWN_FOLDER, OWN_FOLDER_DEFAULT))
    private(own)
    return Pod(command(start, node), folder, own).run()


if __name__ == "__main__":
    sys.exit(main())
