"""What a package's build has left running while uv still works.

Whatever inherits the pipes of a build and outlives it keeps uv waiting for their end, and uv no other build of the node
can begin. So who is left is ended as soon as it is certain that no build goes on.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Final

from runtime import processes

LOOK_S: Final = 1.0
"""Nothing announces that a build is over: uv reaps its children and says nothing."""


def left(uid: int, program: int) -> list[int]:
    """Processes of this user that none of its own has as a child, while the program itself has no child that lives.

    A build may have helpers that put themselves away from it (daemons that compile): while it goes on they are left
    alone. What a stray has started itself is none yet, and is one when that has ended.
    """
    parents = {pid: processes.parent_of(pid) for pid in processes.of_user(uid)}
    if program in parents.values():
        return []
    return [pid for pid, parent in parents.items() if pid != program and parent not in parents]


async def end_until(over: asyncio.Event, *, uid: int, program: int) -> None:
    """End them again and again, until the program is over."""
    while not over.is_set():
        try:
            async with asyncio.timeout(LOOK_S):
                await over.wait()
        except TimeoutError:
            found = await asyncio.to_thread(left, uid, program)
            processes.send(found, signal.SIGKILL)
