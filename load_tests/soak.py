"""Ten hours of a busy team, as fast as the services take them: `python -m load_tests.soak [--jobs 1000]`.

A hundred jobs run at once and are followed by others, an hour of steps each on average: 3 values and a line a second,
and what the machine says of itself each minute. Their nodes are simulated; all else is real: NATS, every service in a
process of its own, and beside the simulated nodes one real node, whose runner ships the spools and the output of real
jobs: one that logs from the first to the last moment, and short ones after another. Meanwhile people look at lists,
curves and states, follow output and numbers, and jobs that are over leave for the archive.

The memory of every process is read all the while. What was sent is then held against what the gateway answers. Exit
code 1 if anything is missing, or if a process still grows in the second half by more than the allocator's slack.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from events import messages as m
from events import subjects
from events.bus import AskRefused, Bus, BusError
from headrace.sse import Event, Parser
from load_tests.simulated_node import SimulatedNode
from load_tests.simulated_training import NAMES, Training
from load_tests.stack import ENDS, Stack, report, rss_mib
from load_tests.without_ray import running
from runtime import exit_record, launcher

SLOTS: Final = 8
"""Jobs on one simulated node at once."""
QUEUED: Final = 10
"""Jobs that wait for a slot."""
MIB: Final = 1024**2
CONFIG: Final = f"""
default_tier = "real"
archive_after_s = 30
remember_s = 60
[[tiers]]
name = "real"
resources = {{cpus = 0.05, memory_bytes = {300 * MIB}}}
[[tiers]]
name = "simulated"
resources = {{cpus = 1, memory_bytes = {MIB}, gpus = 1}}
"""
"""No simulated node has the memory for a real job, and the real node has no GPU for a simulated one. An hour in the
ledger, and another as a mark, are one minute each at this speed."""
REAL: Final = """
import headrace, os, sys, time
steps, stop = int(sys.argv[1]), sys.argv[2]
step = 0
while step < steps and not os.path.exists(stop):
    headrace.log(step=step, loss=1 / (1 + step), accuracy=0.5, learning_rate=0.1)
    print("step", step, flush=True)
    step += 1
    time.sleep(0.005)
"""
FOR_EVER: Final = 10**9
HEARTBEAT_S: Final = 0.1
"""Of a simulated node: five seconds of the day, within a tenth of a second."""
SAMPLE_S: Final = 2.0
LOOK_S: Final = 0.5
SAY_S: Final = 15.0
BEHIND_MAX: Final = 20_000
"""Messages that monitoring has not stored yet; beyond them the jobs wait. What is stored is what counts."""
READERS: Final = 4
"""People who follow output, as many who follow numbers."""
LIMIT_S: Final = 600.0
SILENT_S_MAX: Final = 60.0
"""A stream of events says at least that it lives."""
GROWTH_MIB_MAX: Final = 24.0
"""Of one process in the second half: the allocator's slack. A short run is all warm-up, and grows more."""
MONITORING_MIB_MAX: Final = 850.0
"""What it starts with, and DuckDB's cache of 512 MB with what the allocator adds to it (measured: two fifths)."""
CACHE: Final = "cache of monitoring"
"""Its share of monitoring's memory, as monitoring says."""


class Soak:
    """One stack under load."""

    def __init__(
        self, stack: Stack, bus: Bus, *, jobs: int, at_once: int, steps: int, seed: int, minutes: float
    ) -> None:
        self.stack = stack
        self.figures: dict[str, Any] = {"answers": 0, "unanswered": 0, "followed": 0}
        self.wrong: list[str] = []
        self._bus = bus
        self._at_once = at_once
        self._steps = steps
        self._rng = random.Random(seed)
        self._numbers = iter(range(jobs))
        self._ends_at = time.monotonic() + 60 * minutes
        self._room = asyncio.Event()
        self._stop = stack.state / "stop"
        self._over: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._trainings: dict[str, Training] = {}
        self._real: dict[str, str] = {}
        """Real jobs, and the kind of each."""
        self._running: set[str] = set()
        self.memory: dict[str, list[float]] = defaultdict(list)
        self._cache_mib = 0.0
        self._nodes = [self._node(number) for number in range(-(-at_once // SLOTS))]

    def _node(self, number: int) -> SimulatedNode:
        name = f"simulated-{number}"
        capacity = m.Capacity(cpus=SLOTS, memory_bytes=SLOTS * MIB, gpus=SLOTS)

        def train(launch: m.Launch) -> float:
            self._group.create_task(self._train(node, launch.ref))
            return float("inf")  # it ends when all is said

        node = SimulatedNode(self._bus, name, capacity=capacity, duration_s=train, heartbeat_s=HEARTBEAT_S)
        return node

    async def _train(self, node: SimulatedNode, ref: m.AttemptRef) -> None:
        steps = round(self._steps * self._rng.uniform(0.5, 1.5))
        training = self._trainings[ref.job] = Training(self._bus, node.name, ref, steps)
        self._running.add(ref.job)
        await training.run(self._room)
        self._running.discard(ref.job)
        node.finish(ref)
        self._over[ref.job].set()

    # -- the day -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """All of it; afterwards `figures`, `memory` and `wrong` are complete."""
        await self._sample()
        began = time.monotonic()
        async with asyncio.TaskGroup() as self._group:
            nodes = [self._group.create_task(node.run()) for node in self._nodes]
            long = self._group.create_task(self._real_job("long", FOR_EVER))
            aside = [self._group.create_task(each) for each in self._beside()]
            async with asyncio.TaskGroup() as lanes:
                for _ in range(self._at_once + QUEUED):
                    lanes.create_task(self._lane())
            self.figures["took_s"] = round(time.monotonic() - began)
            self._stop.touch()
            await long
            await self._caught_up()
            for task in (*aside, *nodes):
                task.cancel()
        await self._sample()
        self.figures |= {
            "jobs": len(self._trainings),
            "real_jobs": len(self._real),
            "heartbeats": sum(node.answered for node in self._nodes),
        }
        await self._compare()

    def _beside(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on as long as the jobs."""
        followers = [self._follow(kind) for kind in ("log", "metrics") for _ in range(READERS)]
        lookers = [self._again(look, LOOK_S) for look in (self._look_at_list, self._look_at_job, self._look_at_curves)]
        return [
            self._again(self._sample, SAMPLE_S),
            self._again(self._regulate, LOOK_S),
            self._again(self._say, SAY_S),
            self._short_real_jobs(),
            *lookers,
            *followers,
        ]

    async def _again(self, what: Callable[[], Awaitable[None]], pause_s: float) -> None:
        """For ever; an answer that did not come is counted, and asked for again."""
        while True:
            try:
                await what()
            except (OSError, BusError, AskRefused):
                self.figures["unanswered"] += 1
            await asyncio.sleep(pause_s)

    async def _lane(self) -> None:
        """A job, and when it is over the next."""
        for number in self._numbers:
            if time.monotonic() > self._ends_at:
                return
            job = await self._submit(f"train-{number}", "simulated", ["python", "train.py", f"--seed={number}"])
            await self._over[job].wait()

    async def _short_real_jobs(self) -> None:
        while not self._stop.exists():
            await self._real_job("short", self._steps)

    async def _real_job(self, kind: str, steps: int) -> None:
        name = f"{kind}-{len(self._real)}"
        job = await self._submit(name, "real", ["python3", "-c", REAL, str(steps), str(self._stop)])
        self._real[job] = kind
        async for view in self._views(job):
            if view["state"] == "succeeded":
                return
            if view["state"] in ENDS:
                self.wrong.append(f"{job} {view['state']}: {view['reason']}")
                return

    async def _views(self, job: str) -> AsyncIterator[dict[str, Any]]:
        while True:
            yield await self._call(f"/v1/jobs/{job}")
            await asyncio.sleep(LOOK_S)

    async def _submit(self, name: str, tier: str, entrypoint: list[str]) -> str:
        body = {"id": name, "name": name, "tier": tier, "entrypoint": entrypoint}
        answer = await asyncio.to_thread(self.stack.patient, "POST", "/v1/jobs", body, limit_s=LIMIT_S)
        return str(answer["job"])

    async def _call(self, path: str) -> Any:
        answer = await asyncio.to_thread(self.stack.patient, "GET", path, limit_s=LIMIT_S)
        self.figures["answers"] += 1
        return answer

    # -- people --------------------------------------------------------------------------------------------------------

    async def _look_at_list(self) -> None:
        await self._call("/v1/jobs?limit=50")
        await self._call("/v1/nodes")

    async def _look_at_job(self) -> None:
        if job := self._anyone():
            await self._call(f"/v1/jobs/{job}")

    async def _look_at_curves(self) -> None:
        if job := self._anyone():
            await self._call(f"/v1/jobs/{job}/metrics")

    def _anyone(self) -> str | None:
        return self._rng.choice(sorted(self._running)) if self._running else None

    async def _follow(self, kind: str) -> None:
        """One job after another, each to its end."""
        while True:
            job = self._anyone()
            if job is None:
                await asyncio.sleep(LOOK_S)
                continue
            try:
                events = await asyncio.to_thread(self._events, f"/v1/jobs/{job}/{kind}/follow")
            except OSError as error:
                self.wrong.append(f"{kind} of {job}: {error}")
                continue
            if not events or events[-1].name != "end":
                self.wrong.append(f"{kind} of {job} stopped without its end")
            self.figures["followed"] += 1

    def _events(self, path: str) -> list[Event]:
        """Everything that a stream of events says; of large events the name alone."""
        about = self.stack.about
        request = urllib.request.Request(
            about["url"] + path, headers={"authorization": f"Bearer {about['token']}", "accept": "text/event-stream"}
        )
        parser = Parser()
        found: list[Event] = []
        with urllib.request.urlopen(request, timeout=SILENT_S_MAX) as answer:
            while data := answer.read1(65_536):
                found += [Event(event.name, "") for event in parser.feed(data)]
        return found

    # -- what is looked at ---------------------------------------------------------------------------------------------

    async def _monitoring(self) -> dict[str, Any]:
        answer = await self._bus.ask(subjects.ask("monitoring", "status"), timeout_s=30)
        status: dict[str, Any] = json.loads(answer)
        self._cache_mib = status["cache_mib"]
        return status

    async def _say(self) -> None:
        done = sum(event.is_set() for event in self._over.values())
        now = {name: round(seen[-1]) for name, seen in self.memory.items()}
        print(
            f"{done} jobs over, {sum(each.points for each in self._trainings.values())} points, MiB: {now}", flush=True
        )

    async def _regulate(self) -> None:
        """Let the jobs go on while monitoring keeps up."""
        if _behind(await self._monitoring()) < BEHIND_MAX:
            self._room.set()
        else:
            self._room.clear()

    async def _caught_up(self) -> None:
        end = time.monotonic() + LIMIT_S
        status: dict[str, Any] = {"jobs_open": -1}
        while status["jobs_open"] or _behind(status):
            if time.monotonic() > end:
                raise TimeoutError(f"monitoring did not get there: {status}")
            await asyncio.sleep(LOOK_S)
            with contextlib.suppress(BusError):
                status = await self._monitoring()
        self.figures |= {
            "points_counted": status["points"],
            "gaps": status["gaps"],
            "archived": status["archived"],
        }

    async def _sample(self) -> None:
        for name, pid in self._pids().items():
            with contextlib.suppress(OSError):
                used = rss_mib(pid)
                self.memory[name].append(used)
        self.memory[CACHE].append(self._cache_mib)

    def _pids(self) -> dict[str, int]:
        children = self.stack.children()
        node = self.stack.state / "nodes" / self.stack.about["node"]
        found = children | {"launcher": exit_record.holder(str(node / launcher.LOCK))}
        long = next((job for job, kind in self._real.items() if kind == "long"), "")
        if long and (pid := exit_record.holder(str(node / "attempts" / f"{long}.1" / exit_record.LOCK))):
            found["supervisor"] = pid
        return found

    # -- what must be there --------------------------------------------------------------------------------------------

    async def _compare(self) -> None:
        """Every point and every line that was sent, asked of the gateway."""
        total = {"points_sent": 0, "points_stored": 0, "lines_sent": 0, "lines_stored": 0}
        for job, training in self._trainings.items():
            points, lines = await self._stored(job)
            total["points_sent"] += training.points
            total["lines_sent"] += training.lines
            total["points_stored"] += points
            total["lines_stored"] += lines
            if (points, lines) != (training.points, training.lines):
                self.wrong.append(f"{job}: {points} of {training.points} points, {lines} of {training.lines} lines")
        real = {"real_points": 0, "real_lines": 0}
        for job in self._real:
            points, lines = await self._stored(job)
            real["real_points"] += points
            real["real_lines"] += lines
            if points != len(NAMES) * lines:
                self.wrong.append(f"{job}: {points} points of {lines} steps")
        self.figures |= total | real

    async def _stored(self, job: str) -> tuple[int, int]:
        series = (await self._call(f"/v1/jobs/{job}/metrics?buckets=1")).get("series", ())
        points = sum(each.get("count", 0) for each in series)
        return points, await asyncio.to_thread(self._lines, job)

    def _lines(self, job: str) -> int:
        """Lines of the job's whole output."""
        about, offset, lines = self.stack.about, 0, 0
        while True:
            request = urllib.request.Request(
                f"{about['url']}/v1/jobs/{urllib.parse.quote(job)}/log?offset={offset}&bytes_max={MIB // 2}",
                headers={"authorization": f"Bearer {about['token']}"},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                part = answer.read()
            if not part:
                return lines
            lines += part.count(b"\n")
            offset += len(part)

    def judge(self, growth_mib_max: float) -> None:
        """Whether memory levels off. DuckDB's cache may grow up to its limit: monitoring is judged without it, and as
        a whole by its bound.
        """
        if max(self.memory["monitoring"]) > MONITORING_MIB_MAX:
            self.wrong.append(f"monitoring had more than {MONITORING_MIB_MAX:.0f} MiB")
        for name, seen in self.memory.items():
            if name == CACHE:
                continue
            if name == "monitoring":  # samples of the same moments
                seen = [whole - cache for whole, cache in zip(seen, self.memory[CACHE][-len(seen) :], strict=True)]
            grown = seen[-1] - seen[len(seen) // 2]
            if grown > growth_mib_max:
                self.wrong.append(f"{name} grew by {grown:.0f} MiB in the second half")


def _behind(status: dict[str, Any]) -> int:
    """Messages of the two tails that are not stored yet."""
    return sum(status["places"][stream]["last"] - status["places"][stream]["read"] for stream in ("METRICS", "LOGS"))


def levels(seen: list[float]) -> dict[str, int]:
    return {
        "start": round(seen[0]),
        "middle": round(seen[len(seen) // 2]),
        "end": round(seen[-1]),
        "peak": round(max(seen)),
    }


async def soak(stack: Stack, options: argparse.Namespace) -> Soak:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2 * READERS + 64))
    about = stack.about
    bus = await Bus.connect(about["nats"], user=about["nats_user"], password=about["nats_password"], name="soak")
    try:
        world = Soak(
            stack,
            bus,
            jobs=options.jobs,
            at_once=options.at_once,
            steps=options.steps,
            seed=options.seed,
            minutes=options.minutes,
        )
        await world.run()
    finally:
        await bus.drain()
    world.judge(options.growth_mib_max)
    return world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000, help="simulated jobs over the day")
    parser.add_argument("--at-once", type=int, default=100)
    parser.add_argument("--steps", type=int, default=3_600, help="seconds of a job, on average")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0, help="no job is submitted after so long")
    parser.add_argument("--growth-mib-max", type=float, default=GROWTH_MIB_MAX, help="of a process, second half")
    parser.add_argument("--samples", type=Path, help="keep every sample of memory in this file, as JSON")
    options = parser.parse_args()
    with running(CONFIG) as stack:
        world = asyncio.run(soak(stack, options))
    if options.samples:
        options.samples.write_text(json.dumps(world.memory))
    memory = {name: levels(seen) for name, seen in world.memory.items()}
    report("soak", {**world.figures, "memory_mib": memory, "wrong": world.wrong[:20]}, {})
    sys.exit(1 if world.wrong else 0)


if __name__ == "__main__":
    main()
