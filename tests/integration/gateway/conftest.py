"""A gateway over HTTP, on real NATS and the real door."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from controlplane.config import Configuration, Identity
from controlplane.frame import Tools
from controlplane.gateway import service as gateway_service
from controlplane.submission import service as submission_service
from events import messages as m
from events import subjects
from events.bus import Asked
from events.ledger import Write
from tests.support.nats import NatsServer
from tests.support.serving import serving
from tests.support.submitting import CONFIG

SUBMIT: dict[str, Any] = {"entrypoint": ["python", "train.py"], "name": "train"}
WAIT_S = 20.0


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def configuration(state: Path) -> Configuration:
    return msgspec.structs.replace(
        CONFIG,
        state=str(state),
        gateway_port=0,
        nats_password="hush",
        tokens={
            sha("ada-token"): Identity(team="vision", user="ada"),
            sha("bob-token"): Identity(team="speech", user="bob"),
            sha("ops-token"): Identity(team="vision", user="ops", operator=True),
            sha("prometheus-token"): Identity(team="vision", user="prometheus", scrapes=True),
        },
    )


class Stage(NamedTuple):
    """A gateway with its door behind it, and clients of two teams and of an operator."""

    tools: Tools
    url: str
    ada: httpx.AsyncClient
    bob: httpx.AsyncClient
    ops: httpx.AsyncClient

    async def submit(self, **fields: Any) -> str:
        answer = await self.ada.post("/v1/jobs", json=SUBMIT | fields)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job"])

    async def fact(self, job: str, fact: m.JobFact) -> None:
        """What scheduling would write."""
        subject = subjects.job("vision", job)
        last = await self.tools.ledger.last(subject)
        await self.tools.ledger.append(Write(subject, fact, last.sequence if last else 0))

    async def answers(self, service: str, question: str, answer: object) -> None:
        async def handler(_: Asked) -> bytes:
            return msgspec.json.encode(answer)

        await self.tools.bus.answer(subjects.ask(service, question), handler)


@pytest.fixture
async def stage(nats: NatsServer, tmp_path: Path) -> AsyncIterator[Stage]:
    async with a_stage(nats, tmp_path) as stage:
        yield stage


@asynccontextmanager
async def a_stage(nats: NatsServer, folder: Path, **settings: Any) -> AsyncIterator[Stage]:
    """A stage while inside, with settings other than the usual."""
    config = msgspec.structs.replace(configuration(folder / "state"), **settings)
    blobs = folder / "blobs"
    async with (
        serving(submission_service.serve, nats, config, blobs=blobs, instance="door"),
        serving(gateway_service.serve, nats, config, blobs=blobs, instance="gateway") as tools,
    ):
        url = json.loads((folder / "state" / "gateway.json").read_text())["url"]
        async with client(url, "ada-token") as ada, client(url, "bob-token") as bob, client(url, "ops-token") as ops:
            yield Stage(tools, url, ada, bob, ops)


def client(url: str, token: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=WAIT_S)


def error(response: httpx.Response) -> dict[str, Any]:
    """The one form of a failure."""
    told: dict[str, Any] = response.json()["error"]
    assert set(told) == {"message", "hint", "problems"}
    assert told["message"]
    assert "Traceback" not in response.text
    return told
