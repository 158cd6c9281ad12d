"""`examples/submit/`: each example is run as it stands, submits a job, and reads its answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from controlplane.config import Configuration, Identity, Team
from controlplane.frame import Tools
from controlplane.gateway import service as gateway_service
from controlplane.submission import service as submission_service
from events import messages as m
from events import subjects
from events.identity import job_id
from tests.support.nats import NatsServer
from tests.support.serving import serving

EXAMPLES = Path(__file__).parents[3] / "examples" / "submit"
TOKEN = "example-token"
RUN_S = 60.0
INSTALL_S = 180.0


@pytest.fixture
async def stack(nats: NatsServer, tmp_path: Path) -> AsyncIterator[tuple[Tools, dict[str, str]]]:
    """The door and the gateway, and the environment variables that the examples read."""
    config = Configuration(
        state=str(tmp_path / "state"),
        gateway_port=0,
        teams={"default": Team()},
        tokens={hashlib.sha256(TOKEN.encode()).hexdigest(): Identity(team="default", user="me")},
    )
    blobs = tmp_path / "blobs"
    async with (
        serving(submission_service.serve, nats, config, blobs=blobs, instance="door"),
        serving(gateway_service.serve, nats, config, blobs=blobs, instance="gateway") as tools,
    ):
        announced = (Path(config.state) / "gateway.json").read_text()
        yield (
            tools,
            {
                "HEADRACE_URL": json.loads(announced)["url"],
                "HEADRACE_TOKEN": TOKEN,
                "HEADRACE_NATS_URL": nats.url,
                "HEADRACE_NATS_USER": nats.user,
                "HEADRACE_NATS_PASSWORD": nats.password,
            },
        )


async def test_plain_python_asks_for_a_job(stack: tuple[Tools, dict[str, str]]) -> None:
    await _submits_twice(stack, [sys.executable, str(EXAMPLES / "submit.py")])


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_submits_to_the_gateway(stack: tuple[Tools, dict[str, str]]) -> None:
    await _submits_twice(stack, ["sh", str(EXAMPLES / "submit.sh")])


@pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="Node or its package manager is not installed"
)
async def test_node_publishes_and_hears_the_answer(stack: tuple[Tools, dict[str, str]], tmp_path: Path) -> None:
    copy = tmp_path / "node"
    shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    code, _, said = await _run(install, {}, cwd=copy, limit_s=INSTALL_S)
    if code != 0:
        pytest.skip(f"npm cannot install here: {said.strip().splitlines()[-1:]}")
    await _submits_twice(stack, ["node", str(copy / "submit.mjs")])


def test_the_stack_file_becomes_the_environment_of_the_examples(tmp_path: Path) -> None:
    keys = ("url", "token", "nats", "nats_user", "nats_password")
    (tmp_path / "stack.json").write_text(json.dumps({key: f"a '{key}'" for key in keys}))
    lines = subprocess.run(
        [sys.executable, str(EXAMPLES / "stack_environment.py")],
        env={"HEADRACE_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=RUN_S,
    ).stdout.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("export HEADRACE_URL=")


async def _submits_twice(stack: tuple[Tools, dict[str, str]], command: Sequence[str]) -> None:
    """A job, and again with the same id: the same job."""
    tools, environment = stack
    job = job_id(team="default", user="me", client_id="one")
    for verdict in ("accepted", "repeated"):
        code, out, said = await _run(command, environment | {"JOB_ID": "one"}, limit_s=RUN_S)
        assert code == 0, said
        answer = msgspec.json.decode(out.strip(), type=m.Answer)
        assert (answer.verdict, answer.job) == (verdict, job)
    entry = await tools.ledger.last(subjects.job("default", job))
    assert entry is not None
    assert entry.sequence == answer.sequence


async def _run(
    command: Sequence[str], environment: dict[str, str], *, limit_s: float, cwd: Path | None = None
) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=os.environ | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(limit_s):
            out, said = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    return process.returncode or 0, out.decode(), said.decode()
