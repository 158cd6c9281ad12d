"""`hr.v1.ask.monitoring.archived`: jobs of the archive, as many as fit into one message."""

from __future__ import annotations

from typing import Final

import msgspec

from controlplane.monitoring.archiver import index
from controlplane.monitoring.archiver.service import Archiver
from events import messages as m
from events.blobs import BlobError
from events.bus import AskRefused

LIMIT_MAX: Final = 500
TEXT_CHARACTERS_MAX: Final = 256
ANSWER_BYTES_MAX: Final = 700 * 1024
"""Of one answer: a message may have a megabyte."""
FACTS_KEPT: Final = 20
"""Of a job whose facts alone are more than that: its first one, and the newest."""


async def answer(archiver: Archiver, ask: m.AskArchived) -> m.ArchivedAnswer:
    """Raises AskRefused."""
    if not 1 <= ask.limit <= LIMIT_MAX:
        raise AskRefused(m.Refusal(status=400, message=f"limit: {ask.limit}; from 1 to {LIMIT_MAX} are possible"))
    if max(map(len, (ask.team, ask.find, ask.user, ask.after))) > TEXT_CHARACTERS_MAX:
        raise AskRefused(m.Refusal(status=400, message=f"a text of more than {TEXT_CHARACTERS_MAX} characters"))
    if ask.find:
        found = await archiver.find(ask.team, ask.find)
    else:
        found = await archiver.page(ask, ask.limit)
    try:
        jobs = await archiver.jobs(found.places)
    except BlobError as error:
        message = f"the archive cannot be read: {error}"
        raise AskRefused(m.Refusal(status=503, message=message, hint="headrace admin check says more")) from error
    return _fitting(jobs, found)


def _fitting(jobs: list[m.ArchivedJob], found: index.Found) -> m.ArchivedAnswer:
    fits: list[m.ArchivedJob] = []
    size = 0
    places = {place.key[1]: place for place in found.places}
    for job in jobs:
        size += _size(job)
        if size > ANSWER_BYTES_MAX and fits:
            last = places[fits[-1].job]
            return m.ArchivedAnswer(jobs=tuple(fits), next=last.key[1], next_at=last.submitted_at)
        fits.append(_cut(job) if size > ANSWER_BYTES_MAX else job)
    if not (found.places and found.more):
        return m.ArchivedAnswer(jobs=tuple(fits), ambiguous=found.ambiguous)
    last = found.places[-1]
    return m.ArchivedAnswer(jobs=tuple(fits), next=last.key[1], next_at=last.submitted_at)


def _size(job: m.ArchivedJob) -> int:
    return len(msgspec.json.encode(job))


def _cut(job: m.ArchivedJob) -> m.ArchivedJob:
    return msgspec.structs.replace(job, facts=(job.facts[0], *job.facts[1:][-FACTS_KEPT:]), latest=())
