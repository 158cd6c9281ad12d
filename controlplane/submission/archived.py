"""Which jobs are in the archive: what a submit that comes again is known by when the ledger has forgotten its job.

An id is 60 bits, so a million of them take 8 MB.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from struct import Struct
from typing import Final

import msgspec

from controlplane.frame import Tools
from events import messages as m
from events import subjects
from events.bus import AskRefused, BusError, Retry
from events.identity import PACKED_BYTES, pack
from events.lifecycle import Life, State, advance
from events.wire import UNREADABLE

BUCKETS_BITS: Final = 12
"""Of the 60 bits of an id: 4,096 sorted arrays, some 250 ids long with a million of them, so that an insert moves
little, and growing needs no second copy."""
ASK_S: Final = 2.0
_SHIFT: Final = 60 - BUCKETS_BITS
_LAST: Final = (1 << BUCKETS_BITS) - 1
_PACKED: Final = Struct(">Q")


class Ids:
    """A set of ids of jobs."""

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(1 << BUCKETS_BITS)]

    def __len__(self) -> int:
        return sum(map(len, self._buckets))

    def __contains__(self, job: str) -> bool:
        try:
            number = int.from_bytes(pack(job), "big")
        except ValueError:
            return False
        return _has(self._buckets[number >> _SHIFT], number)

    def add(self, packed: bytes) -> None:
        """Ids as `archive_written` lists them."""
        for (number,) in _PACKED.iter_unpack(packed[: len(packed) // PACKED_BYTES * PACKED_BYTES]):
            bucket = self._buckets[number >> _SHIFT & _LAST]
            if not _has(bucket, number):
                insort(bucket, number)


def _has(bucket: array[int], number: int) -> bool:
    place = bisect_left(bucket, number)
    return place < len(bucket) and bucket[place] == number


class Archived:
    """The jobs of every part of the archive that the ledger tells of."""

    def __init__(self) -> None:
        self.jobs = Ids()
        self.rejected = Ids()

    def apply(self, fact: m.ArchiveWritten) -> None:
        self.jobs.add(fact.jobs)
        self.rejected.add(fact.rejected)


async def state_of(tools: Tools, team: str, job: str) -> State | None:
    """How an archived job ended; None: the team has none of this id. Raises Retry while the archive does not answer."""
    asked = msgspec.json.encode(m.AskArchived(team=team, find=job))
    try:
        said = await tools.bus.ask(subjects.ask("monitoring", "archived"), asked, timeout_s=ASK_S)
        answer = msgspec.json.decode(said, type=m.ArchivedAnswer)
        facts = [msgspec.json.decode(told.fact, type=m.JobFact) for each in answer.jobs for told in each.facts]
    except (BusError, AskRefused, *UNREADABLE) as error:
        raise Retry(ASK_S, f"job {job} is in the archive, which does not answer: {error}") from error
    life: Life | None = None
    for fact in facts:
        _, life = advance(life, fact)
    return life.state if life is not None else None


async def rejection(tools: Tools, team: str, job: str) -> m.Rejected:
    """Why an archived job was rejected; in other words, if the archive does not answer just now."""
    asked = msgspec.json.encode(m.AskArchived(team=team, find=job))
    try:
        said = await tools.bus.ask(subjects.ask("monitoring", "archived"), asked, timeout_s=ASK_S)
        answer = msgspec.json.decode(said, type=m.ArchivedAnswer)
        return msgspec.json.decode(answer.jobs[0].facts[0].fact, type=m.Rejected)
    except (BusError, AskRefused, IndexError, *UNREADABLE):
        problem = m.Problem(path="$", message="rejected before; the archive knows why", hint=f"headrace show {job}")
        return m.Rejected(user="", problems=(problem,))
