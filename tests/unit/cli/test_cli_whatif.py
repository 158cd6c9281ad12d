"""`headrace whatif`, as an operator sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from headrace.client import Client
from headrace.sse import Event
from tests.support.fake_gateway import FakeGateway
from tests.support.terminal import Terminal

FIGURES = {"jobs": 418, "wait_s_mean": 720.0, "wait_s_p95": 7800.0, "slowdown": 4.214, "utilisation": 0.71}
FIGURES |= {"fairness": 0.8412}
TEAM = {
    "team": "vision",
    "recorded": FIGURES,
    "replayed": None,
    "policy": FIGURES | {"wait_s_mean": 480.0, "fairness": 0.9},
}


def answers(monkeypatch: pytest.MonkeyPatch, *teams: dict[str, Any], **end: str) -> list[Mapping[str, Any]]:
    """What is asked from now on, and answered so."""
    asked: list[Mapping[str, Any]] = []

    def events(client: Client, path: str, query: Mapping[str, Any]) -> Iterator[Event]:
        assert path == "/v1/admin/whatif"
        asked.append(query)
        for team in teams:
            yield Event("team", json.dumps(team))
        yield Event("end", json.dumps({"archived": 0, "warning": "", "error": ""} | end))

    monkeypatch.setattr(Client, "events", events)
    return asked


def test_three_worlds_stand_side_by_side(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = answers(monkeypatch, TEAM)
    file = tmp_path / "other.toml"
    file.write_text('[queues."*"]\npolicy = "sjf"\n')
    assert terminal.run("whatif", "--since", "7d", "--policy", str(file)) == dedent("""\
        TEAM                 AS IT WAS  REPLAYED  other.toml
        vision  wait, mean      12m00s         –       8m00s
                wait, p95        2h10m         –       2h10m
                slowdown          4.21         –        4.21
                utilisation     71.0 %         –      71.0 %
                fairness          0.84         –        0.90
                jobs               418         –         418""")
    assert asked == [{"since_s": 7 * 86_400.0, "policy": file.read_text(), "origin": "other.toml"}]
    assert json.loads(terminal.run("whatif", "--json")) == TEAM
    assert asked[1] == {"since_s": 30 * 86_400.0, "policy": "", "origin": "policy"}


def test_what_is_missing_and_what_is_wrong_is_said(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, warning="the archive does not answer")
    told = terminal.run("whatif")
    assert told == "stderr:\nwarning: the archive does not answer\nno job ran in that time"
    answers(monkeypatch, error="p: nodes.more: no n9 in the ledger; there are n1")
    assert "error: p: nodes.more: no n9" in terminal.run("whatif")
    assert "cannot be read" in terminal.run("whatif", "--policy", "/no/such.toml")


def test_a_mistake_in_the_file_is_the_servers_word(terminal: Terminal, gateway: FakeGateway) -> None:
    gateway.refusals["/v1/admin/whatif"] = (422, {"error": {"message": "policy: no such key: queue"}})
    assert "error: policy: no such key: queue" in terminal.run("whatif")
