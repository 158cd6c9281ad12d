"""`headrace admin backup` and `restore`: which command they become, and where they are refused."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.terminal import Terminal


def test_a_server_elsewhere_is_not_backed_up_from_here(terminal: Terminal, tmp_path: Path) -> None:
    for command in ("backup", "restore"):
        said = terminal.run("admin", command, str(tmp_path / "b"))
        assert "exit status 2" in said
        assert "python -m controlplane.backup" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("backup", "b"), ["save"]),
        (("restore", "b"), ["restore"]),
        (("restore", "b", "--overwrite"), ["restore", "--overwrite"]),
    ],
)
def test_the_server_does_the_work_and_its_status_is_ours(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...], told: list[str]
) -> None:
    called: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        called.append(command)
        return subprocess.CompletedProcess(command, 2)

    monkeypatch.setattr("headrace.cli.admin_backup.subprocess.run", run)
    monkeypatch.delenv("HEADRACE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert "exit status 2" in terminal.run("admin", *words)
    [command] = called
    assert command[command.index("controlplane.backup") + 1 :][:1] == told[:1]
    assert str(tmp_path / "b") in command
    assert command[-1:] == told[1:] or len(told) == 1
    assert "--embedded" in command
