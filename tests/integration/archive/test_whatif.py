"""`GET /v1/admin/whatif`: jobs of the ledger and of the archive, replayed by a process of its own."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from controlplane.gateway.service import serve as gateway_serve
from controlplane.monitoring.service import serve as monitoring_serve
from events import messages as m
from events import subjects
from events.bus import Bus
from events.ledger import Ledger, Write
from tests.support.archiving import TEAM, a_config, a_life, an_id, write_lives
from tests.support.monitoring import answering, eventually
from tests.support.nats import NatsServer
from tests.support.serving import serving

REPLAY_S = 60.0


@pytest.fixture
async def http(nats: NatsServer, bus: Bus, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Two jobs in the archive, and one in the ledger that has not ended."""
    config = a_config(
        tmp_path / "state", nats_url=nats.url, nats_user=nats.user, nats_password=nats.password, remember_s=600.0
    )
    lives = {an_id(number): a_life(number, submitted_at=time.time()) for number in range(2)}
    lives[an_id(7)] = a_life(7)[:3]
    async with (
        serving(gateway_serve, nats, config, blobs=tmp_path / "blobs", instance="gateway"),
        serving(monitoring_serve, nats, config, blobs=tmp_path / "blobs", instance="monitoring"),
    ):
        joined = m.NodeJoined(boot="b", capacity=m.Capacity(cpus=4, memory_bytes=2**33))
        await Ledger(bus, source="test").append(Write(subjects.node("n1"), joined, 0))
        await write_lives(bus, lives)

        async def archived() -> bool:
            return (await answering(bus))["archived"] == 2

        await eventually(archived)
        url = json.loads((tmp_path / "state" / "gateway.json").read_text())["url"]
        async with httpx.AsyncClient(base_url=url, headers={"authorization": "Bearer ops"}, timeout=REPLAY_S) as found:
            yield found


async def asked(http: httpx.AsyncClient, policy: str = "") -> list[dict[str, Any]]:
    """What the events say, the `end` as the last one."""
    query = {"since_s": 3600.0, "policy": policy, "origin": "other.toml"}
    async with http.stream("GET", "/v1/admin/whatif", params=query) as answer:
        assert answer.status_code == 200
        return [json.loads(line.removeprefix("data: ")) async for line in answer.aiter_lines() if "data: " in line]


async def test_the_recorded_jobs_are_replayed_and_told_by_team(http: httpx.AsyncClient) -> None:
    together, team, end = await asked(http, f'[queues."{TEAM}/default"]\npolicy = "sjf"')
    assert end == {"archived": 2, "warning": "", "error": ""}
    assert (together["team"], team["team"]) == ("", TEAM)
    assert team["recorded"]["jobs"] == 2
    assert team["policy"]["jobs"] == 2  # the one that runs still is in the way, and does not count


async def test_what_the_ledger_does_not_know_is_told_at_the_end(http: httpx.AsyncClient) -> None:
    assert await asked(http, "[nodes]\nmore = {n9 = 1}") == [
        {
            "archived": 0,
            "warning": "",
            "error": "other.toml: nodes.more: no n9 in the ledger; there are n1",
        }
    ]


async def test_a_mistake_in_the_policy_and_a_stranger_are_refused(http: httpx.AsyncClient) -> None:
    refused = await http.get("/v1/admin/whatif", params={"policy": "[queue]", "origin": "other.toml"})
    assert refused.status_code == 422
    assert refused.json()["error"]["message"].startswith("other.toml: no such key: queue")
    stranger = await http.get("/v1/admin/whatif", headers={"authorization": "Bearer ada"})
    assert stranger.status_code == 403
