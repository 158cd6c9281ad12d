"""Dead letters, from a message that nobody could take to the replay that counts once. On real NATS."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.submission import core
from events import dead, subjects
from events.bus import Delivery, Outgoing, Poison
from events.streams import DEAD, requests_stream_name
from tests.integration.gateway.conftest import SUBMIT, Stage, error
from tests.support.monitoring import eventually

REQUESTS = requests_stream_name("vision")
ADA = subjects.submit("vision", "ada")
BODY = json.dumps(SUBMIT).encode()
DECIDE = core.decide_submit


async def letters(stage: Stage) -> list[dict[str, Any]]:
    answer = await stage.ops.get("/v1/admin/dead")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["letters"]
    return found


async def jobs(stage: Stage) -> list[str]:
    return [job["job"] for job in (await stage.ada.get("/v1/jobs")).json()["jobs"]]


async def killed(stage: Stage, monkeypatch: pytest.MonkeyPatch, message: Outgoing) -> dict[str, Any]:
    """The letter of a message that meets a bug of ours, which is mended when this returns."""

    def decide(*_: object) -> None:
        raise Poison("a bug of ours")

    monkeypatch.setattr(core, "decide_submit", decide)
    await stage.tools.bus.publish(message)
    (letter,) = await eventually(lambda: letters(stage))
    monkeypatch.setattr(core, "decide_submit", DECIDE)
    return dict(letter)


async def test_a_letter_says_when_and_where_it_failed_and_why(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    letter = await killed(stage, monkeypatch, Outgoing(ADA, BODY, {"ce-id": "7"}))
    assert (letter["subject"], letter["reason"], letter["tries"]) == (ADA, "a bug of ours", 1)
    assert (letter["stream"], letter["id"], letter["size_bytes"]) == (REQUESTS, "7", len(BODY))
    shown = (await stage.ops.get(f"/v1/admin/dead/{letter['sequence']}")).json()
    assert json.loads(shown["text"]) == SUBMIT
    assert shown["headers"]["ce-id"] == "7"


@pytest.mark.parametrize("headers", [{"ce-id": "7"}, {}], ids=["with an id", "without an id"])
async def test_a_replay_does_what_the_message_would_have_done_and_the_letter_is_gone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    letter = await killed(stage, monkeypatch, Outgoing(ADA, BODY, headers))
    replayed = await stage.ops.post(f"/v1/admin/dead/{letter['sequence']}/replay")
    assert (replayed.status_code, replayed.json()["gone"]) == (200, True)
    assert len(await eventually(lambda: jobs(stage))) == 1
    assert await letters(stage) == []
    assert (await stage.ops.post(f"/v1/admin/dead/{letter['sequence']}/replay")).status_code == 404


@pytest.mark.parametrize("headers", [{"ce-id": "7"}, {}], ids=["with an id", "without an id"])
async def test_a_replay_of_what_took_effect_already_is_no_second_job(stage: Stage, headers: dict[str, str]) -> None:
    bus = stage.tools.bus
    seen: list[Delivery] = []

    async def hear(delivery: Delivery) -> None:
        seen.append(delivery)

    await bus.listen(ADA, hear)
    sequence = await bus.publish(Outgoing(ADA, BODY, headers))
    before = await eventually(lambda: jobs(stage))
    (fact,) = await stage.tools.ledger.history(subjects.job("vision", before[0]))
    at = fact.fact.specification.submitted_at  # type: ignore[attr-defined]
    late = Delivery(ADA, BODY, headers, sequence=sequence, at=at)
    await dead.bury(bus.publish, late, stream=REQUESTS, reason="its answer failed", tries=10)
    (letter,) = await letters(stage)
    assert (await stage.ops.post(f"/v1/admin/dead/{letter['sequence']}/replay")).status_code == 200
    await eventually(lambda: handled_all(stage))
    assert len(seen) == 2
    assert await jobs(stage) == before


async def handled_all(stage: Stage) -> bool:
    return (await stage.tools.bus.usage(REQUESTS)).messages == 0


async def test_a_dropped_letter_is_gone_for_good(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    letter = await killed(stage, monkeypatch, Outgoing(ADA, BODY, {}))
    assert (await stage.ops.delete(f"/v1/admin/dead/{letter['sequence']}")).json() == letter
    assert await letters(stage) == []
    assert (await stage.ops.delete(f"/v1/admin/dead/{letter['sequence']}")).status_code == 404
    assert await jobs(stage) == []


async def test_dead_letters_are_for_operators_alone(stage: Stage) -> None:
    for method, path in (("GET", ""), ("GET", "/1"), ("POST", "/1/replay"), ("DELETE", "/1")):
        response = await stage.ada.request(method, f"/v1/admin/dead{path}")
        assert response.status_code == 403
        assert "operator" in error(response)["message"]


async def test_no_letter_is_replayed_into_the_ledger_whoever_put_it_there(stage: Stage) -> None:
    job = await stage.submit()
    subject = subjects.job("vision", job)
    await stage.tools.bus.publish(Outgoing(subjects.dead(subject), b'{"type":"held","by":"x"}', {}))
    (letter,) = await letters(stage)
    response = await stage.ops.post(f"/v1/admin/dead/{letter['sequence']}/replay")
    assert response.status_code == 409
    assert "nobody outside may write there" in error(response)["message"]
    assert len(await stage.tools.ledger.history(subject)) == 1
    assert await letters(stage) == [letter]


async def test_a_letter_whose_body_was_too_large_to_keep_says_so_at_a_replay(stage: Stage) -> None:
    bus = stage.tools.bus
    large = Delivery(subjects.otlp("vision", "j-1"), bytes(1024**2), sequence=3, at=1.0)
    await dead.bury(bus.publish, large, stream="METRICS", reason="not OTLP", tries=1)
    (letter,) = await letters(stage)
    assert (letter["size_bytes"], letter["job"]) == (1024**2, "j-1")
    response = await stage.ops.post(f"/v1/admin/dead/{letter['sequence']}/replay")
    assert response.status_code == 409
    assert "were not kept" in error(response)["message"]


async def test_many_letters_are_listed_page_by_page(stage: Stage) -> None:
    for number in range(7):
        letter = Delivery(ADA, b"x", {"ce-id": str(number)}, sequence=number + 1)
        await dead.bury(stage.tools.bus.publish, letter, stream=REQUESTS, reason="r", tries=1)
    found: list[str] = []
    after = 0
    while True:
        page = (await stage.ops.get("/v1/admin/dead", params={"limit": 3, "after": after})).json()
        assert page["total"] == 7
        found += [letter["id"] for letter in page["letters"]]
        after = page["next"]
        if not after:
            break
    assert found == [str(number) for number in range(7)]
    assert (await stage.tools.bus.usage(DEAD.name)).messages == 7
