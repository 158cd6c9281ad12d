"""`headrace nodes`: what operators say of machines, and how everybody sees it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.support.fake_gateway import FakeGateway
from tests.support.terminal import Terminal

APPLIED = {"verdict": "applied", "sequence": 7}


def a_node(name: str = "gpu-a03", **said: Any) -> dict[str, Any]:
    node = {"node": name, "state": "ready", "capacity": {"cpus": 8, "memory_bytes": 2**30}, "free": {}}
    return node | said


@pytest.fixture
def machines(gateway: FakeGateway) -> FakeGateway:
    gateway.pages["/v1/nodes"] = {"nodes": [a_node(attempts=[1, 2], seen_at=time.time() - 3), a_node("gpu-a04")]}
    for verb in ("cordon", "uncordon", "drain", "maintenance", "gone", "repair"):
        for name in ("gpu-a03", "gpu-a04"):
            gateway.pages[f"/v1/nodes/{name}/{verb}"] = APPLIED
    return gateway


def asked(gateway: FakeGateway) -> list[tuple[str, Any]]:
    said = [(path, body) for method, path, body in gateway.asked if method == "POST"]
    return [(path.removeprefix("/v1/nodes/"), json.loads(body)) for path, body in said]


def test_each_command_says_it_of_each_machine(terminal: Terminal, machines: FakeGateway) -> None:
    terminal.run("nodes", "cordon", "gpu-a03", "gpu-a04", "--why", "fans")
    terminal.run("nodes", "uncordon", "gpu-a03")
    terminal.run("nodes", "drain", "gpu-a03", "--stop")
    terminal.run("nodes", "gone", "gpu-a03", "--yes", "--why", "fire")
    terminal.run("nodes", "repair", "gpu-a03", "--gpu", "3", "--gpu", "0", "--why", "new riser")
    assert terminal.run("nodes", "repair", "gpu-a04") == "stderr:\ngpu-a04: places jobs on these GPUs again"
    assert asked(machines) == [
        ("gpu-a03/cordon", {"why": "fans"}),
        ("gpu-a04/cordon", {"why": "fans"}),
        ("gpu-a03/uncordon", {}),
        ("gpu-a03/drain", {"stop": True}),
        ("gpu-a03/gone", {"why": "fire"}),
        ("gpu-a03/repair", {"gpus": [3, 0], "why": "new riser"}),
        ("gpu-a04/repair", {}),
    ]


def test_a_maintenance_is_of_some_machines_or_of_all(terminal: Terminal, machines: FakeGateway) -> None:
    terminal.run("nodes", "maintenance", "--all", "--from", "2026-11-30T18:00+00:00", "--for", "2h")
    span = {"begins_at": 1_796_061_600.0, "ends_at": 1_796_068_800.0}
    assert asked(machines) == [("gpu-a03/maintenance", span), ("gpu-a04/maintenance", span)]
    terminal.run("nodes", "maintenance", "gpu-a04", "--cancel")
    assert asked(machines)[2:] == [("gpu-a04/maintenance", {})]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("maintenance", "gpu-a03"), "say how long"),
        (("maintenance", "gpu-a03", "--cancel", "--for", "2h"), "say how long"),
        (("maintenance", "--for", "2h"), "say which nodes"),
        (("maintenance", "gpu-a03", "--all", "--for", "2h"), "say which nodes"),
        (("gone", "gpu-a03"), "add --yes"),
    ],
)
def test_half_a_command_does_nothing(
    terminal: Terminal, machines: FakeGateway, words: tuple[str, ...], said: str
) -> None:
    assert said in terminal.run("nodes", *words)
    assert asked(machines) == []


def test_a_machine_is_given_up_only_by_who_knows_what_runs_there(terminal: Terminal, machines: FakeGateway) -> None:
    said = terminal.run("nodes", "gone", "gpu-a03")
    assert "gpu-a03: 2 attempts, heard of 3s ago" in said


def test_a_refusal_does_not_keep_the_others_from_it(terminal: Terminal, machines: FakeGateway) -> None:
    problem = {"path": "$.node", "message": "no node `gpu-a03`"}
    machines.refusals["/v1/nodes/gpu-a03/cordon"] = (404, {"error": {"message": "no node", "problems": [problem]}})
    said = terminal.run("nodes", "cordon", "gpu-a03", "gpu-a04")
    assert "no node" in said
    assert "gpu-a04: gets no more jobs" in said


def test_the_list_says_who_closed_what_and_for_how_long(terminal: Terminal, gateway: FakeGateway) -> None:
    begin = time.time() + 86_400
    span = {"begins_at": begin, "ends_at": begin + 60, "by": "bob", "why": "fans"}
    closed = a_node(state="drained", by="ops", why="new disks", maintenance=span)
    lost = a_node("gpu-a04", state="gone", why="given up by ops")
    gateway.pages["/v1/nodes"] = {"nodes": [closed, lost]}
    said = terminal.run("nodes")
    assert "gpu-a03 is drained, by ops: new disks" in said
    assert "gpu-a03 is closed 20" in said
    assert "by bob: fans" in said
    assert "gpu-a04 is gone: given up by ops" in said


def test_the_list_says_which_gpus_are_out_of_use_since_when_and_who_met_it(
    terminal: Terminal, gateway: FakeGateway
) -> None:
    met = {"team": "vision", "job": "j-aaaabbbbcccc", "attempt": 1}
    at = time.time() - 7200
    lost = {"gpu": 3, "sign": "Xid 79", "why": "Xid 79 (the GPU has fallen off the bus)", "since_at": at, "jobs": [met]}
    gone = {"gpu": 3, "sign": "lost", "why": "the driver has lost it", "since_at": at, "stands": True}
    worn = {"gpu": 5, "sign": "rows pending", "why": "memory rows are remapped", "since_at": at, "ends": False}
    free = {"gpus": [0, 1]}
    has = {"cpus": 8, "memory_bytes": 2**30, "gpus": 8}
    gateway.pages["/v1/nodes"] = {"nodes": [a_node(capacity=has, free=free, faults=[lost, gone, worn])]}
    said = terminal.run("nodes")
    assert "2 of 8, 2 out" in said
    assert (
        "warning: GPU 3 of gpu-a03 is out of use: Xid 79 (the GPU has fallen off the bus), 2h00m ago; "
        "met by j-aaaabbbbcccc of vision\n"
        "warning: GPU 3 of gpu-a03 is out of use: the driver has lost it, 2h00m ago\n"
        "warning: GPU 5 of gpu-a03 gets no more jobs: memory rows are remapped, 2h00m ago"
    ) in said
