"""No input makes a service exit, answer 500 or log a failure of its own: by hand, over the wire, against all."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import httpx
import msgspec
import pytest

from controlplane.config import Identity
from controlplane.environments import service as environments
from controlplane.gateway import service as gateway
from controlplane.monitoring import service as monitoring
from controlplane.scheduling import service as scheduling
from controlplane.submission import service as submission
from events import messages as m
from events import otlp_token, subjects
from events.bus import AskRefused, Bus, NoAnswer, Outgoing
from load_tests.fuzzing.engine import mutated
from tests.support.log_lines import ABOUT, log_lines
from tests.support.malformed_others import CALLS, EXCHANGES, MESSAGES, PUSHES, QUESTIONS
from tests.support.monitoring import eventually
from tests.support.nats import NatsServer
from tests.support.serving import serving
from tests.support.submitting import CONFIG

ASKED = {
    "scheduling": ("why", "queue"),
    "environments": ("view", "log"),
    "monitoring": ("series", "latest", "log"),
}
SERVICES = (submission, scheduling, environments, monitoring, gateway)
REF = m.AttemptRef(team="vision", job="j-abcdefghij23", attempt=1)
SUBMIT = {"entrypoint": ["python", "train.py"]}

JOB = "j-abcdefghij23"
GENERATIONS = 40
GENERATED = {
    subjects.ask("scheduling", "why"): msgspec.json.encode(m.AskJob(team="vision", job=JOB)),
    subjects.ask("scheduling", "queue"): msgspec.json.encode(m.AskQueue(team="vision", limit=3, after=1)),
    subjects.ask("environments", "view"): msgspec.json.encode(m.AskEnvironment(environment="sha256:" + "0" * 64)),
    subjects.ask("monitoring", "series"): msgspec.json.encode(m.AskSeries(team="vision", job=JOB, step_from=3)),
    subjects.ask("monitoring", "latest"): msgspec.json.encode(m.AskLatest(team="vision", jobs=(JOB,))),
    subjects.ask("monitoring", "log"): msgspec.json.encode(m.AskLog(team="vision", job=JOB, offset=-7)),
    subjects.ask("monitoring", "archived"): msgspec.json.encode(m.AskArchived(team="vision", find="train", limit=9)),
    subjects.ask("submission", "submit", "vision", "ada"): msgspec.json.encode(SUBMIT),
    subjects.ask("submission", "control", "vision", "ada", JOB): msgspec.json.encode(m.Reprioritise(priority=3)),
    subjects.ask("submission", "configure", "ops", "queue", "vision", "night"): msgspec.json.encode(
        m.SetQueue(weight=2.0, gpus_max=None, tiers=("cpu",), policy="sjf")
    ),
    subjects.ask("submission", "configure", "ops", "queue", "vision", "new"): msgspec.json.encode(m.CreateQueue()),
    subjects.ask("submission", "configure", "ops", "team", "vision"): msgspec.json.encode(m.SetTeam(guaranteed_gpus=1)),
    subjects.exchange("n1"): msgspec.json.encode(
        m.Exchange(node="n1", boot="b", runner="r", capacity=m.Capacity(cpus=8, memory_bytes=2**33))
    ),
}
BODIES = {
    ("PATCH", "/v1/queues/vision/night"): b'{"weight": 2, "tiers": ["cpu"], "guard": null}',
    ("PUT", "/v1/teams/vision"): b'{"weight": 2, "gpus_max": 3}',
    ("POST", "/v1/jobs"): b'{"entrypoint": ["true"], "name": "train", "labels": {"a": "b"}}',
    ("POST", "/v1/blobs/missing"): b'{"digests": ["sha256:%s"]}' % (b"0" * 64),
}


class Stage(NamedTuple):
    bus: Bus
    http: httpx.AsyncClient
    otlp: httpx.AsyncClient


@pytest.fixture
async def stage(nats: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Stage]:
    """All services, each on a connection of its own. At the end all of them live, and none has logged a failure."""
    config = msgspec.structs.replace(
        CONFIG,
        state=str(tmp_path / "state"),
        gateway_port=0,
        otlp_port=0,
        otlp_secret="secret",
        tokens={hashlib.sha256(b"ops").hexdigest(): Identity(team="vision", user="ops", operator=True)},
    )
    async with AsyncExitStack() as stack:
        for service in SERVICES:
            name = service.__name__.split(".")[1]
            tools = await stack.enter_async_context(
                serving(service.serve, nats, config, blobs=tmp_path / "blobs", instance=name)
            )
        url = json.loads((tmp_path / "state" / "gateway.json").read_text())["url"]
        otlp = (await eventually(lambda: status(tools.bus)))["otlp"]
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=url, headers={"authorization": "Bearer ops"}, timeout=20)
        )
        token = otlp_token.mint(b"secret", REF)
        pushing = await stack.enter_async_context(
            httpx.AsyncClient(base_url=otlp, headers={"authorization": f"Bearer {token}"}, timeout=20)
        )
        await eventually(lambda: leads(tools.bus))
        with log_lines() as lines:
            yield Stage(tools.bus, http, pushing)
        assert [line for line in lines if not ABOUT & line.keys()] == []
        for service in (*ASKED, "submission"):
            assert await tools.bus.ask(subjects.ask(service, "status"))
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


async def status(bus: Bus) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(await bus.ask(subjects.ask("monitoring", "status")))
    except NoAnswer:
        return {}
    return found


async def leads(bus: Bus) -> bool:
    try:
        return bool(await bus.ask(subjects.ask("scheduling", "nodes")))
    except NoAnswer:
        return False


async def refused(bus: Bus, subject: str, body: bytes) -> m.Refusal | None:
    """How a question was refused; None if it was answered."""
    try:
        await bus.ask(subject, body, timeout_s=10)
    except AskRefused as error:
        return error.refusal
    return None


async def test_every_malformed_node_report_is_refused_with_the_reason(stage: Stage) -> None:
    wrong = []
    for bad in EXCHANGES:
        refusal = await refused(stage.bus, subjects.exchange("n1"), bad.body)
        is_right = refusal and 400 <= refusal.status < 500 and bad.said.lower() in refusal.message.lower()
        wrong += [] if is_right else [(bad.what, refusal)]
    assert wrong == []


async def test_every_malformed_question_is_refused_or_answered_but_never_a_failure(stage: Stage) -> None:
    for service, questions in ASKED.items():
        for question in questions:
            for bad in QUESTIONS:
                refusal = await refused(stage.bus, subjects.ask(service, question), bad.body)
                assert refusal is None or 400 <= refusal.status < 500, (service, question, bad.what, refusal)


async def test_every_generated_question_and_body_is_refused_or_answered_but_never_a_failure(stage: Stage) -> None:
    chance = random.Random(7)
    for subject, seed in GENERATED.items():
        for _ in range(GENERATIONS):
            body = mutated(chance, seed)
            refusal = await refused(stage.bus, subject, body)
            assert refusal is None or (400 <= refusal.status < 500 and refusal.message), (subject, body, refusal)
    for (method, path), seed in BODIES.items():
        for _ in range(GENERATIONS):
            body = mutated(chance, seed)
            answer = await stage.http.request(method, path, content=body)
            assert answer.status_code < 500, (path, body, answer.text)
            assert answer.status_code < 400 or answer.json()["error"]["message"], (path, body)


async def test_every_unreadable_message_becomes_a_dead_letter_with_the_reason(stage: Stage) -> None:
    for bad in MESSAGES:
        await stage.bus.publish(Outgoing(bad.subject, bad.body, bad.headers))

    async def buried() -> bool:
        return (await stage.bus.usage("DEAD")).messages == len(MESSAGES)

    await eventually(buried)
    letters = (await stage.http.get("/v1/admin/dead")).json()["letters"]
    reasons = {(letter["stream"], letter["subject"], letter["sequence"]): letter["reason"] for letter in letters}
    for bad in MESSAGES:
        said = [reason for (_, subject, _), reason in reasons.items() if subject == bad.subject]
        assert any(bad.said.lower() in reason.lower() for reason in said), (bad.what, said)


async def test_every_malformed_push_is_answered_with_its_status(stage: Stage) -> None:
    for what, headers, body, expected in PUSHES:
        answer = await stage.otlp.post(
            "/v1/metrics", content=body, headers={"content-type": "application/x-protobuf"} | headers
        )
        assert answer.status_code == expected, (what, answer.status_code, answer.content)


async def test_every_malformed_call_is_answered_with_its_status_in_the_one_form(stage: Stage) -> None:
    job = (await stage.http.post("/v1/jobs", json=SUBMIT)).json()["job"]
    wrong = []
    for method, path, headers, body, expected in CALLS:
        answer = await stage.http.request(method, path.replace("JOB", quote(job)), headers=headers, content=body)
        is_right = answer.status_code == expected and answer.json()["error"]["message"]
        wrong += [] if is_right else [(method, path[:60], body[:40], answer.status_code, answer.text[:200])]
    assert wrong == []


async def test_bytes_that_are_no_http_are_answered_or_cut_off(stage: Stage) -> None:
    host, port = str(stage.http.base_url).removeprefix("http://").rstrip("/").split(":")
    for said in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\x00" * 1000 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ops\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(said)
        writer.write_eof()
        async with asyncio.timeout(20):
            answer = await reader.read()
        writer.close()
        assert b" 500 " not in answer[:20], (said[:60], answer[:200])
    assert (await stage.http.get("/healthz")).status_code == 200
