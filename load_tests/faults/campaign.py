"""One seed, from the first process to the verdict: safety first, then liveness, then the judge."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from load_tests.faults import judge
from load_tests.faults.clients import Clients, call
from load_tests.faults.schedule import Draw, Fault
from load_tests.faults.world import TEAM, World

READY_S: Final = 60.0
LIVENESS_S: Final = 150.0
"""After everything is healed: every job has ended and every service answers within this."""
SHIPPED_S: Final = 60.0
"""After that: output and points are complete, and nothing of an attempt is left."""
LOOK_S: Final = 0.5


class Verdict:
    """What a seed came to."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.violations: list[str] = []
        self.injected: Counter[str] = Counter()
        self.jobs = 0
        self.attempts = 0
        self.lost = 0
        self.liveness_s = 0.0
        self.calls = 0
        self.unanswered = 0


async def run(verdict: Verdict, folder: Path, *, tree: Path, quiet: bool = False) -> None:
    """Play a seed in a folder that does not exist yet. Raises TimeoutError if the world does not even begin."""
    draw = verdict.draw
    async with World(folder, servers=draw.servers, nodes=draw.nodes, tree=tree) as world:
        stage = _Stage(world, Clients(world, draw.seed), verdict, quiet=quiet)
        await stage.ready()
        await stage.safety()
        if await stage.liveness():
            await stage.judge()
            await stage.leftovers()
            await stage.rebuilt()
        verdict.violations += [f"answer: {each}" for each in stage.clients.wrong]
        verdict.violations += world.unexpected


class _Stage:
    def __init__(self, world: World, clients: Clients, verdict: Verdict, *, quiet: bool) -> None:
        self.world = world
        self.clients = clients
        self._verdict = verdict
        self._quiet = quiet

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)

    async def ready(self) -> None:
        """Both gateways answer, and every node is there."""
        async with asyncio.timeout(READY_S):
            for gateway in self.world.gateways:
                while len(await self._nodes(gateway)) < len(self.world.nodes):  # noqa: ASYNC110 (nothing tells)
                    await asyncio.sleep(LOOK_S)

    async def _nodes(self, gateway: str) -> list[Any]:
        status, answer = await asyncio.to_thread(call, gateway, "GET", "/v1/nodes")
        nodes: list[Any] = answer.get("nodes", []) if status == 200 else []
        return [node for node in nodes if node["state"] == "ready"]

    # -- the phases ----------------------------------------------------------------------------------------------------

    async def safety(self) -> None:
        """Clients work, and faults come, until the time is over."""
        draw, stop = self._verdict.draw, asyncio.Event()
        begun = time.monotonic()
        working = asyncio.create_task(self.clients.work(draw.pause_s, stop))
        async with asyncio.TaskGroup() as group:
            for fault in draw.faults:
                await asyncio.sleep(max(0.0, begun + fault.at_s - time.monotonic()))
                group.create_task(self._hurt(fault))
            await asyncio.sleep(max(0.0, begun + draw.seconds - time.monotonic()))
        stop.set()
        self.world.heal()
        await working
        self._verdict.calls, self._verdict.unanswered = self.clients.calls, self.clients.unanswered

    async def _hurt(self, fault: Fault) -> None:
        self.say(f"  {fault}")
        if await self.world.hurt(fault):
            self._verdict.injected[fault.kind] += 1

    async def liveness(self) -> bool:
        """Everything ends. False: it did not, which is a violation of its own."""
        begun = time.monotonic()
        open_jobs: list[dict[str, Any]] = [{}]
        for job in self.clients.jobs.values():
            await self.clients.release(job, tries=30)
        while open_jobs and time.monotonic() - begun < LIVENESS_S:
            await asyncio.sleep(LOOK_S)
            open_jobs = await self._views(self.world.gateways[0], "?state=active&limit=500")
            held = [view["job"] for view in open_jobs if view.get("held")]
            for job in held:  # submitted and held while nobody could be told
                await self.clients.release(job)
        self._verdict.liveness_s = time.monotonic() - begun
        if open_jobs:
            some = [(view.get("name"), view.get("state"), view.get("attempt")) for view in open_jobs[:5]]
            self._verdict.violations.append(f"liveness: {len(open_jobs)} jobs did not end in {LIVENESS_S} s: {some}")
        return not open_jobs

    async def _views(self, gateway: str, query: str) -> list[dict[str, Any]]:
        """Every page; a view that says so itself when nobody answers."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            status, answer = await asyncio.to_thread(call, gateway, "GET", f"/v1/jobs{query}&after={after}")
            if status != 200:
                return [{"state": f"the gateway answered {status}"}]
            found += answer.get("jobs", [])
            after = answer.get("next") or ""
            if not after:
                return found

    async def judge(self) -> None:
        world = self.world
        facts = await judge.read_ledger(world.nats_url, "headrace", world.password)
        records = judge.read_records(world.witness)
        acknowledged = self.clients.acknowledged
        self._verdict.violations += judge.judge(
            facts,
            records,
            [each.id for each in acknowledged if each.what == "submit"],
            [(each.id, each.at) for each in acknowledged if each.what == "cancel"],
        )
        self._verdict.jobs = sum(fact.type == "accepted" for fact in facts)
        self._verdict.attempts = sum(fact.type == "placed" for fact in facts)
        self._verdict.lost = sum(fact.type == "lost" for fact in facts)
        ends = [fact for fact in facts if fact.type == "finished" and fact.body.get("outcome") == "succeeded"]
        self.say(f"  {self._verdict.jobs} jobs, {self._verdict.attempts} attempts, {len(ends)} succeeded")
        end = time.monotonic() + SHIPPED_S
        for fact in ends:
            job, attempt = fact.subject.split(".")[-1], int(fact.body["attempt"])
            self._verdict.violations += await self._output(job, attempt, records.get(job, []), end)

    async def _output(self, job: str, attempt: int, notes: list[judge.Note], end: float) -> list[str]:
        """Asked again until it is whole, or too late."""
        while True:
            output = await self._log(job, attempt, "stdout")
            _, answer = await self._get(f"/v1/jobs/{job}/metrics?names=value&buckets=5000")
            series = [each for each in (answer or {}).get("series", []) if each.get("attempt", 1) == attempt]
            points = sum(each.get("count", 0) for each in series)
            problems = judge.judge_output(job, attempt, notes, output, points)
            if problems and judge.DROPS in await self._log(job, attempt, "stderr"):
                problems = judge.judge_output(job, attempt, notes, output, None)
            if not problems or time.monotonic() > end:
                return problems
            await asyncio.sleep(LOOK_S)

    async def _log(self, job: str, attempt: int, stream: str) -> str:
        text = ""
        while True:
            status, part = await self._get(f"/v1/jobs/{job}/log?attempt={attempt}&stream={stream}&offset={len(text)}")
            if status != 200 or not part:
                return text
            text += part if isinstance(part, str) else part.decode("utf-8", "replace")

    async def _get(self, path: str) -> tuple[int, Any]:
        return await asyncio.to_thread(call, self.world.gateways[0], "GET", path)

    async def leftovers(self) -> None:
        """No process of a job, no supervisor, no attempt's folder."""
        end = time.monotonic() + SHIPPED_S
        while left := self._left():
            if time.monotonic() > end:
                self._verdict.violations += left
                return
            await asyncio.sleep(LOOK_S)

    def _left(self) -> list[str]:
        folders = [
            folder
            for node in self.world.nodes
            for folder in (self.world.folder / f"node-{node}/node/attempts").iterdir()
        ]
        return [
            *(f"left over: process {pid} of a job" for pid in self.world.of_jobs()),
            *(f"left over: supervisor {pid}" for pid in self.world.supervisors()),
            *(f"left over: {folder}" for folder in folders),
        ]

    async def rebuilt(self) -> None:
        """What services rebuild from the ledger alone equals what they had."""
        before = await self._state(self.world.gateways[0])
        other = await self._state(self.world.gateways[1])
        self._compare("the two gateways", before, other)
        await self.world.restart_services(from_zero=True)
        await self.ready()
        self._compare("before and after a rebuild from zero", before, await self._state(self.world.gateways[1]))

    async def _state(self, gateway: str) -> dict[str, Any]:
        jobs = await self._views(gateway, "?limit=500")
        _, queues = await asyncio.to_thread(call, gateway, "GET", "/v1/queues")
        nodes = [{name: node.get(name) for name in ("node", "free", "jobs")} for node in await self._nodes(gateway)]
        return {view.get("job", "?"): view for view in jobs} | {"queues": queues, "nodes": nodes}

    def _compare(self, what: str, one: dict[str, Any], other: dict[str, Any]) -> None:
        for key in sorted(one.keys() | other.keys()):
            if one.get(key) != other.get(key):
                here, there = (json.dumps(each.get(key), sort_keys=True)[:300] for each in (one, other))
                self._verdict.violations.append(f"{what} differ in {key}: {here} / {there}")


def keep_evidence(folder: Path, into: Path) -> None:
    """Logs, witness files and settings of a seed that failed."""
    into.mkdir(parents=True, exist_ok=True)
    for name in ("logs", "witness", "settings"):
        shutil.copytree(folder / name, into / name, dirs_exist_ok=True)


__all__ = ["TEAM", "Verdict", "keep_evidence", "run"]
