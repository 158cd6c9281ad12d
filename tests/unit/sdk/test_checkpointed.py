"""`headrace.checkpointed()`, and what the node reads of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import headrace
from runtime import spool


def test_the_node_reads_when_the_job_last_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "spool"
    monkeypatch.setenv("HEADRACE_SPOOL", str(folder))
    assert spool.checkpoint_at(folder) is None
    headrace.checkpointed()
    assert spool.checkpoint_at(folder) == pytest.approx(os.stat(tmp_path).st_mtime, abs=60)
    os.utime(folder / spool.CHECKPOINTED, (1.0, 1.0))
    assert spool.checkpoint_at(folder) == 1.0
    headrace.checkpointed()
    assert spool.checkpoint_at(folder) != 1.0
    assert spool.files(folder) == []  # it is no spool


def test_outside_of_a_job_it_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_SPOOL", raising=False)
    monkeypatch.chdir(tmp_path)
    headrace.checkpointed()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEADRACE_SPOOL", str(tmp_path / "file" / "spool"))
    headrace.checkpointed()


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_the_node_takes_nothing_but_a_regular_file_for_it(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / spool.CHECKPOINTED).mkdir()
    else:
        (tmp_path / "elsewhere").touch()
        (tmp_path / spool.CHECKPOINTED).symlink_to(tmp_path / "elsewhere")
    assert spool.checkpoint_at(tmp_path) is None
