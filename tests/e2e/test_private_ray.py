"""`headrace run --kind ray` as a user sees it, on a whole stack whose nodes are in a Ray of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from load_tests.stack import until
from load_tests.without_ray import running
from tests.e2e.conftest import Headrace

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

LOOKS = """
import json, os, ray
ray.init(logging_level="ERROR")
gpu = ray.remote(num_gpus=1, num_cpus=0)(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
print(json.dumps({"nodes": len(ray.nodes()), "gpus": ray.cluster_resources().get("GPU"), "seen": ray.get(gpu.remote()),
                  "held": os.environ["CUDA_VISIBLE_DEVICES"]}))
"""


def test_the_example_searches_in_a_cluster_of_its_own(headrace: Headrace) -> None:
    options = ("--kind", "ray", "--no-environment", "--tier", "ray1", "--name", "search")
    said = headrace("run", *options, "--", "python", "examples/private_ray/search.py", "--trials", "6")
    assert said.status == 0, said.err
    assert re.search(r"^1 node, 1 CPUs, 1 GPUs$", said.out, re.MULTILINE)
    assert re.search(r"^best of 6: loss \d+\.\d+ at rate", said.out, re.MULTILINE)
    series = [json.loads(line) for line in headrace("metrics", "search", "--json").out.splitlines()]
    assert [len(each["values"]) for each in series] == [6]


def test_a_cluster_has_the_gpu_that_its_job_holds_and_not_the_fleets(headrace: Headrace, tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text(LOOKS)
    options = ("--kind", "ray", "--no-environment", "--tier", "ray1")
    said = headrace("run", *options, "--", "python", "look.py", folder=tmp_path)
    assert said.status == 0, said.err
    found = json.loads(next(line for line in said.out.splitlines() if line.startswith("{")))
    assert (found["nodes"], found["gpus"]) == (1, 1.0)
    assert found["seen"] == found["held"] != ""


TWO = """default_tier = "part"
[[tiers]]
name = "part"
resources = {cpus = 1, memory_bytes = 1_500_000_000}
"""


def test_a_gang_is_one_cluster_and_its_command_runs_once(tmp_path: Path) -> None:
    code = "import ray; ray.init(logging_level='ERROR'); print(len(ray.nodes()), ray.cluster_resources()['CPU'])"
    with running(TWO, nodes=2) as stack:
        until(lambda: len(stack.call("GET", "/v1/nodes")["nodes"]) == 2, limit_s=60, what="both nodes")
        body = {"type": "submit", "entrypoint": ["python", "-c", code], "kind": "ray", "nodes": 2}
        job = str(stack.call("POST", "/v1/jobs", body)["job"])
        assert stack.wait(job)["reason"] == "exit code 0"
        environ = {**os.environ, "HEADRACE_URL": stack.about["url"], "HEADRACE_TOKEN": stack.about["token"]}
        words = [sys.executable, "-m", "headrace.cli", "--state", str(tmp_path), "logs", "--follow", job]
        said = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == "2 2.0\n"
