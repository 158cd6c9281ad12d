"""Load tests that start no Ray; see `tests/support/load_tests.py`."""

from __future__ import annotations

import pytest

from tests.support.load_tests import ends_with_its_line


@pytest.mark.parametrize(
    "words",
    [
        ("pipeline", "--jobs", "100", "--slurm-jobs", "0"),
        ("waits", "--jobs", "2", "--queued", "10", "--called", "5", "--small", "1", "--no-slurm"),
        ("logging_overhead", "--no-peers", "--no-stack"),
        ("gang", "--nodes", "3", "--rounds", "2"),
        ("monitoring", "--points", "500000"),
        ("fuzz", "--minutes", "0.02"),
        ("overload", "--submits", "300"),
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
    ends_with_its_line(*words)
