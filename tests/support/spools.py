"""Spools as a training script makes them: by `headrace.log`, in this process or in one that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import headrace
from headrace import metrics

SDK = Path(headrace.__file__).parents[1]


@contextmanager
def spool_into(folder: Path) -> Iterator[None]:
    """`headrace.log` writes into this folder, as if this process had just begun."""
    before = os.environ.get("HEADRACE_SPOOL")
    os.environ["HEADRACE_SPOOL"] = str(folder)
    metrics._after_fork()
    try:
        yield
    finally:
        metrics._after_fork()
        if before is None:
            del os.environ["HEADRACE_SPOOL"]
        else:
            os.environ["HEADRACE_SPOOL"] = before


def script(code: str, folder: Path, **env: str) -> subprocess.Popen[str]:
    """A Python process that runs this code with its spool in `folder`."""
    environ = os.environ | {"HEADRACE_SPOOL": str(folder), "PYTHONPATH": str(SDK)} | env
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
