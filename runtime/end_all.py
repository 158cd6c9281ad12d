"""Ends every attempt of a node folder, and its launcher: `python -m runtime.end_all FOLDER`.

For a laptop whose stack is ended. Call it when the runner is gone, or it starts what is missing again. The exit records
stay: the next runner reports them, and what was not cancelled is queued again.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from runtime import launcher
from runtime.supervised import LauncherClient, Standing, Supervised, SupervisorLost, standing


async def end_all(node_folder: Path) -> int:
    """Stop what lives, each with its own grace, all at once; gives how many attempts that were."""
    folders = sorted((node_folder / launcher.ATTEMPTS).glob("*"))
    live = [folder for folder in folders if standing(folder) is Standing.LIVES]
    await asyncio.gather(*(_end(folder) for folder in live))
    await LauncherClient(node_folder).retire()
    return len(live)


async def _end(folder: Path) -> None:
    attempt = Supervised(folder)
    attempt.stop("stopped", "the stack on this machine was ended")
    try:
        await attempt.watch(lambda status: None)
    except SupervisorLost:
        return  # gone as well; the next runner sweeps up after it


if __name__ == "__main__":
    asyncio.run(end_all(Path(sys.argv[1])))
