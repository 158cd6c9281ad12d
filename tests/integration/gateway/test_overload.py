"""Who floods the gateway, says nothing, or stops in the middle gets an answer or is let go; others are served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane import http
from controlplane.submission import room
from controlplane.submission import service as submission_service
from events import streams, subjects
from events.bus import Outgoing
from tests.integration.gateway.conftest import SUBMIT, WAIT_S, Stage, a_stage, error
from tests.support.monitoring import eventually
from tests.support.nats import NatsServer

HEAD = b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ada-token\r\ncontent-length: 1000\r\n\r\n{"


@asynccontextmanager
async def connected(stage: Stage, said: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """A client that says this, and nothing more."""
    host, port = stage.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(said)
    try:
        yield reader
    finally:
        writer.close()


async def status_of(reader: asyncio.StreamReader) -> tuple[int, str]:
    """Status, and all of an answer; the status is 0 if the connection was closed without one."""
    async with asyncio.timeout(WAIT_S):
        answer = (await reader.read()).decode()
    return (int(answer.split()[1]) if answer else 0), answer


@pytest.mark.parametrize("said", [b"", b"G", b"GET /v1/jobs HTTP/1.1\r\nhost: x\r\n"], ids=["nothing", "a", "half"])
async def test_a_client_that_does_not_ask_is_let_go(stage: Stage, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(http, "HEAD_S", 0.2)
    async with connected(stage, said) as reader:
        assert await status_of(reader) == (0, "")


async def test_a_client_that_stops_after_an_answer_in_the_next_head_is_let_go(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "HEAD_S", 0.2)
    async with connected(stage, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /hea") as reader:
        status, answer = await status_of(reader)
    assert (status, answer.count("HTTP/1.1")) == (200, 1)


async def test_a_body_that_stops_is_answered(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_S", 0.2)
    async with connected(stage, HEAD) as reader:
        status, answer = await status_of(reader)
    assert status == 408
    assert "the body stopped" in answer


async def test_a_client_that_goes_away_in_the_middle_of_its_body_is_no_failure_of_ours(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(stage, HEAD):
        assert (await stage.ada.get("/v1/jobs")).status_code == 200
    assert (await stage.ada.get("/v1/jobs")).status_code == 200
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


async def test_connections_beyond_the_limit_are_told_when_to_come_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 2)
    async with connected(stage, b"G"), connected(stage, b"G"):
        for _ in range(3):
            async with connected(stage, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n") as reader:
                status, answer = await status_of(reader)
            assert status == 503
            assert "\r\nretry-after: 2\r\n" in answer
            assert json.loads(answer.partition("\r\n\r\n")[2])["error"]["hint"] == "try again in 2 s"


async def test_requests_beyond_the_places_are_told_when_to_come_back_and_places_are_given_back() -> None:
    inside, go = asyncio.Event(), asyncio.Event()
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        inside.set()
        await go.wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope: Any = {"type": "http", "method": "GET"}
    bounded = http.Bounded(app, places=1)
    first = asyncio.ensure_future(bounded(scope, receive, send))
    await inside.wait()
    await bounded(scope, receive, send)
    assert (sent[0]["status"], bounded.counts["unavailable"]) == (503, 1)
    go.set()
    await first
    await bounded(scope, receive, send)
    assert bounded.counts["unavailable"] == 1


async def test_a_request_that_is_cut_off_by_the_end_of_the_server_is_told_to_come_again() -> None:
    sent: list[dict[str, Any]] = []
    begins: list[bool] = []
    inside = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        inside.set()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    bounded = http.Bounded(app)
    cut = asyncio.ensure_future(bounded({"type": "http", "method": "GET"}, receive, send))  # type: ignore[arg-type]
    await inside.wait()
    cut.cancel()  # as uvicorn does when its `timeout_graceful_shutdown` is over
    await cut
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"retry-after"]) == (503, b"2")
    assert "ends" in json.loads(sent[1]["body"])["error"]["message"]
    assert bounded.counts == {"refused": 0, "unavailable": 1, "failed": 0}
    begins.append(True)
    inside.clear()
    stream = asyncio.ensure_future(bounded({"type": "http", "method": "GET"}, receive, send))  # type: ignore[arg-type]
    await inside.wait()
    stream.cancel()  # its head is sent already: the end of the connection says it
    with pytest.raises(asyncio.CancelledError):
        await stream
    assert len(sent) == 3


# -- a full store ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def narrow(nats: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """A gateway and a door over a ledger of two MiB."""
    monkeypatch.setattr(room, "LOOK_S", 0.0)
    monkeypatch.setattr(submission_service, "FULL_S", 0.2)
    small = {f"{name}_bytes_max": 2 * 1024**2 for name in ("ledger", "requests")}
    async with a_stage(nats, tmp_path, **small) as stage:
        yield stage


async def fill(stage: Stage, share: float) -> list[str]:
    """Submit until so much of the ledger is taken; gives the jobs."""
    jobs = []
    while True:
        used = await stage.tools.bus.usage("LEDGER")
        if used.bytes >= share * used.bytes_max:
            return jobs
        jobs.append(await stage.submit(env={"A": "x" * 30_000}))


async def test_a_ledger_that_is_nearly_full_takes_no_new_jobs_but_what_becomes_of_old_ones(narrow: Stage) -> None:
    jobs = await fill(narrow, room.SHARE_MAX)
    refused = await narrow.ada.post("/v1/jobs", json=SUBMIT | {"id": "late"})
    assert refused.status_code == 503
    assert "ledger is 9" in error(refused)["message"]
    assert int(refused.headers["retry-after"]) >= 1
    assert (await narrow.ada.post(f"/v1/jobs/{jobs[0]}/cancel", json={})).json()["verdict"] == "applied"
    listed = (await narrow.ada.get("/v1/jobs?limit=500")).json()["jobs"]
    assert {job["job"] for job in listed} == set(jobs)

    larger = msgspec.structs.replace(streams.LEDGER, bytes_max=4 * 1024**2)
    await narrow.tools.bus.ensure(larger)
    assert (await narrow.ada.post("/v1/jobs", json=SUBMIT | {"id": "late"})).status_code == 201


async def test_a_repeat_is_answered_however_full_the_ledger_is(narrow: Stage) -> None:
    assert (await narrow.ada.post("/v1/jobs", json=SUBMIT | {"id": "early"})).status_code == 201
    await fill(narrow, room.SHARE_MAX)
    again = await narrow.ada.post("/v1/jobs", json=SUBMIT | {"id": "early"})
    assert (again.status_code, again.json()["verdict"]) == (200, "repeated")


async def test_an_acknowledged_submit_waits_in_its_stream_until_there_is_room(narrow: Stage) -> None:
    await fill(narrow, room.SHARE_MAX)
    message = Outgoing(subjects.submit("vision", "ada"), json.dumps(SUBMIT | {"name": "waits"}).encode(), {})
    await narrow.tools.bus.publish(message)
    door = subjects.ask("submission", "status")

    async def put_off() -> bool:
        return bool(msgspec.json.decode(await narrow.tools.bus.ask(door))["put_off"])

    await eventually(put_off)
    assert (await narrow.ada.get("/v1/jobs/waits")).status_code == 404
    await narrow.tools.bus.ensure(msgspec.structs.replace(streams.LEDGER, bytes_max=4 * 1024**2))

    async def is_there() -> bool:
        return (await narrow.ada.get("/v1/jobs/waits")).status_code == 200

    await eventually(is_there)


async def test_a_ledger_that_is_full_to_the_brim_is_told_with_a_time_to_come_back(
    narrow: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await fill(narrow, room.SHARE_MAX)
    used = await narrow.tools.bus.usage("LEDGER")
    await narrow.tools.bus.ensure(msgspec.structs.replace(streams.LEDGER, bytes_max=used.bytes))
    refused = await narrow.ada.post(f"/v1/jobs/{jobs[0]}/hold", json={})
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 1
    assert "Traceback" not in refused.text
