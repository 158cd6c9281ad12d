"""A job on a real Ray with a token, whose attempts have users of their own, tries to get at everything that is ours."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from events.bus import Bus
from events.messages import Allocation, AttemptRef
from load_tests.ray_nodes import holder_of
from runtime import processes
from runtime.node_folder import NodeFolder
from runtime.settings import RunnerSettings
from runtime.supervised import LauncherClient
from tests.integration.runtime.test_actor import START
from tests.support import escape
from tests.support.attempts import line_in, supervisor_of
from tests.support.leader import GIB, Leader, a_launch
from tests.support.nats import HOST, NatsServer
from tests.support.ray_head import RayHead
from tests.support.strangers import UIDS, as_in_the_pod, needs_root, reachable_folder, reachable_venv

pytestmark = needs_root

WAITS = "import os, signal; print(os.getpid(), file=open('pid', 'w'), flush=True); signal.pause()"


def what_to_try(node: NodeFolder, ours: AttemptRef, neighbour: AttemptRef, head: RayHead, path: str) -> dict[str, Any]:
    """Everything by its name: the job is told more than it could find out."""
    attempts = [node.attempt(ref) for ref in (ours, neighbour)]
    private = ("launch.json", "spec.json", "lock", "exit.json.new", "stdout", "stderr", "shipped.json")
    files = [attempt / name for attempt in attempts for name in private]
    files += [node.path / name for name in ("launcher.log", "launcher.lock", "runner.lock", "lease", "bounds.json")]
    files += [node.seen, node.job(neighbour) / "pid", attempts[1] / "spool" / "x.spool", head.folder / "log"]
    files += [path for path in (head.folder / "ray").rglob("*") if path.is_file()][:200]
    folders = [node.path, node.attempts, node.path / "jobs", node.path / "environments", node.path / "sources"]
    folders += [node.path / "sdk", node.job(neighbour), head.folder, head.folder / "ray", *attempts]
    folders += [attempts[1] / name for name in ("scratch", "spool", "home", "source")]
    sockets = [node.path / "launcher.sock", *(attempt / "control.sock" for attempt in attempts)]
    sockets += [found for found in (head.folder / "ray").rglob("*") if found.is_socket()]
    return {
        "files": list(map(str, files)),
        "folders": list(map(str, folders)),
        "sockets": list(map(str, sockets)),
        "shared": [str(node.pythonpath / "headrace" / "__init__.py"), str(node.pythonpath / "headrace")],
        "ray": [(f"{HOST}:{head.port}", token) for token in (*escape.TOKENS, "the token of its own Ray")]
        + [("auto", "no token")],
        "ports": sorted(listening(head)),
        "path": path,
        "own": True,
    }


def listening(head: RayHead) -> set[int]:
    """Ports of the Ray head, its agents and its workers: the runner is one."""
    words = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, timeout=30, check=True).stdout
    pids = {head.pid, *processes.descendants(head.pid)}
    found = set()
    for line in words.splitlines():
        if {int(pid) for pid in re.findall(r"pid=(\d+)", line)} & pids:
            found.add(int(line.split()[3].rpartition(":")[2]))
    assert head.port in found
    return found


async def test_a_job_finds_nothing_of_ours_nor_of_its_neighbour(bus: Bus, nats: NatsServer) -> None:
    """One story, because a Ray head takes seconds. In the end root does the same, to see that the job has looked."""
    with reachable_folder() as folder:
        python, path = reachable_venv(folder)
        head = RayHead("n1", gpus=1, command=(*as_in_the_pod(), python), path=path)
        await head.start()
        try:
            await the_story(bus, nats, head, folder, python, path)
        finally:
            await head.kill()
            await LauncherClient(folder / "n1").retire()


async def the_story(bus: Bus, nats: NatsServer, head: RayHead, folder: Path, python: str, path: str) -> None:
    leader = Leader(bus)
    await leader.listen()
    node = NodeFolder(folder / "n1")
    settings = RunnerSettings(
        node="n1",
        folder=str(node.path),
        nats_url=nats.url,
        nats_user=nats.user,
        nats_password=nats.password,
        blobs_url=f"file://{folder}/blobs",
        otlp_url="http://127.0.0.1:1",
        otlp_secret="signs-the-tokens-of-all",
        gpus=1,
        pythons=("3.11.7",),
        attempt_uids=UIDS,
    )
    assert (await head.drive(START, json.dumps(msgspec.to_builtins(settings)))).strip() == "n1"

    neighbour, ours = AttemptRef(team="speech", job="j-b", attempt=1), AttemptRef(team="vision", job="j-a", attempt=1)
    await leader.want(a_launch("j-b", "", ref=neighbour, entrypoint=(python, "-c", WAITS)))
    await leader.until_running(neighbour)
    pid = int(await line_in(node.job(neighbour) / "pid"))

    told = what_to_try(node, ours, neighbour, head, path)
    told["pids"] = [pid, supervisor_of(pid), holder_of(node.path / "runner.lock"), await launcher_of(node), 1]
    script = folder / "escape.py"
    shutil.copyfile(escape.__file__, script)
    command = (python, str(script), json.dumps(told), "report.json")
    holds = Allocation(node="n1", cpus=1, memory_bytes=2 * GIB)
    await leader.want(a_launch("j-a", "", ref=ours, entrypoint=command, kind="ray", allocation=holds))
    end = await leader.end_of(ours, wait_s=400)  # each try to join Ray takes its time
    assert end.exit_code == 0, end
    report = json.loads((node.job(ours) / "report.json").read_text())
    assert report["uid"] != 0
    assert report["found"] == []
    secrets = {head.environment["RAY_AUTH_TOKEN"], nats.password, settings.otlp_secret}
    assert [secret for secret in secrets for text in report["seen"] if secret in text] == []
    assert f"{HOST}:{head.port}" not in report["seen"][0], "the address is not in its environment"
    assert report["own"] == {"nodes": 1, "answers": 1, "gpus": 0}

    told |= {"shared": [], "ray": [(f"{HOST}:{head.port}", "its own")], "own": False}  # what is shared it would change
    by_root = folder / "by-root.json"
    process = await asyncio.create_subprocess_exec(
        *(python, str(script), json.dumps(told), str(by_root)), env=head.environment
    )
    async with asyncio.timeout(150):
        assert await process.wait() == 0
    report = json.loads(by_root.read_text())
    assert len(report["found"]) > 50
    assert f"Ray at {HOST}:{head.port} lets join with its own" in report["found"]
    assert any(head.environment["RAY_AUTH_TOKEN"] in text for text in report["seen"][1:])

    await leader.want_no_more(neighbour)
    assert (await leader.end_of(neighbour)).cause == "stopped"


async def launcher_of(node: NodeFolder) -> int:
    return await LauncherClient(node.path).ensure()
