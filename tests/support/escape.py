"""A job that tries to get at what is not its own, and says what it got. Runs alone: standard library only.

    python escape.py <what to try, as JSON> <where to write what was found, as JSON>

`found`: what should have been refused. `seen`: everything that it could read of other processes, for whoever knows
which words must not be in there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

RAY = """
import sys
sys.path[:0] = sys.argv[2].split(":")
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
print("joined", len(ray.nodes()))
"""
RAY_S_MAX = 25


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
    for address in told["ray"]:
        join_ray(address, told["path"], found)
    Path(sys.argv[2]).write_text(json.dumps({"uid": os.getuid(), "found": found, "seen": seen}))


def look_at_processes(found: list[str], seen: list[str]) -> None:
    mine = {os.getpid(), os.getppid() if os.stat(f"/proc/{os.getppid()}").st_uid == os.getuid() else 0}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in mine:
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


def join_ray(address: str, path: str, found: list[str]) -> None:
    """Without a token, and with one that is wrong."""
    for more in ({}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32}):
        command = [sys.executable, "-c", RAY, address, path]
        environ: dict[str, Any] = {**os.environ, **more}
        with subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            try:
                output, _ = process.communicate(timeout=RAY_S_MAX)
            except subprocess.TimeoutExpired:
                output = b""
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if b"joined" in output:
            found.append(f"Ray at {address} lets join with {sorted(more)}")


if __name__ == "__main__":
    main()
