"""Queues and teams over HTTP: looked at by everybody, set by operators."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from events import messages as m
from events import subjects
from tests.integration.gateway.conftest import Stage
from tests.support.malformed_changes import MALFORMED_CHANGES

NIGHT = "/v1/queues/vision/night"
SCHEDULED = m.QueuesView(
    queues=(
        m.QueueView(team="vision", queue="night", weight=2.0, guaranteed_gpus=4, waiting=3),
        m.QueueView(team="speech", queue="secret"),
    ),
    sequence=10**9,
)


def error(response: httpx.Response) -> dict[str, Any]:
    told: dict[str, Any] = response.json()["error"]
    assert told["message"]
    return told


async def newest(stage: Stage, queue: str = "night") -> m.Fact | None:
    entry = await stage.tools.ledger.last(subjects.queue("vision", queue))
    return entry.fact if entry is not None else None


async def test_one_queue_is_shown_with_its_settings_and_what_it_holds(stage: Stage) -> None:
    await stage.answers("scheduling", "queues", SCHEDULED)
    shown = (await stage.ada.get(NIGHT)).json()
    assert (shown["weight"], shown["guaranteed_gpus"], shown["waiting"]) == (2.0, 4, 3)
    assert (await stage.ada.get("/v1/queues/speech/secret")).status_code == 404
    assert (await stage.ops.get("/v1/queues/speech/secret")).status_code == 200


async def test_teams_are_those_of_the_configuration_with_what_scheduling_says(stage: Stage) -> None:
    view = m.TeamsView(teams=(m.TeamView(team="vision", weight=3.0), m.TeamView(team="of another time", queues=1)))
    await stage.answers("scheduling", "teams", view)
    listed = (await stage.ops.get("/v1/teams")).json()["teams"]
    assert [(team["team"], team.get("weight", 1.0)) for team in listed] == [
        ("of another time", 1.0),
        ("speech", 1.0),
        ("vision", 3.0),
    ]
    assert [team["team"] for team in (await stage.ada.get("/v1/teams")).json()["teams"]] == ["vision"]
    assert (await stage.ada.get("/v1/teams/vision")).json()["weight"] == 3.0
    assert (await stage.ada.get("/v1/teams/speech")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", NIGHT), ("PATCH", NIGHT), ("DELETE", NIGHT), ("PUT", "/v1/teams/vision"), ("PATCH", "/v1/teams/vision")],
)
async def test_only_operators_change_anything(stage: Stage, method: str, path: str) -> None:
    response = await stage.ada.request(method, path, json={})
    assert response.status_code == 403
    assert "operator" in error(response)["hint"]
    assert await newest(stage) == m.QueueSet(by="configuration")


async def test_a_patch_changes_what_it_names_and_a_put_the_whole(stage: Stage) -> None:
    await stage.answers("scheduling", "queues", SCHEDULED)
    patched = await stage.ops.patch(NIGHT, json={"weight": 2, "running_max": 5})
    assert (patched.status_code, patched.json()["verdict"]) == (200, "applied")
    assert patched.json()["settings"] == {"type": "queue_set", "by": "ops", "weight": 2.0, "running_max": 5}
    await stage.ops.patch(NIGHT, json={"running_max": None})
    assert await newest(stage) == m.QueueSet(by="ops", weight=2.0)
    put = await stage.ops.put(NIGHT, json={"paused": True})
    assert put.status_code == 200
    assert await newest(stage) == m.QueueSet(by="ops", paused=True)
    assert (await stage.ops.put(NIGHT, json={"paused": True})).json()["verdict"] == "repeated"


async def test_a_put_creates_and_with_if_none_match_it_touches_nothing_that_is_there(stage: Stage) -> None:
    await stage.answers("scheduling", "queues", SCHEDULED)
    only_new = {"if-none-match": "*"}
    path = "/v1/queues/vision/b=C3=BCro 1.x"
    assert (await stage.ops.put(path, json={"weight": 3}, headers=only_new)).status_code == 200
    assert await newest(stage, "b=C3=BCro 1.x") == m.QueueSet(by="ops", weight=3.0)
    again = await stage.ops.put(path, json={"weight": 4}, headers=only_new)
    assert again.status_code == 409
    assert "is there already" in error(again)["message"]


async def test_a_delete_is_refused_while_there_are_jobs(stage: Stage) -> None:
    await stage.answers("scheduling", "queues", SCHEDULED)
    refused = await stage.ops.delete(NIGHT)
    assert refused.status_code == 409
    assert "3 jobs wait and no jobs run" in error(refused)["message"]
    assert "drain" in error(refused)["hint"]
    assert (await stage.ops.delete("/v1/queues/vision/default")).json()["verdict"] == "applied"
    assert await newest(stage, "default") == m.QueueRemoved(by="ops")


async def test_a_team_is_set(stage: Stage) -> None:
    await stage.answers("scheduling", "queues", SCHEDULED)
    assert (await stage.ops.patch("/v1/teams/vision", json={"weight": 2})).status_code == 200
    assert (await stage.ops.patch("/v1/teams/vision", json={"gpus_max": 8})).status_code == 200
    entry = await stage.tools.ledger.last(subjects.team("vision"))
    assert entry is not None
    assert entry.fact == m.TeamSet(by="ops", weight=2.0, gpus_max=8)
    await stage.ops.put("/v1/teams/vision", json={"gpus_max": 4})
    entry = await stage.tools.ledger.last(subjects.team("vision"))
    assert entry is not None
    assert entry.fact == m.TeamSet(by="ops", gpus_max=4)


@pytest.mark.parametrize("path", ["/v1/queues/vision/nigth", "/v1/queues/vison/night", "/v1/teams/vison"])
async def test_what_is_not_there_is_404_with_what_may_have_been_meant(stage: Stage, path: str) -> None:
    response = await stage.ops.patch(path, json={"weight": 2})
    assert response.status_code == 404
    assert "did you mean" in error(response)["hint"]


async def test_every_malformed_change_gets_its_problems_as_422(stage: Stage) -> None:
    for case in MALFORMED_CHANGES:
        if set(case.problems) & {"$", "$.type", "$.replace"} or case.body.count(b'"weight"') > 1:
            continue  # the gateway itself says what is asked for, and reads the object
        path = NIGHT if case.queue else "/v1/teams/vision"
        response = await stage.ops.patch(path, content=case.body)
        assert response.status_code == 422, (case.what, response.text)
        assert error(response)["problems"], case.what
    for body in (b"", b"[]", b"{", b"\xff", b'{"weight": 1e999}'):
        assert (await stage.ops.patch("/v1/teams/vision", content=body)).status_code in (200, 422)


async def test_a_change_is_answered_though_nobody_schedules(stage: Stage) -> None:
    assert (await stage.ops.patch(NIGHT, json={"weight": 2})).json()["verdict"] == "applied"
    response = await stage.ops.delete(NIGHT)
    assert response.status_code == 503
    assert "scheduling does not say" in error(response)["message"]


async def test_the_description_names_what_a_change_takes(stage: Stage) -> None:
    described = (await stage.ada.get("/openapi.json")).json()
    for path, kind in (("/v1/queues/{team}/{queue}", "SetQueue"), ("/v1/teams/{team}", "SetTeam")):
        body = described["paths"][path]["patch"]["requestBody"]["content"]["application/json"]
        assert body["schema"] == {"$ref": f"#/components/schemas/{kind}"}
        assert kind in described["components"]["schemas"]
