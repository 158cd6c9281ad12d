"""Ray's own libraries inside a private cluster, as far as they are installed here.

`HEADRACE_TEST_RAY_VENV` names an environment with `ray[data,train,tune]`; without it that of the tests has to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import short_way
from tests.support import private_ray as clusters
from tests.support.attempts import Node
from tests.support.private_ray import end, left_of, said

BIN = Path(os.environ.get("HEADRACE_TEST_RAY_VENV", Path(sys.executable).parent.parent)) / "bin"
DATA = """
import json, ray
from ray.data import range as numbers
ray.init(logging_level="ERROR", log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
found = numbers(1000).map_batches(lambda batch: {"id": batch["id"] * 2}).sum("id")
print(json.dumps({"found": int(found), "nodes": len(ray.nodes())}))
"""
TUNE = """
import json, os, ray
from ray import tune
ray.init(logging_level="ERROR", log_to_driver=False)
def trial(config):
    tune.report({"loss": (config["x"] - 3) ** 2})
found = tune.Tuner(
    trial, param_space={"x": tune.grid_search([1, 3, 5])},
    run_config=tune.RunConfig(storage_path=os.environ["HEADRACE_SCRATCH"], verbose=0),
).fit()
print(json.dumps({"found": found.get_best_result("loss", "min").config["x"], "nodes": len(ray.nodes())}))
"""
TRAIN = """
import json, os, ray
from ray import train
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
ray.init(logging_level="ERROR", log_to_driver=False)
folder = os.environ["HEADRACE_SCRATCH"]
def loop():
    context = train.get_context()
    with open(f"{folder}/rank-{context.get_world_rank()}", "w") as file:
        file.write(str(context.get_world_size()))
DataParallelTrainer(
    loop, scaling_config=train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
    run_config=train.RunConfig(storage_path=os.environ["HEADRACE_SCRATCH"]),
).fit()
found = [int(open(f"{folder}/rank-{rank}").read()) for rank in range(2)]
print(json.dumps({"found": sum(found), "nodes": len(ray.nodes())}))
"""
NEEDED = {
    "data": "ray.data, pyarrow, pandas",
    "tune": "ray.tune",
    "train": "ray.train, ray.train.v2.api.data_parallel_trainer",
}


def _lacks(library: str) -> str:
    """Why a library of Ray's cannot be used there; empty: it can."""
    code = f"import {NEEDED[library]}"
    done = subprocess.run([BIN / "python", "-c", code], capture_output=True, text=True, timeout=120, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


@pytest.fixture(autouse=True)
def short_ways(node: Node) -> Iterator[None]:
    yield
    for scratch in node.folder.glob("attempts/*/scratch"):
        short_way.remove(scratch)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("library", "code", "found"), [("data", DATA, 999_000), ("tune", TUNE, 3), ("train", TRAIN, 4)]
)
async def test_a_library_of_rays_works_in_a_private_cluster(node: Node, library: str, code: str, found: int) -> None:
    if why := _lacks(library):
        pytest.skip(f"ray.{library} cannot be imported: {why}")
    job = await clusters.python(node, code, binaries=BIN, cpus=3, memory_bytes=4 * clusters.GIB)
    record = await end(job)
    assert record.exit_code == 0, job.output("stderr")[-3000:]
    assert said(job) == {"found": found, "nodes": 1}
    assert left_of(job) == []
