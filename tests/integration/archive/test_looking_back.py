"""What a user finds of jobs that have left the ledger, over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from controlplane.config import Configuration
from controlplane.gateway.service import serve as gateway_serve
from controlplane.monitoring.service import serve as monitoring_serve
from events import messages as m
from events import streams
from events.bus import Bus
from tests.support.archiving import a_config, a_life, a_specification, an_id, write_lives
from tests.support.monitoring import answering, eventually
from tests.support.nats import NatsServer
from tests.support.serving import serving

NUMBERS = range(6)


class Place(NamedTuple):
    config: Configuration
    nats: NatsServer
    bus: Bus
    folder: Path
    http: httpx.AsyncClient

    async def get(self, path: str, **query: Any) -> Any:
        return (await self.http.get(path, params=query)).json()

    def archiving(self) -> Any:
        return serving(monitoring_serve, self.nats, self.config, blobs=self.folder / "blobs", instance="archive")

    async def archived(self, count: int) -> None:
        async def gone() -> bool:
            return (await answering(self.bus))["archived"] == count

        await eventually(gone)
        last = await self.bus.last_sequence(streams.LEDGER.name)

        async def seen() -> bool:
            return (await self.get("/v1/status"))["services"]["gateway"]["followed_to"] >= last - 1

        await eventually(seen)


@pytest.fixture
async def place(nats: NatsServer, bus: Bus, tmp_path: Path) -> AsyncIterator[Place]:
    config = a_config(tmp_path / "state")
    async with serving(gateway_serve, nats, config, blobs=tmp_path / "blobs", instance="gateway"):
        url = json.loads((tmp_path / "state" / "gateway.json").read_text())["url"]
        async with httpx.AsyncClient(base_url=url, headers={"authorization": "Bearer ada"}, timeout=20) as http:
            yield Place(config, nats, bus, tmp_path, http)


async def test_an_archived_job_looks_as_it_did_before(place: Place) -> None:
    await write_lives(place.bus, {an_id(1): a_life(1, outcome="failed")})

    async def over() -> Any:
        view = await place.get(f"/v1/jobs/{an_id(1)}")
        return view if view.get("state") == "failed" else None

    before = await eventually(over)
    async with place.archiving():
        await place.archived(1)
        for text in (an_id(1), "train-1", an_id(1)[:6]):
            assert await place.get(f"/v1/jobs/{text}") == before
        why = await place.get("/v1/jobs/train-1/why")
        assert (why["state"], why["summary"]) == ("failed", "exit code 1")
        unknown = await place.http.get("/v1/jobs/no-such")
        assert unknown.status_code == 404


async def test_a_list_goes_on_into_the_archive_and_page_by_page_gives_every_job_once(place: Place) -> None:
    lives: dict[str, list[m.JobFact]] = {an_id(number): a_life(number) for number in NUMBERS}
    lives[an_id(10)] = [m.Accepted(specification=a_specification(10))]
    lives[an_id(11)] = [m.Accepted(specification=a_specification(11, user="eve"))]
    await write_lives(place.bus, lives)
    expected = [an_id(11), an_id(10), *(an_id(number) for number in reversed(NUMBERS))]
    async with place.archiving():
        await place.archived(len(NUMBERS))
        for limit in (1, 2, 3, 8, 50):
            assert await _all(place, limit=limit) == expected
        assert await _all(place, limit=2, state="ended") == expected[2:]
        assert await _all(place, limit=2, state="active") == expected[:2]
        assert await _all(place, limit=2, state="failed") == []
        assert await _all(place, limit=2, user="ada") == expected[1:]
        assert await _all(place, limit=4, since=1003.0) == expected[:5]


async def test_without_an_archive_that_answers_a_list_says_what_is_missing(place: Place) -> None:
    await write_lives(place.bus, {an_id(1): a_life(1), an_id(2): [m.Accepted(specification=a_specification(2))]})
    async with place.archiving():
        await place.archived(1)
    page = await place.get("/v1/jobs")
    assert [each["job"] for each in page["jobs"]] == [an_id(2)]
    assert page["missing"]
    silent = await place.http.get(f"/v1/jobs/{an_id(1)}")
    assert (silent.status_code, "archive" in silent.json()["error"]["message"]) == (503, True)


async def test_a_list_skips_and_repeats_nothing_though_its_jobs_are_archived_between_two_pages(place: Place) -> None:
    lives: dict[str, list[m.JobFact]] = {an_id(number): a_life(number) for number in NUMBERS}
    lives[an_id(2)] = [m.Accepted(specification=a_specification(2))]
    await write_lives(place.bus, lives)
    expected = [an_id(number) for number in reversed(NUMBERS)]

    async def first() -> Any:
        page = await place.get("/v1/jobs", limit=2)
        return page if len(page["jobs"]) == 2 and page["jobs"][0]["state"] == "succeeded" else None

    page = await eventually(first)
    async with place.archiving():
        await place.archived(len(NUMBERS) - 1)
        assert [each["job"] for each in page["jobs"]] == expected[:2]
        assert await _all(place, limit=2, after=page["next"]) == expected[2:]
        assert await _all(place, limit=2, after=expected[1]) == expected[2:]
        assert (await place.http.get("/v1/jobs", params={"after": "no-such"})).status_code == 404


async def _all(place: Place, after: str = "", **query: Any) -> list[str]:
    """Every page, put together."""
    found: list[str] = []
    while True:
        page = await place.get("/v1/jobs", after=after, **query)
        assert not {each["job"] for each in page["jobs"]} & set(found)
        found += [each["job"] for each in page["jobs"]]
        assert not page["missing"]
        after = page["next"]
        if not after:
            return found
