"""Jobs that have left the ledger, as the archive tells of them: the same records, from the same facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from controlplane.gateway.failures import Failure
from controlplane.gateway.paging import Cursor
from controlplane.gateway.views import JobRecord
from events import lifecycle, subjects
from events import messages as m
from events.bus import AskRefused, BusError
from events.ledger import Entry
from events.lifecycle import Life
from events.wire import UNREADABLE

if TYPE_CHECKING:
    from controlplane.gateway.context import Gateway

ENDS: Final = frozenset(state.value for state in lifecycle.ENDS)
_FACT: Final[msgspec.json.Decoder[m.JobFact]] = msgspec.json.Decoder(m.JobFact)


class Archive(NamedTuple):
    """A part of what the archive holds. `silent`: why it could not be asked; empty: it was."""

    jobs: list[JobRecord]
    end: Cursor | None = None
    """How far it was looked through; None: to its end."""
    ambiguous: tuple[str, ...] = ()
    silent: str = ""


async def ask(gateway: Gateway, asked: m.AskArchived) -> Archive:
    """What the archive says; an archive that does not answer is an answer as well."""
    try:
        said = await gateway.ask("monitoring", "archived", asked, m.ArchivedAnswer)
    except (BusError, AskRefused, Failure) as error:
        return Archive([], silent=str(error))
    found = [each for each in map(record, said.jobs) if each is not None]
    end = Cursor(said.next_at, said.next) if said.next else None
    return Archive(found, end, said.ambiguous)


def record(archived: m.ArchivedJob) -> JobRecord | None:
    """The record that the facts about a job make; None for one of which no fact can be read."""
    found: JobRecord | None = None
    life: Life | None = None
    subject = subjects.job(archived.team, archived.job)
    for told in archived.facts:
        try:
            fact = _FACT.decode(told.fact)
        except UNREADABLE:
            continue  # of a later version; what it means for the job, its next facts say
        outcome, life = lifecycle.advance(life, fact)
        if outcome is not lifecycle.Outcome.APPLIED or life is None:
            continue
        if found is None:
            found = JobRecord(job=archived.job, team=archived.team, life=life)
        found.tell(Entry(told.sequence, subject, fact, told.at, ""), life)
    return found
