"""`headrace.submit` from Python does what `headrace run` does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import headrace
from headrace.jobs import JobFailed
from load_tests.stack import Stack

PROGRAM = "import headrace\nfor step in range(3):\n    headrace.log(step=step, loss=3.0 - step)\nprint('done')\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    return tmp_path


def test_what_a_job_logged_is_there_when_wait_returns(stack: Stack, folder: Path) -> None:
    (folder / "log.py").write_text(PROGRAM)
    job = headrace.submit(["python", "log.py"], state_folder=stack.state)
    assert job.wait()["state"] == "succeeded"
    assert [point.value for point in job.metrics()["loss"]] == [3.0, 2.0, 1.0]
    assert job.logs() == b"done\n"


def test_a_failed_job_raises_with_its_reason(stack: Stack, folder: Path) -> None:
    (folder / "fail.py").write_text("raise SystemExit(3)")
    job = headrace.submit(["python", "fail.py"], state_folder=stack.state)
    with pytest.raises(JobFailed, match="exit code 3"):
        job.wait()
