"""What a private Ray cluster costs, and whether anything of it is left: `python -m load_tests.private_ray`.

One node folder with a launcher and its supervisors, as a runner has them, and the Ray that is installed here. Clusters
one after the other: from the launch to the entrypoint's first line, and from its last to the exit record. After each,
and after all of them, what is on the machine that was not there before: processes by the attempt's mark, processes of
Ray's own, files in /dev/shm and /tmp, unix sockets, control groups. Every second cluster is killed whole (SIGKILL to
everything below its supervisor). Then two at once, and the memory of one that idles and of one that has run a task.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from events.messages import Allocation, AttemptRef, Launch
from load_tests.stack import percentile, report, until
from runtime import bounds, exit_record, private_ray, processes, short_way
from runtime.exit_record import Record, Spec
from runtime.node_folder import NodeFolder
from runtime.supervised import LauncherClient, Supervised

READY_S_GOAL: Final = 6.0
READY_S_MAX: Final = 200.0
GONE_S_MAX: Final = 30.0
MEMORY_BYTES: Final = 4 * 1024**3
STAMP: Final = "import sys, time; open(sys.argv[1], 'w').write(repr(time.time())); "
WAITS: Final = STAMP + "open(sys.argv[1] + '.go').read()"
"""The other end of that pipe lets it go on."""
TASK: Final = "import ray; ray.init(logging_level='ERROR'); ray.get(ray.remote(lambda: 1).remote()); " + WAITS


class Started(NamedTuple):
    """A cluster whose entrypoint runs."""

    supervised: Supervised
    end: asyncio.Future[Record]
    pid: int
    stamp: Path
    ready_s: float

    def release(self) -> None:
        """Let the entrypoint end."""
        os.close(os.open(f"{self.stamp}.go", os.O_WRONLY))


class Node:
    """A node folder with a launcher."""

    def __init__(self, folder: Path) -> None:
        self.folder = NodeFolder(folder)
        self.folder.prepare()
        self.launcher = LauncherClient(folder)
        self.count = 0
        self.ways: list[str] = []
        """To each attempt's temporary folder."""

    async def start(self, code: str) -> Started:
        self.count += 1
        ref = AttemptRef(team="load", job=f"j-{self.count}", attempt=1)
        folder = self.folder.attempt(ref)
        scratch = folder / "scratch"
        scratch.mkdir(parents=True)
        stamp = scratch / "stamp"
        os.mkfifo(f"{stamp}.go")
        argv = (sys.executable, "-c", code, str(stamp))
        allocation = Allocation(node="n1", cpus=1, memory_bytes=MEMORY_BYTES)
        launch = Launch(ref=ref, user="ada", name=ref.job, allocation=allocation, entrypoint=argv, kind="ray")
        env = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(self.folder.pythonpath),
            "TMPDIR": str(short_way.to(scratch)),
            "HEADRACE_SCRATCH": str(scratch),
        }
        spec = Spec(argv=argv, env=env, cwd=str(scratch), memory_bytes=MEMORY_BYTES)
        exit_record.write_spec(str(folder), private_ray.within(spec, launch, host=""))
        self.ways.append(env["TMPDIR"])
        begun_at = time.time()
        supervised = await self.launcher.launch(folder.name)
        pids: list[int] = []
        end = asyncio.ensure_future(supervised.watch(lambda status: pids.append(status.pid)))
        try:
            await asyncio.to_thread(until, lambda: _has(stamp) or end.done(), limit_s=READY_S_MAX, what="a cluster")
            ready_s = float(stamp.read_text()) - begun_at
        except FileNotFoundError:
            raise RuntimeError(f"{ref.job} has ended: {(folder / 'stderr').read_text()[-2000:]}") from None
        return Started(supervised, end, pids[-1], stamp, ready_s)

    async def gone(self, started: Started) -> float:
        """Seconds until its exit record is there; its folder is removed then, as the runner does."""
        begun = time.monotonic()
        async with asyncio.timeout(GONE_S_MAX):
            await started.end
        took_s = time.monotonic() - begun
        self.check(started.supervised.folder)
        shutil.rmtree(started.supervised.folder)
        short_way.remove(started.supervised.folder / "scratch")
        return took_s

    def check(self, folder: Path) -> None:
        """Raises RuntimeError if a process of the attempt still lives."""
        if left := processes.marked(f"HEADRACE_SCRATCH={folder / 'scratch'}"):
            raise RuntimeError(f"{folder.name} has ended, and {left} still live")


class Machine(NamedTuple):
    """What of Ray's, and of attempts, is on it."""

    processes: frozenset[int]
    shared_memory: frozenset[str]
    temporary: frozenset[str]
    sockets: frozenset[str]
    groups: frozenset[str]

    @staticmethod
    def look(node: Node) -> Machine:
        place = node.launcher.place
        folder = str(node.folder.path)
        sockets = Path("/proc/net/unix").read_text().splitlines()
        return Machine(
            frozenset(pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_of(pid, folder)),
            frozenset(os.listdir("/dev/shm")),
            frozenset(name for name in os.listdir("/tmp") if name == "ray" or f"/tmp/{name}" in node.ways),
            frozenset(line for line in sockets if any(f"{way}/" in line for way in node.ways)),
            frozenset(place.names()) if place else frozenset(),
        )

    def beyond(self, before: Machine) -> dict[str, int]:
        """How many of each there are that were not there before."""
        return {name: len(getattr(self, name) - getattr(before, name)) for name in self._fields}


async def measure(node: Node, clusters: int) -> dict[str, Any]:
    """Raises RuntimeError where a cluster does not start or something of it is left alive."""
    await node.launcher.ensure()
    await node.gone(_released(await node.start(WAITS)))  # warms what is to be warm
    before = Machine.look(node)
    ready, gone, killed = [], [], []
    for number in range(clusters):
        started = await node.start(WAITS)
        ready.append(started.ready_s)
        if number % 2:
            processes.send(processes.descendants(_parent(started.pid)), signal.SIGKILL)
            killed.append(await node.gone(started))
        else:
            gone.append(await node.gone(_released(started)))
    left = Machine.look(node).beyond(before)
    idle_mib, worked_mib = [await _memory_mib(node, code) for code in (WAITS, TASK)]
    two = await asyncio.gather(node.start(TASK), node.start(TASK))
    for each in two:
        await node.gone(_released(each))
    await node.launcher.retire()
    return {
        "clusters": clusters,
        "ready_p50_s": round(percentile(ready, 0.5), 2),
        "ready_max_s": round(max(ready), 2),
        "ready_min_s": round(min(ready), 2),
        "ready_goal_s": READY_S_GOAL,
        "gone_p50_s": round(percentile(gone, 0.5), 2),
        "gone_max_s": round(max(gone), 2),
        "killed_to_gone_max_s": round(max(killed), 2) if killed else None,
        "left": left,
        "memory_idle_mib": idle_mib,
        "memory_after_a_task_mib": worked_mib,
        "two_at_once_first_task_s": round(max(each.ready_s for each in two), 2),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[2], 1),
    }


async def _memory_mib(node: Node, code: str) -> int:
    """Of all of its processes, shared pages counted once."""
    started = await node.start(code)
    used = bounds.resident_bytes(processes.descendants(_parent(started.pid)), precise_above=0)
    await node.gone(_released(started))
    return round(used / 1024**2)


def _released(started: Started) -> Started:
    started.release()
    return started


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _has(stamp: Path) -> bool:
    return stamp.exists() and bool(stamp.read_text())


def _is_of(pid: int, folder: str) -> bool:
    """Whether it is an attempt's process."""
    try:
        return f"HEADRACE_SCRATCH={folder}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clusters", type=int, default=50, help="one after the other")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-") as temporary:
        figures = asyncio.run(measure(Node(Path(temporary) / "n1"), options.clusters))
    report("private_ray", figures, {})
    if any(figures["left"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
