"""One seed, from the first process to the verdict: safety first, then liveness, then the judge."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from load_tests.faults import judge
from load_tests.faults.clients import Clients, call, fetch
from load_tests.faults.hurt import hurt
from load_tests.faults.judge import Note, Shown
from load_tests.faults.processes import of_jobs, supervisors
from load_tests.faults.schedule import Draw, Fault
from load_tests.faults.world import World

READY_S: Final = 60.0
READY_NODE_S: Final = 1.5
"""More, for each node that starts on these cores."""
READY_RAY_S: Final = 30.0
"""The same for Ray's head and each raylet."""
LIVENESS_S: Final = 150.0
"""After everything is healed: every job has ended and every service answers within this."""
SHIPPED_S: Final = 60.0
"""After that: output and points are complete, and nothing of an attempt is left."""
LOOK_S: Final = 0.5
THREADS: Final = 64
"""More than clients can block: a disk whose power is off must not wait for those who wait for its server."""


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


async def run(verdict: Verdict, folder: Path, *, tree: Path, previous: Path | None = None, quiet: bool = False) -> None:
    """Play a seed in a folder that does not exist yet. Raises TimeoutError if the world does not even begin."""
    draw = verdict.draw
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    async with World(
        folder,
        servers=draw.servers,
        nodes=draw.nodes,
        tree=tree,
        previous=previous,
        ray=draw.ray,
        archive_after_s=draw.archive_after_s,
    ) as world:
        stage = _Stage(world, Clients(world, draw.seed), verdict, quiet=quiet)
        await stage.ready(first=True)
        await stage.safety()
        if await stage.liveness():
            for phase in (stage.judge, stage.leftovers, stage.rebuilt):
                begun = time.monotonic()
                await phase()
                stage.say(f"  {phase.__name__}: {time.monotonic() - begun:.0f} s")
        verdict.violations += [f"answer: {each}" for each in stage.clients.wrong]
        verdict.violations += world.unexpected


class _Stage:
    def __init__(self, world: World, clients: Clients, verdict: Verdict, *, quiet: bool) -> None:
        self.world = world
        self.clients = clients
        self._verdict = verdict
        self._quiet = quiet
        self._recorder = judge.Recorder(world.nats_url, world.user, world.password)
        self._recording: asyncio.Task[None] | None = None

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)

    async def ready(self, *, first: bool = False) -> None:
        """Both gateways answer, and every node is there."""
        node_s = READY_RAY_S if self.world.ray else READY_NODE_S
        starts_s = node_s * (len(self.world.nodes) + 1) if first else 0.0
        async with asyncio.timeout(READY_S + starts_s):
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
        self._recording = asyncio.create_task(self._recorder.record())
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
        if await hurt(self.world, fault):
            self._verdict.injected[fault.kind] += 1

    async def liveness(self) -> bool:
        """Everything ends. False: it did not, which is a violation of its own."""
        begun = time.monotonic()
        limit_s = LIVENESS_S + READY_NODE_S * len(self.world.nodes)
        open_jobs: list[dict[str, Any]] = [{}]
        await self.clients.restore()
        for job in self.clients.jobs.values():
            await self.clients.release(job, tries=30)
        while open_jobs and time.monotonic() - begun < limit_s:
            await asyncio.sleep(LOOK_S)
            open_jobs = await self._views(self.world.gateways[0], "?state=active&limit=500")
            if not open_jobs:
                open_jobs = await self._not_yet_jobs()
            held = [view["job"] for view in open_jobs if view.get("held")]
            for job in held:  # submitted and held while nobody could be told
                await self.clients.release(job)
        self._verdict.liveness_s = time.monotonic() - begun
        if open_jobs:
            some = [(view.get("name"), view.get("state"), view.get("attempt")) for view in open_jobs[:5]]
            self._verdict.violations.append(f"liveness: {len(open_jobs)} jobs did not end in {limit_s:.0f} s: {some}")
        return not open_jobs

    async def _not_yet_jobs(self) -> list[dict[str, Any]]:
        """Submits that were acknowledged and wait: where the ledger was full, they are tried again in half a minute."""
        names = {view.get("name") for view in await self._views(self.world.gateways[0], "?limit=500")}
        acknowledged = {each.id for each in self.clients.acknowledged if each.what == "submit"}
        return [{"name": name, "state": "not a job"} for name in sorted(acknowledged - names)]

    async def _views(self, gateway: str, query: str) -> list[dict[str, Any]]:
        """Every page; a view that says so itself when nobody answers."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            status, answer = await asyncio.to_thread(call, gateway, "GET", f"/v1/jobs{query}&after={after}")
            if status != 200 or answer.get("missing"):
                return [{"state": f"the gateway answered {status} {answer}"}]
            found += answer.get("jobs", [])
            after = answer.get("next") or ""
            if not after:
                return found

    async def judge(self) -> None:
        if self._recording is not None:
            self._recording.cancel()
            await asyncio.gather(self._recording, return_exceptions=True)
        await self._recorder.read()
        self._verdict.violations += self._recorder.violations
        facts, records = self._recorder.facts, judge.read_records(self.world.witness)
        with (self.world.folder / "logs" / "ledger.jsonl").open("w") as file:
            file.writelines(json.dumps(fact._asdict()) + "\n" for fact in facts)
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

    async def _output(self, job: str, attempt: int, notes: list[Note], end: float) -> list[str]:
        """Asked again until it is whole, or too late."""
        # METRICS and LOGS are acknowledged before they are on disk: where the power is cut, or a server has to be
        # started again because its disk was full, some of both may be lost, if it is said.
        faults = self._verdict.draw.faults
        cut = any(each.kind == "power" or (each.kind == "full" and "nats" in each.target) for each in faults)
        while True:
            shown = await self._shown(job, attempt)
            problems = judge.judge_output(job, attempt, notes, shown, output_may_miss=cut, points_may_miss=cut)
            if problems and judge.DROPS in (await self._log(job, attempt, "stderr"))[0]:
                shown = shown._replace(all_points=False)
                problems = judge.judge_output(job, attempt, notes, shown, output_may_miss=cut, points_may_miss=True)
            if not problems or time.monotonic() > end:
                return problems
            await asyncio.sleep(LOOK_S)

    async def _shown(self, job: str, attempt: int) -> Shown:
        output, all_output = await self._log(job, attempt, "stdout")
        _, answer = await self._get(f"/v1/jobs/{job}/metrics?names=value&buckets=5000")
        series = [each for each in (answer or {}).get("series", []) if each.get("attempt", 1) == attempt]
        points = sum(each.get("count", 0) for each in series)
        all_points = bool((answer or {}).get("complete")) and not await self._gaps()
        return Shown(output, all_output, points, all_points)

    async def _gaps(self) -> bool:
        """Whether monitoring says that points are missing."""
        _, status = await self._get("/v1/status")
        monitoring = (status or {}).get("services", {}).get("monitoring", {})
        return bool(monitoring.get("gaps", {}).get("records"))

    async def _log(self, job: str, attempt: int, stream: str) -> tuple[str, bool]:
        """What there is, and whether that is said to be all."""
        text, offset = "", 0
        path = f"{self.world.gateways[0]}/v1/jobs/{job}/log?attempt={attempt}&stream={stream}"
        while True:
            piece = await asyncio.to_thread(fetch, f"{path}&offset={offset}")
            if not piece.data:
                return text, piece.is_all
            text += piece.data.decode("utf-8", "replace")
            offset = piece.offset + len(piece.data)

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
            folder for node in self.world.nodes for folder in (self.world.node_folder(node) / "attempts").iterdir()
        ]
        return [
            *(f"left over: process {pid} of a job" for pid in of_jobs(self.world.folder)),
            *(f"left over: supervisor {pid}" for pid in supervisors(self.world.folder)),
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
        jobs = await self._jobs(gateway)
        _, answer = await asyncio.to_thread(call, gateway, "GET", "/v1/queues")
        queues = (answer or {}).get("queues")
        nodes = [{name: node.get(name) for name in ("node", "free", "jobs")} for node in await self._nodes(gateway)]
        return {view.get("job", "?"): view for view in jobs} | {"queues": queues, "nodes": nodes}

    async def _jobs(self, gateway: str) -> list[dict[str, Any]]:
        """All there ever were. The archive is monitoring's, which may start later than the gateway."""
        async with asyncio.timeout(READY_S):
            while True:
                jobs = await self._views(gateway, "?limit=500")
                if all("job" in view for view in jobs):
                    return jobs
                await asyncio.sleep(LOOK_S)

    def _compare(self, what: str, one: dict[str, Any], other: dict[str, Any]) -> None:
        for key in sorted(one.keys() | other.keys()):
            here, there = one.get(key), other.get(key)
            if isinstance(here, dict) and isinstance(there, dict):  # only what is another
                here, there = ({k: v for k, v in a.items() if b.get(k) != v} for a, b in ((here, there), (there, here)))
            if here != there:
                words = (json.dumps(each, sort_keys=True)[:300] for each in (here, there))
                self._verdict.violations.append(f"{what} differ in {key}: {' / '.join(words)}")


def keep_evidence(folder: Path, into: Path) -> None:
    """Logs, among them the ledger, witness files and settings of a seed that failed."""
    into.mkdir(parents=True, exist_ok=True)
    for name in ("logs", "witness", "settings"):
        shutil.copytree(folder / name, into / name, dirs_exist_ok=True)
