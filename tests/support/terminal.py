"""Running `headrace` as a user does, and its transcript with what differs from run to run masked."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from headrace.cli.main import main
from tests.support.fake_gateway import TOKEN

REPOSITORY = Path(__file__).resolve().parents[2]
_MASKS = (
    (re.compile(r"http://127\.0\.0\.1:\d+"), "http://[ADDRESS]"),
    (re.compile(r" {2,}\d+(\.\d+)? (ms|s)$", re.MULTILINE), "  [TIME]"),
    (re.compile(r"\d+(\.\d+)? (B|KiB|MiB) sent"), "[SIZE] sent"),
    (re.compile(r'"took_s": [\d.e-]+'), '"took_s": 0'),
    (re.compile(r'"sent_bytes": \d+'), '"sent_bytes": 0'),
    (re.compile(r'"digest": "sha256:[0-9a-f]{64}"'), '"digest": "[DIGEST]"'),
)


def masked(transcript: str) -> str:
    """The transcript without times, sizes on the wire, addresses."""
    for pattern, stand_in in _MASKS:
        transcript = pattern.sub(stand_in, transcript)
    return "\n".join(line.rstrip() for line in transcript.splitlines())


class Terminal:
    """A place to call `headrace` in this process: 80 columns, no colour, a state folder and a server of its own."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: Any, folder: Path) -> None:
        self._capture = capture
        self._patch = patch
        self.folder = folder
        for name in ("HEADRACE_URL", "HEADRACE_TOKEN", "NO_COLOR"):
            patch.delenv(name, raising=False)
        patch.setenv("HEADRACE_STATE", str(folder / "state"))
        patch.setenv("COLUMNS", "80")
        patch.setenv("LINES", "24")
        project = folder / "project"
        project.mkdir()
        patch.chdir(project)

    def use(self, url: str, token: str = TOKEN) -> None:
        """Names the server."""
        self._patch.setenv("HEADRACE_URL", url)
        self._patch.setenv("HEADRACE_TOKEN", token)

    def run(self, *arguments: str) -> str:
        """The transcript of one call: exit status if it is not 0, stdout, stderr behind `stderr:`."""
        self._capture.readouterr()
        status = main(arguments)
        out, err = self._capture.readouterr()
        parts = [f"exit status {status}"] if status else []
        parts += [out.rstrip("\n")] if out else []
        parts += ["stderr:\n" + err.rstrip("\n")] if err else []
        return masked("\n".join(parts))


def start(arguments: Sequence[str], *, url: str, folder: Path, **options: Any) -> subprocess.Popen[bytes]:
    """`headrace` as a process of its own, with this server."""
    environment = os.environ | {
        "HEADRACE_URL": url,
        "HEADRACE_TOKEN": TOKEN,
        "HEADRACE_STATE": str(folder / "state"),
        "PYTHONPATH": str(REPOSITORY / "sdk"),
        "COLUMNS": "80",
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
    }
    command = [sys.executable, "-m", "headrace.cli", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, **options)


def read_until(terminal: int, marker: bytes, *, wait_s: float = 15.0) -> bytes:
    """What a pseudo-terminal gives up to and with a marker, to its end, or until it is silent for so long."""
    seen = b""
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while marker not in seen and select.select([terminal], [], [], wait_s)[0]:
            part = os.read(terminal, 65_536)
            if not part:
                break
            seen += part
    return seen
