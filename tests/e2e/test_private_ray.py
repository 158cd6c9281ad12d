"""`headrace run --kind ray` as a user sees it, on a whole stack whose nodes are in a Ray of their own."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

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
