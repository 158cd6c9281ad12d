"""This node's part of the cluster: started until it is ready, watched, ended."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import secrets
import socket
import subprocess
import sys
import time
from importlib import metadata
from typing import NamedTuple

from headrace.private_ray import order, processes
from headrace.private_ray.order import Order

READY_S_MAX = 180.0
"""From the start of this program until every node is in."""
TRIES_MAX = 3
"""Ray gives its own processes 30 s to start, whatever it is told: too little for the first time on a machine whose disk
is slow or whose cores are taken. The next time its files are in memory."""
VERSION_MIN = (2, 52)
"""The first Ray with a token: without one, whoever reaches its ports runs what he likes as the job's user."""
FILES = 65_536
"""Open files that Ray's processes may have, or the hard limit if that is less: it holds a few for each worker."""
END_S_MAX = 5.0
LINES_MAX = 6
LINE_CHARACTERS_MAX = 200
LOOK_S = 0.05
VITAL = ("gcs_server", "raylet")
"""Processes of Ray's without which there is no cluster."""
_FRAME = re.compile(r"\(\+?0x[0-9a-f]+\)|\[0x[0-9a-f]+\]|StackTrace Information|^File \"|^[~^]+$")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

_START = """
import os, sys, types
if sys.path[0] == "": del sys.path[0]
here = types.ModuleType("headrace_start")
def on_start(parameters, head): parameters.ray_client_server_port = None; os.environ.pop("RAY_START_HOOK", None)
here.on_start = on_start
sys.modules[here.__name__] = here
os.environ["RAY_START_HOOK"] = "headrace_start.on_start"
from ray.scripts.scripts import main
sys.exit(main())
"""
"""`ray start`, without the server of Ray Client: nobody here calls it, and two on a machine would want its fixed port.
There is no option for that, and one that names a port is refused where Ray has no client."""

_COUNT = """
import sys, time, ray
ray.init(log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]): time.sleep(0.05)
"""
"""Returns when so many nodes are in: by what every version of Ray has."""


class NotReady(Exception):
    """There is no cluster. The message is a sentence for the job's user; `cause` that of the attempt's end."""

    def __init__(self, message: str, cause: str = "start_failed") -> None:
        super().__init__(message)
        self.cause = cause


class Cluster(NamedTuple):
    """It is ready."""

    address: str
    env: dict[str, str]
    """Of whoever is to use it."""
    roots: set[int]
    """Ray's processes, those that have others below them."""
    vital: dict[int, str]
    """Those of them that it cannot be without, with their names."""


def start(wanted: Order, environ: dict[str, str]) -> Cluster:
    """Start this node's part and wait until all are in. Raises NotReady, OSError."""
    until = time.monotonic() + READY_S_MAX
    _check_version()
    _raise_limit_of_files()
    folder = os.path.join(environ["TMPDIR"], "ray")
    os.mkdir(folder, 0o700)
    env = order.environment(environ, _keep_token(folder, environ.get(order.TOKEN) or secrets.token_hex(32)))
    if wanted.head:
        _check_meeting(wanted, until)
    address, roots = _start_node(wanted, folder, env, until)
    env["RAY_ADDRESS"] = address
    if wanted.size > 1 and not wanted.rank:
        _wait_for_nodes(wanted.size, env, until)
    names = {pid: processes.name(pid) for pid in roots}
    return Cluster(address, env, roots, {pid: name for pid, name in names.items() if name in VITAL})


def _start_node(wanted: Order, folder: str, env: dict[str, str], until: float) -> tuple[str, set[int]]:
    """Ray on this node, tried again if it fails; gives the cluster's address and Ray's processes. Raises NotReady."""
    before = processes.children()
    for left in reversed(range(TRIES_MAX)):
        try:
            _run_start(wanted, folder, env, until)
            break
        except NotReady:
            processes.end(processes.children() - before, wait_s=END_S_MAX)
            if not left or time.monotonic() > until:
                raise
    with open(os.path.join(folder, "ray_current_cluster"), encoding="ascii") as file:
        return file.read().strip(), processes.children() - before


def end(cluster: Cluster) -> None:
    """Nothing of it is worth a grace: what it holds is the attempt's, and ends with it."""
    processes.end(cluster.roots, wait_s=END_S_MAX)


def answers(address: str) -> bool:
    """Whether anything listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
    except OSError:
        return False
    return True


def _check_version() -> None:
    try:
        version = metadata.version("ray")
    except metadata.PackageNotFoundError:
        hint = "add `ray` to what it requires; `kind: ray` runs on the job's own Ray"
        raise NotReady(f"the job's packages contain no Ray; hint: {hint}") from None
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < VERSION_MIN:
        least = ".".join(map(str, VERSION_MIN))
        raise NotReady(f"Ray {version} cannot keep strangers out of its ports; hint: use Ray {least} or later")


def _raise_limit_of_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _keep_token(folder: str, token: str) -> str:
    """In a file that its owner alone can read; gives its path."""
    path = os.path.join(folder, "token")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(token)
    return path


def _check_meeting(wanted: Order, until: float) -> None:
    """Of the head: its port is still free. Of the others: somebody listens there by now. Raises NotReady."""
    if not wanted.rank:
        port = int(wanted.head.rpartition(":")[2])
        if answers(f"127.0.0.1:{port}"):
            raise NotReady(f"port {port} is taken", "meeting_failed")
    while wanted.rank and not answers(wanted.head):
        if time.monotonic() > until:
            raise NotReady(f"Ray's head at {wanted.head} did not answer within {READY_S_MAX:g} s")
        time.sleep(LOOK_S)


def _run_start(wanted: Order, folder: str, env: dict[str, str], until: float) -> None:
    """`ray start`, to its end: afterwards this node is in. Raises NotReady."""
    free = os.statvfs("/dev/shm")
    store = order.object_store_bytes(wanted, free.f_bavail * free.f_frsize)
    told = order.arguments(wanted, temporary=folder, object_store=store)
    log = os.path.join(folder, "start.log")
    with open(log, "wb") as out:
        _run([sys.executable, "-c", _START, *told], out, env, until, what="Ray", log=log)


def _wait_for_nodes(size: int, env: dict[str, str], until: float) -> None:
    log = os.path.join(os.path.dirname(env["RAY_AUTH_TOKEN_PATH"]), "nodes.log")
    with open(log, "wb") as out:
        _run([sys.executable, "-c", _COUNT, str(size)], out, env, until, what=f"Ray on all {size} nodes", log=log)


def _run(argv: list[str], out: object, env: dict[str, str], until: float, *, what: str, log: str) -> None:
    """In a session of its own: the signals that our supervisor sends are for the entrypoint."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,  # type: ignore[arg-type]
            stderr=subprocess.STDOUT,
            env=env,
            cwd="/",
            start_new_session=True,
            timeout=max(0.1, until - time.monotonic()),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotReady(f"{what} was not ready within {READY_S_MAX:g} s{_last_lines(log)}") from None
    if done.returncode != 0:
        raise NotReady(f"{what} did not start{_last_lines(log)}")


def _last_lines(log: str) -> str:
    """`; its last lines: … | …`: of what it said, and of what the processes that it started complain about."""
    folder = os.path.join(os.path.dirname(log), "session_latest", "logs")
    lines: list[str] = []
    for path in (log, *(os.path.join(folder, name) for name in ("gcs_server.err", "raylet.err"))):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 8192))
            text = _COLOUR.sub("", file.read().decode("utf-8", "replace"))
            lines += [line[:LINE_CHARACTERS_MAX] for line in map(str.strip, text.splitlines()) if _tells(line)]
    return f"; its last lines: {' | '.join(lines[-LINES_MAX:])}" if lines else ""


def _tells(line: str) -> bool:
    """Whether there is more to read in it than where in Ray's code something happened."""
    return bool(line) and not _FRAME.search(line)
