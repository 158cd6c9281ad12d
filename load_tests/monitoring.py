"""How fast METRICS becomes a committed store, how fast curves are answered, and what idle monitoring takes.

    python -m load_tests.monitoring [--points 10000000]

A NATS server of its own, batches as a node ships them (1,000 records of 10 names), the real service as a process.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np

from events import messages as m
from events import streams, subjects
from events.bus import Bus, Outgoing
from load_tests.stack import report, rss_mib
from runtime import otlp
from runtime.spool import Layout
from tests.support import monitoring as world
from tests.support.nats import NatsServer

NAMES = tuple(f"metric-{index}" for index in range(10))
RECORDS = 1_000
JOBS = 4
QUERIES = 20


def batches(points: int) -> list[Outgoing]:
    layout = Layout(names=NAMES, rank=0, start=0, size=0, slots=0)
    rng = np.random.default_rng(1)
    found = []
    for index in range(points // (RECORDS * len(NAMES))):
        job, first = f"j-{index % JOBS}", index // JOBS * RECORDS
        records = np.zeros(RECORDS, layout.dtype)
        records["step"] = np.arange(first, first + RECORDS)
        records["time"] = 1_700_000_000_000_000_000 + records["step"] * 1_000_000
        records["values"] = rng.normal(size=(RECORDS, len(NAMES)))
        body = otlp.encoded(m.AttemptRef(team=world.TEAM, job=job, attempt=1), layout, records)
        headers = {"hr-spool": f"{job}/1/a.spool", "hr-first": str(first), "hr-count": str(RECORDS)}
        found.append(Outgoing(subjects.metrics("n1", world.TEAM, job), body, headers))
    return found


def cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(words[11]) + int(words[12])) / 100


async def timed(bus: Bus, ask: m.AskSeries) -> float:
    """Milliseconds of one question, as a client sees them: the median."""
    took = []
    for _ in range(QUERIES):
        start = time.perf_counter()
        await world.ask(bus, "series", ask, m.SeriesAnswer)
        took.append(time.perf_counter() - start)
    return round(sorted(took)[QUERIES // 2] * 1e3, 1)


async def measure(folder: Path, points: int) -> dict[str, float]:
    nats = NatsServer(folder / "nats")
    nats.start()
    bus = await Bus.connect(nats.url, user=nats.user, password=nats.password, name="load")
    for stream in streams.SHARED:
        await bus.ensure(stream)
    config = world.configuration(nats, folder / "state")
    process = world.Process(config, folder)
    process.start()
    await world.answering(bus)
    figures: dict[str, float] = {"idle_mb": round(rss_mib(process.pid), 1)}
    items = batches(points)
    await world.write_facts(bus, "j-0", world.accepted("j-0"), world.placed())
    process.kill()
    results = await bus.publish_many(items)
    assert all(isinstance(result, int) for result in results), results
    process.start()
    await world.answering(bus)
    start, before, first = time.perf_counter(), cpu_s(process.pid), (await world.status(bus))["points"]
    while (status := await world.status(bus))["points"] < points:  # noqa: ASYNC110  it counts in another process
        await asyncio.sleep(0.05)
    took = time.perf_counter() - start
    figures["points"] = status["points"]
    figures["points_a_second"] = round((points - first) / took)
    figures["cpu_ns_a_point"] = round((cpu_s(process.pid) - before) / (points - first) * 1e9)
    figures["busy_mb"] = round(rss_mib(process.pid), 1)
    last = points // len(NAMES) // JOBS - 1
    one = m.AskSeries(team=world.TEAM, job="j-0", names=("metric-0",))
    figures["one_series_ms"] = await timed(bus, one)
    figures["ten_series_ms"] = await timed(bus, m.AskSeries(team=world.TEAM, job="j-0"))
    figures["zoomed_ms"] = await timed(
        bus, m.AskSeries(team=world.TEAM, job="j-0", names=("metric-0",), step_from=last // 2, step_to=last // 2 + 400)
    )
    figures["store_bytes_a_point"] = round((folder / "state/monitoring/metrics.duckdb").stat().st_size / points, 1)
    process.stop()
    await bus.drain()
    nats.kill()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=10_000_000)
    points = parser.parse_args().points
    with tempfile.TemporaryDirectory(prefix="headrace-load-") as folder:
        figures = asyncio.run(measure(Path(folder), points))
    report("monitoring", figures, {})


if __name__ == "__main__":
    main()
