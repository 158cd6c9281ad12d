"""Folders as jobs make them."""

from __future__ import annotations

import os
from pathlib import Path


def deep(top: Path, levels: int) -> int:
    """Make a folder with folders in folders, so many; gives the lowest one, open. No path is as long as to that."""
    top.mkdir()
    here = os.open(top, os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    return here
