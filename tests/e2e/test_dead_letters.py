"""An operator, and messages that no service could take: from the poison to the drop, on a real stack."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from events.bus import Bus, Outgoing
from load_tests.stack import Stack, until
from tests.e2e.conftest import Headrace

MISSPELT = "hr.v1.submit.default.a=zz"
UNREADABLE = "hr.v1.from.nobody.metrics.default.j-abcdefghij23"


def _publish(stack: Stack, *messages: Outgoing) -> None:
    async def publish() -> None:
        about = stack.about
        bus = await Bus.connect(
            about["nats"], user=about["nats_user"], password=about["nats_password"], name="a stranger"
        )
        for message in messages:
            await bus.publish(message)
        await bus.drain()

    asyncio.run(publish())


def _letters(headrace: Headrace) -> list[dict[str, Any]]:
    said = headrace("admin", "dead", "--json")
    assert said.status == 0, said.err
    return [json.loads(line) for line in said.out.splitlines()]


def test_a_poison_message_is_seen_shown_replayed_and_dropped(headrace: Headrace, stack: Stack) -> None:
    began = time.time()
    _publish(stack, Outgoing(MISSPELT, b'{"entrypoint": ["true"]}', {"ce-id": "poison"}), Outgoing(UNREADABLE, b"", {}))
    until(lambda: len(_letters(headrace)) == 2, limit_s=30, what="two dead letters")
    by_subject = {letter["subject"]: letter for letter in _letters(headrace)}
    poison, unreadable = by_subject[MISSPELT], by_subject[UNREADABLE]
    assert "would be spelled" in poison["reason"]
    assert (unreadable["job"], unreadable["stream"]) == ("j-abcdefghij23", "METRICS")
    assert time.strftime("%Y-%m-%d", time.gmtime(began)) in poison["at"]

    services = json.loads(headrace("status", "--json").out)["services"]
    assert (services["submission"]["dead"], services["monitoring"]["dead"]) == (1, 1)
    assert services["gateway"]["dead_letters"] == 2

    number = str(poison["sequence"])
    assert '"entrypoint"' in headrace("admin", "dead", "show", number).out
    assert headrace("admin", "dead", "replay", number).out == f"replayed {number}\n"
    until(lambda: len(_letters(headrace)) == 2, limit_s=30, what="the letter of the poison that was replayed")
    again = next(letter for letter in _letters(headrace) if letter["subject"] == MISSPELT)
    assert (again["id"], again["sequence"] > poison["sequence"]) == ("poison", True)

    assert headrace("admin", "dead", "drop", "--all").status == 0
    assert _letters(headrace) == []
