"""One embedded stack for all end-to-end tests of a run, and the CLI as a user calls it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from load_tests.stack import Stack, running

ROOT = Path(__file__).resolve().parents[2]
RUN_S_MAX = 240


class Said(NamedTuple):
    """What a command said, and how it ended."""

    status: int
    out: str
    err: str


class Headrace:
    """The CLI against one state folder, in the environment that runs the tests."""

    def __init__(self, state: Path) -> None:
        self._environ = {
            **os.environ,
            "HEADRACE_STATE": str(state),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "NO_COLOR": "1",
            "COLUMNS": "80",
        }

    def __call__(self, *words: str, folder: Path = ROOT) -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "headrace.cli", *words],
            cwd=folder,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=RUN_S_MAX,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def lines(self, *words: str) -> Iterator[Iterator[str]]:
        """The lines that a command says, as it says them; it is ended afterwards."""
        command = [sys.executable, "-u", "-m", "headrace.cli", *words]
        running = subprocess.Popen(command, cwd=ROOT, env=self._environ, stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None
        try:
            yield iter(running.stdout)
        finally:
            running.terminate()
            running.wait(RUN_S_MAX)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack with two fake GPUs."""
    config = (ROOT / "tests" / "e2e" / "headrace.toml").read_text()
    with running("--gpus", "2", state=tmp_path_factory.mktemp("state"), config=config) as stack:
        yield stack


@pytest.fixture
def headrace(stack: Stack) -> Headrace:
    return Headrace(stack.state)
