"""The environments service over a real NATS server and the real uv."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from controlplane.config import Configuration
from controlplane.environments.resolver import Resolver
from controlplane.environments.service import Service, serve
from controlplane.frame import Clock, Tools
from events import messages as m
from events import subjects
from events.blobs import Blobs
from events.bus import AskRefused, Bus, CaughtUp
from events.identity import environment_digest
from events.ledger import Ledger, Write

END_S = 60.0
CAPACITY = m.Capacity(cpus=4, memory_bytes=2**33, pythons=("3.11.7", "3.12.1"), platform="x86_64-manylinux_2_28")


class World:
    """A ledger, a blob store, and services on them."""

    def __init__(self, bus: Bus, folder: Path) -> None:
        self.bus = bus
        self.ledger = Ledger(bus, source="test")
        self.blobs = Blobs.at(f"file://{folder}/blobs")
        self._config = Configuration(state=str(folder))

    @asynccontextmanager
    async def service(self, instance: str = "e1", resolver: Resolver | None = None) -> AsyncIterator[None]:
        """A service that is ready, until the block ends."""
        ready = asyncio.Event()
        ledger = Ledger(self.bus, source=instance)
        tools = Tools(self._config, self.bus, ledger, self.blobs, Clock(), instance, ready.set)
        task = asyncio.ensure_future(Service(tools, resolver).run() if resolver else serve(tools))
        waiting = asyncio.ensure_future(ready.wait())
        await asyncio.wait({task, waiting}, timeout=END_S, return_when=asyncio.FIRST_COMPLETED)
        assert waiting.done()
        yield
        task.cancel()
        await asyncio.wait({task})

    async def node(self, capacity: m.Capacity = CAPACITY, name: str = "n1") -> None:
        await self.ledger.append(Write(subjects.node(name), m.NodeJoined(boot="b", capacity=capacity), 0))

    async def want(self, *roots: str, python: str = "3.11", preferences: tuple[str, ...] = ()) -> str:
        request = m.EnvironmentRequest(python=python, roots=roots, preferences=preferences)
        digest = environment_digest(request)
        await self.ledger.append(Write(subjects.environment(digest), m.EnvironmentWanted(request=request), 0))
        return digest

    async def end(
        self, digest: str, kinds: type | tuple[type, ...] = (m.EnvironmentReady, m.EnvironmentFailed)
    ) -> m.Fact:
        """The first fact of these kinds on a request's subject."""
        async with asyncio.timeout(END_S):
            async for item in self.ledger.tail(after=0, subjects=(subjects.environment(digest),)):
                if not isinstance(item, CaughtUp) and isinstance(item.fact, kinds):
                    return item.fact
        raise AssertionError("the ledger ended")

    async def ask(self, question: str, digest: str = "") -> bytes:
        body = msgspec.json.encode(m.AskEnvironment(environment=digest)) if digest else b""
        return await self.bus.ask(subjects.ask("environments", question), body)


@pytest.fixture
def world(bus: Bus, tmp_path: Path) -> World:
    return World(bus, tmp_path)


async def test_a_wanted_environment_becomes_ready_with_a_hashed_lock_that_names_no_index(world: World) -> None:
    async with world.service():
        await world.node()
        digest = await world.want(
            "click==8.1.7", "six", preferences=("six==1.16.0", "gone-from-everywhere==1.0", "pytz==2004d")
        )
        ready = await world.end(digest)
        assert isinstance(ready, m.EnvironmentReady)
        assert (ready.python, ready.platform, ready.packages) == ("3.11", "x86_64-manylinux_2_28", 2)
        lock = msgspec.json.decode(await world.blobs.get(ready.lock))
        assert lock["version"] == 1
        assert "click==8.1.7" in lock["requirements"]
        assert "six==1.16.0" in lock["requirements"]
        assert lock["requirements"].count("--hash=sha256:") >= 4
        assert "://" not in lock["requirements"]
        assert b"uv pip compile" in await world.ask("log", digest)


async def test_no_roots_give_an_empty_lock(world: World) -> None:
    async with world.service():
        await world.node()
        ready = await world.end(await world.want())
        assert isinstance(ready, m.EnvironmentReady)
        assert ready.packages == 0


async def test_a_version_that_nobody_published_fails_with_a_reason_and_a_log(world: World) -> None:
    async with world.service():
        await world.node()
        digest = await world.want("six==999")
        failed = await world.end(digest)
        assert isinstance(failed, m.EnvironmentFailed)
        assert failed.reason.startswith("no version of `six` fits Python 3.11: ")
        assert b"six==999" in await world.ask("log", digest)
        assert msgspec.json.decode(await world.ask("view", digest))["state"] == "failed"


async def test_a_package_that_the_index_lacks_is_named(world: World, tmp_path: Path) -> None:
    index = tmp_path / "wheels"
    index.mkdir()
    environ = {**os.environ, "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(index)}
    async with world.service(resolver=Resolver(cache=tmp_path / "uv", builds=True, environ=environ)):
        await world.node()
        failed = await world.end(await world.want("doesnotexist-xyz-headrace"))
        assert isinstance(failed, m.EnvironmentFailed)
        assert failed.reason.startswith("no package `doesnotexist-xyz-headrace` on the index")


async def test_an_interpreter_that_no_node_has_is_refused_by_naming_those_there_are(world: World) -> None:
    async with world.service():
        await world.node()
        failed = await world.end(await world.want("six", python="3.9"))
        assert isinstance(failed, m.EnvironmentFailed)
        reason = "no node has Python 3.9; nodes have 3.11.7 and 3.12.1: choose one with --python"
        assert failed.reason == reason


async def test_before_any_node_is_known_a_request_waits_and_then_is_solved(world: World) -> None:
    async with world.service():
        digest = await world.want("six")
        await world.end(digest, m.EnvironmentWanted)
        view = msgspec.json.decode(await world.ask("view", digest))
        assert view["state"] == "wanted"
        assert "no node" in view["reason"]
        await world.node()
        assert isinstance(await world.end(digest), m.EnvironmentReady)


async def test_two_services_solve_a_request_once(world: World) -> None:
    async with world.service("e1"), world.service("e2"):
        await world.node()
        digest = await world.want("six")
        await world.end(digest)
        facts = [type(entry.fact) for entry in await world.ledger.history(subjects.environment(digest))]
        assert facts == [m.EnvironmentWanted, m.EnvironmentBuilding, m.EnvironmentReady]


async def test_a_build_whose_builder_is_gone_is_taken_over_at_once(world: World) -> None:
    await world.node()
    digest = await world.want("six")
    subject = subjects.environment(digest)
    wanted = await world.ledger.last(subject)
    assert wanted is not None
    await world.ledger.append(Write(subject, m.EnvironmentBuilding(builder="killed"), wanted.sequence))
    async with world.service("e1"):
        assert isinstance(await world.end(digest), m.EnvironmentReady)
    builders = [
        e.fact.builder for e in await world.ledger.history(subject) if isinstance(e.fact, m.EnvironmentBuilding)
    ]
    assert builders == ["killed", "e1"]


async def test_a_failed_request_that_is_wanted_again_is_solved_again(world: World) -> None:
    async with world.service():
        await world.node()
        digest = await world.want("six==999")
        await world.end(digest)
        subject = subjects.environment(digest)
        last = await world.ledger.last(subject)
        assert last is not None
        request = m.EnvironmentRequest(python="3.11", roots=("six==999",))
        again = await world.ledger.append(Write(subject, m.EnvironmentWanted(request=request), last.sequence))
        async with asyncio.timeout(END_S):
            async for item in world.ledger.tail(after=again, subjects=(subject,)):
                if not isinstance(item, CaughtUp) and isinstance(item.fact, m.EnvironmentFailed):
                    return


async def test_a_service_that_restarts_knows_what_was_solved(world: World) -> None:
    async with world.service("e1"):
        await world.node()
        digest = await world.want("six")
        await world.end(digest)
    async with world.service("e2"):
        assert msgspec.json.decode(await world.ask("view", digest))["state"] == "ready"
        status = msgspec.json.decode(await world.ask("status"))
        assert (status["ready"], status["forbidden"], status["solved"]) == (1, 0, 0)


async def test_a_question_about_an_unknown_environment_is_refused(world: World) -> None:
    async with world.service():
        with pytest.raises(AskRefused) as refused:
            await world.ask("log", "sha256:" + "0" * 64)
        assert refused.value.refusal.status == 404


async def test_a_drain_ends_the_solver_that_runs(world: World, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    os.mkfifo(pid_file)
    command = ("sh", "-c", 'echo $$ > "$UV_PID_FILE"; exec sleep 600')
    environ = {"PATH": os.environ["PATH"], "UV_PID_FILE": str(pid_file)}
    resolver = Resolver(cache=tmp_path / "uv", builds=True, environ=environ, command=command)
    async with world.service(resolver=resolver):
        await world.node()
        await world.want("six")
        pid = int(await asyncio.to_thread(pid_file.read_text))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
