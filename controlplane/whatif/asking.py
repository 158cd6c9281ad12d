"""A replay for who asks, by a process of its own: bounded in time, memory and number."""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio.subprocess import PIPE
from typing import Final

import msgspec

from controlplane.whatif.child import Result, Task
from events.wire import UNREADABLE

LOG: Final = logging.getLogger("headrace.whatif")
CHILD_S_MAX: Final = 900.0


async def run(task: Task) -> Result:
    """What the replay says, or why there is nothing to say. Ends the process when it is cancelled."""
    command = (sys.executable, "-m", "controlplane.whatif.child")
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    except OSError as error:  # no memory, too many processes
        return Result(error=f"the replay cannot begin: {error}")
    try:
        async with asyncio.timeout(CHILD_S_MAX):
            said, told = await process.communicate(msgspec.json.encode(task))
        return msgspec.json.decode(said, type=Result)
    except TimeoutError:
        return Result(error=f"the replay took longer than {CHILD_S_MAX / 60:.0f} minutes: try a shorter time")
    except UNREADABLE:
        LOG.error("a replay failed", extra={"why": told.decode(errors="replace")[-2000:]})
        return Result(error="the replay failed; the gateway's log says why. A shorter time takes less memory")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
