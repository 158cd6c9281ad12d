"""Gangs from end to end but for Ray: a real scheduler, real NATS, a real runner a node, processes that really meet."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events import messages as m
from events.bus import Bus
from events.ledger import Write
from events.subjects import job as job_subject
from runtime import meeting
from tests.support.attempts import gone, lives
from tests.support.nats import NatsServer
from tests.support.real_nodes import RealNode
from tests.support.stage import WAIT_S_MAX, Stage, a_stage
from tests.support.worlds import GIB, TEAM, a_job

NAMES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "HEADRACE_NODE")
MEETS = f"""
import json, os, signal, socket, sys, time
e = os.environ
rank, size = int(e["RANK"]), int(e["WORLD_SIZE"])
where = e["MASTER_ADDR"], int(e["MASTER_PORT"])
if rank == 0:
    with socket.create_server(where) as server:
        callers = [server.accept()[0] for _ in range(size - 1)]
    ranks = sorted(int(caller.recv(8)) for caller in callers)
    for caller in callers:
        caller.sendall(json.dumps(ranks).encode())
else:
    while True:
        try:
            line = socket.create_connection(where)
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    line.sendall(b"%d" % rank)
    ranks = json.loads(line.recv(1000))
said = {{"pid": os.getpid(), "ranks": ranks, **{{name: e[name] for name in {NAMES!r}}}}}
with open("met." + e["HEADRACE_ATTEMPT"], "w") as file:
    print(json.dumps(said), file=file)
"""
WAITS = MEETS + "signal.pause()\n"


class Pool:
    """Nodes `n1`, `n2`, … beside a scheduler, and gangs on them."""

    def __init__(self, stage: Stage, folder: Path, nats: NatsServer) -> None:
        self.stage = stage
        self.nodes: dict[str, RealNode] = {}
        self._folder = folder
        self._nats = nats

    async def grow(self, count: int) -> None:
        for _ in range(count):
            name = f"n{len(self.nodes) + 1}"
            self.nodes[name] = RealNode(name, self._folder, self._nats)
            await self.nodes[name].start()
        joined = {f"n{number}" for number in range(1, len(self.nodes) + 1)}
        await self.stage.until(lambda: joined <= self._joined())

    def _joined(self) -> set[str]:
        return {each.subject.rpartition(".")[2] for each in self.stage.facts if isinstance(each.fact, m.NodeJoined)}

    async def submit(self, code: str, *, nodes: int = 3, **more: Any) -> None:
        """A gang whose every part runs this Python."""
        await self.submit_words((sys.executable, "-c", code), nodes=nodes, **more)

    async def submit_words(
        self, entrypoint: tuple[str, ...], *, nodes: int = 3, env: dict[str, str] | None = None, **more: Any
    ) -> None:
        resources = m.Resources(cpus=1.0, memory_bytes=GIB, gpus=1, nodes=nodes)
        gang = a_job("gang", resources=resources, grace_s=0.5, **more)
        await self.stage.submit(msgspec.structs.replace(gang, entrypoint=entrypoint, env=env or {}))

    def output(self, node: str, ref: m.AttemptRef) -> str:
        """What the attempt wrote there, which stays until the node is closed."""
        return self.nodes[node].kept[ref]

    async def placed(self, attempt: int = 1) -> tuple[str, ...]:
        """Its nodes, in the order of their ranks."""
        found: list[m.Placed] = []

        def there() -> bool:
            found[:] = [f for f in self.stage.of("gang") if isinstance(f, m.Placed) and f.attempt == attempt]
            return bool(found)

        await self.stage.until(there)
        return tuple(allocation.node for allocation in found[0].allocations)

    async def met(self, attempt: int = 1) -> list[dict[str, Any]]:
        """What each rank says once it has met the others."""
        ref = m.AttemptRef(team=TEAM, job="gang", attempt=attempt)
        return [json.loads(await self.nodes[name].said(ref, "met")) for name in await self.placed(attempt)]

    async def finished(self, *, limit_s: float = WAIT_S_MAX) -> m.Finished:
        await self.stage.until(lambda: self.stage.has(m.Finished, "gang"), limit_s=limit_s)
        fact = self.stage.of("gang")[-1]
        assert isinstance(fact, m.Finished)
        return fact

    async def cancel(self) -> None:
        """Leave nothing behind."""
        last = max((each.sequence for each in self.stage.facts if each.subject == job_subject(TEAM, "gang")), default=0)
        if last and not self.stage.has(m.Finished, "gang"):
            await self.stage.ledger.append(Write(job_subject(TEAM, "gang"), m.CancelRequested(by="ada"), last))
            await self.finished()


@pytest.fixture
async def pool(nats: NatsServer, bus: Bus, tmp_path: Path) -> AsyncIterator[Pool]:
    async with a_stage(nats, bus, tmp_path) as stage:
        pool = Pool(stage, tmp_path, nats)
        await stage.scheduler()
        yield pool
        await pool.cancel()
        for node in pool.nodes.values():
            await node.close()


async def test_three_nodes_meet_and_each_knows_its_place(pool: Pool) -> None:
    await pool.grow(3)
    await pool.submit(MEETS)
    finished = await pool.finished()
    assert finished.outcome == "succeeded"
    assert pool.stage.kinds("gang") == ["accepted", "placed", "started", "finished"]
    nodes, said = await pool.placed(), await pool.met()
    for rank, (node, each) in enumerate(zip(nodes, said, strict=True)):
        assert each["ranks"] == [1, 2]
        assert (each["RANK"], each["NODE_RANK"]) == (str(rank), str(rank))
        assert (each["LOCAL_RANK"], each["WORLD_SIZE"]) == ("0", "3")
        assert each["HEADRACE_NODE"] == node
    assert len({(each["MASTER_ADDR"], each["MASTER_PORT"]) for each in said}) == 1


async def test_no_part_starts_while_another_is_not_laid_out(pool: Pool) -> None:
    await pool.grow(3)
    pool.nodes["n2"].layer.gate.clear()
    await pool.submit(MEETS)
    nodes = await pool.placed()
    ref = m.AttemptRef(team=TEAM, job="gang", attempt=1)
    async with asyncio.timeout(20):
        while any(ref not in pool.nodes[name].layer.begun for name in nodes):  # noqa: ASYNC110  nothing announces it
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)  # in which the others would start
    assert [(pool.nodes[name].folder.attempt(ref) / "spec.json").exists() for name in nodes] == [False] * 3
    pool.nodes["n2"].layer.gate.set()
    assert (await pool.finished()).outcome == "succeeded"


async def test_a_rank_that_dies_ends_all_and_is_named_with_its_node_and_its_last_lines(pool: Pool) -> None:
    await pool.grow(3)
    dies = "if rank == 1:\n    print('loss is nan', file=sys.stderr, flush=True)\n    signal.pause()\n"
    await pool.submit(MEETS + dies + "signal.pause()\n")
    said = await pool.met()
    await pool.stage.until(lambda: pool.stage.has(m.Started, "gang"))
    os.kill(said[1]["pid"], signal.SIGKILL)
    finished = await pool.finished()
    node = (await pool.placed())[1]
    assert finished.outcome == "failed"
    assert finished.reason == f"rank 1 on {node}: killed by SIGKILL; its last lines: loss is nan"
    assert not any(lives(each["pid"]) for each in said)


async def test_a_rank_that_ends_well_leaves_the_others_alone(pool: Pool) -> None:
    await pool.grow(3)
    await pool.submit(MEETS + "if rank:\n    open('go').read()\n")
    ref = m.AttemptRef(team=TEAM, job="gang", attempt=1)
    nodes = await pool.placed()
    for name in nodes[1:]:
        folder = pool.nodes[name].folder.job(ref)
        folder.mkdir(parents=True, exist_ok=True)
        os.mkfifo(folder / "go")
    said = await pool.met()
    await gone(said[0]["pid"])
    assert all(lives(each["pid"]) for each in said[1:])
    for name in nodes[1:]:
        await asyncio.to_thread((pool.nodes[name].folder.job(ref) / "go").write_text, "go")
    assert (await pool.finished()).outcome == "succeeded"


async def test_a_part_that_cannot_be_laid_out_ends_all_before_any_has_begun(pool: Pool) -> None:
    await pool.grow(3)
    pool.nodes["n3"].layer.broken = "no wheel of torch for this platform"
    await pool.submit(MEETS, attempts_max=1)
    finished = await pool.finished()
    rank = (await pool.placed()).index("n3")
    assert f"rank {rank} on n3: the environment could not be built on the node: no wheel of torch" in finished.reason
    ref = m.AttemptRef(team=TEAM, job="gang", attempt=1)
    assert not any((node.folder.job(ref) / "met.1").exists() for node in pool.nodes.values())


async def test_a_gang_whose_node_burns_down_comes_back_whole_and_once(pool: Pool) -> None:
    await pool.grow(4)
    await pool.submit(WAITS)
    first = await pool.met()
    nodes = await pool.placed()
    await pool.stage.until(lambda: pool.stage.has(m.Started, "gang"))
    await pool.nodes[nodes[2]].vanish(first[2]["pid"])
    second = await pool.met(attempt=2)
    assert nodes[2] not in await pool.placed(attempt=2)
    assert not any(lives(each["pid"]) for each in first)
    assert [each["ranks"] for each in second] == [[1, 2]] * 3
    await pool.stage.until(lambda: pool.stage.kinds("gang").count("started") == 2)
    assert pool.stage.kinds("gang") == ["accepted", "placed", "started", "lost", "placed", "started"]


async def test_a_preempted_gang_is_told_everywhere_and_comes_back_whole(pool: Pool) -> None:
    told = """
def on_stop(*_):
    print("x", file=open("told." + e["HEADRACE_ATTEMPT"], "w"), flush=True)
    sys.exit(1)

signal.signal(signal.SIGTERM, on_stop)
"""
    await pool.grow(3)
    await pool.submit(MEETS + told + "while True:\n    signal.pause()\n", preemptible=True)
    first = await pool.met()
    await pool.stage.until(lambda: pool.stage.has(m.Started, "gang"))
    nodes = await pool.placed()
    last = max(each.sequence for each in pool.stage.facts if each.subject == job_subject(TEAM, "gang"))
    stop = m.StopRequested(term=pool.stage.terms()[-1].sequence, attempt=1, why="preempted by urgent")
    await pool.stage.ledger.append(Write(job_subject(TEAM, "gang"), stop, last))
    second = await pool.met(attempt=2)
    ref = m.AttemptRef(team=TEAM, job="gang", attempt=1)
    assert [await pool.nodes[name].said(ref, "told") for name in nodes] == ["x"] * 3
    assert not any(lives(each["pid"]) for each in first)
    assert [each["ranks"] for each in second] == [[1, 2]] * 3
    requeued = next(fact for fact in pool.stage.of("gang") if isinstance(fact, m.Requeued))
    assert requeued.why == "preempted by urgent"


async def test_a_new_leader_in_the_middle_of_it_brings_the_gang_together(
    nats: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    async with a_stage(nats, bus, tmp_path) as stage:
        pool = Pool(stage, tmp_path, nats)
        first = await stage.scheduler("s1")
        await stage.until(lambda: len(stage.terms()) == 1)
        await pool.grow(3)
        pool.nodes["n1"].layer.gate.clear()
        await pool.submit(MEETS)
        await pool.placed()
        first.cancel()
        await stage.scheduler("s2")
        pool.nodes["n1"].layer.gate.set()
        assert (await pool.finished()).outcome == "succeeded"
        assert len(stage.terms()) == 2
        assert stage.kinds("gang") == ["accepted", "placed", "started", "finished"]
        for node in pool.nodes.values():
            await node.close()


async def test_a_port_that_a_stranger_has_is_never_where_a_gang_meets(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger, socket.create_server(("127.0.0.1", 0)) as other:
        taken, free = stranger.getsockname()[1], other.getsockname()[1]
        other.close()
        monkeypatch.setattr(meeting, "_choices", lambda: [taken, free])
        await pool.grow(3)
        await pool.submit(MEETS)
        assert (await pool.finished()).outcome == "succeeded"
        assert {each["MASTER_PORT"] for each in await pool.met()} == {str(free)}


async def test_a_runner_that_is_replaced_in_the_middle_of_it_holds_nobody_up(pool: Pool) -> None:
    await pool.grow(3)
    pool.nodes["n3"].layer.gate.clear()
    await pool.submit(MEETS)
    rank_0 = (await pool.placed())[0]
    await asyncio.sleep(0.3)
    await pool.nodes[rank_0].stop()
    await pool.nodes[rank_0].start()
    pool.nodes["n3"].layer.gate.set()
    assert (await pool.finished()).outcome == "succeeded"
    said = await pool.met()
    assert len({each["MASTER_PORT"] for each in said}) == 1


TORCH = importlib.util.find_spec("torch")
REDUCES = """
import os
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
total = torch.ones(1) * dist.get_rank()
dist.all_reduce(total)
print(os.environ["HEADRACE_RANK"], dist.get_rank(), dist.get_world_size(), int(total.item()), flush=True)
"""
TORCH_S_MAX = 120.0
"""Three imports of torch at once on a small machine."""


async def submit_torch(pool: Pool, script: Path, *launcher: str) -> None:
    """A gang of three that can import torch."""
    assert TORCH is not None
    assert TORCH.origin is not None
    await pool.grow(3)
    env = {"PYTHONPATH": str(Path(TORCH.origin).parents[1])}
    await pool.submit_words((sys.executable, *launcher, str(script)), env=env)


@pytest.mark.skipif(TORCH is None, reason="torch is not installed here")
@pytest.mark.parametrize("launcher", [(), ("-m", "torch.distributed.run")], ids=["python", "torchrun"])
async def test_torch_distributed_meets_there(pool: Pool, tmp_path: Path, launcher: tuple[str, ...]) -> None:
    script = tmp_path / "train.py"
    script.write_text(REDUCES + "dist.destroy_process_group()\n")
    await submit_torch(pool, script, *launcher)
    finished = await pool.finished(limit_s=TORCH_S_MAX)
    assert finished.reason == "exit code 0"
    ref = m.AttemptRef(team=TEAM, job="gang", attempt=1)
    said = {pool.output(name, ref).strip() for name in await pool.placed()}
    assert said == {f"{rank} {rank} 3 3" for rank in range(3)}


@pytest.mark.skipif(TORCH is None, reason="torch is not installed here")
async def test_the_rank_that_died_is_named_and_not_those_whom_gloo_tells(pool: Pool, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(REDUCES + "if dist.get_rank() == 1:\n    os.abort()\nwhile True:\n    dist.all_reduce(total)\n")
    await submit_torch(pool, script)
    finished = await pool.finished(limit_s=TORCH_S_MAX)
    assert finished.reason.startswith(f"rank 1 on {(await pool.placed())[1]}: killed by SIGABRT")
