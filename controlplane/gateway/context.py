"""What every resource of the gateway works with: the tools, the projection, and questions to the other services."""

from __future__ import annotations

import asyncio
import difflib
import re
import secrets
from collections.abc import Mapping
from typing import Final, TypeAlias, TypeVar

import msgspec
from litestar.di import NamedDependency

from controlplane.config import Identity
from controlplane.frame import Tools
from controlplane.gateway import archive
from controlplane.gateway.failures import Failure
from controlplane.gateway.projection import Ambiguous, Projection
from controlplane.gateway.views import JobRecord
from events import arrays, subjects
from events import messages as m
from events.bus import NoAnswer
from events.identity import task_id
from events.streams import LEDGER
from events.wire import UNREADABLE

T = TypeVar("T")

ASK_S: Final = 3.0
TRIES: Final = 3
"""Of a question that nobody answered: a service may be starting again."""
PAUSE_S: Final = 0.5
SEEN_S: Final = 2.0
"""How long an answer waits until what it speaks of can be looked at here, too."""
JOB_ID: Final = re.compile(r"j-[a-z2-7]{12}")
TEXT_CHARACTERS_MAX: Final = 256
"""Of what a job is looked for by."""
UPLOADS_MAX: Final = 8
"""Blobs being taken in at once: each is held in memory until its digest is known to be right."""
UNPACKINGS_MAX: Final = 2
"""Packages of Ray's client being made sources of at once: each has a thread, and its list of files in memory."""

TASK: Final = re.compile(r"(.+)_(\d{1,7})|(.+)\[(\d{1,7})\]")
"""How a task is named: by its array and its index."""


class Unplaced(Failure):
    """A task of an array that nobody has placed: there is nothing to be seen of it."""

    def __init__(self, array: JobRecord, index: int) -> None:
        message = f"task {index} of `{array.job}` waits: it has not been placed yet"
        super().__init__(404, message, f"what it waits for says `why {array.job}`")
        self.array = array
        self.index = index


class Gateway:
    """One per process; made by `service`, handed to every handler as `gateway`."""

    def __init__(self, tools: Tools, projection: Projection) -> None:
        self.tools = tools
        self.projection = projection
        self.is_closing = False
        self.is_caught_up = False
        self.is_checking = False
        self.is_replaying = False
        self.answered: Mapping[str, int] = {}
        """How many answers were refusals, by their kind."""
        self.uploads = asyncio.Semaphore(UPLOADS_MAX)
        self.unpackings = asyncio.Semaphore(UNPACKINGS_MAX)

    def close(self) -> None:
        """End every stream of events: whoever follows goes on with another gateway, or with the next one here."""
        self.is_closing = True
        self.projection.wake_all()

    async def job(self, caller: Identity, text: str) -> JobRecord:
        """A job of the caller's team. Raises Failure: what belongs to another team is not there."""
        is_there = False
        if JOB_ID.fullmatch(text) and self.projection.job(caller.team, text) is None:
            last = await self.tools.bus.last(LEDGER.name, subjects.job(caller.team, text))
            is_there = last is not None
            if last is not None:  # accepted by way of another gateway this very moment
                await self.projection.reached(last.sequence, SEEN_S)
        try:
            record = self.projection.find(caller.team, text)
        except Ambiguous as error:
            raise _ambiguous(text, error.jobs) from error
        if record is None and (named := TASK.fullmatch(text)) is not None:
            array, index = await self.array(caller, named[1] or named[3]), int(named[2] or named[4])
            return await self._task(caller, array, index)
        return record if record is not None else await self._archived(caller, text, is_there=is_there)

    async def array(self, caller: Identity, text: str) -> JobRecord:
        """An array of the caller's team. Raises Failure."""
        record = await self.job(caller, text)
        if record.specification is None or not record.specification.array:
            raise Failure(404, f"job `{text[:80]}` is no array", "its tasks are ARRAY_0, ARRAY_1 and so on")
        return record

    async def _task(self, caller: Identity, array: JobRecord, index: int) -> JobRecord:
        """A task of an array. Raises Failure."""
        assert array.specification is not None, "it is an array"
        if arrays.parse(array.specification.array)[0].position(index) is None:
            hint = f"it has {array.specification.array[:80]}"
            raise Failure(404, f"array `{array.job}` has no index {index}", hint)
        record = self.projection.task(array, index)
        if record is not None:
            return record
        if not array.is_over:
            raise Unplaced(array, index)
        return await self._archived(caller, task_id(array.job, index), is_there=False)

    async def _archived(self, caller: Identity, text: str, *, is_there: bool) -> JobRecord:
        """A job that has left the ledger. Raises Failure."""
        found = await archive.ask(self, m.AskArchived(team=caller.team, find=text[:TEXT_CHARACTERS_MAX]))
        if found.jobs:
            record = found.jobs[0]
            if record.task is not None:  # what it is stands with its array
                array = await self.job(caller, record.task.array)
                record.specification, record.user, record.name = array.specification, array.user, array.name
            return record
        if found.ambiguous:
            raise _ambiguous(text, list(found.ambiguous))
        if found.silent and is_there:
            raise Failure(503, f"job `{text}` is in the archive, which does not answer", "try again in a moment")
        near = difflib.get_close_matches(text[:80], self.projection.names(caller.team), n=1)
        hint = f"did you mean `{near[0]}`?" if near else "GET /v1/jobs lists the jobs of your team"
        if found.silent and not near:
            hint = "the archive of older jobs does not answer just now; " + hint
        raise Failure(404, f"no job `{text[:80]}` in team `{caller.team}`", hint)

    async def ask(self, service: str, question: str, asked: object, answer: type[T]) -> T:
        """Ask a service once. Raises NoAnswer, AskRefused, Failure."""
        body = msgspec.json.encode(asked) if asked is not None else b""
        said = await self.tools.bus.ask(subjects.ask(service, question), body, timeout_s=ASK_S)
        try:
            return msgspec.json.decode(said, type=answer)
        except UNREADABLE as error:
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


def _ambiguous(text: str, jobs: list[str]) -> Failure:
    some = ", ".join(f"`{job}`" for job in jobs[:5])
    return Failure(409, f"`{text[:80]}` is the beginning of {len(jobs)} jobs", f"such as {some}")


Here: TypeAlias = NamedDependency[Gateway]
"""How a handler is handed the gateway."""


def traceparent() -> str:
    """The beginning of a new trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
