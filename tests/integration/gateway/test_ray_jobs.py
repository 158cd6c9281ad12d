"""Ray's own client against a gateway: on real NATS and the real door; other services answer from a script."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from controlplane import http
from controlplane.gateway import app
from controlplane.gateway.projection import Projection
from controlplane.gateway.ray_jobs import jobs, mapping
from events import messages as m
from events import subjects
from events.bus import Asked
from events.identity import digest, job_id
from events.ledger import Entry
from runtime.materialise import manifest
from tests.integration.gateway.conftest import WAIT_S, Stage, a_stage, client
from tests.support.nats import NatsServer

PLACED = m.Placed(term=1, attempt=1, allocations=(m.Allocation(node="n1", cpus=1, memory_bytes=1),))
UPGRADE = {
    "upgrade": "websocket",
    "connection": "upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}
FAILED = m.Finished(
    term=1,
    attempt=1,
    outcome="failed",
    reason="exit code 7",
    end=m.AttemptEnd(cause="exited", started_at=5.0, ended_at=9.0, exit_code=7),
)


class Ray:
    """The client of Ray, which blocks, beside a loop that runs the gateway."""

    def __init__(self, url: str, token: str) -> None:
        self._client = JobSubmissionClient(url, headers={"Authorization": f"Bearer {token}"})

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*words: Any, **fields: Any) -> Any:
            return await asyncio.to_thread(getattr(self._client, name), *words, **fields)

        return call

    async def tail(self, job: str) -> str:
        return "".join([lines async for lines in self._client.tail_job_logs(job)])

    async def refused(self, name: str, *words: Any, **fields: Any) -> tuple[int, str]:
        """The status and the text of a call that fails."""
        with pytest.raises(RuntimeError) as refusal:
            await getattr(self, name)(*words, **fields)
        match = re.fullmatch(r"(?s)Request failed with status code (\d+): (.*)\.", str(refusal.value))
        assert match, refusal.value
        assert "Traceback" not in match[2]
        return int(match[1]), match[2]


async def ray(stage: Stage, token: str = "ada-token") -> Ray:
    return await asyncio.to_thread(Ray, stage.url, token)


async def cli(stage: Stage, *words: str, token: str = "ada-token", **environ: str) -> subprocess.CompletedProcess[str]:
    """`ray job …` as a user calls it."""
    headers = json.dumps({"Authorization": f"Bearer {token}"})
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "ray.scripts.scripts", "job", *words],
        env={**os.environ, "RAY_ADDRESS": stage.url, "RAY_JOB_HEADERS": headers, **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def a_folder(tmp_path: Path, **files: str) -> str:
    folder = tmp_path / "code"
    folder.mkdir()
    for name, content in ({"train": "print('hi')\n"} | files).items():
        (folder / f"{name}.py").write_text(content)
    return str(folder)


class Output:
    """What a job writes, as monitoring would tell."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.stdout, self.stderr, self.is_whole = b"", b"", False

    async def listen(self) -> Output:
        await self._stage.tools.bus.answer(subjects.ask("monitoring", "log"), self._on_log)
        return self

    async def more(self, job: str, *, stdout: bytes = b"", stderr: bytes = b"", whole: bool = False) -> None:
        self.stdout, self.stderr, self.is_whole = self.stdout + stdout, self.stderr + stderr, whole
        await self._stage.tools.bus.send(subjects.live("vision", job), b"{}")

    async def _on_log(self, asked: Asked) -> bytes:
        ask = msgspec.json.decode(asked.body, type=m.AskLog)
        whole: bytes = getattr(self, ask.stream)
        offset = ask.offset if ask.offset >= 0 else max(0, len(whole) + ask.offset)
        return msgspec.json.encode(
            m.LogAnswer(
                attempt=ask.attempt,
                stream=ask.stream,
                offset=offset,
                data=whole[offset : offset + ask.bytes_max],
                size_bytes=len(whole),
                complete=self.is_whole,
            )
        )


# -- submitting, looking, stopping, deleting ---------------------------------------------------------------------------


async def test_a_job_of_rays_client_is_a_job_like_any_other(stage: Stage, tmp_path: Path) -> None:
    ada = await ray(stage)
    name = await ada.submit_job(
        entrypoint="python train.py | tee out",
        runtime_env={"working_dir": a_folder(tmp_path), "env_vars": {"KEY": "hush"}, "pip": ["numpy>=2"]},
        metadata={"owner": "x" * 1000, "headrace.queue": "night"},
        entrypoint_num_gpus=1,
    )
    assert re.fullmatch(r"raysubmit_[A-Za-z0-9]{16}", name)
    view = (await stage.ada.get(f"/v1/jobs/{name}")).json()
    assert (view["name"], view["user"], view["tier"], view["queue"]) == (name, "ada", "gpu1", "night")
    assert view["entrypoint"] == ["/bin/sh", "-c", mapping.BEFORE + "python train.py | tee out"]
    assert view["environment"]["state"] == "wanted"
    described = manifest.read(await stage.tools.blobs.get(view["source"]))
    assert [file.path for file in described.files] == ["train.py"]
    told: JobDetails = await ada.get_job_info(name)
    assert (told.status, told.job_id, told.submission_id) == (JobStatus.PENDING, view["job"], name)
    assert told.metadata == {"owner": "x" * 1000, "headrace.queue": "night"}
    assert told.entrypoint == "python train.py | tee out"
    assert told.runtime_env is not None
    assert told.runtime_env["env_vars"] == {"KEY": "********"}
    assert told.runtime_env["pip"]["packages"] == ["numpy>=2"]
    assert (await ada.get_job_info(view["job"])) == told


async def test_a_job_that_waits_says_why_in_the_list_too(stage: Stage) -> None:
    ada = await ray(stage)
    name = await ada.submit_job(entrypoint="true")
    job = (await ada.get_job_info(name)).job_id
    await stage.answers("scheduling", "why", m.Why(job=job, state="queued", summary="2 GPUs are free, it needs 8"))
    seen = m.QueuedView(
        place=1, queue="default", job=job, name=name, user="ada", tier="cpu", queued_at=1.0, why="behind another"
    )
    await stage.answers("scheduling", "queue", m.QueuePage(jobs=(seen,), waiting=1))
    assert (await ada.get_job_info(name)).message == "2 GPUs are free, it needs 8"
    assert [(told.submission_id, told.message) for told in await ada.list_jobs()] == [(name, "behind another")]


async def test_a_job_goes_through_the_states_of_ray(stage: Stage) -> None:
    ada = await ray(stage)
    name = await ada.submit_job(entrypoint="exit 7")
    job = (await ada.get_job_info(name)).job_id
    for fact, status in (
        (PLACED, "RUNNING"),
        (m.Started(term=1, attempt=1, started_at=5.0), "RUNNING"),
        (FAILED, "FAILED"),
    ):
        await stage.fact(job, fact)
        told = await ada.get_job_info(name)
        assert told.status == status
    assert (told.message, told.driver_exit_code, told.error_type) == ("exit code 7", 7, "JOB_ENTRYPOINT_COMMAND_ERROR")
    assert (told.start_time, told.end_time, told.driver_node_id) == (5000, 9000, "n1")
    assert await ada.stop_job(name) is False
    assert await ada.delete_job(name) is True
    assert await ada.refused("get_job_info", name) == (404, f"Job {name} does not exist")
    assert await ada.list_jobs() == []
    assert (await stage.ada.get(f"/v1/jobs/{job}")).json()["state"] == "failed"  # nothing is ever undone


async def test_a_gateway_that_lags_behind_says_no_job_is_alive_whose_end_is_in_the_ledger(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await ray(stage)
    name = await ada.submit_job(entrypoint="exit 7")
    job = (await ada.get_job_info(name)).job_id
    await stage.fact(job, PLACED)
    assert (await ada.get_job_info(name)).status == JobStatus.RUNNING
    taken_in = Projection.apply
    late: list[Any] = []
    monkeypatch.setattr(Projection, "apply", lambda self, entry: late.append((self, entry)))
    await stage.fact(job, FAILED)
    telling = asyncio.create_task(ada.get_job_info(name))
    await asyncio.sleep(0.3)
    assert not telling.done()
    monkeypatch.setattr(Projection, "apply", taken_in)
    for projection, entry in late:
        projection.apply(entry)
    assert (await telling).status == JobStatus.FAILED


async def test_a_job_is_stopped_once(stage: Stage) -> None:
    ada = await ray(stage)
    name = await ada.submit_job(entrypoint="true")
    assert await ada.stop_job(name) is True
    assert (await ada.get_job_info(name)).status == JobStatus.STOPPED
    assert await ada.stop_job(name) is False


async def test_a_live_job_is_not_deleted_and_an_id_is_not_used_twice(stage: Stage) -> None:
    ada = await ray(stage)
    assert await ada.submit_job(entrypoint="true", submission_id="mine") == "mine"
    deleting = "Attempted to delete job 'mine', but it is in a non-terminal state PENDING."
    assert await ada.refused("delete_job", "mine") == (500, deleting)
    again = "Job with submission_id mine already exists. Please use a different submission_id."
    assert await ada.refused("submit_job", entrypoint="false", submission_id="mine") == (500, again)
    counts = (await stage.ada.get("/v1/status")).json()["services"]["gateway"]
    assert (counts["failed"], counts["refused"]) == (0, 2)  # as Ray has it they are 500, but nothing of ours has failed


async def test_the_same_request_that_arrives_twice_is_one_job_and_no_refusal(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = jobs.Gateway.ask_surely

    async def twice(*words: Any) -> bytes:  # the first answer was lost
        await asked(*words)
        return await asked(*words)

    monkeypatch.setattr(jobs.Gateway, "ask_surely", twice)
    ada = await ray(stage)
    assert await ada.submit_job(entrypoint="true", submission_id="mine") == "mine"
    assert len(await ada.list_jobs()) == 1


async def test_an_id_whose_job_was_rejected_can_be_used_again(stage: Stage) -> None:
    ada = await ray(stage)
    for wrong in ("-r requirements.txt", "https://example.org/x.whl"):
        env = {"pip": ["numpy", wrong]}
        status, text = await ada.refused("submit_job", entrypoint="x", submission_id="mine", runtime_env=env)
        assert status == 400
        assert text.startswith(f"runtime_env.pip.packages[1]: `{wrong}` is no requirement; such as")
    assert await ada.submit_job(entrypoint="x", submission_id="mine") == "mine"
    assert (await ada.get_job_info("mine")).status == JobStatus.PENDING


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"entrypoint": " "}, "entrypoint: must not be empty; such as `python train.py`"),
        ({"runtime_env": {"conda": "x"}}, "runtime_env.conda: is not possible here; list packages from PyPI in"),
        ({"runtime_env": {"working_dir": "https://elsewhere.org/x.zip"}}, "runtime_env.working_dir: "),
        ({"entrypoint_num_gpus": 3}, "entrypoint_num_gpus: no tier has this; tiers of your team: cpu (0 GPUs, "),
        ({"metadata": {"headrace.tier": "gpu8"}}, "metadata.headrace.tier: "),
        ({"metadata": {"headrace.queue": "nowhere"}}, "metadata.headrace.queue: "),
        ({"runtime_env": {"env_vars": {"HEADRACE_JOB": "x"}}}, "runtime_env.env_vars.HEADRACE_JOB: "),
        ({"submission_id": "x" * 300}, "submission_id: "),
        ({"metadata": {"notes": "x" * 70_000}}, "metadata: 70"),
        ({"entrypoint_label_selector": {"gpu": ""}}, "entrypoint_label_selector.gpu: must name values"),
    ],
)
async def test_what_cannot_be_mapped_is_400_with_its_field(stage: Stage, fields: dict[str, Any], text: str) -> None:
    status, said = await (await ray(stage)).refused("submit_job", **{"entrypoint": "true"} | fields)
    assert status == 400
    assert said.startswith(text), said


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"entrypoint": {}}', b"[" * 100_000, b"x" * 600_000])
async def test_a_broken_body_is_refused_in_a_line_of_text(stage: Stage, body: bytes) -> None:
    answer = await stage.ada.post("/api/jobs/", content=body)
    assert answer.status_code == (413 if len(body) > 512 * 1024 else 400)
    assert answer.headers["content-type"].startswith("text/plain")
    assert "Traceback" not in answer.text
    assert len(answer.text.splitlines()) == 1


async def test_a_job_that_came_another_way_is_listed_by_its_own_id(stage: Stage) -> None:
    job = await stage.submit(labels={"a": "b"})
    (told,) = await (await ray(stage)).list_jobs()
    assert (told.submission_id, told.entrypoint, told.metadata) == (job, "python train.py", {"a": "b"})


# -- who may what ------------------------------------------------------------------------------------------------------


async def test_without_a_token_and_with_a_wrong_one_ray_says_what_it_always_says(stage: Stage) -> None:
    with pytest.raises(AuthenticationError, match="Authentication failed: Forbidden: Invalid authentication token"):
        await ray(stage, "wrong")
    with pytest.raises(AuthenticationError, match="Authentication required: Unauthorized: Missing"):
        await asyncio.to_thread(JobSubmissionClient, stage.url)
    async with client(stage.url, "") as nobody, client(stage.url, "wrong") as stranger:
        for method, path in (("GET", "/api/jobs/"), ("PUT", "/api/packages/gcs/_ray_pkg_00000000.zip")):
            assert (await nobody.request(method, path)).status_code == 401
            assert (await stranger.request(method, path)).status_code == 403


async def test_another_team_sees_nothing_of_a_job_and_may_use_its_id(stage: Stage) -> None:
    ada, bob = await ray(stage), await ray(stage, "bob-token")
    name = await ada.submit_job(entrypoint="true", submission_id="mine")
    for call in ("get_job_info", "stop_job", "delete_job", "get_job_logs"):
        assert await bob.refused(call, name) == (404, "Job mine does not exist")
    assert await bob.list_jobs() == []
    assert (await _upgrade(stage, "/api/jobs/mine/logs/tail", "bob-token"))[0] == 404
    assert await bob.submit_job(entrypoint="true", submission_id="mine") == "mine"


async def test_somebody_of_the_team_sees_a_job_and_cannot_take_its_id(stage: Stage) -> None:
    ada, ops = await ray(stage), await ray(stage, "ops-token")
    await ada.submit_job(entrypoint="true", submission_id="mine")
    assert (await ops.get_job_info("mine")).status == JobStatus.PENDING
    assert (await ops.refused("submit_job", entrypoint="true", submission_id="mine"))[0] == 500
    assert await ops.stop_job("mine") is True


# -- packages ----------------------------------------------------------------------------------------------------------

NAME = "_ray_pkg_0123456789abcdef.zip"
PLACE = f"/api/packages/gcs/{NAME}"


def a_zip(**files: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{name}.py", text)
    return content.getvalue()


async def test_a_package_is_its_senders_alone(stage: Stage) -> None:
    mine, theirs = a_zip(train="print('mine')"), a_zip(train="print('theirs')")
    assert (await stage.ada.get(PLACE)).text == f"Package gcs://{NAME} does not exist"
    sent = await stage.ada.put(PLACE, content=mine)
    assert sent.status_code == 200
    for neighbour in (stage.bob, stage.ops):  # of another team, and of the same
        assert (await neighbour.get(PLACE)).status_code == 404
        body = {"entrypoint": "true", "runtime_env": {"working_dir": f"gcs://{NAME}"}}
        answer = await neighbour.post("/api/jobs/", json=body)
        assert (answer.status_code, answer.text.partition(";")[0]) == (
            400,
            f"runtime_env.working_dir: there is no package {NAME} of yours",
        )
        assert (await neighbour.put(PLACE, content=theirs)).status_code == 200
    body |= {"submission_id": "after"}
    assert (await stage.ada.post("/api/jobs/", json=body)).status_code == 200
    view = (await stage.ada.get("/v1/jobs/after")).json()
    assert view["source"] == sent.headers["hr-source"]
    chunk = manifest.read(await stage.tools.blobs.get(view["source"])).files[0].parts[0][0]
    assert chunk == digest(b"print('mine')")


async def test_a_package_of_the_same_name_replaces_the_one_before_and_no_job_that_has_it(stage: Stage) -> None:
    body = {"entrypoint": "true", "runtime_env": {"working_dir": f"gcs://{NAME}"}}
    for number in range(2):
        assert (await stage.ada.put(PLACE, content=a_zip(train=f"print({number})"))).status_code == 200
        assert (await stage.ada.post("/api/jobs/", json=body | {"submission_id": f"n{number}"})).status_code == 200
    assert len({(await stage.ada.get(f"/v1/jobs/n{number}")).json()["source"] for number in range(2)}) == 2


@pytest.mark.parametrize(
    "path",
    [
        "gcs/x.zip",
        "gcs/_ray_pkg_0123.whl",
        "s3/_ray_pkg_0123456789abcdef.zip",
        "gcs/..%2f..%2fx.zip",
        "gcs/_ray_pkg_.zip",
    ],
)
async def test_a_name_that_rays_client_never_makes_is_refused(stage: Stage, path: str) -> None:
    for method in ("GET", "PUT"):
        answer = await stage.ada.request(method, f"/api/packages/{path}", content=a_zip(a=""))
        assert answer.status_code in (400, 404)
        assert "Traceback" not in answer.text
    assert await stage.tools.blobs.names("ray_jobs/packages/") == []


async def test_a_hostile_package_is_refused_and_nothing_of_it_can_be_used(stage: Stage) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("../../etc/cron.d/x", "boom")
    answer = await stage.ada.put(PLACE, content=content.getvalue())
    assert answer.status_code == 400
    assert answer.text.startswith(f"package {NAME} has a path that is not allowed: `../../etc/cron.d/x`;")
    assert (await stage.ada.get(PLACE)).status_code == 404


async def test_a_package_that_stops_in_the_middle_is_not_kept(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_S", 0.3)
    host, port = stage.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    whole = a_zip(train="print()")
    head = f"PUT {PLACE} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ada-token\r\ncontent-length: {len(whole)}\r\n\r\n"
    writer.write(head.encode() + whole[:-10])
    async with asyncio.timeout(WAIT_S):
        assert b" 408 " in await reader.readline()
    writer.close()
    assert (await stage.ada.get(PLACE)).status_code == 404


# -- output ------------------------------------------------------------------------------------------------------------


async def test_the_tail_gives_all_output_and_ends_when_the_end_can_be_read(stage: Stage) -> None:
    ada, output = await ray(stage), await Output(stage).listen()
    name = await ada.submit_job(entrypoint="true")
    job = (await ada.get_job_info(name)).job_id
    tail = asyncio.create_task(ada.tail(name))
    await stage.fact(job, PLACED)
    await output.more(job, stdout="halb \N{SNOWMAN}".encode()[:-1])  # a character in two parts
    await asyncio.sleep(0.3)
    await output.more(
        job, stdout="\N{SNOWMAN}\n".encode()[-2:], stderr=b"oh\n", whole=True
    )  # it is whole, but not over
    await asyncio.sleep(0.3)
    assert not tail.done()
    await stage.fact(job, FAILED)
    async with asyncio.timeout(WAIT_S):
        assert await tail == "halb \N{SNOWMAN}\noh\n"
    assert (await ada.get_job_info(name)).status == JobStatus.FAILED
    assert await ada.get_job_logs(name) == "halb \N{SNOWMAN}\noh\n"


async def test_the_tail_of_a_job_that_never_ran_is_empty_and_ends(stage: Stage) -> None:
    ada = await ray(stage)
    name = await ada.submit_job(entrypoint="true")
    tail = asyncio.create_task(ada.tail(name))
    await ada.stop_job(name)
    async with asyncio.timeout(WAIT_S):
        assert await tail == ""
    assert await ada.get_job_logs(name) == ""


async def test_long_output_is_cut_to_its_newest_part_and_says_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.gateway.ray_jobs.output.SHOWN_BYTES_MAX", 100)
    ada, output = await ray(stage), await Output(stage).listen()
    name = await ada.submit_job(entrypoint="true")
    job = (await ada.get_job_info(name)).job_id
    await stage.fact(job, PLACED)
    await output.more(job, stdout=b"a" * 900 + b"b" * 100)
    assert await ada.get_job_logs(name) == "[900 bytes before this are left out]\n" + "b" * 100


async def test_a_tail_whose_gateway_ends_is_cut_off_so_that_the_client_fails(nats: NatsServer, tmp_path: Path) -> None:
    async with a_stage(nats, tmp_path) as stage:
        ada, _ = await ray(stage), await Output(stage).listen()
        name = await ada.submit_job(entrypoint="true")
        await stage.fact((await ada.get_job_info(name)).job_id, PLACED)
        tail = asyncio.create_task(ada.tail(name))
        await _followers(stage, 1)
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(RuntimeError, match="closed unexpectedly with close code 1006"):
            await tail


async def test_a_tail_that_fails_is_cut_off_too_and_the_log_has_the_story(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("of our own")
        yield

    monkeypatch.setattr("controlplane.gateway.ray_jobs.output.follow", broken)
    ada = await ray(stage)
    name = await ada.submit_job(entrypoint="true")
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(RuntimeError, match="closed unexpectedly with close code 1006"):
            await ada.tail(name)
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert told.exc_info is not None
    assert "of our own" in repr(told.exc_info[1])


async def test_a_reader_of_a_tail_that_reads_nothing_is_let_go(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "SLOW_S", 0.5)
    ada, output = await ray(stage), await Output(stage).listen()
    name = await ada.submit_job(entrypoint="true")
    job = (await ada.get_job_info(name)).job_id
    await stage.fact(job, PLACED)
    await output.more(job, stdout=b"x" * 40_000_000)
    host, port = stage.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = [f"GET /api/jobs/{name}/logs/tail HTTP/1.1", "host: x", "authorization: Bearer ada-token"]
    writer.write("\r\n".join([*head, *(f"{key}: {value}" for key, value in UPGRADE.items()), "", ""]).encode())
    await _followers(stage, 1)
    await _followers(stage, 0)
    writer.close()


async def test_a_reader_of_a_tail_that_goes_is_forgotten(stage: Stage) -> None:
    ada, _ = await ray(stage), await Output(stage).listen()
    name = await ada.submit_job(entrypoint="true")
    tail = asyncio.create_task(ada.tail(name))
    await _followers(stage, 1)
    tail.cancel()
    await _followers(stage, 0)


async def test_who_may_not_follow_is_told_before_a_websocket_is_open(stage: Stage) -> None:
    for token, path, answer in (
        ("", "/api/jobs/x/logs/tail", (401, "Unauthorized: Missing authentication token")),
        ("wrong", "/api/jobs/x/logs/tail", (403, "Forbidden: Invalid authentication token")),
        ("ada-token", "/api/jobs/x/logs/tail", (404, "Job x does not exist")),
    ):
        assert await _upgrade(stage, path, token) == answer
    assert (await _upgrade(stage, "/v1/jobs", "ada-token"))[0] >= 400
    assert (await _upgrade(stage, "/nowhere", ""))[0] >= 400
    assert (await stage.ada.get("/healthz")).status_code == 200


async def test_what_a_reader_says_is_not_listened_to(stage: Stage) -> None:
    ada, _ = await ray(stage), await Output(stage).listen()
    name = await ada.submit_job(entrypoint="true")
    headers = {"authorization": "Bearer ada-token"}
    url = f"{stage.url}/api/jobs/{name}/logs/tail"
    async with aiohttp.ClientSession(headers=headers) as session, session.ws_connect(url) as socket:
        for _ in range(50):
            await socket.send_str("hello")
            await socket.send_bytes(b"\0")
        assert not socket.closed
        await socket.send_bytes(bytes(100_000))  # too much
        async with asyncio.timeout(WAIT_S):
            await socket.receive()
        assert socket.closed
    await _followers(stage, 0)


async def _upgrade(stage: Stage, path: str, token: str) -> tuple[int, str]:
    """What somebody is told who asks for a WebSocket there and gets none."""
    async with client(stage.url, token) as somebody:
        answer = await somebody.get(path, headers=UPGRADE)
    return answer.status_code, answer.text


async def _followers(stage: Stage, number: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while (await stage.ada.get("/v1/status")).json()["services"]["gateway"]["followers"] != number:
            pass


# -- the command line --------------------------------------------------------------------------------------------------


async def test_ray_job_submit_leaves_with_1_when_the_job_fails(stage: Stage, tmp_path: Path) -> None:
    output = await Output(stage).listen()
    words = ("submit", "--submission-id", "mine", "--working-dir", a_folder(tmp_path), "--", "python", "train.py")
    job = job_id(team="vision", user="ada", client_id="mine")
    running = asyncio.create_task(cli(stage, *words))
    async with asyncio.timeout(60):
        await _accepted(stage, job)
    await stage.fact(job, PLACED)
    await output.more(job, stdout=b"hi\n", whole=True)
    await stage.fact(job, FAILED)
    done = await running
    assert done.returncode == 1, done.stderr
    assert "Job 'mine' submitted successfully" in done.stdout
    assert "hi\n" in done.stdout
    assert "Status message: exit code 7" in done.stdout
    assert (await cli(stage, "status", "mine")).returncode == 0


async def _accepted(stage: Stage, job: str) -> None:
    """Until a job is there."""
    async for item in stage.tools.ledger.tail(after=0, subjects=(subjects.job("vision", job),)):
        if isinstance(item, Entry):
            return


async def test_ray_takes_its_token_from_its_own_variable_as_well(stage: Stage) -> None:
    environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ada-token", "RAY_JOB_HEADERS": "{}"}
    done = await cli(stage, "list", **environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("[]")
