"""Ends the attempts on this machine when the whole stack is ended: a laptop that was told `down` keeps nothing running.

On a cluster nothing of the kind happens: there, attempts outlive everything but their node.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Final

LOG: Final = logging.getLogger("headrace.embedded")
MODULE: Final = "runtime.end_all"
"""Run by name, as a process: the control plane never imports what runs on a node."""
END_S_MAX: Final = 60.0


async def end_all(node_folder: Path) -> None:
    """Stop every attempt in a node's folder, and its launcher. Their ends stay on disk and are reported next time."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", MODULE, str(node_folder))
    try:
        async with asyncio.timeout(END_S_MAX):
            status = await process.wait()
    except TimeoutError:
        process.kill()
        status = await process.wait()
    if status:
        LOG.error("attempts may still run", extra={"folder": str(node_folder), "status": status})
