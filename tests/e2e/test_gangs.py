"""A gang as a user sees it, on a stack without Ray of three nodes: its output, its metrics, the reason of its end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import pytest

from load_tests.stack import Stack
from load_tests.without_ray import running
from tests.e2e.conftest import Headrace

CONFIG = """default_tier = "part"
[[tiers]]
name = "part"
resources = {cpus = 0.5, memory_bytes = 200_000_000}
"""
LOGS = """
import os, sys, time, headrace
rank = int(os.environ["RANK"])
print("hello from", rank)
for step in range(3):
    headrace.log(step=step, loss=rank + step / 10)
print("done", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def gangs() -> Iterator[Stack]:
    with running(CONFIG, nodes=3) as stack:
        deadline = time.monotonic() + 30
        while len(stack.call("GET", "/v1/nodes")["nodes"]) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield stack


@pytest.fixture
def headrace(gangs: Stack, monkeypatch: pytest.MonkeyPatch) -> Headrace:
    monkeypatch.setenv("HEADRACE_URL", gangs.about["url"])
    monkeypatch.setenv("HEADRACE_TOKEN", gangs.about["token"])
    return Headrace(gangs.state / "laptop")


def run(headrace: Headrace, code: str) -> str:
    """The id of a gang of three that runs some Python."""
    options = ("--nodes", "3", "--no-source", "--no-environment", "--detach")
    said = headrace("run", *options, "--", sys.executable, "-c", code)
    assert said.status == 0, said.err
    return said.out.strip()


def test_each_rank_has_output_and_metrics_of_its_own(headrace: Headrace, gangs: Stack) -> None:
    job = run(headrace, LOGS)
    assert gangs.wait(job)["reason"] == "exit code 0"
    for rank in range(3):
        said = headrace("logs", "--follow", job, "--rank", str(rank))  # it ends when all is stored
        assert (said.out, said.err) == (f"hello from {rank}\n", "done\n")
    series = [json.loads(line) for line in headrace("metrics", job, "--json").out.splitlines()]
    assert sorted((each.get("rank", 0), each["values"]) for each in series) == [
        (0, [0.0, 0.1, 0.2]),
        (1, [1.0, 1.1, 1.2]),
        (2, [2.0, 2.1, 2.2]),
    ]


def test_what_all_ranks_wrote_is_known_to_be_complete_at_once(headrace: Headrace, gangs: Stack) -> None:
    job = run(headrace, LOGS)
    gangs.wait(job)
    begun = time.monotonic()
    while not gangs.call("GET", f"/v1/jobs/{job}/metrics").get("complete"):
        assert time.monotonic() < begun + 20, "monitoring waits for something that never comes"
        time.sleep(0.1)


def test_the_reason_names_the_rank_that_failed_first(headrace: Headrace, gangs: Stack) -> None:
    code = "import os, time; assert os.environ['RANK'] != '1', 'loss is nan'; time.sleep(600)"
    job = run(headrace, code)
    view = gangs.wait(job)
    node = view["allocations"][1]["node"] if view.get("allocations") else ""
    assert view["state"] == "failed"
    assert f"rank 1 on {node}" in view["reason"]
    assert "AssertionError: loss is nan" in view["reason"]
    shown = headrace("show", job).out
    assert "AssertionError: loss is nan" in shown
