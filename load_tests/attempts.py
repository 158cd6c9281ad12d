"""What short attempts leave behind on their node: `python -m load_tests.attempts [--attempts 10000]`.

A real runner, launcher and supervisors, a leader that is none, NATS of its own. Some attempts print, some leave a child
in a session of its own, some are killed. Before and after: descriptors, threads, children (zombies too) and memory of
runner and launcher, objects of the runner, files below the node's folder, control groups. Exit code 1 if anything is
left.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from events import streams
from events.bus import Bus
from events.messages import AttemptEnd, AttemptRef, Launch
from load_tests.stack import report, rss_mib
from runtime.supervised import LauncherClient
from tests.support.leader import Leader, a_launch
from tests.support.nats import NatsServer
from tests.support.runner_process import RunnerProcess

AT_ONCE: Final = 16
WARM_UP: Final = 1_200
"""More than the runner remembers of attempts that are over: from then on nothing may grow."""
KINDS: Final = (
    "true",
    "echo $HEADRACE_ATTEMPT; echo error >&2; exit 3",
    "setsid sleep 100 & echo left a child",
    "kill -9 $$",
)
SETTLE_S_MAX: Final = 60.0
MEMORY_MB_MAX: Final = 16.0
"""Growth of runner and launcher together that counts as none: the allocator's slack."""
OBJECTS_MAX: Final = 3_000
"""Growth of what the runner has allocated that counts as none: some hundred timers of what is over. One object for each
of 10,000 attempts would be three times as much."""
COUNTING: Final = """
import gc, os, signal, sys

def count(*_):
    gc.collect()
    with open(os.environ["HEADRACE_COUNT"] + ".new", "w") as file:
        file.write(f"{sys.getallocatedblocks()}")
    os.replace(file.name, os.environ["HEADRACE_COUNT"])

if "runtime.runner" in sys.orig_argv:
    signal.signal(signal.SIGUSR2, count)
"""
"""A module that Python imports at its start: on a signal the runner counts what it has allocated and not freed."""


async def measure(folder: Path, attempts: int) -> dict[str, float]:
    """Run them, and give what there was before and what is more afterwards."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(COUNTING)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder / "site"), os.environ.get("PYTHONPATH"))))
    os.environ["HEADRACE_COUNT"] = str(folder / "count")
    nats = NatsServer(folder / "nats")
    nats.start()
    bus = await Bus.connect(nats.url, user=nats.user, password=nats.password, name="attempts")
    for stream in streams.SHARED:
        await bus.ensure(stream)
    leader = Leader(bus)
    leader.heartbeat_s = 5.0
    await leader.listen()
    runner = RunnerProcess(folder, nats)
    await runner.start(stderr=asyncio.subprocess.DEVNULL)
    node = runner.node.path
    launcher = LauncherClient(node)
    try:
        await leader.until(lambda: bool(leader.exchanges))
        warm_up = min(WARM_UP, attempts // 2)
        await run(leader, node, first=0, count=warm_up)
        before = census(node, runner.process.pid, launcher, await launcher.ensure())
        began = time.perf_counter()
        await run(leader, node, first=warm_up, count=attempts - warm_up)
        took = time.perf_counter() - began
        after = census(node, runner.process.pid, launcher, await launcher.ensure())
    finally:
        await runner.end()
        await launcher.retire()
        await bus.drain()
        nats.kill()
    figures: dict[str, float] = {"attempts": attempts, "attempts_a_second": round((attempts - warm_up) / took, 1)}
    for name, count in before.items():
        figures[name] = count
        figures[f"{name}_more"] = round(after[name] - count, 1)
    return figures


async def run(leader: Leader, node: Path, *, first: int, count: int) -> None:
    """So many attempts of a few jobs, and wait until the node has forgotten them."""
    async with asyncio.TaskGroup() as group:
        for lane in range(AT_ONCE):
            group.create_task(_lane(leader, range(first + lane, first + count, AT_ONCE)))
    end = time.monotonic() + SETTLE_S_MAX
    while os.listdir(node / "attempts"):  # nothing announces that a folder is gone
        if time.monotonic() > end:
            raise TimeoutError(f"attempts that stay: {sorted(os.listdir(node / 'attempts'))[:5]}")
        await asyncio.sleep(0.1)


async def _lane(leader: Leader, numbers: range) -> None:
    """One job, one attempt of it after the other."""
    for number in numbers:
        launch = an_attempt(f"j-{number % AT_ONCE}", number // AT_ONCE + 1, KINDS[number // AT_ONCE % len(KINDS)])
        await leader.want(launch)
        end = await leader.end_of(launch.ref)
        _expect(launch.ref, end)
        del leader.exchanges[:-1]


def an_attempt(job: str, attempt: int, script: str) -> Launch:
    return msgspec.structs.replace(a_launch(job, "", attempt=attempt), entrypoint=("sh", "-c", script))


def _expect(ref: AttemptRef, end: AttemptEnd) -> None:
    if end.cause not in {"exited", "signalled"}:
        raise AssertionError(f"{ref.job}.{ref.attempt}: {end.cause}: {end.message}")


def census(node: Path, runner: int, launcher: LauncherClient, launcher_pid: int) -> dict[str, float]:
    """What there is now."""
    pids = {"runner": runner, "launcher": launcher_pid}
    found: dict[str, float] = {}
    for name, pid in pids.items():
        found[f"{name}_descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
        found[f"{name}_threads"] = len(os.listdir(f"/proc/{pid}/task"))
        found[f"{name}_children"] = len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        found[f"{name}_mb"] = round(rss_mib(pid), 1)
    found["runner_objects"] = _objects(runner)
    found["files"] = sum(len(files) + len(folders) for _, folders, files in os.walk(node))
    found["groups"] = len(launcher.place.names()) if launcher.place else 0
    return found


def _objects(pid: int) -> int:
    file = Path(os.environ["HEADRACE_COUNT"])
    file.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR2)
    end = time.monotonic() + SETTLE_S_MAX
    while not file.exists():
        if time.monotonic() > end:
            raise TimeoutError("the runner does not count its objects")
        time.sleep(0.05)
    return int(file.read_text())


def left_behind(figures: dict[str, float]) -> list[str]:
    """What is more than before and should not be."""
    more = {name: count for name, count in figures.items() if name.endswith("_more")}
    memory = sum(count for name, count in more.items() if name.endswith("_mb_more"))
    slack = {"runner_objects_more": OBJECTS_MAX}
    found = [
        f"{name}: {count:g}"
        for name, count in more.items()
        if count > slack.get(name, 0) and not name.endswith("_mb_more")
    ]
    return found + ([f"memory: {memory:g} MB"] if memory > MEMORY_MB_MAX else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=10_000)
    attempts = parser.parse_args().attempts
    with tempfile.TemporaryDirectory(prefix="headrace-load-") as folder:
        figures = asyncio.run(measure(Path(folder), attempts))
    report("attempts", figures, {})
    if found := left_behind(figures):
        sys.exit(f"error: left behind: {', '.join(found)}")


if __name__ == "__main__":
    main()
