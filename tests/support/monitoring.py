"""Monitoring in a test: the service in this process or in one of its own, and nodes that ship to it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from controlplane.config import Configuration
from controlplane.frame import Clock, Tools
from controlplane.monitoring.service import serve
from events import messages as m
from events import subjects
from events.blobs import Blobs
from events.bus import Bus, NoAnswer, Outgoing
from events.ledger import Ledger, Write
from tests.support.nats import NatsServer

SECRET = "a secret of sixteen bytes"
TEAM = "vision"
T = TypeVar("T")


def configuration(nats: NatsServer, state: Path) -> Configuration:
    return Configuration(
        state=str(state),
        nats_url=nats.url,
        nats_user=nats.user,
        nats_password=nats.password,
        otlp_port=0,
        otlp_secret=SECRET,
    )


def tools(bus: Bus, config: Configuration) -> Tools:
    ledger = Ledger(bus, source="headrace/monitoring/test")
    return Tools(config, bus, ledger, Blobs.at(config.blobs), Clock(), "test", lambda: None)


@asynccontextmanager
async def monitoring(bus: Bus, config: Configuration) -> AsyncIterator[dict[str, Any]]:
    """The service in this process; gives its status once it answers."""
    task = asyncio.create_task(serve(tools(bus, config)))
    try:
        yield await answering(bus, task)
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and task.exception():
            raise task.exception()  # type: ignore[misc]


async def answering(bus: Bus, task: asyncio.Task[None] | None = None) -> dict[str, Any]:
    """The status, as soon as there is somebody to tell it."""
    async with asyncio.timeout(30):
        while True:
            if task is not None and task.done():
                await task
            try:
                return await status(bus)
            except NoAnswer:
                await asyncio.sleep(0.02)


async def status(bus: Bus) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(await bus.ask(subjects.ask("monitoring", "status")))
    return said


class Process:
    """The service in a process of its own, to be killed."""

    def __init__(self, config: Configuration, folder: Path) -> None:
        self._command = [sys.executable, "-m", "controlplane", "monitoring", "--log-level", "warning"]
        for name in ("state", "nats_url", "nats_user", "nats_password", "otlp_port", "otlp_secret"):
            self._command += ["--set", f"{name}={getattr(config, name)}"]
        self._log = folder / "monitoring.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=Path(__file__).parents[2])

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def kill(self) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        assert self._process
        self._process.terminate()
        return self._process.wait(15)

    def log(self) -> str:
        return self._log.read_text()


async def ask(bus: Bus, question: str, body: msgspec.Struct, kind: type[T]) -> T:
    answer = await bus.ask(subjects.ask("monitoring", question), msgspec.json.encode(body), timeout_s=10)
    return msgspec.json.decode(answer, type=kind)


async def eventually(check: Any, *, within_s: float = 20.0) -> Any:
    """The first true thing that an asynchronous check gives."""
    result: Any = None
    try:
        async with asyncio.timeout(within_s):
            while not (result := await check()):  # noqa: ASYNC110  what it waits for is in another process
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {within_s} s; last: {result!r}") from None
    return result


def fact_writes(job: str, *facts: m.Fact) -> list[tuple[str, m.Fact]]:
    return [(subjects.job(TEAM, job), fact) for fact in facts]


async def write_facts(bus: Bus, job: str, *facts: m.Fact) -> None:
    """Facts about a job, one after another, under their guards."""
    ledger = Ledger(bus, source="test")
    last = await ledger.last(subjects.job(TEAM, job))
    expect = last.sequence if last else 0
    for fact in facts:
        expect = await ledger.append(Write(subjects.job(TEAM, job), fact, expect))


def accepted(job: str) -> m.Accepted:
    return m.Accepted(
        specification=m.Specification(
            job=job,
            team=TEAM,
            user="ada",
            name="n",
            queue="default",
            tier="cpu",
            resources=m.Resources(cpus=1, memory_bytes=1),
            entrypoint=("true",),
        )
    )


def placed(attempt: int = 1, *, nodes: int = 1) -> m.Placed:
    held = tuple(m.Allocation(node=f"n{number + 1}", cpus=1, memory_bytes=1) for number in range(nodes))
    return m.Placed(term=1, attempt=attempt, allocations=held)


def finished(attempt: int = 1) -> m.Finished:
    end = m.AttemptEnd(cause="exited", ended_at=2.0, started_at=1.0, exit_code=0)
    return m.Finished(term=1, attempt=attempt, outcome="succeeded", reason="exit code 0", end=end)


def log_chunk(job: str, offset: int, data: bytes, *, stream: str = "stdout", end: bool = False) -> Outgoing:
    headers = {"hr-offset": str(offset)} | ({"hr-end": "1"} if end else {})
    return Outgoing(subjects.logs("n1", TEAM, job, 1, stream), data, headers)


def metrics_batch(
    job: str, first: int, values: dict[str, list[float]], *, spool: str = "a.spool", attempt: int = 1, end: bool = False
) -> Outgoing:
    """A batch as the shipper of a node makes it: the step of a record is its index."""
    count = len(next(iter(values.values()), []))
    headers = {"hr-spool": f"{job}/{attempt}/{spool}", "hr-first": str(first), "hr-count": str(count)}
    body = b""
    if count:
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        request = ExportMetricsServiceRequest()
        resource = request.resource_metrics.add()
        for key, number in (("headrace.attempt", attempt), ("headrace.rank", 0)):
            pair = resource.resource.attributes.add()
            pair.key, pair.value.int_value = key, number
        scope = resource.scope_metrics.add()
        for name, column in values.items():
            metric = scope.metrics.add()
            metric.name = name
            for index, value in enumerate(column):
                point = metric.gauge.data_points.add()
                point.time_unix_nano, point.as_double = 1_700_000_000_000_000_000 + (first + index) * 1000, value
                pair = point.attributes.add()
                pair.key, pair.value.int_value = "step", first + index
        body = request.SerializeToString()
    return Outgoing(subjects.metrics("n1", TEAM, job), body, headers | ({"hr-end": "1"} if end else {}))
