"""Load tests that start Ray; see `tests/support/load_tests.py`. A file of their own, so that others run beside them."""

from __future__ import annotations

import subprocess

import pytest

from load_tests.ray_nodes import NAMESPACE
from tests.support.load_tests import ends_with_its_line

needs_namespaces = pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0,
    reason="its nodes have PID and mount namespaces: for that one must be root",
)


@pytest.mark.parametrize(
    "words",
    [
        ("launch_latency", "--jobs", "3", "--ray-jobs", "0"),
        ("ray_jobs", "--jobs", "1", "--ray-port", "0"),
        ("arrays", "--tasks", "5", "--chain", "3"),
        pytest.param(("head_restart", "--attempts", "2", "--only", "kept"), marks=needs_namespaces),
        pytest.param(("gang_nodes", "--size", "2", "--rounds", "1"), marks=needs_namespaces),
        ("private_ray", "--clusters", "2"),
        ("kills", "--jobs", "3", "--seconds", "45"),
    ],
    ids=lambda words: words[0],
)
def test_load_test_ends_with_its_line(words: tuple[str, ...]) -> None:
    ends_with_its_line(*words)
