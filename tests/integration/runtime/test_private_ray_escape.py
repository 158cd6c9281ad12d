"""What somebody who is not of a private cluster can do with it, and what somebody in it can do with others."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import processes, short_way
from tests.support import private_ray as clusters
from tests.support.attempts import Job, Node, line_in
from tests.support.private_ray import HAS_RAY, end, said

pytestmark = [pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed"), pytest.mark.timeout(600)]

WAITS = (
    "import os, ray, signal; ray.init(logging_level='ERROR'); print(os.environ['RAY_ADDRESS'], flush=True); "
    "signal.pause()"
)
CALLS = """
import sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print("IN", ray.get(ray.remote(num_cpus=0)(lambda: 1).remote()))
"""
GOES_ROUND = """
import json, os, ray, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
theirs, calls = sys.argv[1:]
def calls_with(**more):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | more
    try:
        done = subprocess.run([sys.executable, "-c", calls, environ.pop("TO", theirs)], env=environ, timeout=60,
                              capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        return "nobody answered"
    return "in" if "IN 1" in done.stdout else "refused"
ray.init(logging_level="ERROR")
own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": os.environ["RAY_AUTH_TOKEN_PATH"]}
@ray.remote
def inside():
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
too_many = ray.remote(num_gpus=1, num_cpus=0)(lambda: 1).remote()
tries = {
    "own token": own,
    "no token": {"RAY_AUTH_MODE": "disabled"},
    "guessed token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
    "what auto finds": {"TO": "auto", "RAY_AUTH_MODE": "disabled"},
    "itself": {"TO": os.environ["RAY_ADDRESS"], **own},
}
with ThreadPoolExecutor(len(tries)) as at_once:  # who is refused waits long for it
    answers = dict(zip(tries, at_once.map(lambda more: calls_with(**more), tries.values())))
print(json.dumps({
    **answers,
    "nodes": len(ray.nodes()),
    "theirs in the environment": [name for name, value in {**ray.get(inside.remote()), **os.environ}.items()
                                  if theirs in value and name != "THEIRS"],
    "a GPU it does not hold": "given" if ray.wait([too_many], timeout=3)[0] else "not given",
}))
"""
FIXED_PORTS = frozenset({6379, 8265, 10001, 44217, 44227, 52365})
"""Those that Ray takes unless it is told otherwise: of two clusters on a machine one would have them."""
HTTP_PATHS = ("/", "/api/jobs/", "/api/version", "/get_or_create_runtime_env", "/nodes", "/logs")
READS = """
import json, os, sys
token_file, pids = sys.argv[1], sys.argv[2:]
def reads(path):
    try:
        return bool(open(path, "rb").read(1))
    except OSError:
        return False
print(json.dumps({"token": reads(token_file), "environ": any(reads(f"/proc/{pid}/environ") for pid in pids),
                  "memory": any(reads(f"/proc/{pid}/maps") for pid in pids)}))
"""
ANOTHER_UID = 65_534


@pytest.fixture(autouse=True)
def short_ways(node: Node) -> Iterator[None]:
    yield
    for scratch in node.folder.glob("attempts/*/scratch"):
        short_way.remove(scratch)


async def address_of(job: Job) -> str:
    return await line_in(job.folder / "stdout", wait_s=clusters.READY_S_MAX)


async def test_two_clusters_on_one_machine_are_closed_to_each_other(node: Node) -> None:
    """The other one stands for any Ray of which a job is not: a neighbour's, and that of the fleet."""
    theirs = await clusters.python(node, WAITS, gpus=(0, 1))
    address = await address_of(theirs)
    ours = await clusters.start(node, "python", "-c", GOES_ROUND, address, CALLS)
    record = await end(ours)
    assert record.exit_code == 0, ours.output("stderr")
    found = said(ours)
    assert found.pop("itself") == "in"  # so that "refused" means something
    assert found.pop("nodes") == 1
    assert found.pop("theirs in the environment") == []
    assert found.pop("a GPU it does not hold") == "not given"
    assert set(found) == {"own token", "no token", "guessed token", "what auto finds"}
    assert "in" not in found.values(), found
    theirs.supervised.stop("stopped", "enough", grace_s=5.0)
    await end(theirs)
    assert clusters.left_of(theirs) + clusters.left_of(ours) == []


async def test_no_port_of_a_cluster_answers_who_has_no_token(node: Node) -> None:
    job = await clusters.python(node, WAITS)
    await address_of(job)
    log = job.folder / "scratch" / "ray" / "session_latest" / "logs" / "dashboard.log"
    await line_in(log, containing="http server disabled")  # the last that would open a port has had its chance
    pids = processes.marked(f"HEADRACE_SCRATCH={job.folder / 'scratch'}")
    listening = await asyncio.to_thread(_listening, pids)
    assert len(listening) > 4
    assert FIXED_PORTS.isdisjoint(port for _, port in listening)
    answers = await asyncio.to_thread(_answers, listening)
    assert {status for _, _, status, _ in answers} == {401}
    assert not _is_of(job, Path("/tmp/ray/ray_current_cluster"))
    job.supervised.stop("stopped", "enough", grace_s=5.0)
    await end(job)


@pytest.mark.parametrize(
    ("uid", "is_open"),
    [
        pytest.param(os.getuid(), True, id="of the same uid"),
        pytest.param(
            ANOTHER_UID,
            False,
            id="of another uid",
            marks=pytest.mark.skipif(os.getuid() != 0, reason="only root can become another"),
        ),
    ],
)
async def test_what_a_process_can_read_of_a_cluster(node: Node, uid: int, is_open: bool) -> None:
    """A uid of its own is what closes a cluster to its neighbours' eyes: with the same one all is theirs to read."""
    job = await clusters.python(node, WAITS)
    await address_of(job)
    token_file = job.folder / "scratch" / "ray" / "token"
    pids = processes.marked(f"HEADRACE_SCRATCH={job.folder / 'scratch'}")
    reading = ["/usr/bin/python3", "-I", "-c", READS, str(token_file), *map(str, pids)]
    done = await asyncio.to_thread(
        subprocess.run, reading, user=uid, capture_output=True, text=True, timeout=60, check=True, cwd="/"
    )
    assert json.loads(done.stdout) == {"token": is_open, "environ": is_open, "memory": is_open}
    job.supervised.stop("stopped", "enough", grace_s=5.0)
    await end(job)


def _listening(pids: list[int]) -> set[tuple[str, int]]:
    said = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, timeout=30, check=True).stdout
    found = set()
    for line in said.splitlines():
        if {int(pid) for pid in re.findall(r"pid=(\d+)", line)} & set(pids):
            host, _, port = line.split()[3].rpartition(":")
            host = host.strip("[]").removeprefix("::ffff:")
            found.add(("127.0.0.1" if host in ("*", "0.0.0.0", "::") else host, int(port)))
    return found


def _answers(listening: set[tuple[str, int]]) -> list[tuple[int, str, int, bytes]]:
    """Port, path, status and first bytes of what answers in HTTP."""
    found = []
    for host, port in sorted(listening):
        for path in HTTP_PATHS:
            connection = http.client.HTTPConnection(host, port, timeout=5)
            try:
                connection.request("POST" if "runtime_env" in path else "GET", path, body=b"")
                answer = connection.getresponse()
                found.append((port, path, answer.status, answer.read(64)))
            except (OSError, http.client.HTTPException):
                continue
            finally:
                connection.close()
    return found


def _is_of(job: Job, path: Path) -> bool:
    """Whether a note that a stranger would look for leads to its cluster."""
    return path.exists() and path.read_text() == (job.folder / "scratch" / "ray" / "ray_current_cluster").read_text()
