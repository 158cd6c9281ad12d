"""An attempt of `kind: ray` with a real Ray: what it finds, and what is left of it."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import stat
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import bounds, meeting, private_ray, processes, short_way
from tests.support import private_ray as clusters
from tests.support.attempts import Job, Node, line_in, lives, supervisor_of
from tests.support.private_ray import HAS_RAY, end, left_of, said

pytestmark = [pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed"), pytest.mark.timeout(600)]

LOOKS = """
import json, os, ray
ray.init(logging_level="ERROR")

@ray.remote(num_gpus=1, num_cpus=0)
def gpu():
    return [ray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]]

@ray.remote(num_gpus=1, num_cpus=0)
class Holds:
    def which(self):
        return os.environ["CUDA_VISIBLE_DEVICES"]

actors = [Holds.remote() for _ in range(2)]
held = ray.get([actor.which.remote() for actor in actors])
for actor in actors:
    ray.kill(actor)
print(json.dumps({
    "resources": ray.cluster_resources(), "task": ray.get(gpu.remote()), "actors": sorted(held),
    "environ": {name: value for name, value in os.environ.items() if name.startswith(("RAY", "HEADRACE"))},
    "files": ray.get(ray.remote(num_cpus=1)(lambda: __import__("resource").getrlimit(7)[0]).remote()),
}))
raise SystemExit(7)
"""
WAITS = "import ray, signal; ray.init(logging_level='ERROR'); print('up', flush=True); signal.pause()"


@pytest.fixture(autouse=True)
def short_ways(node: Node) -> Iterator[None]:
    yield
    for scratch in node.folder.glob("attempts/*/scratch"):
        short_way.remove(scratch)


async def test_a_job_finds_a_cluster_of_exactly_what_it_holds_and_leaves_nothing(node: Node) -> None:
    before = clusters.shared_memory()
    job = await clusters.python(node, LOOKS, cpus=2.5, gpus=(2, 3))
    record = await end(job)
    assert (record.cause, record.exit_code) == ("exited", 7), job.output("stderr")
    assert record.exited_at is not None
    assert record.ended_at - record.exited_at < 1.5, "Ray was left to its supervisor"
    found = said(job)
    assert {name: found["resources"].get(name) for name in ("CPU", "GPU")} == {"CPU": 2.0, "GPU": 2.0}
    assert found["resources"]["object_store_memory"] <= 0.3 * 2 * clusters.GIB
    assert found["resources"]["object_store_memory"] + found["resources"]["memory"] <= 2 * clusters.GIB
    assert found["task"][1] in ("2", "3")
    assert [str(each) for each in found["task"][0]] == [found["task"][1]]
    assert found["actors"] == ["2", "3"]
    assert found["files"] >= 4096
    assert left_of(job) == []
    assert clusters.shared_memory() <= before
    assert re.search(r"headrace: Ray 1 node, 2 CPUs and 2 GPUs each, ready in \d+\.\d s", job.output("stderr"))


async def test_the_token_is_in_a_file_that_its_owner_alone_can_read_and_nowhere_else(node: Node) -> None:
    job = await clusters.python(node, WAITS)
    await _up(job)
    token_file = job.folder / "scratch" / "ray" / "token"
    token = token_file.read_text()
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    assert len(token) == 64
    pids = processes.marked(f"HEADRACE_SCRATCH={job.folder / 'scratch'}")
    assert len(pids) > 5
    for pid in pids:
        for of in ("environ", "cmdline"):
            assert token.encode() not in clusters.of_process(pid, of)
    job.supervised.stop("stopped", "enough", grace_s=5.0)
    await end(job)
    assert left_of(job) == []


async def test_a_job_that_is_stopped_has_its_cluster_for_as_long_as_its_grace(node: Node) -> None:
    code = (
        "import ray, signal, sys\n"
        "ray.init(logging_level='ERROR')\n"
        "def save(*_):\n"
        "    print(ray.get(ray.remote(lambda: 'saved').remote()), flush=True)\n"
        "    sys.exit(5)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('up', flush=True)\n"
        "while True: signal.pause()\n"
    )
    job = await clusters.python(node, code)
    await _up(job)
    job.supervised.stop("stopped", "preempted", grace_s=60.0)
    record = await end(job)
    assert (record.cause, record.exit_code) == ("stopped", 5)
    assert job.output() == "up\nsaved\n"


async def a_gang(node: Node, code: str) -> tuple[clusters.Job, clusters.Job, str]:
    """The part with the program, the other one, and the token of their cluster."""
    token = secrets.token_hex(32)
    with meeting.held() as port:
        pass
    second = await clusters.python(node, "raise SystemExit(9)", gang=clusters.a_part(1, port, token))
    return await clusters.python(node, code, gang=clusters.a_part(0, port, token)), second, token


async def test_two_nodes_make_one_cluster_that_ends_with_its_first(node: Node) -> None:
    code = (
        "import json, ray, time\n"
        "ray.init(logging_level='ERROR')\n"
        "def where(): time.sleep(0.5); return ray.get_runtime_context().get_node_id()\n"
        "found = ray.get([ray.remote(num_cpus=1)(where).remote() for _ in range(4)])\n"
        "import os\n"
        "rank = os.environ.get('RANK')\n"
        "print(json.dumps({'nodes': len(ray.nodes()), 'ran on': len(set(found)), 'rank': rank}))"
    )
    first, second, token = await a_gang(node, code)
    ended = await end(first)
    assert ended.exit_code == 0, first.output("stderr")
    assert said(first) == {"nodes": 2, "ran on": 2, "rank": None}
    assert (first.folder / "scratch" / "ray" / "token").read_text() == token
    assert (await end(second)).exit_code == 0
    assert left_of(first) + left_of(second) == []


async def test_a_gang_that_is_stopped_has_all_its_nodes_for_as_long_as_its_grace(node: Node) -> None:
    """Every part gets SIGTERM at once; the program asks an actor on each node meanwhile, after a while."""
    code = (
        "import os, ray, signal, sys, time\n"
        "ray.init(logging_level='ERROR')\n"
        "class Keeper:\n"
        "    def node(self): return ray.get_runtime_context().get_node_id()\n"
        "keepers = [ray.remote(num_cpus=1)(Keeper).options(scheduling_strategy='SPREAD').remote() for _ in range(2)]\n"
        "assert len(set(ray.get([each.node.remote() for each in keepers]))) == 2\n"
        "def save(*_):\n"
        "    time.sleep(8)\n"
        "    print(len(set(ray.get([each.node.remote() for each in keepers]))), flush=True)\n"
        "    sys.exit(5)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('up', flush=True)\n"
        "while True: signal.pause()\n"
    )
    first, second, _ = await a_gang(node, code)
    await _up(first)
    for part in (second, first):
        part.supervised.stop("stopped", "preempted", grace_s=60.0)
    assert (await end(first)).exit_code == 5, first.output("stderr")
    assert first.output() == "up\n2\n"
    assert (await end(second)).exit_code == 0
    assert left_of(first) + left_of(second) == []


async def test_a_head_whose_port_is_taken_says_that_the_meeting_failed(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        job = await clusters.python(node, "pass", gang=clusters.a_part(0, port, "x"))
        await end(job)
    assert _failure(job.folder) == ("meeting_failed", f"port {port} is taken")


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victims", ["all", "wrapper"])
async def test_what_is_killed_leaves_nothing(node: Node, victims: str) -> None:
    job = await clusters.python(node, WAITS)
    await _up(job)
    wrapper = (await job.until("running")).pid
    below = processes.descendants(supervisor_of(wrapper))
    assert len(below) > 5
    processes.send(below if victims == "all" else [wrapper], signal.SIGKILL)
    record = await end(job)
    assert (record.cause, record.signal) == ("signalled", signal.SIGKILL)
    assert [pid for pid in below if lives(pid)] == []
    assert left_of(job) == []


async def test_what_a_killed_supervisor_leaves_is_found_by_its_mark(node: Node) -> None:
    job = await clusters.python(node, WAITS)
    await _up(job)
    wrapper = (await job.until("running")).pid
    supervisor = supervisor_of(wrapper)
    below = processes.descendants(supervisor)
    job.leave()
    os.kill(supervisor, signal.SIGKILL)
    assert bounds.sweep(f"HEADRACE_SCRATCH={job.folder}/scratch", None, wait_s=30) == 0
    assert [pid for pid in below if lives(pid)] == []
    assert left_of(job) == []


@pytest.mark.parametrize("vital", ["gcs_server", "raylet"])
async def test_a_cluster_that_breaks_ends_the_job_with_a_reason(node: Node, vital: str) -> None:
    job = await clusters.python(node, WAITS)
    await _up(job)
    wrapper = (await job.until("running")).pid
    found = [pid for pid in processes.descendants(wrapper) if _name(pid) == vital]
    assert len(found) == 1
    os.kill(found[0], signal.SIGKILL)
    record = await end(job)
    assert (record.cause, record.exit_code) == ("exited", 1)
    assert _failure(job.folder) == ("exited", f"Ray's {vital} was killed by SIGKILL")
    assert left_of(job) == []


# -- reasons -----------------------------------------------------------------------------------------------------------


def _a_python(folder: Path, ray: str = "", version: str = "") -> Path:
    """The programs of an environment whose only package is called Ray."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    if version:
        about = packages / f"ray-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ray\nVersion: {version}\n")
        (packages / "ray" / "scripts").mkdir(parents=True)
        (packages / "ray" / "scripts" / "scripts.py").write_text(ray)
    return folder / "bin"


@pytest.mark.parametrize(
    ("ray", "version", "why"),
    [
        ("", "", "the job's packages contain no Ray; hint: add `ray` to what it requires"),
        ("", "2.51.1", "Ray 2.51.1 cannot keep strangers out of its ports; hint: use Ray 2.52 or later"),
        (
            "def main():\n    print('\\x1b[31mno room\\x1b[0m\\n  File \"x.py\", line 3\\nfor it')\n    return 1\n",
            "2.60.0",
            "Ray did not start; its last lines: no room | for it",
        ),
    ],
)
async def test_a_cluster_that_cannot_start_says_why(
    node: Node, tmp_path: Path, ray: str, version: str, why: str
) -> None:
    job = await clusters.python(node, "pass", binaries=_a_python(tmp_path / "venv", ray, version))
    record = await end(job)
    assert (record.cause, record.exit_code) == ("exited", 1)
    cause, message = _failure(job.folder)
    assert cause == "start_failed"
    assert message.startswith(why)
    assert f"headrace: {why}" in job.output("stderr")
    assert left_of(job) == []


async def test_an_entrypoint_that_is_not_there_is_named(node: Node) -> None:
    job = await clusters.start(node, "no-such-program")
    await end(job)
    assert _failure(job.folder) == ("start_failed", "cannot start 'no-such-program': No such file or directory")
    assert left_of(job) == []


async def _up(job: Job) -> None:
    assert await line_in(job.folder / "stdout", wait_s=clusters.READY_S_MAX) == "up"


def _failure(folder: Path) -> tuple[str, str]:
    failure = private_ray._read(folder / "scratch" / private_ray.FAILURE)
    assert failure is not None
    return failure.cause, failure.message


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
