"""GPUs that break under jobs: a real scheduler, a real runner process, and a library that says what a test wants."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from events import messages as m
from events import subjects
from events.bus import Bus
from events.ledger import Write
from runtime.supervised import LauncherClient
from tests.support.fake_nvml import FakeNvml
from tests.support.nats import NatsServer
from tests.support.runner_process import RunnerProcess
from tests.support.stage import Stage, a_stage
from tests.support.worlds import TEAM, a_job

N1 = subjects.node("n1")
WAITS = "import signal; signal.pause()"
FAILS_IF_THERE = "import os, time\nwhile not os.path.exists('fail'): time.sleep(0.02)\nraise SystemExit(1)"


class Machine:
    """Two GPUs beside a scheduler."""

    def __init__(self, stage: Stage, runner: RunnerProcess, nvml: FakeNvml) -> None:
        self.stage = stage
        self.runner = runner
        self.nvml = nvml

    async def submit(self, name: str, code: str) -> None:
        resources = m.Resources(cpus=0.1, memory_bytes=2**26, gpus=1)
        job = a_job(name, resources=resources, grace_s=0.5, attempts_max=1)
        await self.stage.submit(msgspec.structs.replace(job, entrypoint=(sys.executable, "-c", code)))

    async def until_running(self, name: str, attempt: int = 1) -> tuple[int, ...]:
        """Wait until it runs; gives its GPUs."""
        await self.stage.until(lambda: self.stage.kinds(name).count("started") == attempt)
        placed = [fact for fact in self.stage.of(name) if isinstance(fact, m.Placed)]
        return placed[-1].allocations[0].gpus

    def fail(self, name: str) -> None:
        """Let its program end with exit code 1."""
        (self.runner.node.job(m.AttemptRef(team=TEAM, job=name, attempt=1)) / "fail").touch()

    def gpus(self) -> list[m.NodeGpus]:
        return [entry.fact for entry in self.stage.facts if isinstance(entry.fact, m.NodeGpus)]

    async def end(self, name: str) -> m.Finished:
        await self.stage.until(lambda: self.stage.has(m.Finished, name))
        fact = self.stage.of(name)[-1]
        assert isinstance(fact, m.Finished)
        return fact

    async def cancel(self, name: str) -> None:
        last = max(each.sequence for each in self.stage.facts if each.subject == subjects.job(TEAM, name))
        await self.stage.ledger.append(Write(subjects.job(TEAM, name), m.CancelRequested(by="ada"), last))
        await self.end(name)


@pytest.fixture
async def machine(nats: NatsServer, bus: Bus, tmp_path: Path) -> AsyncIterator[Machine]:
    nvml = FakeNvml(tmp_path / "nvml", gpus=2)
    runner = RunnerProcess(tmp_path, nats, gpus=2, env=nvml.env)
    async with a_stage(nats, bus, tmp_path) as stage:
        await stage.scheduler()
        await runner.start()
        await stage.until(lambda: any(isinstance(each.fact, m.NodeJoined) for each in stage.facts))
        yield Machine(stage, runner, nvml)
        assert await runner.end() == 0
        await LauncherClient(runner.node.path).retire()


async def test_an_xid_79_takes_the_gpu_out_and_its_job_runs_on_another_one(machine: Machine) -> None:
    stage = machine.stage
    await machine.submit("a", WAITS)
    assert await machine.until_running("a") == (0,)
    machine.nvml.xid(0, 79)
    assert await machine.until_running("a", attempt=2) == (1,)
    assert stage.kinds("a") == ["accepted", "placed", "started", "stop_requested", "requeued", "placed", "started"]
    requeued = next(fact for fact in stage.of("a") if isinstance(fact, m.Requeued))
    assert requeued.why == "GPU 0 of node n1 is out of use: Xid 79 (the GPU has fallen off the bus)"
    (gpus,) = machine.gpus()
    assert [(fault.gpu, fault.sign, fault.jobs) for fault in gpus.faults] == [
        (0, "Xid 79", (m.AttemptRef(team=TEAM, job="a", attempt=1),))
    ]
    await machine.submit("b", WAITS)
    last = max(each.sequence for each in stage.facts if each.subject == N1)
    await stage.ledger.append(Write(N1, m.NodeGpusRepaired(by="ops", gpus=(0,)), last))
    assert await machine.until_running("b") == (0,)
    assert len(machine.gpus()) == 1, "a repair holds though the node still tells of the event"
    await machine.cancel("a")
    await machine.cancel("b")


async def test_a_program_that_fails_of_an_xid_79_before_anybody_stops_it_is_run_again(machine: Machine) -> None:
    await machine.submit("a", FAILS_IF_THERE)
    assert await machine.until_running("a") == (0,)
    machine.nvml.xid(0, 79)
    machine.fail("a")  # in its only attempt
    await machine.stage.until(lambda: "requeued" in machine.stage.kinds("a"))
    (machine.runner.node.job(m.AttemptRef(team=TEAM, job="a", attempt=1)) / "fail").unlink()
    await machine.stage.until(lambda: machine.stage.kinds("a").count("placed") == 2)
    placed = [fact for fact in machine.stage.of("a") if isinstance(fact, m.Placed)]
    assert placed[-1].allocations[0].gpus == (1,)
    machine.fail("a")
    assert (await machine.end("a")).outcome == "failed"


async def test_an_xid_31_is_the_reason_of_the_job_that_failed_and_nothing_else(machine: Machine) -> None:
    await machine.submit("a", FAILS_IF_THERE)
    await machine.submit("b", WAITS)
    assert await machine.until_running("a") == (0,)
    await machine.until_running("b")
    machine.nvml.xid(0, 31)
    machine.fail("a")
    finished = await machine.end("a")
    assert finished.outcome == "failed"
    assert finished.reason == "exit code 1; GPU 0 reported Xid 31 (memory page fault of the program)"
    await machine.submit("c", WAITS)
    assert await machine.until_running("c") == (0,)
    assert machine.gpus() == []
    await machine.cancel("b")
    await machine.cancel("c")
