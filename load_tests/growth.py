"""A year of a busy team: `python -m load_tests.growth --jobs 1000000`.

Finished jobs are written to a real LEDGER as the services would have written them: each fact under its guard, in
atomic rounds, four facts a job. Monitoring's archiver runs beside it, alone: sealing metrics and output costs a job at
its end, and nothing that stays. At each stage (1,000, 100,000, all) the writer pauses until what is due has left the
ledger; then every service is started as after a crash of everything, and again with what it has kept by then: how long
until it is ready, and how much memory it has. Last the gateway lists and finds jobs of the archive. `--no-archive`
shows the same without.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from controlplane.config import load
from controlplane.frame import Clock, Tools
from controlplane.monitoring import service as monitoring
from controlplane.monitoring.archiver.service import Archiver
from controlplane.monitoring.owner import Owner
from controlplane.monitoring.store import Store
from events import jetstream, streams, subjects
from events import messages as m
from events.blobs import Blobs
from events.bus import Asked, Bus, BusError, CaughtUp
from events.identity import PACKED_BYTES, job_id
from events.ledger import Ledger, Write
from load_tests import slurm
from load_tests.pipeline import TEAM, USER, a_server, a_server_pid
from load_tests.stack import percentile, ready, report, rss_mib

SERVICES: Final = ("submission", "environments", "scheduling", "monitoring", "gateway")
WAVE: Final = 250
"""Jobs that live at once: each round is one fact about each of them."""
AHEAD_MAX: Final = 20_000
"""Ended jobs that lie in the ledger while the writer goes on; no more are due than a busy week has."""
STAGES: Final = (1_000, 100_000)
LOOK_S: Final = 0.02
LIMIT_S: Final = 600.0
ASKS: Final = 20
TOKEN: Final = "growth"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--archive-after-s", type=float, default=1.0)
    parser.add_argument("--remember-s", type=float, default=60.0)
    parser.add_argument("--no-archive", action="store_true", help="leave every job in the ledger")
    parser.add_argument("--be-the-archiver", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_the_archiver:
        asyncio.run(be_the_archiver(Path(options.be_the_archiver)))
        return
    with tempfile.TemporaryDirectory(prefix="headrace-growth-") as folder:
        figures = asyncio.run(measure(Path(folder), options))
    report("growth", figures, {})


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write, archive, and look at each stage."""
    password = os.urandom(8).hex()
    with a_server(folder, password) as url:
        bus = await Bus.connect(url, user=USER, password=password, name="growth")
        try:
            for stream in (*streams.SHARED, streams.requests(TEAM)):
                await bus.ensure(stream)
            stand = Stand(folder, url, password, bus, options)
            return await stand.grow()
        finally:
            await bus.drain()


class Stand:
    """A ledger that grows, and the services that are started over it."""

    def __init__(self, folder: Path, url: str, password: str, bus: Bus, options: argparse.Namespace) -> None:
        self._folder = folder
        self._bus = bus
        self._options = options
        self._ledger = Ledger(bus, source="headrace/growth")
        self._after_s = 0.0 if options.no_archive else options.archive_after_s
        self._environ = os.environ | {
            "HEADRACE_NATS_URL": url,
            "HEADRACE_NATS_USER": USER,
            "HEADRACE_NATS_PASSWORD": password,
            "HEADRACE_ARCHIVE_AFTER_S": str(self._after_s),
            "HEADRACE_REMEMBER_S": str(options.remember_s),
            "HEADRACE_GATEWAY_PORT": "0",
            "HEADRACE_OTLP_PORT": "0",
            "HEADRACE_OTLP_SECRET": "a secret of growth",
        }
        config = folder / "headrace.toml"
        whose = f'{{ team = "{TEAM}", user = "ada" }}'
        config.write_text(f'[tokens]\n"{hashlib.sha256(TOKEN.encode()).hexdigest()}" = {whose}\n')
        self._arguments = ["--state", str(folder), "--config", str(config), "--log-level", "warning"]

    async def grow(self) -> dict[str, Any]:
        jobs = self._options.jobs
        figures: dict[str, Any] = {"stages": {}, "archive_after_s": self._after_s}
        written, busy_s = 0, 0.0
        for stage in sorted({min(stage, jobs) for stage in (*STAGES, jobs)}):
            began = time.monotonic()
            with self._archiver() if self._after_s else contextlib.nullcontext():
                await self._write(written, stage)
                await self._settled(stage)
            busy_s += time.monotonic() - began
            written = stage
            figures["stages"][str(stage)] = seen = await self._look()
            print(f"{stage} jobs after {busy_s:.0f} s: {json.dumps(seen)}", file=sys.stderr)
        figures |= {"jobs": jobs, "jobs_per_s_written_and_archived": round(jobs / busy_s)}
        if self._after_s:
            figures["archive"] = self._archive_size(jobs)
        figures["answers"] = self._answers(jobs)
        return figures

    # -- writing -------------------------------------------------------------------------------------------------------

    async def _write(self, first: int, after: int) -> None:
        """Jobs with these numbers, a wave at a time; the writer waits where archiving falls behind."""
        for start in range(first, after, WAVE):
            numbers = range(start, min(start + WAVE, after))
            jobs = [job_id(team=TEAM, user="ada", client_id=f"run-{number}") for number in numbers]
            expect = [0] * len(jobs)
            for fact_of in (_accepted, _placed, _started, _finished):
                writes = [
                    Write(subjects.job(TEAM, job), fact_of(job, number), last)
                    for job, number, last in zip(jobs, numbers, expect, strict=True)
                ]
                begun = await self._ledger.commit(writes)
                expect = list(range(begun, begun + len(jobs)))
            if self._after_s and start % (20 * WAVE) == 0:
                await self._until(lambda status: status["archive_due"] < AHEAD_MAX)

    async def _settled(self, jobs: int) -> None:
        """Until nothing is left to archive."""
        while self._after_s and await self._archived() < jobs:  # noqa: ASYNC110  another process does it
            await asyncio.sleep(0.5)

    async def _archived(self) -> int:
        """How many jobs the ledger says are in the archive."""
        found = 0
        async for item in self._ledger.tail(after=0, subjects=(subjects.ARCHIVE,)):
            if isinstance(item, CaughtUp):
                break
            if isinstance(item.fact, m.ArchiveWritten):
                found += len(item.fact.jobs) // PACKED_BYTES
        return found

    async def _until(self, good: Any) -> None:
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            with contextlib.suppress(BusError):
                status = json.loads(await self._bus.ask(subjects.ask("monitoring", "status"), timeout_s=10))
                if good(status):
                    return
            await asyncio.sleep(0.2)
        raise TimeoutError(f"monitoring did not get there in {LIMIT_S:.0f} s")

    # -- looking -------------------------------------------------------------------------------------------------------

    async def _look(self) -> dict[str, Any]:
        """Restart times and memory of every service, and the size of the ledger."""
        seen: dict[str, Any] = {
            "ledger": await self._ledger_size(),
            "nats_mb": round(rss_mib(a_server_pid(self._folder))),
        }
        for name in SERVICES:
            for kept in ("first", "again"):
                with self._service(name) as (took_s, pid):
                    if name == "monitoring":  # it is ready at once, for it could be a standby
                        began = time.monotonic()
                        await self._until(lambda status: status["caught_up"])
                        took_s = round(took_s + time.monotonic() - began, 2)
                    seen[f"{name}_{kept}"] = {"ready_s": took_s, "mb": round(rss_mib(pid))}
        return seen

    async def _ledger_size(self) -> dict[str, Any]:
        info = await jetstream.api(self._bus._connection, f"STREAM.INFO.{streams.LEDGER.name}")
        state = info["state"]
        stored = sum(file.stat().st_size for file in (self._folder / "store").rglob("*") if file.is_file())
        return {
            "facts": state["messages"],
            "subjects": state.get("num_subjects", 0),
            "mb": round(state["bytes"] / 1e6, 1),
            "disk_mb": round(stored / 1e6, 1),
            "written": state["last_seq"],
        }

    @contextlib.contextmanager
    def _service(self, name: str) -> Iterator[tuple[float, int]]:
        """A service in a process of its own while inside: seconds from its start until it is ready, and its pid."""
        port = slurm.free_port()
        arguments = ["-m", "controlplane", name, *self._arguments, "--set", f"health_port={port}"]
        began = time.monotonic()
        process = subprocess.Popen([sys.executable, *arguments], env=self._environ, stdin=subprocess.DEVNULL)
        try:
            while not ready(port):
                if process.poll() is not None or time.monotonic() > began + LIMIT_S:
                    raise RuntimeError(f"{name} did not become ready")
                time.sleep(LOOK_S)
            yield round(time.monotonic() - began, 2), process.pid
        finally:
            process.terminate()
            process.wait(timeout=60)

    @contextlib.contextmanager
    def _archiver(self) -> Iterator[None]:
        command = [sys.executable, "-m", "load_tests.growth", "--be-the-archiver", str(self._folder)]
        process = subprocess.Popen(command, env=self._environ, stdin=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)

    # -- the archive ---------------------------------------------------------------------------------------------------

    def _archive_size(self, jobs: int) -> dict[str, Any]:
        parts = list((self._folder / "blobs" / "archive").rglob("*.parquet"))
        stored = sum(file.stat().st_size for file in parts)
        index = (self._folder / "monitoring" / monitoring.STORE).stat().st_size
        return {
            "parts": len(parts),
            "mb": round(stored / 1e6, 1),
            "bytes_a_job": round(stored / jobs),
            "index_mb": round(index / 1e6, 1),
        }

    def _answers(self, jobs: int) -> dict[str, Any]:
        """Milliseconds (p50) of what people ask about jobs that are over."""
        with self._service("monitoring"), self._service("gateway"):
            url = json.loads((self._folder / "gateway.json").read_text())["url"]
            oldest, middle = (job_id(team=TEAM, user="ada", client_id=f"run-{n}") for n in (0, jobs // 2))
            paths = {
                "newest_50": "/v1/jobs?limit=50",
                "failed_50": "/v1/jobs?limit=50&state=failed",
                "page_behind_the_middle": f"/v1/jobs?limit=50&after={middle}",
                "oldest_by_id": f"/v1/jobs/{oldest}",
                "oldest_by_name": "/v1/jobs/train-0",
                "unknown": "/v1/jobs/no-such-job",
            }
            return {f"{name}_ms": _ask_ms(url + path) for name, path in paths.items()}


async def be_the_archiver(folder: Path) -> None:
    """Monitoring without metrics and output: its store, its archiver, and a status."""
    config = load(None, os.environ, {"state": str(folder)})
    bus = await Bus.connect(config.nats_url, user=config.nats_user, password=config.nats_password, name="archiver")
    ledger = Ledger(bus, source="headrace/monitoring/growth")
    tools = Tools(config, bus, ledger, Blobs.at(config.blobs), Clock(), "growth", lambda: None)
    owner = Owner()
    store = await owner.run(Store, monitoring.folder(tools) / monitoring.STORE)
    archiver = Archiver(tools, store, owner)
    await archiver.open()

    async def status(_: Asked) -> bytes:
        return json.dumps(archiver.status()).encode()

    await bus.answer(subjects.ask("monitoring", "status"), status)
    running = asyncio.create_task(archiver.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    await asyncio.wait([running])
    await owner.run(store.close)
    owner.close()
    await bus.drain()
    if not running.cancelled():
        running.result()


# -- facts -------------------------------------------------------------------------------------------------------------


def _accepted(job: str, number: int) -> m.Fact:
    return m.Accepted(
        specification=m.Specification(
            job=job,
            team=TEAM,
            user="ada",
            name=f"train-{number}",
            queue="default",
            tier="gpu1",
            resources=m.Resources(cpus=8.0, memory_bytes=60 * 1024**3, gpus=1),
            entrypoint=("python", "train.py", "--learning-rate", f"{1e-4 + number * 1e-9:.9f}", "--seed", str(number)),
            env={"WANDB_MODE": "offline", "RUN": str(number)},
            source="sha256:" + hashlib.sha256(str(number // 50).encode()).hexdigest(),
            environment="sha256:" + hashlib.sha256(str(number // 5000).encode()).hexdigest(),
            labels={"sweep": f"s{number // 100}"},
            submitted_at=time.time(),
        )
    )


def _placed(job: str, number: int) -> m.Fact:
    held = m.Allocation(node=f"node-{number % 16}", cpus=8.0, memory_bytes=60 * 1024**3, gpus=(number % 8,))
    return m.Placed(term=1, attempt=1, allocations=(held,), why="first in line")


def _started(job: str, number: int) -> m.Fact:
    return m.Started(term=1, attempt=1, started_at=time.time())


def _finished(job: str, number: int) -> m.Fact:
    code = 1 if number % 10 == 0 else 0
    used = m.Usage(cpu_s=number % 1000 + 0.5, memory_bytes_max=10**9 + number)
    end = m.AttemptEnd(cause="exited", ended_at=time.time(), started_at=time.time(), exit_code=code, usage=used)
    outcome: m.Outcome = "failed" if code else "succeeded"
    return m.Finished(term=1, attempt=1, outcome=outcome, reason=f"exit code {code}", end=end)


# -- small things ------------------------------------------------------------------------------------------------------


def _ask_ms(url: str) -> float:
    took = []
    for _ in range(ASKS):
        request = urllib.request.Request(url, headers={"authorization": f"Bearer {TOKEN}"})
        began = time.monotonic()
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
        took.append(1000 * (time.monotonic() - began))
    return round(percentile(took, 0.5), 1)


if __name__ == "__main__":
    main()
