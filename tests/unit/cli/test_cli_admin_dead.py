"""`headrace admin dead`, as an operator sees it at 80 columns, and as a program does."""

from __future__ import annotations

import json
import time
from textwrap import dedent
from typing import Any

import pytest

from tests.support.fake_gateway import FakeGateway
from tests.support.terminal import Terminal


def a_letter(sequence: int, **said: Any) -> dict[str, Any]:
    letter = {
        "sequence": sequence,
        "at": time.time() - 120,
        "subject": "hr.v1.submit.vision.ada",
        "reason": "ValueError: a bug\x1b[2J of ours",
        "tries": 10,
        "stream": "REQUESTS_vision",
        "id": "7",
        "size_bytes": 12,
    }
    return letter | said


@pytest.fixture
def letters(gateway: FakeGateway) -> FakeGateway:
    about_job = a_letter(
        9,
        subject="hr.v1.from.node-1.metrics.vision.j-abcdefghij23",
        job="j-abcdefghij23",
        reason="header hr-spool: '' is not j-abcdefghij23/<attempt>/<file>",
        tries=1,
    )
    gateway.pages["/v1/admin/dead"] = {"letters": [a_letter(4), about_job], "next": 0, "total": 2}
    said = {"letter": a_letter(4, at=1_700_000_000.5), "headers": {"ce-id": "7"}, "text": '{"entrypoint": 1}'}
    gateway.pages["/v1/admin/dead/4"] = said
    for number in (4, 9):
        gateway.pages[f"/v1/admin/dead/{number}/replay"] = {"letter": a_letter(number), "stored_at": 5, "gone": True}
    return gateway


def test_letters_fit_eighty_columns(terminal: Terminal, letters: FakeGateway) -> None:
    assert terminal.run("admin", "dead") == dedent("""\
        NUMBER       WHEN  TRIES  JOB         SUBJECT              REASON
             4  2m00s ago     10  –           submit.vision.ada    ValueError: a bug?[2…
             9  2m00s ago      1  j-abcdefgh  from.node-1.metric…  header hr-spool: ''…""")


def test_a_letter_is_shown_with_its_message(terminal: Terminal, letters: FakeGateway) -> None:
    assert terminal.run("admin", "dead", "show", "4") == dedent("""\
        sequence = 4
        at = 2023-11-14T22:13:20.500000Z
        subject = hr.v1.submit.vision.ada
        reason = ValueError: a bug?[2J of ours
        tries = 10
        stream = REQUESTS_vision
        id = 7
        size_bytes = 12
        header ce-id = 7
        body = {"entrypoint": 1}""")


def test_programs_get_a_letter_a_line(terminal: Terminal, letters: FakeGateway) -> None:
    lines = terminal.run("admin", "dead", "--json").splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == [4, 9]


@pytest.mark.parametrize("numbers", [("4", "9"), ("--all",)])
def test_replay_names_each_letter(terminal: Terminal, letters: FakeGateway, numbers: tuple[str, ...]) -> None:
    assert terminal.run("admin", "dead", "replay", *numbers) == "replayed 4\nreplayed 9"
    posted = [path for method, path, _ in letters.asked if method == "POST"]
    assert posted == ["/v1/admin/dead/4/replay", "/v1/admin/dead/9/replay"]


def test_a_letter_that_is_gone_does_not_keep_the_others_back(terminal: Terminal, letters: FakeGateway) -> None:
    letters.pages["/v1/admin/dead/9"] = a_letter(9)
    assert terminal.run("admin", "dead", "drop", "3", "9") == dedent("""\
        exit status 1
        dropped 9
        stderr:
        error: no such page: /v1/admin/dead/3
        hint: headrace jobs --all lists what there is""")
    assert [path for method, path, _ in letters.asked if method == "DELETE"][-1] == "/v1/admin/dead/9"


@pytest.mark.parametrize("words", [(), ("4", "--all")])
def test_dropping_wants_to_be_told_which(terminal: Terminal, letters: FakeGateway, words: tuple[str, ...]) -> None:
    assert terminal.run("admin", "dead", "drop", *words).startswith("exit status 2")
    assert not [method for method, _, _ in letters.asked if method == "DELETE"]


def test_no_letters_is_said_so(terminal: Terminal, gateway: FakeGateway) -> None:
    gateway.pages["/v1/admin/dead"] = {"letters": [], "next": 0, "total": 0}
    assert terminal.run("admin", "dead") == "stderr:\nno dead letters"
