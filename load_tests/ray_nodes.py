"""A stack whose nodes are Ray nodes as they are on Kubernetes, on this machine: a head, and nodes with our process 1.

Head and nodes have a PID namespace each (unshare(1), so this needs root), in which process 1 is `runtime.pod`. One that
is killed takes all of itself along at once, as a machine that burns down, and its place can be taken by another one.
Capacity comes by Ray Client, and waits for the next head by itself.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from controlplane.pool.raycluster import FORKS_BARE
from load_tests.slurm import free_port
from load_tests.stack import UP_S_MAX, Stack, until
from load_tests.without_ray import ControlPlane, a_process, config_file
from runtime import pod

RAY_START: Final = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats")
OF_EACH: Final = ("--object-store-memory=80000000", "--dashboard-agent-listen-port=0")
NAMESPACE: Final = ("unshare", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child")
STARTED: Final = "Ray runtime started"
"""What `ray start` says once it may be joined."""
NODES_FOLDER: Final = "nodes"


class Member:
    """The head or a node: process 1 of a namespace of its own, and all that it has started."""

    def __init__(self, name: str, start: str, folder: Path, environ: dict[str, str]) -> None:
        """`start`: how Ray is started. `name`: of the node; the head's is empty."""
        self.name = name
        self._log = folder / "logs" / f"ray-{name or 'head'}.log"
        self._environ = environ | {pod.COMMAND: start, pod.NODE: name}
        self._command = (*NAMESPACE, sys.executable, "-m", "runtime.pod", str(folder / NODES_FOLDER))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when its Ray runs. Raises TimeoutError, or RuntimeError with its last words."""
        before = self._starts()
        with self._log.open("ab") as log:
            process = self._process = subprocess.Popen(
                self._command, env=self._environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

        def is_up() -> bool:
            if process.poll() is not None:
                raise RuntimeError(self._log.read_text()[-2000:])
            return self._starts() > before

        until(is_up, limit_s=UP_S_MAX, what=f"Ray of {self.name or 'the head'}")

    def kill(self) -> None:
        """All of it, at once and without a word."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)  # unshare's death is that of process 1 (--kill-child)
            self._process.wait()

    def _starts(self) -> int:
        return self._log.read_text().count(STARTED) if self._log.exists() else 0


class RayStack(Stack):
    """The control plane as in every stack, and a head and nodes that can be killed and started again."""

    head: Member
    nodes: dict[str, Member]

    def runner(self, node: str) -> int:
        """Process id of a node's runner; 0: it has none."""
        try:
            return holder_of(self.state / NODES_FOLDER / node / "runner.lock")
        except LookupError:
            return 0


@contextmanager
def running(config: str = "", *, nodes: int = 2, cpus: int = 16, gpus: int = 0, keeps: bool) -> Iterator[RayStack]:
    """Such a stack while inside. `cpus` and `gpus` of each node are declared. `keeps`: whether the head keeps what it
    knows on disk (RocksDB), so that the next one is the same cluster."""
    with tempfile.TemporaryDirectory(prefix="hr-", dir="/tmp") as temporary, ExitStack() as processes:  # Ray's sockets
        folder = Path(temporary)
        port, client_port = free_port(), free_port()
        control_plane = processes.enter_context(
            ControlPlane.running(
                folder, config, ray_address=f"ray://127.0.0.1:{client_port}", node_folder=str(folder / NODES_FOLDER)
            )
        )
        environ = ray_environment(folder, keeps=keeps)
        of_the_head = environ | {FORKS_BARE["name"]: FORKS_BARE["value"]}
        head = Member("", _head(folder, port, client_port), folder, of_the_head)
        joins = shlex.join(
            (*RAY_START, f"--address=127.0.0.1:{port}", f"--num-cpus={cpus}", f"--num-gpus={gpus}", *OF_EACH)
        )
        members = {name: Member(name, joins, folder, environ) for name in (f"n{number + 1}" for number in range(nodes))}
        for member in (head, *members.values()):
            processes.callback(member.kill)
            member.start()
        command = ("-m", "controlplane", "capacity", "--config", str(config_file(folder)))
        processes.enter_context(a_process("capacity", command, folder, environ))
        stack = control_plane.stack(RayStack)
        stack.head, stack.nodes = head, members
        until(lambda: all(map(stack.runner, members)), limit_s=UP_S_MAX, what="a runner on every node")
        yield stack


def ray_environment(folder: Path, *, keeps: bool) -> dict[str, str]:
    """Of Ray's processes, and of who connects to them."""
    environ = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "PYTHONDONTWRITEBYTECODE": "",  # without bytecode Ray takes 15 s to start instead of 3
    }
    if keeps:
        (folder / "gcs").mkdir()
        environ |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(folder / "gcs")}
        environ["RAY_gcs_rpc_server_reconnect_timeout_s"] = "600"
    return environ


def _head(folder: Path, port: int, client_port: int) -> str:
    ports = (f"--port={port}", f"--ray-client-server-port={client_port}", "--include-dashboard=false")
    return shlex.join((*RAY_START, "--head", "--num-cpus=0", *ports, *OF_EACH, f"--temp-dir={folder}/ray"))


def holder_of(path: Path) -> int:
    """The process that has a file open. Raises LookupError if none has."""
    wanted = str(path)
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if any(os.readlink(f"/proc/{name}/fd/{number}") == wanted for number in os.listdir(f"/proc/{name}/fd")):
                return int(name)
    raise LookupError(f"nobody holds {path}")
