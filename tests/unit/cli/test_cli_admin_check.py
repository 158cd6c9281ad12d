"""`headrace admin check`, as an operator sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import pytest

from headrace.client import Client
from headrace.sse import Event
from tests.support.terminal import Terminal

GOOD = {"what": "ledger: facts replayed from its beginning", "count": 42, "differences": [], "note": ""}
BAD = {"what": "archive: blobs", "count": 3, "differences": ["a.parquet: no blob\x1b[2J a.parquet"], "note": ""}
NOTED = {"what": "scheduling", "count": 0, "differences": [], "note": "scheduling does not answer: not compared"}


def answers(monkeypatch: pytest.MonkeyPatch, *compared: dict[str, Any]) -> None:
    def events(client: Client, path: str) -> Iterator[Event]:
        assert path == "/v1/admin/check"
        for each in compared:
            yield Event("compared", json.dumps(each))
        yield Event("end", json.dumps({"compared": len(compared)}))

    monkeypatch.setattr(Client, "events", events)


def test_what_was_compared_is_said_and_that_all_is_well(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, GOOD, NOTED)
    assert terminal.run("admin", "check") == dedent("""\
        ✓ ledger: facts replayed from its beginning: 42
        ✓ scheduling: 0  scheduling does not answer: not compared
        stderr:
        2 comparisons: no difference""")


def test_a_difference_is_told_and_is_the_exit_status(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, GOOD, BAD)
    assert terminal.run("admin", "check") == dedent("""\
        exit status 1
        ✓ ledger: facts replayed from its beginning: 42
        ✕ archive: blobs: 3
            a.parquet: no blob?[2J a.parquet
        stderr:
        2 comparisons: 1 differences""")


def test_a_program_gets_each_comparison_as_a_line_of_json(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, GOOD)
    assert json.loads(terminal.run("--json", "admin", "check")) == GOOD
