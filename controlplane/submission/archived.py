"""Which jobs are in the archive: what a submit that comes again is known by when the ledger has forgotten its job.

An id is 60 bits, so a million of them take 8 MB: one sorted array of all, and a small set of the newest beside it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Final

import msgspec

from controlplane.frame import Tools
from events import messages as m
from events import subjects
from events.bus import AskRefused, BusError
from events.identity import PACKED_BYTES, pack

RECENT_MAX: Final = 20_000
"""Ids outside the array, in a set of some 60 bytes each; and an eighth of the array, so that growing costs little."""
ASK_S: Final = 2.0


class Ids:
    """A set of ids of jobs."""

    def __init__(self) -> None:
        self._sorted = array("Q")
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __contains__(self, job: str) -> bool:
        try:
            number = int.from_bytes(pack(job), "big")
        except ValueError:
            return False
        if number in self._recent:
            return True
        place = bisect_left(self._sorted, number)
        return place < len(self._sorted) and self._sorted[place] == number

    def add(self, packed: bytes) -> None:
        """Ids as `archive_written` lists them."""
        whole = len(packed) // PACKED_BYTES * PACKED_BYTES
        self._recent.update(
            int.from_bytes(packed[at : at + PACKED_BYTES], "big") for at in range(0, whole, PACKED_BYTES)
        )
        if len(self._recent) > max(RECENT_MAX, len(self._sorted) // 8):
            self._sorted = array("Q", sorted(self._recent.union(self._sorted)))
            self._recent.clear()


class Archived:
    """The jobs of every part of the archive that the ledger tells of."""

    def __init__(self) -> None:
        self.jobs = Ids()
        self.rejected = Ids()

    def apply(self, fact: m.ArchiveWritten) -> None:
        self.jobs.add(fact.jobs)
        self.rejected.add(fact.rejected)


async def rejection(tools: Tools, team: str, job: str) -> m.Rejected:
    """Why an archived job was rejected; in other words, if the archive does not answer just now."""
    asked = msgspec.json.encode(m.AskArchived(team=team, find=job))
    try:
        said = await tools.bus.ask(subjects.ask("monitoring", "archived"), asked, timeout_s=ASK_S)
        answer = msgspec.json.decode(said, type=m.ArchivedAnswer)
        return msgspec.json.decode(answer.jobs[0].facts[0].fact, type=m.Rejected)
    except (BusError, AskRefused, msgspec.DecodeError, IndexError):
        problem = m.Problem(path="$", message="rejected before; the archive knows why", hint=f"headrace show {job}")
        return m.Rejected(user="", problems=(problem,))
