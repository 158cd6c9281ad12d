"""A job that tries to get at what is not its own, and says what it got. Runs alone: standard library only.

    python escape.py <what to try, as JSON> <where to write what was found, as JSON>

`found`: what should have been refused. `seen`: everything that it could read of other processes, for whoever knows
which words must not be in there. `own`: what it is given by the Ray that is its own, where there is one.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

RAY = """
import sys
sys.path[:0] = sys.argv[2].split(":")
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
print("joined", len(ray.nodes()))
"""
OWN = """
import json, ray
ray.init(log_to_driver=False, logging_level="CRITICAL")
def one(): return 1
gpu = ray.remote(num_gpus=1, num_cpus=0)(one).remote()
print(json.dumps({"nodes": len(ray.nodes()), "answers": ray.get(ray.remote(num_cpus=1)(one).remote()),
                  "gpus": len(ray.wait([gpu], timeout=3)[0])}))
"""
RAY_S_MAX = 30
"""Whom nobody lets in tries for longer. Several try at a time."""
ROOT_S_MAX = 90
"""Who is let in is in sooner, but for a machine that is busy."""
TOKENS: dict[str, dict[str, str]] = {
    "no token": {},
    "a wrong token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32},
}
DEFAULT_NOTE = Path("/tmp/ray/ray_current_cluster")
"""Where a Ray that is told nothing else notes its address, and whoever says "auto" looks."""
HTTP_PATHS = ("/", "/api/jobs/", "/api/version", "/nodes", "/logs")


def main() -> None:
    told = json.loads(sys.argv[1])
    found: list[str] = []
    seen: list[str] = [json.dumps(dict(os.environ))]
    look_at_processes(found, seen)
    for path in told["files"]:
        read(Path(path), found)
    for path in told["folders"]:
        with contextlib.suppress(OSError):
            found.append(f"{path} lists {os.listdir(path)}")
    for path in told["sockets"]:
        connect(path, found)
    for path in told["shared"]:
        change(Path(path), found)
    for pid in told["pids"]:
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            found.append(f"may signal {pid}")
            with open(f"/proc/{pid}/mem", "rb"):
                found.append(f"may read the memory of {pid}")
    own = own_ray() if told["own"] else {}
    with contextlib.suppress(OSError):
        if any(address in DEFAULT_NOTE.read_text() for address, _ in told["ray"]):
            found.append(f"{DEFAULT_NOTE} says where Ray is")
    with ThreadPoolExecutor() as threads:
        for address, token in told["ray"]:
            threads.submit(join_ray, address, token, told["path"], found)
        for port in told["ports"]:
            threads.submit(ask, port, found)
    Path(sys.argv[2]).write_text(json.dumps({"uid": os.getuid(), "found": found, "seen": seen, "own": own}))


def look_at_processes(found: list[str], seen: list[str]) -> None:
    mine = {os.getpid(), os.getppid() if os.stat(f"/proc/{os.getppid()}").st_uid == os.getuid() else 0}
    for name in filter(str.isdigit, os.listdir("/proc")):
        if int(name) in mine or (os.getuid() and is_of(int(name), os.getuid())):
            continue
        with contextlib.suppress(OSError):
            seen.append(Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace"))
        for secret in ("environ", "maps", "auxv"):
            with contextlib.suppress(OSError):
                content = Path(f"/proc/{name}/{secret}").read_bytes()
                if content:
                    seen.append(content.decode(errors="replace"))
                    found.append(f"/proc/{name}/{secret}")
        for link in ("cwd", "exe", "root"):
            with contextlib.suppress(OSError):
                found.append(f"/proc/{name}/{link} is {os.readlink(f'/proc/{name}/{link}')}")
        with contextlib.suppress(OSError):
            found.append(f"/proc/{name}/fd lists {len(os.listdir(f'/proc/{name}/fd'))}")


def is_of(pid: int, uid: int) -> bool:
    with contextlib.suppress(OSError):
        return os.stat(f"/proc/{pid}").st_uid == uid
    return True  # gone


def read(path: Path, found: list[str]) -> None:
    with contextlib.suppress(OSError):
        path.read_bytes()
        found.append(f"{path} can be read")


def connect(path: str, found: list[str]) -> None:
    """By its folder, for a path to a socket may not be long."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        opened = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
        connection.settimeout(5.0)
        connection.connect(f"/proc/self/fd/{opened}/{os.path.basename(path)}")
        found.append(f"{path} takes a connection")


def change(path: Path, found: list[str]) -> None:
    """What is there for all jobs: an open, a removal, a new neighbour, another name."""
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_WRONLY))
        found.append(f"{path} can be written")
    with contextlib.suppress(OSError):
        os.chmod(path, 0o777)
        found.append(f"the mode of {path} can be changed")
    with contextlib.suppress(OSError):
        (path.parent / "planted").touch()
        found.append(f"{path.parent} takes a new file")
    with contextlib.suppress(OSError):
        os.rename(path, path.parent / "moved")
        found.append(f"{path} can be moved")


def own_ray() -> dict[str, int]:
    """What the cluster gives that the job is in."""
    done = subprocess.run([sys.executable, "-c", OWN], capture_output=True, text=True, timeout=120, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def ask(port: int, found: list[str]) -> None:
    """In HTTP. Figures for Prometheus are open to all."""
    for path in HTTP_PATHS:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status < 400 and not answer.read(64).startswith(b"# HELP"):
                found.append(f"port {port} answers {path}")
        except (OSError, http.client.HTTPException):  # it speaks no HTTP
            return
        finally:
            connection.close()


def join_ray(address: str, token: str, path: str, found: list[str]) -> None:
    """`token`: one of TOKENS; another word: with what the environment has."""
    environ: dict[str, Any] = {**os.environ}
    if token in TOKENS:
        environ = {name: value for name, value in environ.items() if not name.startswith("RAY_")} | TOKENS[token]
    command = [sys.executable, "-c", RAY, address, path]
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=RAY_S_MAX if os.getuid() else ROOT_S_MAX)
        except subprocess.TimeoutExpired:
            output = b""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if b"joined" in output:
        found.append(f"Ray at {address} lets join with {token}")


if __name__ == "__main__":
    main()
