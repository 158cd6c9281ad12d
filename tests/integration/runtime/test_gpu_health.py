"""The watch over GPUs in a real runner, with a library in the place of NVIDIA's that says what a test wants."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.bus import Bus
from events.messages import GpuFault
from runtime.supervised import LauncherClient
from tests.support.fake_nvml import FakeNvml
from tests.support.leader import Leader, a_launch
from tests.support.nats import NatsServer
from tests.support.runner_process import RunnerProcess

WAITS = "open('go').read(); raise SystemExit(1)"


class Machine:
    """A runner on a machine with two GPUs, and a leader."""

    def __init__(self, nvml: FakeNvml, runner: RunnerProcess, leader: Leader) -> None:
        self.nvml = nvml
        self.runner = runner
        self.leader = leader

    async def until_faults(self, *signs: tuple[int, str]) -> tuple[GpuFault, ...]:
        """Wait until the node says that these, and no others, are wrong."""
        await self.leader.until(lambda: self.signs() == list(signs))
        health = self.leader.exchanges[-1].gpu_health
        assert health is not None
        return health.faults

    def signs(self) -> list[tuple[int, str]] | None:
        health = self.leader.exchanges[-1].gpu_health if self.leader.exchanges else None
        return None if health is None else [(fault.gpu, fault.sign) for fault in health.faults]


@pytest.fixture
async def machine(bus: Bus, tmp_path: Path, nats: NatsServer) -> AsyncIterator[Machine]:
    leader = Leader(bus)
    await leader.listen()
    nvml = FakeNvml(tmp_path / "nvml", gpus=2)
    runner = RunnerProcess(tmp_path, nats, gpus=2, env=nvml.env)
    await runner.start()
    yield Machine(nvml, runner, leader)
    leader.wanted.clear()
    await leader.say()
    assert await runner.end() == 0
    await LauncherClient(runner.node.path).retire()


async def test_what_breaks_is_told_at_once_and_what_the_program_did_is_not(machine: Machine) -> None:
    assert await machine.until_faults() == ()
    machine.nvml.xid(0, 31)
    machine.nvml.xid(1, 63)
    machine.nvml.xid(1, 79)
    machine.nvml.xid(0, 0)
    faults = await machine.until_faults((0, "double-bit ECC error"), (1, "Xid 63"), (1, "Xid 79"))
    assert [(fault.ends, fault.stands) for fault in faults] == [(True, False), (False, False), (True, False)]
    assert faults[2].why == "Xid 79 (the GPU has fallen off the bus)"
    assert {fault.boot for fault in faults} == {machine.leader.exchanges[-1].boot}


async def test_what_a_look_shows_stands_until_a_look_does_not(machine: Machine) -> None:
    await machine.until_faults()
    machine.nvml.set("lost", 1)
    machine.nvml.set("rows", 0)
    machine.nvml.xid(0, 63)  # an event is followed by a look
    faults = await machine.until_faults((0, "Xid 63"), (0, "rows pending"), (1, "lost"))
    assert [(fault.ends, fault.stands) for fault in faults] == [(False, False), (False, True), (True, True)]
    machine.nvml.set("lost", 1, 0)
    machine.nvml.set("action", 1, 3)
    machine.nvml.xid(0, 31)
    await machine.until_faults((0, "Xid 63"), (0, "rows pending"), (1, "action 3"))


async def test_who_fails_reads_what_his_own_gpu_reported_while_he_held_it(machine: Machine) -> None:
    await machine.until_faults()
    machine.nvml.xid(1, 13)  # before him
    machine.nvml.xid(0, 63)
    await machine.until_faults((0, "Xid 63"))  # so that was heard
    launch = a_launch("j-a", WAITS, gpus=(1,))
    folder = machine.runner.node.job(launch.ref)
    folder.mkdir(parents=True)
    os.mkfifo(folder / "go")
    await machine.leader.want(launch)
    await machine.leader.until_running(launch.ref)
    for gpu in (0, 1):
        machine.nvml.set("late", gpu)  # nothing wakes the watch: it is asked
    for gpu, number in ((0, 79), (1, 31), (1, 31), (1, 4000), (1, 48)):
        machine.nvml.xid(gpu, number)
    await asyncio.to_thread((folder / "go").write_text, "go")
    end = await machine.leader.end_of(launch.ref)
    assert (end.cause, end.exit_code) == ("exited", 1)
    assert [(error.gpu, error.why, error.hardware) for error in end.gpu_errors] == [
        (1, "Xid 31 (memory page fault of the program)", False),
        (1, "Xid 4000", False),
        (1, "Xid 48 (double-bit ECC error)", True),
    ]


async def test_who_ends_well_is_told_nothing(machine: Machine) -> None:
    await machine.until_faults()
    launch = a_launch("j-a", "import time; time.sleep(0.5)", gpus=(0,))
    await machine.leader.want(launch)
    await machine.leader.until_running(launch.ref)
    machine.nvml.xid(0, 31)
    assert (await machine.leader.end_of(launch.ref)).gpu_errors == ()


async def test_a_node_without_the_library_says_nothing_of_its_gpus(bus: Bus, tmp_path: Path, nats: NatsServer) -> None:
    leader = Leader(bus)
    await leader.listen()
    runner = RunnerProcess(tmp_path, nats, gpus=2)
    await runner.start()
    try:
        launch = a_launch("j-a", "raise SystemExit(1)", gpus=(0,))
        await leader.want(launch)
        assert (await leader.end_of(launch.ref)).gpu_errors == ()
        assert all(exchange.gpu_health is None for exchange in leader.exchanges)
    finally:
        assert await runner.end() == 0
        await LauncherClient(runner.node.path).retire()


async def test_a_library_that_knows_fewer_gpus_than_the_node_has_is_not_believed(
    bus: Bus, tmp_path: Path, nats: NatsServer
) -> None:
    leader = Leader(bus)
    await leader.listen()
    nvml = FakeNvml(tmp_path / "nvml", gpus=1)
    runner = RunnerProcess(tmp_path, nats, gpus=2, env=nvml.env)
    await runner.start()
    try:
        await leader.until(lambda: len(leader.exchanges) > 5)
        assert all(exchange.gpu_health is None for exchange in leader.exchanges)
    finally:
        assert await runner.end() == 0
        await LauncherClient(runner.node.path).retire()
