"""One id goes with a request: in its answer, and in the lines of every service that it passes."""

from __future__ import annotations

import asyncio
import re

import pytest

from events import subjects
from events.bus import Outgoing
from events.streams import requests_stream_name
from tests.integration.gateway.conftest import SUBMIT, Stage
from tests.support.log_lines import log_lines
from tests.support.monitoring import eventually

NEW = re.compile(r"[0-9a-f]{16}")


async def test_the_clients_id_is_in_the_lines_of_gateway_and_submission(stage: Stage) -> None:
    with log_lines() as lines:
        answer = await stage.ada.post("/v1/jobs", json=SUBMIT, headers={"x-request-id": "ci/run-42"})
    assert answer.headers["x-request-id"] == "ci/run-42"
    found = {line["logger"]: line for line in lines if line.get("request") == "ci/run-42"}
    assert found.keys() == {"headrace.gateway", "headrace.submission"}
    assert found["headrace.submission"]["message"] == "accepted"
    assert found["headrace.submission"]["job"] == answer.json()["job"]
    assert found["headrace.gateway"]["status"] == 201
    assert found["headrace.gateway"]["path"] == "/v1/jobs"


async def test_a_request_without_an_id_gets_one_and_two_requests_never_share_it(stage: Stage) -> None:
    ids = [(await stage.ada.get("/v1/jobs")).headers["x-request-id"] for _ in range(2)]
    assert all(NEW.fullmatch(each) for each in ids)
    assert ids[0] != ids[1]


@pytest.mark.parametrize("given", ["two words", "x" * 65, 'quo"te', ""])
async def test_an_id_that_is_not_well_formed_is_not_taken_over(stage: Stage, given: str) -> None:
    answer = await stage.ada.get("/v1/jobs", headers={"x-request-id": given})
    assert NEW.fullmatch(answer.headers["x-request-id"])


async def test_a_malformed_request_is_warned_of_with_the_id_that_its_answer_has(stage: Stage) -> None:
    host, port = stage.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with log_lines() as lines:
        writer.write(b"GARBAGE\r\n\r\n")
        answer = (await reader.read()).decode()
    writer.close()
    given = re.search(r"x-request-id: (\S+)", answer)
    assert answer.startswith("HTTP/1.1 400")
    assert given
    assert [(line["level"], line["request"], line["client"]) for line in lines] == [("warning", given[1], host)]


async def test_a_message_keeps_the_id_that_its_sender_gave_it_and_has_a_place_without_one(stage: Stage) -> None:
    stream, subject = requests_stream_name("vision"), subjects.submit("vision", "ada").replace("ada", "=61")
    with log_lines() as lines:
        first = await stage.tools.bus.publish(Outgoing(subject, b"{}", {"hr-request": "nightly-7"}))
        second = await stage.tools.bus.publish(Outgoing(subject, b"{}", {"hr-request": "two words"}))

        async def are_buried() -> bool:
            return (await stage.tools.bus.usage(stream)).messages == 0

        await eventually(are_buried)
    said = [(line["subject"], line["sequence"], line.get("request")) for line in lines]
    assert set(said) == {(subject, first, "nightly-7"), (subject, second, None)}
