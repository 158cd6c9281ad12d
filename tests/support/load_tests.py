"""A load test as CI runs it: at its smallest, to see that it still runs. Its figures mean nothing there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN_S_MAX = 280


def ends_with_its_line(name: str, *words: str) -> None:
    """Run it; raises AssertionError if it fails or does not end with one line of JSON."""
    done = subprocess.run(
        [sys.executable, "-m", f"load_tests.{name}", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-30_000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert last.keys() == {"name", "figures", "peers"}
    assert last["name"] == name
    assert last["figures"]
