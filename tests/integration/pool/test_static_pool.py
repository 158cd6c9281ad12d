"""A pool of listed hosts beside a real bus, submission and scheduling; the file is changed as an operator would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane.pool.service import serve as pool
from controlplane.scheduling.service import serve as scheduling
from controlplane.submission.service import serve as submission
from events import messages as m
from events import subjects
from events.bus import AskRefused, Bus, NoAnswer
from load_tests.simulated_node import SimulatedNode
from tests.support.nats import NatsServer
from tests.support.serving import serving
from tests.support.submitting import CONFIG
from tests.support.worlds import a_capacity

WAIT_S = 20.0


class Setting:
    """The file, and what becomes of the nodes n1 and n2."""

    def __init__(self, file: Path, bus: Bus, nodes: dict[str, SimulatedNode]) -> None:
        self.file, self.bus, self.nodes = file, bus, nodes

    def lists(self, *hosts: str) -> None:
        """`hosts`: each a name, or a name and another line."""
        entries = (host.partition("\n") for host in hosts)
        self.file.write_text("".join(f'[[hosts]]\nname = "{name}"\n{line}\n' for name, _, line in entries))

    async def views(self) -> dict[str, tuple[str, str, str]]:
        """State, by whom and why of each node, as the scheduler says; empty: nobody leads."""
        try:
            said = await self.bus.ask(subjects.ask("scheduling", "nodes"))
        except (NoAnswer, AskRefused):
            return {}
        return {one.node: (one.state, one.by, one.why) for one in msgspec.json.decode(said, type=m.NodesView).nodes}

    async def problems(self) -> dict[str, str]:
        answer: dict[str, Any] = json.loads(await self.bus.ask(subjects.ask("pool", "status")))
        return dict(answer["problems"])

    async def becomes(self, look: Callable[[], Awaitable[Any]], wanted: Any) -> None:
        async with asyncio.timeout(WAIT_S):
            while (seen := await look()) != wanted:
                self.seen = seen  # so that a test that fails shows it
                await asyncio.sleep(0.05)


@pytest.fixture
async def here(nats: NatsServer, bus: Bus, tmp_path: Path) -> AsyncIterator[Setting]:
    file = tmp_path / "hosts.toml"
    config = msgspec.structs.replace(CONFIG, heartbeat_s=0.1, suspect_s=5.0, leader_lease_s=0.6, hosts_file=str(file))
    nodes = {
        name: SimulatedNode(bus, name, capacity=a_capacity(), duration_s=lambda _: 60.0, heartbeat_s=0.1)
        for name in ("n1", "n2")
    }
    setting = Setting(file, bus, nodes)
    setting.lists("n1", "n2")
    async with AsyncExitStack() as stack:
        for service in (submission, scheduling, pool):
            await stack.enter_async_context(serving(service, nats, config, blobs=tmp_path / "blobs"))
        running = [asyncio.create_task(node.run()) for node in nodes.values()]
        yield setting
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


OPEN = ("ready", "", "")


async def test_what_the_file_says_of_a_machine_is_what_the_scheduler_does(here: Setting) -> None:
    await here.becomes(here.views, {"n1": OPEN, "n2": OPEN})
    here.lists("n1", 'n2\ncordon = "new disks"')
    await here.becomes(here.views, {"n1": OPEN, "n2": ("cordoned", "hosts-file", "new disks")})
    here.lists('n1\ndrain = "sold"', "n2")
    await here.becomes(here.views, {"n1": ("drained", "hosts-file", "sold"), "n2": OPEN})
    here.lists("n2")
    assert await here.problems() == {}


async def test_a_drain_in_the_file_stops_what_runs_there_and_it_runs_elsewhere(here: Setting) -> None:
    await here.becomes(here.views, {"n1": OPEN, "n2": OPEN})
    subject = subjects.ask("submission", "submit", "vision", "ada")
    await here.bus.ask(subject, json.dumps({"entrypoint": ["true"], "tier": "cpu"}).encode())

    async def launched() -> list[str]:
        return [name for name, node in here.nodes.items() if node.launched]

    async with asyncio.timeout(WAIT_S):
        while not (first := await launched()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    (name,) = first
    (other,) = here.nodes.keys() - {name}
    here.lists(other, f'{name}\ndrain = "sold"')
    await here.becomes(launched, sorted(here.nodes))
    await here.becomes(here.views, {name: ("drained", "hosts-file", "sold"), other: OPEN})


async def test_a_machine_that_leaves_the_file_gets_no_jobs_until_it_is_back(here: Setting) -> None:
    await here.becomes(here.views, {"n1": OPEN, "n2": OPEN})
    here.lists("n1")
    closed = ("cordoned", "hosts-file", "it is not in the file of hosts")
    await here.becomes(here.views, {"n1": OPEN, "n2": closed})
    here.lists("n1", "n2")
    await here.becomes(here.views, {"n1": OPEN, "n2": OPEN})


async def test_what_an_operator_cordons_stays_closed_when_the_file_opens_what_it_drained(here: Setting) -> None:
    await here.becomes(here.views, {"n1": OPEN, "n2": OPEN})
    here.lists("n1", 'n2\ndrain = "new disks"')
    drained = ("drained", "hosts-file", "new disks")
    await here.becomes(here.views, {"n1": OPEN, "n2": drained})
    await change(here.bus, "ada", m.CordonNode(why="bad disk"))
    await here.becomes(lambda: cordoned_by(here, "n2"), ("ada", "bad disk"))
    here.lists('n1\ncordon = "seen"', "n2")
    await here.becomes(here.views, {"n1": ("cordoned", "hosts-file", "seen"), "n2": drained})
    here.lists("n1", "n2")
    await here.becomes(here.views, {"n1": OPEN, "n2": drained})
    await change(here.bus, "ada", m.UncordonNode())
    await here.becomes(here.views, {"n1": OPEN, "n2": OPEN})


async def change(bus: Bus, by: str, asked: m.NodeChange) -> None:
    """Of n2, in the name of an operator."""
    subject = subjects.ask("submission", "configure", by, "node", "n2")
    answer = msgspec.json.decode(await bus.ask(subject, msgspec.json.encode(asked)), type=m.Answer)
    assert not answer.problems


async def cordoned_by(here: Setting, name: str) -> tuple[str, str]:
    view = msgspec.json.decode(await here.bus.ask(subjects.ask("scheduling", "nodes")), type=m.NodesView)
    return next((one.cordoned_by, one.cordoned_why) for one in view.nodes if one.node == name)


async def test_a_machine_that_never_came_is_a_problem(here: Setting) -> None:
    await here.becomes(here.views, {"n1": OPEN, "n2": OPEN})
    here.lists("n1", "n2", "n3")
    told = {"n3": "has not joined: there, ray start --address=… --labels hr.node=n3"}
    await here.becomes(here.problems, told)


async def test_a_file_that_cannot_be_read_changes_nothing_and_is_named(here: Setting) -> None:
    here.lists("n1", 'n2\ncordon = "new disks"')
    closed = ("cordoned", "hosts-file", "new disks")
    await here.becomes(here.views, {"n1": OPEN, "n2": closed})
    here.file.write_text("[[hosts]]\nnmae = 'n1'")

    async def named() -> bool:
        return "nmae" in (await here.problems()).get("hosts", "")

    await here.becomes(named, True)
    assert await here.views() == {"n1": OPEN, "n2": closed}
    here.lists("n1", "n2")
    await here.becomes(here.problems, {})
    await here.becomes(here.views, {"n1": OPEN, "n2": OPEN})


async def test_what_an_operator_closed_by_hand_stays_closed(here: Setting) -> None:
    await here.becomes(here.views, {"n1": OPEN, "n2": OPEN})
    body = msgspec.json.encode(m.CordonNode(why="looks odd"))
    await here.bus.ask(subjects.ask("submission", "configure", "ada", "node", "n1"), body)
    here.lists("n1", 'n2\ncordon = "new disks"')
    closed = ("cordoned", "hosts-file", "new disks")
    await here.becomes(here.views, {"n1": ("cordoned", "ada", "looks odd"), "n2": closed})
