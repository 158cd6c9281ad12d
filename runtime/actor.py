"""The runner inside a Ray actor: `start` is called by the actor's constructor, `ping` by whoever wants to know.

The actor itself is named `runner-<node>`, detached and restarted for ever, and belongs to `controlplane.capacity`.
When its process dies Ray starts another one within seconds; attempts, no part of Ray's process tree, do not notice.
Ray's memory monitor should be off on our nodes (`RAY_memory_monitor_refresh_ms=0`): it ends restartable actors first.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any, Final

import msgspec

from events import logs
from runtime import gpus
from runtime.serve import serve
from runtime.settings import RunnerSettings, SettingsError, checked

LOG: Final = logging.getLogger("headrace.runner")

LEAVE_AFTER_S: Final = 5.0
"""After a failure: `ping` tells of it meanwhile, and Ray does not start us in a tight circle."""


class Hosted:
    """A runner that works from its creation on. To be made inside a running event loop."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings
        loop = asyncio.get_running_loop()
        self._serving = loop.create_task(self._serve(), name="runner")
        self._watching = loop.create_task(self._leave_when_it_ends())

    async def ping(self) -> str:
        """The node's name; raises what the runner failed of."""
        if self._serving.done():
            self._serving.result()
        return self._settings.node

    async def _serve(self) -> None:
        if self._settings.gpus:
            await gpus.hold(self._settings.node, self._settings.gpus)
        await serve(self._settings)

    async def _leave_when_it_ends(self) -> None:
        """A process whose runner has ended is worth nothing: leave it, so that Ray starts another one."""
        await asyncio.wait([self._serving])
        error = None if self._serving.cancelled() else self._serving.exception()
        LOG.error("the runner ended", extra={"node": self._settings.node}, exc_info=error)
        await asyncio.sleep(LEAVE_AFTER_S)
        os._exit(1)


def start(settings: dict[str, Any]) -> Hosted:
    """A runner from plain data, as another release may have written it: what this one does not know is left out.

    Raises SettingsError.
    """
    if not logging.getLogger().handlers:  # what hosts us may have its own
        logs.configure("info")
    unknown = sorted(set(settings) - set(RunnerSettings.__struct_fields__))
    if unknown:
        text = ", ".join(unknown)
        LOG.warning("settings that this release does not know: %s", text, extra={"node": settings.get("node")})
    known = {name: value for name, value in settings.items() if name not in unknown}
    known["memory_bytes"] = known.get("memory_bytes") or None
    try:
        return Hosted(checked(msgspec.convert(known, RunnerSettings)))
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings of the runner: {error}") from error
