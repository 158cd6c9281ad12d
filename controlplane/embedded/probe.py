"""Asks the gateway of the starting stack whether a node is ready, as any client would.

The ledger remembers the node of last time: it counts only once it was heard of since this stack started.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any, Final

ASK_S: Final = 0.1
ANSWER_S_MAX: Final = 5.0


class Probe:
    """A question to one gateway."""

    def __init__(self, url: str, token: str, *, since: float) -> None:
        self._since = since
        self._request = urllib.request.Request(f"{url}/v1/nodes", headers={"authorization": f"Bearer {token}"})

    async def node(self) -> dict[str, Any]:
        """The first node that is ready; waits until there is one."""
        while True:
            for node in await asyncio.to_thread(self._nodes):
                if node.get("state") == "ready" and node.get("seen_at", 0.0) >= self._since:
                    return node
            await asyncio.sleep(ASK_S)

    def _nodes(self) -> list[dict[str, Any]]:
        try:
            with urllib.request.urlopen(self._request, timeout=ANSWER_S_MAX) as answer:
                nodes: list[dict[str, Any]] = json.load(answer).get("nodes", [])
        except (urllib.error.URLError, ConnectionError, TimeoutError, ValueError):
            return []  # not there yet
        return nodes
