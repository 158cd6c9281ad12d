"""What every resource of the gateway works with: the tools, the projection, and questions to the other services."""

from __future__ import annotations

import asyncio
import difflib
import re
import secrets
from typing import Final, TypeAlias, TypeVar

import msgspec
from litestar.di import NamedDependency

from controlplane.config import Identity
from controlplane.frame import Tools
from controlplane.gateway.failures import Failure
from controlplane.gateway.projection import Ambiguous, Projection
from controlplane.gateway.views import JobRecord
from events import subjects
from events.bus import NoAnswer
from events.streams import LEDGER

T = TypeVar("T")

ASK_S: Final = 3.0
TRIES: Final = 3
"""Of a question that nobody answered: a service may be starting again."""
PAUSE_S: Final = 0.5
SEEN_S: Final = 2.0
"""How long an answer waits until what it speaks of can be looked at here, too."""
JOB_ID: Final = re.compile(r"j-[a-z2-7]{12}")
UPLOADS_MAX: Final = 8
"""Blobs being taken in at once: each is held in memory until its digest is known to be right."""


class Gateway:
    """One per process; made by `service`, handed to every handler as `gateway`."""

    def __init__(self, tools: Tools, projection: Projection) -> None:
        self.tools = tools
        self.projection = projection
        self.is_closing = False
        self.is_caught_up = False
        self.uploads = asyncio.Semaphore(UPLOADS_MAX)

    def close(self) -> None:
        """End every stream of events: whoever follows goes on with another gateway, or with the next one here."""
        self.is_closing = True
        self.projection.wake_all()

    async def job(self, caller: Identity, text: str) -> JobRecord:
        """A job of the caller's team. Raises Failure: what belongs to another team is not there."""
        if JOB_ID.fullmatch(text) and self.projection.job(caller.team, text) is None:
            last = await self.tools.bus.last(LEDGER.name, subjects.job(caller.team, text))
            if last is not None:  # accepted by way of another gateway this very moment
                await self.projection.reached(last.sequence, SEEN_S)
        return self._found(caller, text)

    def _found(self, caller: Identity, text: str) -> JobRecord:
        try:
            record = self.projection.find(caller.team, text)
        except Ambiguous as error:
            some = ", ".join(f"`{job}`" for job in error.jobs[:5])
            raise Failure(
                409, f"`{text[:80]}` is the beginning of {len(error.jobs)} jobs", f"such as {some}"
            ) from error
        if record is None:
            near = difflib.get_close_matches(text[:80], self.projection.names(caller.team), n=1)
            hint = f"did you mean `{near[0]}`?" if near else "GET /v1/jobs lists the jobs of your team"
            raise Failure(404, f"no job `{text[:80]}` in team `{caller.team}`", hint)
        return record

    async def ask(self, service: str, question: str, asked: object, answer: type[T]) -> T:
        """Ask a service once. Raises NoAnswer, AskRefused, Failure."""
        body = msgspec.json.encode(asked) if asked is not None else b""
        said = await self.tools.bus.ask(subjects.ask(service, question), body, timeout_s=ASK_S)
        try:
            return msgspec.json.decode(said, type=answer)
        except msgspec.DecodeError as error:
            raise Failure(
                502, f"{service} answered what this gateway cannot read", "are both of one version?"
            ) from error

    async def ask_surely(self, subject: str, body: bytes, headers: dict[str, str]) -> bytes:
        """Ask what may safely be asked again, until it is answered. Raises NoAnswer, AskRefused."""
        for _ in range(TRIES - 1):
            try:
                return await self.tools.bus.ask(subject, body, headers=headers, timeout_s=ASK_S)
            except NoAnswer:
                await asyncio.sleep(PAUSE_S)
        return await self.tools.bus.ask(subject, body, headers=headers, timeout_s=ASK_S)


Here: TypeAlias = NamedDependency[Gateway]
"""How a handler is handed the gateway."""


def traceparent() -> str:
    """The beginning of a new trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
