"""Machines without GPUs that have some: NVIDIA's management library, compiled from `fake_nvml.c`.

A process that is started with `FakeNvml.env` finds this library in the place of NVIDIA's own, which nothing else in the
product can tell: there is no setting for tests.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


class FakeNvml:
    """What the library says, for as long as the test lives."""

    def __init__(self, folder: Path, *, gpus: int) -> None:
        folder.mkdir()
        self._folder = folder
        (folder / "count").write_text(str(gpus))
        (folder / "events").touch()
        library = folder / "libnvidia-ml.so.1"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(SOURCE)], check=True)
        self.env = {"FAKE_NVML": str(folder), "LD_LIBRARY_PATH": str(folder)}

    def xid(self, gpu: int, number: int) -> None:
        """The driver reports this; 0 is a double-bit ECC error."""
        with (self._folder / "events").open("a") as events:
            events.write(f"{gpu} {number}\n")

    def set(self, what: str, gpu: int, value: int = 1) -> None:
        """`late`, `lost`, `rows`, `action`; 0: it is over."""
        new = self._folder / f"{what}.{gpu}.new"
        new.write_text(str(value))
        os.replace(new, self._folder / f"{what}.{gpu}")
