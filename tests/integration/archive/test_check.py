"""`GET /v1/admin/check`: no difference where there is none, and each kind of damage by its name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from controlplane.gateway.projection import Projection
from controlplane.gateway.service import serve as gateway_serve
from controlplane.monitoring.service import serve as monitoring_serve
from controlplane.scheduling.service import serve as scheduling_serve
from events import messages as m
from events import subjects
from events.blobs import Blobs
from events.bus import Bus
from events.ledger import Entry, Ledger, Write
from events.lifecycle import Life, State
from tests.support.archiving import TEAM, a_config, a_life, a_specification, an_id, write_lives
from tests.support.monitoring import answering, eventually
from tests.support.nats import NatsServer
from tests.support.serving import serving


class Stack(NamedTuple):
    http: httpx.AsyncClient
    bus: Bus
    blobs: Blobs

    async def check(self) -> dict[str, dict[str, Any]]:
        """What was compared, by name."""
        found: dict[str, dict[str, Any]] = {}
        async with self.http.stream("GET", "/v1/admin/check") as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    said = json.loads(line.removeprefix("data: "))
                    found[said.get("what", "end")] = said
        return found

    async def differences(self) -> list[str]:
        found = await self.check()
        wrong = [each for compared in found.values() if "what" in compared for each in compared["differences"]]
        assert found["end"]["differences"] == len(wrong)
        return wrong


@pytest.fixture
async def stack(nats: NatsServer, bus: Bus, tmp_path: Path) -> AsyncIterator[Stack]:
    config = a_config(tmp_path / "state", remember_s=1.0)
    blobs = tmp_path / "blobs"
    lives: dict[str, list[m.JobFact]] = {an_id(number): a_life(number) for number in range(3)}
    lives[an_id(7)] = [m.Accepted(specification=a_specification(7)), m.Held(by="ada")]
    await write_lives(bus, lives)
    async with (
        serving(scheduling_serve, nats, config, blobs=blobs, instance="scheduling"),
        serving(gateway_serve, nats, config, blobs=blobs, instance="gateway"),
        serving(monitoring_serve, nats, config, blobs=blobs, instance="monitoring"),
    ):
        url = json.loads((tmp_path / "state" / "gateway.json").read_text())["url"]
        async with httpx.AsyncClient(base_url=url, headers={"authorization": "Bearer ops"}, timeout=20) as http:
            found = Stack(http, bus, Blobs.at(f"file://{blobs}"))

            async def settled() -> bool:
                done = (await answering(bus))["archived"] == 3
                return done and not (await found.differences())

            await eventually(settled)
            yield found


async def test_where_nothing_is_wrong_everything_was_compared_and_no_difference_found(stack: Stack) -> None:
    found = await stack.check()
    assert found["end"] == {"compared": len(found) - 1, "differences": 0}
    assert found["archive: blobs, digests, and the jobs in them"]["count"] == 3
    assert found["scheduling: its jobs, and the attempts on its nodes"]["count"] == 1
    assert found["gateway: jobs as it shows them"]["count"] == 1
    assert found["ledger: facts replayed from its beginning"]["count"] >= 3


async def test_only_operators_may_check(stack: Stack) -> None:
    answer = await stack.http.get("/v1/admin/check", headers={"authorization": "Bearer ada"})
    assert answer.status_code == 403


async def test_a_damaged_and_a_missing_part_are_named(stack: Stack) -> None:
    [name] = await stack.blobs.names("archive/")
    content = await stack.blobs.read(name)
    await stack.blobs.write(name, content[:-1] + b"x")
    assert any("digest" in each and name in each for each in await stack.differences())
    await stack.blobs.delete(name)
    assert any(f"no blob {name}" in each for each in await stack.differences())


async def test_a_job_that_is_in_the_archive_and_in_the_ledger_again_is_named(stack: Stack) -> None:
    ledger = Ledger(stack.bus, source="test")
    subject = subjects.job(TEAM, an_id(1))

    async def forgotten() -> bool:
        return not await ledger.history(subject)

    await eventually(forgotten)
    await ledger.append(Write(subject, m.Accepted(specification=a_specification(1)), 0))
    assert any(subject in each and "facts are there" in each for each in await stack.differences())


async def test_a_snapshot_that_leads_elsewhere_is_named(stack: Stack) -> None:
    lying = Projection()
    ledger = Ledger(stack.bus, source="test")
    async for item in ledger.tail(after=0, subjects=(subjects.JOBS,)):
        if not isinstance(item, Entry):
            break
        lying.apply(item)
    record = lying.job(TEAM, an_id(7))
    assert record is not None
    record.life = Life(State.RUNNING, 1)
    await stack.blobs.write(f"snapshots/gateway/{lying.sequence}", lying.snapshot())
    assert any(an_id(7) in each and "the snapshot leads to" in each for each in await stack.differences())
    await stack.blobs.write(f"snapshots/gateway/{lying.sequence}", b"torn")
    assert any("snapshots/gateway" in each for each in await stack.differences())


async def test_a_check_that_nobody_waits_for_is_over_and_the_next_one_runs(stack: Stack) -> None:
    async with stack.http.stream("GET", "/v1/admin/check") as answer:
        assert answer.status_code == 200

    async def again() -> bool:
        answer = await stack.http.get("/v1/admin/check")
        return answer.status_code == 200 and '"compared":0' not in answer.text

    await eventually(again)
