"""The gateway over HTTP, on real NATS and the real door; the services behind it answer from a script."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from controlplane.gateway import metrics
from controlplane.gateway import service as gateway_service
from controlplane.submission import service as submission_service
from events import messages as m
from events import subjects
from events.bus import Asked
from tests.integration.gateway.conftest import SUBMIT, WAIT_S, Stage, client, configuration, error, sha
from tests.support.malformed_submits import MALFORMED
from tests.support.nats import NatsServer
from tests.support.serving import serving

END = m.AttemptEnd(cause="exited", ended_at=9.0, started_at=5.0, exit_code=0)
PLACED = m.Placed(
    term=1, attempt=1, allocations=(m.Allocation(node="n1", cpus=1, memory_bytes=1),), why="first in line"
)


async def follow(http: httpx.AsyncClient, path: str, last_id: str = "") -> AsyncIterator[tuple[str, str, Any]]:
    """(name, id, data) of the events of a stream."""
    headers = {"last-event-id": last_id} if last_id else {}
    async with http.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        event: dict[str, str] = {}
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                event[name] = value
            elif "data" in event:
                yield event["event"], event.get("id", ""), json.loads(event["data"])
                event = {}


# -- who calls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/config", "/v1/nodes", "/v1/blobs/sha256:0", "/v1/status"])
async def test_nobody_gets_in_without_a_token_that_is_known(stage: Stage, path: str) -> None:
    for token in ("", "wrong", "ada-token2", "ä" * 50):
        async with client(stage.url, "") as stranger:
            headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
            response = await stranger.get(path, headers=headers)
        assert response.status_code == 401
        assert "token" in error(response)["message"]
        assert response.headers["www-authenticate"] == "Bearer"


async def test_health_and_the_description_need_no_token(stage: Stage) -> None:
    async with client(stage.url, "") as stranger:
        assert (await stranger.get("/healthz")).status_code == 200
        assert (await stranger.get("/readyz")).json()["ready"] is True
        described = (await stranger.get("/openapi.json")).json()
        assert {"/v1/jobs", "/v1/jobs/{job}", "/v1/blobs/{digest}", "/healthz"} <= set(described["paths"])
        assert "Submit" in described["components"]["schemas"]
        body = described["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
        assert body["schema"] == {"$ref": "#/components/schemas/Submit"}


async def test_another_team_sees_nothing_of_a_job(stage: Stage) -> None:
    job = await stage.submit()
    for path in ("", "/why", "/log", "/metrics", "/events"):
        response = await stage.bob.get(f"/v1/jobs/{job}{path}")
        assert response.status_code == 404, path
        error(response)
    assert (await stage.bob.post(f"/v1/jobs/{job}/cancel")).status_code == 404
    assert (await stage.bob.get("/v1/jobs")).json()["jobs"] == []
    assert (await stage.bob.get(f"/v1/jobs/{job[:6]}")).status_code == 404


# -- submitting, looking, controlling ----------------------------------------------------------------------------------


async def test_a_submit_is_accepted_once_however_often_it_comes(stage: Stage) -> None:
    responses = await asyncio.gather(*(stage.ada.post("/v1/jobs", json=SUBMIT | {"id": "x"}) for _ in range(5)))
    assert sorted(response.status_code for response in responses) == [200, 200, 200, 200, 201]
    assert len({response.json()["job"] for response in responses}) == 1
    assert (await stage.bob.post("/v1/jobs", json=SUBMIT | {"id": "x"})).status_code == 201


async def test_a_submit_without_an_id_is_a_job_of_its_own_each_time(stage: Stage) -> None:
    assert await stage.submit() != await stage.submit()


async def test_every_malformed_submit_gets_its_problems_as_422(stage: Stage) -> None:
    for case in MALFORMED:
        response = await stage.ada.post("/v1/jobs", content=case.body)
        if len(case.body) > 512 * 1024:
            assert response.status_code == 413, case.what
            error(response)
            continue
        assert response.status_code == 422, (case.what, response.text)
        told = error(response)
        assert {problem["path"] for problem in told["problems"]} == set(case.problems), case.what
    assert (await stage.ada.get("/healthz")).status_code == 200


async def test_a_job_is_found_by_its_id_the_beginning_of_its_id_and_its_name(stage: Stage) -> None:
    older, newer = await stage.submit(), await stage.submit(tier="gpu1", labels={"a": "b"})
    for text, job in ((older, older), (newer[:9], newer), ("train", newer)):
        view = (await stage.ada.get(f"/v1/jobs/{text}")).json()
        assert view["job"] == job
    assert (view["tier"], view["labels"], view["state"], view["held"]) == ("gpu1", {"a": "b"}, "queued", False)
    assert view["history"][0]["type"] == "accepted"
    missing = error(await stage.ada.get("/v1/jobs/trian"))
    assert missing["hint"] == "did you mean `train`?"


async def test_a_list_is_newest_first_in_pages_and_filtered(stage: Stage) -> None:
    jobs = [await stage.submit(name=f"n{number}") for number in range(5)]
    await stage.ada.post(f"/v1/jobs/{jobs[0]}/cancel")
    first = (await stage.ada.get("/v1/jobs?limit=3")).json()
    second = (await stage.ada.get(f"/v1/jobs?limit=3&after={first['next']}")).json()
    assert [view["job"] for view in first["jobs"] + second["jobs"]] == list(reversed(jobs))
    assert second["next"] == ""
    ended = (await stage.ada.get("/v1/jobs?state=ended")).json()["jobs"]
    assert [(view["job"], view["reason"]) for view in ended] == [(jobs[0], "cancelled by ada")]
    assert (await stage.ada.get("/v1/jobs?user=nobody")).json()["jobs"] == []
    assert "active" in error(await stage.ada.get("/v1/jobs?state=sleeping"))["hint"]
    assert (await stage.ada.get("/v1/jobs?limit=100000")).status_code == 400


async def test_controls_are_applied_repeated_or_refused(stage: Stage) -> None:
    job, other = await stage.submit(), await stage.submit(name="other")
    for verb, body, status, verdict in (
        ("hold", None, 200, "applied"),
        ("hold", {"why": "again"}, 200, "repeated"),
        ("release", {}, 200, "applied"),
        ("move", {"before": "other"}, 200, "applied"),
        ("reprioritise", {"priority": 5}, 200, "applied"),
        ("move", {"before": "other"}, 422, "refused"),  # priority goes before place
        ("reprioritise", {}, 422, "refused"),
        ("move", {"before": "nowhere"}, 404, None),
        ("fly", {}, 404, None),
    ):
        content = b"" if body is None else json.dumps(body).encode()
        response = await stage.ada.post(f"/v1/jobs/{job}/{verb}", content=content)
        assert (response.status_code, response.json().get("verdict")) == (status, verdict), (verb, response.text)
    await stage.fact(other, PLACED)
    refused = await stage.ada.post(f"/v1/jobs/{other}/hold")
    assert refused.status_code == 409
    assert "this one is placed" in error(refused)["message"]
    assert (await stage.ada.post(f"/v1/jobs/{job}/hold", content=b"[")).status_code == 422


# -- following ---------------------------------------------------------------------------------------------------------


async def test_the_road_of_a_job_is_followed_to_its_end_and_can_be_taken_up_again(stage: Stage) -> None:
    await stage.answers("scheduling", "why", m.Why(job="j", state="queued", position=1, of=1, summary="first"))
    job = await stage.submit()
    seen: list[tuple[str, Any]] = []
    last_id = ""
    async with asyncio.timeout(WAIT_S):
        async for name, event_id, data in follow(stage.ada, f"/v1/jobs/{job}/events"):
            seen.append((name, data.get("state")))
            last_id = event_id
            if name == "why":
                await stage.fact(job, PLACED)
            elif data.get("state") == "placed":
                await stage.fact(job, m.Started(term=1, attempt=1, started_at=5.0))
            elif data.get("state") == "running":
                done = m.Finished(term=1, attempt=1, outcome="succeeded", reason="exit code 0", end=END)
                await stage.fact(job, done)
    assert seen == [
        ("state", "queued"),
        ("why", "queued"),
        ("state", "placed"),
        ("state", "running"),
        ("state", "succeeded"),
        ("end", "succeeded"),
    ]
    again = [name async for name, _, _ in follow(stage.ada, f"/v1/jobs/{job}/events", last_id)]
    assert again == ["end"]
    view = (await stage.ada.get(f"/v1/jobs/{job}")).json()
    assert (view["exit_code"], view["started_at"], view["finished_at"], view["reason"]) == (0, 5.0, 9.0, "exit code 0")


async def test_output_is_followed_over_two_attempts_on_notices(stage: Stage) -> None:
    output = {1: b"one\n", 2: b""}
    over: set[int] = set()

    async def log(asked: Asked) -> bytes:
        ask = msgspec.json.decode(asked.body, type=m.AskLog)
        data = output[ask.attempt][ask.offset :] if ask.stream == "stdout" else b""
        size = len(output[ask.attempt]) if ask.stream == "stdout" else 0
        return msgspec.json.encode(
            m.LogAnswer(
                attempt=ask.attempt,
                stream=ask.stream,
                offset=ask.offset,
                data=data,
                size_bytes=size,
                complete=ask.attempt in over,
            )
        )

    await stage.tools.bus.answer(subjects.ask("monitoring", "log"), log)
    job = await stage.submit()
    await stage.fact(job, PLACED)
    chunks: list[tuple[int, str]] = []
    last_id = ""
    async with asyncio.timeout(WAIT_S):
        async for name, event_id, data in follow(stage.ada, f"/v1/jobs/{job}/log/follow"):
            if name == "end":
                break
            chunks.append((data["attempt"], data["data"]))
            if chunks == [(1, "b25lCg==")]:
                over.add(1)
                await stage.fact(job, m.Lost(term=1, attempt=1, node="n1", why="gone"))
                await stage.fact(job, m.Placed(term=1, attempt=2, allocations=()))
                output[2] = b"two\n"
                await stage.tools.bus.send(subjects.live("vision", job), b"{}")
            else:
                over.add(2)
                await stage.fact(job, m.Finished(term=1, attempt=2, outcome="failed", reason="exit code 1"))
            last_id = event_id
    assert chunks == [(1, "b25lCg=="), (2, "dHdvCg==")]
    again = [name async for name, _, _ in follow(stage.ada, f"/v1/jobs/{job}/log/follow", last_id)]
    assert again == ["end"]
    part = await stage.ada.get(f"/v1/jobs/{job}/log?attempt=2&offset=1")
    assert (part.content, part.headers["hr-offset"], part.headers["hr-size"]) == (b"wo\n", "1", "4")
    assert part.headers["hr-complete"] == "1"


async def test_latest_values_are_followed_until_all_are_stored(stage: Stage) -> None:
    latest = m.Latest(job="j", name="loss", attempt=1, step=3, value=0.5, at=1.0)
    await stage.answers("monitoring", "latest", m.LatestAnswer(latest=(latest,)))
    await stage.answers("monitoring", "series", m.SeriesAnswer(complete=True))
    job = await stage.submit()
    await stage.fact(job, PLACED)
    names = []
    async with asyncio.timeout(WAIT_S):
        async for name, _, data in follow(stage.ada, f"/v1/jobs/{job}/metrics/follow"):
            names.append(name)
            if name == "latest":
                assert data[0]["value"] == 0.5
                await stage.fact(job, m.Finished(term=1, attempt=1, outcome="failed", reason="x"))
    assert names == ["latest", "end"]
    assert (await stage.ada.get(f"/v1/jobs/{job}/metrics?names=loss")).json()["complete"] is True


async def test_the_notice_that_all_is_stored_ends_a_stream_of_values_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "EACH_S", 2 * WAIT_S)  # so no look of its own ends it
    whole = False

    async def series(_: Asked) -> bytes:
        nonlocal whole
        asked, whole = whole, True
        if not asked:  # the notice is sent while the answer that it is not complete is on its way
            await stage.tools.bus.send(subjects.live("vision", job), msgspec.json.encode(notice))
        return msgspec.json.encode(m.SeriesAnswer(complete=asked))

    await stage.answers("monitoring", "latest", m.LatestAnswer(latest=()))
    await stage.tools.bus.answer(subjects.ask("monitoring", "series"), series)
    job = await stage.submit()
    notice = m.Changed(job=job, complete=True)
    await stage.fact(job, PLACED)
    await stage.fact(job, m.Finished(term=1, attempt=1, outcome="failed", reason="x"))
    async with asyncio.timeout(WAIT_S):
        assert [name async for name, _, _ in follow(stage.ada, f"/v1/jobs/{job}/metrics/follow")] == ["end"]


async def test_a_reader_that_goes_away_is_forgotten(stage: Stage) -> None:
    job = await stage.submit()
    for path in ("events", "log/follow", "metrics/follow"):
        async with stage.ada.stream("GET", f"/v1/jobs/{job}/{path}") as response:
            lines = response.aiter_lines()  # letting go of it would close the stream
            await anext(lines)
            await _followers(stage, 1)
        await _followers(stage, 0)


async def _followers(stage: Stage, number: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while (await stage.ada.get("/v1/status")).json()["services"]["gateway"]["followers"] != number:
            pass


# -- blobs -------------------------------------------------------------------------------------------------------------


async def test_a_blob_comes_back_as_it_was_sent(stage: Stage) -> None:
    content = bytes(range(256)) * 4000
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    absent = "sha256:" + "0" * 64
    asked = {"digests": [digest, absent, digest]}
    assert (await stage.ada.post("/v1/blobs/missing", json=asked)).json() == {"missing": [digest, absent]}
    assert (await stage.ada.put(f"/v1/blobs/{digest}", content=content)).status_code == 201
    assert (await stage.ada.post("/v1/blobs/missing", json=asked)).json() == {"missing": [absent]}
    assert (await stage.ada.get(f"/v1/blobs/{digest}")).content == content
    assert (await stage.ada.head(f"/v1/blobs/{digest}")).status_code == 200
    assert (await stage.ada.head(f"/v1/blobs/{absent}")).status_code == 404
    assert (await stage.ada.get(f"/v1/blobs/{absent}")).status_code == 404


async def test_a_body_of_another_digest_is_refused_and_not_kept(stage: Stage) -> None:
    digest = "sha256:" + hashlib.sha256(b"right").hexdigest()
    response = await stage.ada.put(f"/v1/blobs/{digest}", content=b"wrong")
    assert response.status_code == 422
    assert "does not have the digest" in error(response)["message"]
    assert (await stage.ada.get(f"/v1/blobs/{digest}")).status_code == 404


async def test_a_blob_that_is_too_large_is_refused_before_it_is_read(stage: Stage) -> None:
    host, port = stage.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"PUT /v1/blobs/sha256:{'0' * 64} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ada-token\r\n"
    writer.write(f"{head}content-length: {10**12}\r\n\r\n".encode())
    async with asyncio.timeout(WAIT_S):
        assert b" 413 " in await reader.readline()
    writer.close()


@pytest.mark.parametrize(
    "trick",
    ["..%2f..%2fetc%2fpasswd", "%2e%2e", "sha256:%2e%2e%2f" + "0" * 60, "sha256:" + "A" * 64, "sha256:%00" + "0" * 63],
)
async def test_no_spelling_of_a_digest_leads_out_of_the_store(stage: Stage, tmp_path: Path, trick: str) -> None:
    before = _files(tmp_path)
    response = await stage.ada.put(f"/v1/blobs/{trick}", content=b"x")
    assert response.status_code in {404, 405, 422}
    error(response)
    assert _files(tmp_path) == before


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "nats" not in path.parts}


# -- the cluster, failures ---------------------------------------------------------------------------------------------


async def test_what_no_service_answers_is_503_with_a_hint(stage: Stage) -> None:
    response = await stage.ada.get("/v1/nodes")
    assert response.status_code == 503
    assert error(response)["hint"] == "try again in a moment"


async def test_tiers_say_how_often_they_would_fit(stage: Stage) -> None:
    free = m.Allocation(node="n1", cpus=16, memory_bytes=10**12, gpus=(0, 1, 2))
    ref = m.AttemptRef(team="speech", job="j", attempt=1)
    capacity = m.Capacity(cpus=16, memory_bytes=10**12, gpus=4)
    node = m.NodeView(node="n1", state="ready", capacity=capacity, free=free, attempts=(ref,))
    await stage.answers("scheduling", "nodes", m.NodesView(term=1, nodes=(node,)))
    tiers = (await stage.ada.get("/v1/tiers")).json()["tiers"]
    assert {tier["name"]: tier["fits"] for tier in tiers} == {"cpu": 16, "gpu1": 2, "gpu2": 1}
    assert "attempts" not in (await stage.ada.get("/v1/nodes")).json()["nodes"][0]
    assert len((await stage.ops.get("/v1/nodes")).json()["nodes"][0]["attempts"]) == 1


async def test_queues_are_those_of_the_team(stage: Stage) -> None:
    views = (m.QueueView(team="vision", queue="default"), m.QueueView(team="speech", queue="secret"))
    await stage.answers("scheduling", "queues", m.QueuesView(queues=views))
    assert [each["queue"] for each in (await stage.ada.get("/v1/queues")).json()["queues"]] == ["default"]
    assert len((await stage.ops.get("/v1/queues")).json()["queues"]) == 2


async def test_the_configuration_is_shown_without_its_secrets(stage: Stage) -> None:
    response = await stage.ada.get("/v1/config")
    assert "hush" not in response.text
    assert sha("ada-token") not in response.text
    assert set(response.json()["teams"]) == {"vision"}
    assert set((await stage.ops.get("/v1/config")).json()["teams"]) == {"vision", "speech"}


async def test_the_status_names_every_service_and_who_does_not_answer(stage: Stage) -> None:
    await stage.submit()
    services = (await stage.ada.get("/v1/status")).json()["services"]
    assert services["submission"]["accepted"] == 1
    assert services["scheduling"]["answers"] is False


async def test_counters_of_all_services_are_there_for_prometheus(stage: Stage) -> None:
    await stage.submit()
    await stage.ada.get("/v1/jobs/nobody")
    answer = await stage.ada.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = answer.text.splitlines()
    assert 'headrace_accepted{service="submission"} 1.0' in lines
    assert 'headrace_up{service="scheduling"} 0.0' in lines
    assert 'headrace_refused{service="gateway"} 1.0' in lines
    async with client(stage.url, "") as stranger:
        assert (await stranger.get("/metrics")).status_code == 401


async def test_a_token_that_scrapes_sees_queues_nodes_and_running_jobs(stage: Stage) -> None:
    ref = m.AttemptRef(team="vision", job="j-1", attempt=2)
    free = m.Allocation(node="n1", cpus=3.0, memory_bytes=8, gpus=(1,))
    capacity = m.Capacity(cpus=4.0, memory_bytes=8, gpus=2)
    node = m.NodeView(node="n1", state="ready", capacity=capacity, free=free, attempts=(ref,))
    series = [m.Latest(job="j-1", name="loss", attempt=at, step=at * 10, value=0.5 / at, at=1.0) for at in (1, 2)]
    await stage.answers(
        "scheduling", "queues", m.QueuesView(queues=(m.QueueView(team="vision", queue="q", waiting=7),))
    )
    await stage.answers("scheduling", "nodes", m.NodesView(term=1, nodes=(node,)))
    await stage.answers("monitoring", "latest", m.LatestAnswer(latest=tuple(series)))
    async with client(stage.url, "prometheus-token") as prometheus:
        lines = (await prometheus.get("/metrics")).text.splitlines()
    assert 'headrace_queue_waiting{queue="q",team="vision"} 7.0' in lines
    assert 'headrace_node_gpus_free{node="n1"} 1.0' in lines
    values = [line for line in lines if line.startswith("headrace_job_")]
    labels = 'job="j-1",name="loss",rank="0",team="vision"'
    assert values == [
        f"headrace_job_value{{{labels}}} 0.25",
        f"headrace_job_step{{{labels}}} 20.0",
        "headrace_job_series_left_out 0.0",
    ]
    assert "headrace_job_value" not in (await stage.ada.get("/metrics")).text


async def test_a_token_that_scrapes_can_do_nothing_else(stage: Stage) -> None:
    async with client(stage.url, "prometheus-token") as prometheus:
        for path in ("/v1/jobs", "/v1/status", "/v1/nodes", "/v1/config", "/v1/jobs/j/metrics", "/metrics/../v1/jobs"):
            assert (await prometheus.get(path)).status_code == 401, path
        assert (await prometheus.post("/v1/jobs", json={"entrypoint": ["true"]})).status_code == 401
        assert (await prometheus.post("/metrics")).status_code == 405


async def test_an_environment_is_shown_to_teams_that_want_it(stage: Stage) -> None:
    job = await stage.submit(environment={"python": "3.11", "roots": ["numpy"]})
    view = (await stage.ada.get(f"/v1/jobs/{job}")).json()["environment"]
    assert view["state"] == "wanted"
    await stage.answers("environments", "view", m.EnvironmentView(environment=view["digest"], state="building"))
    path = f"/v1/environments/{view['digest']}"
    assert (await stage.ada.get(path)).json()["state"] == "building"
    assert (await stage.bob.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("DELETE", "/v1/jobs", 405),
        ("GET", "/v1/jobs/j-abcdefghij23", 404),
        ("GET", "/v1/jobs/%00", 404),
        ("GET", "/v1/jobs/x/log?stream=neither", 400),
        ("GET", "/v1/jobs/x/log?offset=abc", 400),
        ("POST", "/v1/blobs/missing", 400),
        ("GET", "/v1/environments/..", 404),
    ],
)
async def test_every_failure_has_the_one_form_and_every_answer_the_headers(
    stage: Stage, method: str, path: str, status: int
) -> None:
    response = await stage.ada.request(method, path)
    assert response.status_code == status
    error(response)
    for name in ("x-content-type-options", "content-security-policy", "x-frame-options", "cache-control"):
        assert name in response.headers
    assert "server" not in response.headers


async def test_a_gateway_that_closes_ends_its_streams_and_the_next_one_knows_all(
    nats: NatsServer, tmp_path: Path
) -> None:
    config = configuration(tmp_path / "state")
    blobs = tmp_path / "blobs"

    async def followed(url: str, job: str, started: asyncio.Event) -> None:
        async with client(url, "ada-token") as ada:
            async for _ in follow(ada, f"/v1/jobs/{job}/events"):
                started.set()

    async with serving(submission_service.serve, nats, config, blobs=blobs, instance="door"):
        async with serving(gateway_service.serve, nats, config, blobs=blobs, instance="one"):
            url = json.loads((tmp_path / "state" / "gateway.json").read_text())["url"]
            async with client(url, "ada-token") as ada:
                job = (await ada.post("/v1/jobs", json=SUBMIT)).json()["job"]
            started = asyncio.Event()
            following = asyncio.ensure_future(followed(url, job, started))
            await started.wait()
        async with asyncio.timeout(WAIT_S):
            await following
        assert list((blobs / "snapshots" / "gateway").iterdir())
        async with serving(gateway_service.serve, nats, config, blobs=blobs, instance="two"):
            url = json.loads((tmp_path / "state" / "gateway.json").read_text())["url"]
            async with client(url, "ada-token") as ada:
                assert (await ada.get("/v1/jobs/train")).json()["job"] == job
    assert (tmp_path / "state" / "gateway.json").stat().st_mode & 0o777 == 0o600
