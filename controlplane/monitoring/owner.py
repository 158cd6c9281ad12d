"""The one thread that the store belongs to, and the lock that makes its process the one writer."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

LOCK_RETRY_S: Final = 0.5
"""How often a standby looks whether the writer is gone. The kernel frees the lock with the process, however it ends."""

P = ParamSpec("P")
T = TypeVar("T")


class Owner:
    """Runs functions one after another in a thread of its own, so that the loop never waits for a disk."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="monitoring-store")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result. A caller that is cancelled leaves the function to finish."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """Let what is running finish."""
        self._thread.shutdown(wait=True)


@asynccontextmanager
async def sole_writer(file: Path) -> AsyncIterator[None]:
    """Hold the lock while inside; wait for it as long as it takes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _try(descriptor):  # noqa: ASYNC110  another process frees it, and tells nobody
            await asyncio.sleep(LOCK_RETRY_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
