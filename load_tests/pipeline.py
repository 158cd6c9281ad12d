"""Sustained jobs a second from submit to finished: `python -m load_tests.pipeline --jobs 5000`.

NATS with `sync_interval: always`, submission and scheduling as they are, each a process of its own; only the nodes are
simulated: they speak the exchange and let every job take a given time. All jobs are published at once, as fast as the
stream takes them. The rate is read from the ledger's own timestamps afterwards, so that nothing looks on while it
runs. Beside it Slurm, if it is installed: its own controller and node daemon, a `true` a job.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from controlplane import nats_server
from events import messages as m
from events import subjects
from events.bus import Bus, BusError, CaughtUp, NoAnswer, Outgoing
from events.ledger import Ledger
from load_tests import slurm
from load_tests.simulated_node import GIB, SimulatedNode
from load_tests.stack import percentile, report, until

TEAM: Final = "default"
USER: Final = "headrace"
HOST: Final = "127.0.0.1"
LOOK_S: Final = 0.5
LIMIT_S: Final = 300.0
WINDOW: Final = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--nodes", type=int, default=48)
    parser.add_argument("--slots", type=int, default=64, help="CPUs of a node: jobs that it runs at once")
    parser.add_argument("--duration-s", type=float, default=0.5, help="how long each job takes")
    parser.add_argument("--slurm-jobs", type=int, default=200, help="0: no Slurm beside it")
    parser.add_argument("--be-the-nodes", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_the_nodes:
        asyncio.run(be_the_nodes(options))
        return
    with tempfile.TemporaryDirectory(prefix="headrace-pipeline-") as folder:
        figures = asyncio.run(measure(Path(folder), options))
    peers = slurm.measure(options.slurm_jobs) if options.slurm_jobs else {}
    report("pipeline", figures, peers)


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start everything, push all jobs through, and count."""
    password = os.urandom(8).hex()
    with contextlib.ExitStack() as stack:
        nats_url = stack.enter_context(a_server(folder, password))
        environ = environment(nats_url, password)
        processes = {"nats": a_server_pid(folder)}
        for service in ("submission", "scheduling"):
            command = ["-m", "controlplane", service, "--state", str(folder), "--log-level", "warning"]
            processes[service] = stack.enter_context(a_process([*command], environ))
        nodes = ["-m", "load_tests.pipeline", "--be-the-nodes", "--nodes", str(options.nodes)]
        nodes += ["--slots", str(options.slots), "--duration-s", str(options.duration_s)]
        processes["nodes"] = stack.enter_context(a_process(nodes, environ))
        bus = await Bus.connect(nats_url, user=USER, password=password, name="pipeline")
        try:
            return await drive(bus, processes | {"driver": os.getpid()}, options)
        finally:
            await bus.drain()


def environment(nats_url: str, password: str) -> dict[str, str]:
    """What a service is started with, to find the server and be let in."""
    return os.environ | {
        "HEADRACE_NATS_URL": nats_url,
        "HEADRACE_NATS_USER": USER,
        "HEADRACE_NATS_PASSWORD": password,
    }


async def drive(bus: Bus, processes: dict[str, int], options: argparse.Namespace) -> dict[str, Any]:
    await until_status(bus, "submission", lambda _: True)
    await until_status(bus, "scheduling", lambda status: status["nodes"] >= options.nodes)
    before = {name: cpu_s(pid) for name, pid in processes.items()}
    began_at = time.time()
    for first in range(0, options.jobs, WINDOW):
        await publish(bus, range(first, min(first + WINDOW, options.jobs)))
    published_s = time.time() - began_at
    status = await until_status(bus, "scheduling", lambda status: status["ended"] >= options.jobs)
    used = {name: cpu_s(pid) - before[name] for name, pid in processes.items()}
    figures = await read_ledger(bus, began_at, options.jobs)
    return {
        "jobs": options.jobs,
        **figures,
        "published_per_s": round(options.jobs / published_s),
        "rounds": status["rounds"],
        "forbidden": status["forbidden"],
        "cpu_ms_per_job": {name: round(1000 * seconds / options.jobs, 3) for name, seconds in used.items()},
        "nodes": options.nodes,
        "slots": options.nodes * options.slots,
        "job_duration_s": options.duration_s,
        "cores": os.cpu_count(),
    }


async def publish(bus: Bus, numbers: range) -> None:
    """Submit some jobs; what the stream did not take is an error."""
    items = []
    for number in numbers:
        submit = m.Submit(id=f"load-{number}", entrypoint=("python", "train.py", f"--seed={number}"), tier="cpu")
        items.append(Outgoing(subjects.submit(TEAM, f"user-{number % 20}"), msgspec.json.encode(submit), {}))
    for result in await bus.publish_many(items):
        if isinstance(result, BusError):
            raise result


async def read_ledger(bus: Bus, began_at: float, jobs: int) -> dict[str, Any]:
    """The rates, by the ledger's own times."""
    accepted: dict[str, float] = {}
    finished: dict[str, float] = {}
    facts = 0
    async for item in Ledger(bus, source="pipeline").tail(after=0, subjects=[subjects.JOBS]):
        if isinstance(item, CaughtUp):
            break
        facts += 1
        if isinstance(item.fact, m.Accepted):
            accepted[item.subject] = item.at
        elif isinstance(item.fact, m.Finished):
            assert item.fact.outcome == "succeeded", item.fact
            assert item.subject not in finished, item.subject
            finished[item.subject] = item.at
    assert len(accepted) == len(finished) == jobs, (len(accepted), len(finished))
    ends = sorted(finished.values())
    tenth = jobs // 10
    middle = ends[-tenth - 1] - ends[tenth]
    return {
        "jobs_per_s": round(jobs / (ends[-1] - began_at)),
        "sustained_jobs_per_s": round((jobs - 2 * tenth - 1) / middle),
        "accepted_per_s": round(jobs / (max(accepted.values()) - began_at)),
        "facts_per_s": round(facts / (ends[-1] - began_at)),
        "wait_s_p50": round(percentile([finished[job] - accepted[job] for job in accepted], 0.5), 3),
    }


async def until_status(bus: Bus, service: str, good: Any) -> dict[str, Any]:
    """Ask a service how it is until it is as it should be; seldom, for asking costs as well."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        with contextlib.suppress(NoAnswer):
            status: dict[str, Any] = msgspec.json.decode(await bus.ask(subjects.ask(service, "status")))
            if ("applied" in status and good(status)) or service != "scheduling":
                return status
        await asyncio.sleep(LOOK_S)
    raise TimeoutError(f"{service} did not get there in {LIMIT_S:.0f} s")


async def be_the_nodes(options: argparse.Namespace) -> None:
    """All simulated nodes, on one connection."""
    environ = os.environ
    bus = await Bus.connect(
        environ["HEADRACE_NATS_URL"],
        user=environ["HEADRACE_NATS_USER"],
        password=environ["HEADRACE_NATS_PASSWORD"],
        name="nodes",
    )
    capacity = m.Capacity(cpus=options.slots, memory_bytes=options.slots * 2 * GIB)
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        running = [
            group.create_task(
                SimulatedNode(
                    bus,
                    f"node-{number}",
                    capacity=capacity,
                    duration_s=lambda _: options.duration_s,
                    gather_s=0.1,
                ).run()
            )
            for number in range(options.nodes)
        ]
        loop.add_signal_handler(signal.SIGTERM, lambda: [task.cancel() for task in running])
    await bus.drain()


# -- processes ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def a_process(arguments: list[str], environ: dict[str, str]) -> Iterator[int]:
    """A Python process while inside; gives its pid."""
    process = subprocess.Popen([sys.executable, *arguments], env=environ, stdin=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextlib.contextmanager
def a_server(folder: Path, password: str) -> Iterator[str]:
    """A NATS server while inside; gives its URL."""
    port = slurm.free_port()
    config = folder / "nats.conf"
    text = nats_server.configuration(
        name="pipeline", host=HOST, port=port, store=folder / "store", user=USER, password=password
    )
    config.write_text(text)
    with (folder / "nats.log").open("wb") as log:
        process = subprocess.Popen([nats_server.binary(), "-c", str(config)], stdout=log, stderr=log)
    (folder / "nats.pid").write_text(str(process.pid))
    try:
        until(lambda: _listens(port), limit_s=15, what="the NATS server")
        yield f"nats://{HOST}:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def a_server_pid(folder: Path) -> int:
    return int((folder / "nats.pid").read_text())


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
