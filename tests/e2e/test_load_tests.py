"""Every load test still runs, at its smallest, and ends with one line of JSON. Its figures mean nothing here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from load_tests.ray_nodes import NAMESPACE

ROOT = Path(__file__).resolve().parents[2]
RUN_S_MAX = 280
needs_namespaces = pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0,
    reason="its nodes have PID and mount namespaces: for that one must be root",
)


@pytest.mark.parametrize(
    "words",
    [
        ("launch_latency", "--jobs", "3", "--ray-jobs", "0"),
        ("ray_jobs", "--jobs", "1", "--ray-port", "0"),
        ("pipeline", "--jobs", "100", "--slurm-jobs", "0"),
        ("waits", "--jobs", "2", "--queued", "10", "--called", "5", "--small", "1", "--no-slurm"),
        ("logging_overhead", "--no-peers", "--no-stack"),
        ("arrays", "--tasks", "5", "--chain", "3"),
        ("gang", "--nodes", "3", "--rounds", "2"),
        pytest.param(("head_restart", "--attempts", "2", "--only", "kept"), marks=needs_namespaces),
        pytest.param(("gang_nodes", "--size", "2", "--rounds", "1"), marks=needs_namespaces),
        ("private_ray", "--clusters", "2"),
        ("monitoring", "--points", "500000"),
        ("fuzz", "--minutes", "0.02"),
        ("overload", "--submits", "300"),
        ("kills", "--jobs", "3", "--seconds", "45"),
        ("faults", "--seeds", "1", "--minutes", "0.3", "--quiet"),
        ("attempts", "--attempts", "200"),
        (
            "recovery",
            "--trials",
            "1",
            "--only",
            "leader",
            "--only",
            "nodes",
            "--heartbeat-s",
            "0.5",
            "--suspect-s",
            "3",
            "--lease-s",
            "10",
        ),
        ("growth", "--jobs", "1200"),
        ("core_mutations", "--list"),
        ("pool", "--machines", "50", "--idle-s", "1", "--events", "200"),
        ("pool_mutations", "--list"),
        ("trace_replay", "--traces", "load_tests/traces/sample.swf"),
        ("forecast_error", "--traces", "load_tests/traces/sample.swf", "--each", "5", "--waiting", "50"),
        ("scheduler_core", "--waiting", "300", "--nodes", "20", "--rounds", "20"),
        ("scheduler_service", "--waiting", "300", "--settle-s", "3"),
        (
            "packing_replay",
            "--nodes",
            "load_tests/traces/sample_nodes.csv",
            "--pods",
            "load_tests/traces/sample_pods.csv",
            "--seeds",
            "1",
        ),
        ("soak", "--jobs", "12", "--at-once", "4", "--steps", "120", "--growth-mib-max", "200"),
    ],
    ids=lambda words: words[0],
)
def test_load_test_ends_with_its_line(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"load_tests.{words[0]}", *words[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert last.keys() == {"name", "figures", "peers"}
    assert last["name"] == words[0]
    assert last["figures"]
