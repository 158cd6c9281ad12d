"""Tells when a server that runs has stopped taking anything, and a new start would help.

A stream of nats-server that met a write error, such as a full disk, refuses every message until the server is started
again, also when there is room by then; `/healthz` answers 503 all the while (nats-server 2.15.1, tried).
https://docs.nats.io/running-a-nats-service/nats_admin/monitoring#health
"""

from __future__ import annotations

import asyncio
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

LOOK_S: Final = 2.0
ANSWER_S_MAX: Final = 2.0
TIMES: Final = 3
"""So often in a row it must say that it is ill: streams are while they are being restored."""
ROOM_BYTES: Final = 64 * 1024**2
"""Without so much room a new start would not help."""


async def stuck(url: str, store: Path) -> str:
    """Wait until the health door `url` has said for a while that it is ill and `store` has room; gives what it said."""
    times = 0
    while True:
        await asyncio.sleep(LOOK_S)
        said = await asyncio.to_thread(_ill, url)
        times = times + 1 if said else 0
        if times >= TIMES and shutil.disk_usage(store).free > ROOM_BYTES:
            return said


def _ill(url: str) -> str:
    """What a health door says that is ill; empty if all is well or it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S_MAX):
            return ""
    except urllib.error.HTTPError as error:
        return error.read(2000).decode("utf-8", "replace") or f"status {error.code}"
    except OSError:
        return ""
