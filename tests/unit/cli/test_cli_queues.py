"""`headrace queues` and `headrace teams`, as people see them at 80 columns, and what they ask the server for."""

from __future__ import annotations

import json
from textwrap import dedent
from typing import Any

import pytest

from tests.support.fake_gateway import FakeGateway
from tests.support.terminal import Terminal

NIGHT: dict[str, Any] = {
    "team": "vision",
    "queue": "night",
    "weight": 2.0,
    "waiting": 11,
    "running": 3,
    "gpus": 22,
    "cpus": 88.0,
    "running_max": 40,
    "gpus_max": 64,
    "guaranteed_gpus": 8,
    "guaranteed_cpus": 1.0,
    "user_running_max": 1,
    "policy": "sjf",
    "tiers": ["gpu1", "gpu2"],
    "time_limit_s_default": 7200.0,
    "time_limit_s_max": 86_400.0,
    "priority_max": 5,
    "preemptible": True,
    "predictions": False,
    "paused": True,
    "draining": True,
    "by": "ops",
}
PLAIN = {"team": "vision", "queue": "default", "by": "configuration"}
SECRET = {"team": "speech", "queue": "default", "removed": True}
APPLIED = {"verdict": "applied", "sequence": 9}


@pytest.fixture
def server(gateway: FakeGateway) -> FakeGateway:
    gateway.pages |= {
        "/v1/queues": {"queues": [NIGHT, PLAIN, SECRET]},
        "/v1/queues/vision/night": NIGHT,
        "/v1/queues/vision/default": PLAIN,
        "/v1/teams": {"teams": [{"team": "speech"}, {"team": "vision", "queues": 2, "guaranteed_gpus": 8}]},
    }
    return gateway


def asked(gateway: FakeGateway) -> tuple[str, str, Any]:
    method, path, content = gateway.asked[-1]
    return method, path, json.loads(content) if content else None


def test_the_list_leaves_out_what_does_not_fit(terminal: Terminal, server: FakeGateway) -> None:
    assert terminal.run("queues") == dedent("""\
        QUEUE    TEAM    WAITING  RUNNING      GPUS  GUARANTEED     STATE
        night    vision       11  3 of 40  22 of 64  8 GPUs, 1 CPU  paused, draining
        default  vision        0        0         0  –              open
        default  speech        0        0         0  –              deleted""")


def test_a_wide_terminal_shows_all(terminal: Terminal, server: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert terminal.run("queues").splitlines()[:2] == [
        "QUEUE    TEAM    WAITING  RUNNING      GPUS  GUARANTEED     WEIGHT  POLICY    STATE",
        "night    vision       11  3 of 40  22 of 64  8 GPUs, 1 CPU       2  sjf       paused, draining",
    ]


def test_a_queue_is_shown_with_all_its_settings(terminal: Terminal, server: FakeGateway) -> None:
    assert terminal.run("queues", "show", "night") == dedent("""\
        vision/night  paused, draining
          waiting      11
          running      3, with 22 GPUs, 88 CPUs
          limits       40 jobs, 64 GPUs
          of each user 1 job
          guaranteed   8 GPUs, 1 CPU
          weight       2
          policy       sjf
          predictions  no
          tiers        gpu1, gpu2
          time limit   2h00m where a job does not say, at most 1d0h
          priority     0 where a job does not say, at most 5
          preemptible  yes, where a job does not say
          set by       ops""")


def test_a_queue_that_nobody_has_set_is_shown_with_what_that_means(terminal: Terminal, server: FakeGateway) -> None:
    assert terminal.run("queues", "show", "vision/default") == dedent("""\
        vision/default  open
          waiting      0
          running      0, with 0 GPUs, 0 CPUs
          limits       none
          of each user none
          guaranteed   nothing
          weight       1
          policy       slowdown, guard 1.2
          predictions  yes
          tiers        those of the team
          time limit   as everywhere
          priority     0 where a job does not say
          preemptible  no, where a job does not say
          set by       configuration""")


def test_programs_get_one_object_a_queue(terminal: Terminal, server: FakeGateway) -> None:
    lines = [json.loads(line) for line in terminal.run("queues", "--json").splitlines()]
    assert [line["queue"] for line in lines] == ["night", "default", "default"]
    assert json.loads(terminal.run("queues", "show", "night", "--json"))["guaranteed_gpus"] == 8


@pytest.mark.parametrize(
    ("arguments", "request_", "said"),
    [
        ("pause night", ("PATCH", {"paused": True}), "paused"),
        ("drain night", ("PATCH", {"draining": True}), "draining"),
        ("resume night", ("PATCH", {"paused": False, "draining": False}), "open"),
        ("delete night", ("DELETE", None), "deleted"),
        (
            "set vision/night --weight 2 --max-running none --guard none --tiers all",
            ("PATCH", {"weight": 2.0, "running_max": None, "guard": None, "tiers": []}),
            "set",
        ),
        (
            "set night --time-limit 2h --max-time-limit none --tiers gpu1,gpu2",
            ("PATCH", {"time_limit_s_default": 7200.0, "time_limit_s_max": None, "tiers": ["gpu1", "gpu2"]}),
            "set",
        ),
        (
            "set night --priority 2 --max-priority -3 --no-preemptible --predictions --max-running-user 1",
            (
                "PATCH",
                {
                    "priority_default": 2,
                    "priority_max": -3,
                    "preemptible": False,
                    "predictions": True,
                    "user_running_max": 1,
                },
            ),
            "set",
        ),
        (
            "create night --team vision --guaranteed-gpus 8 --max-gpus-user 4 --policy fcfs --preemptible",
            ("PUT", {"guaranteed_gpus": 8, "user_gpus_max": 4, "policy": "fcfs", "preemptible": True}),
            "created",
        ),
    ],
)
def test_a_change_is_one_request(
    terminal: Terminal, gateway: FakeGateway, arguments: str, request_: tuple[str, Any], said: str
) -> None:
    gateway.pages |= {"/v1/queues": {"queues": [NIGHT, PLAIN]}, "/v1/queues/vision/night": APPLIED}
    assert terminal.run("queues", *arguments.split()) == f"stderr:\nvision/night: {said}"
    method, body = request_
    assert asked(gateway) == (method, "/v1/queues/vision/night", body)


def test_a_team_is_set(terminal: Terminal, server: FakeGateway) -> None:
    server.pages["/v1/teams/vision"] = APPLIED | {"verdict": "repeated"}
    said = terminal.run("teams", "set", "vision", "--guaranteed-gpus", "16", "--max-running", "none")
    assert said == "stderr:\nvision: set, as before"
    assert asked(server) == ("PATCH", "/v1/teams/vision", {"guaranteed_gpus": 16, "running_max": None})


def test_teams_are_a_table(terminal: Terminal, server: FakeGateway) -> None:
    assert terminal.run("teams") == dedent("""\
        TEAM    QUEUES  WAITING  RUNNING  GPUS  GUARANTEED  WEIGHT
        speech       0        0        0     0  –                1
        vision       2        0        0     0  8 GPUs           1""")


def test_a_warning_is_passed_on(terminal: Terminal, server: FakeGateway) -> None:
    warning = {"path": "$.guaranteed_gpus", "message": "no node is known yet", "hint": "headrace nodes"}
    server.pages["/v1/queues/vision/night"] = APPLIED | {"warnings": [warning]}
    assert terminal.run("queues", "set", "night", "--guaranteed-gpus", "4") == dedent("""\
        stderr:
        warning: guaranteed_gpus: no node is known yet
        hint: headrace nodes
        vision/night: set""")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ("queues pause nigth", 1, "error: no queue `nigth`\nhint: did you mean `night`?"),
        ("queues pause default", 2, "error: 2 teams have a queue default\nhint: --team speech or --team vision"),
        ("queues pause a/night --team b", 2, "error: two teams: a and b"),
        ("queues create big", 2, "error: for which team?\nhint: --team speech or --team vision"),
        ("queues set night", 2, "error: nothing to set"),
        ("teams set vision", 2, "error: nothing to set"),
        ("queues set night --max-running many", 2, "'many' is no limit; write a number, or `none`"),
        ("queues set night --time-limit soon", 2, "'soon' is no duration; write 90s, 45m, 2h or 1h30m, or `none`"),
        ("queues set night --guard x", 2, "'x' is no number"),
        ("queues set night --weight x", 2, "'x' is not a valid float"),
    ],
)
def test_what_cannot_be_asked_for_is_said_before_anything_is_asked(
    terminal: Terminal, server: FakeGateway, arguments: str, status: int, words: str
) -> None:
    transcript = terminal.run(*arguments.split())
    assert transcript.startswith(f"exit status {status}")
    assert words in transcript
    assert {method for method, _, _ in server.asked} <= {"GET"}


def test_what_the_server_refuses_is_told_field_by_field(terminal: Terminal, server: FakeGateway) -> None:
    told = "guaranteed: red/big 8 + red/default 4 + blue/default 6 = 18 GPUs; the nodes have 16"
    problem = {"path": "$.guaranteed_gpus", "message": told, "hint": "guarantee less"}
    message = f"queue night was not changed: $.guaranteed_gpus: {told}"
    server.refusals["/v1/queues/vision/night"] = (422, {"error": {"message": message, "problems": [problem]}})
    assert terminal.run("queues", "set", "night", "--guaranteed-gpus", "6") == dedent(f"""\
        exit status 1
        stderr:
        error: queue night was not changed
          guaranteed_gpus: {told}
          hint: guarantee less""")
