"""What queues and teams there are, as the ledger tells: what requests are checked against. Pure.

A queue exists if its newest fact is a `queue_set`; which teams there are the configuration says. This is all that
submission keeps of the ledger beside the archive's ids: some hundred bytes a queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from controlplane.config import Configuration
from events import messages as m
from events import subjects
from events.entries import Entry

FOLLOWED: Final = (subjects.QUEUES, subjects.TEAMS, subjects.CONFIGURATION)
"""The subjects whose facts `Queues` takes in."""


class Known(NamedTuple):
    """The newest fact about a queue, and where it stands. `settings` is None once the queue was removed."""

    sequence: int
    settings: m.QueueSet | None


NOTHING: Final = Known(0, None)


class Queues:
    """See the top of this file."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[str, Known]] = {}
        self._teams: dict[str, tuple[int, m.TeamSet]] = {}
        self.revision = 0
        """Sequence of the newest `configured`: every change up to it is in here."""

    @classmethod
    def configured(cls, config: Configuration) -> Queues:
        """Every configured queue with default settings: how an installation begins."""
        queues = cls()
        for name, team in config.teams.items():
            queues._queues[name] = {queue: Known(1, m.QueueSet(by="configuration")) for queue in team.queues}
        return queues

    def apply(self, entry: Entry) -> None:
        """Take in a fact, in any order and any number of times: of each subject the newest counts. Total."""
        fact, names = entry.fact, subjects.tokens(entry.subject)
        if isinstance(fact, m.QueueFact):
            team = self._queues.setdefault(names[1], {})
            if entry.sequence > team.get(names[2], NOTHING).sequence:
                team[names[2]] = Known(entry.sequence, fact if isinstance(fact, m.QueueSet) else None)
        elif isinstance(fact, m.TeamSet):
            if entry.sequence > self.team(names[1])[0]:
                self._teams[names[1]] = (entry.sequence, fact)
        elif isinstance(fact, m.Configured):
            self.revision = max(self.revision, entry.sequence)

    def known(self, team: str, queue: str) -> Known:
        """What is known of a queue, also of one that is not there."""
        return self._queues.get(team, {}).get(queue, NOTHING)

    def of(self, team: str) -> dict[str, m.QueueSet]:
        """The queues of a team that exist, by name."""
        known = sorted(self._queues.get(team, {}).items())
        return {name: each.settings for name, each in known if each.settings is not None}

    def default(self, team: str, configured: Sequence[str]) -> str:
        """The queue of a submit that names none: the first configured one that exists, else the first by name.

        Empty if the team has no queue at all.
        """
        first = next((name for name in configured if self.known(team, name).settings is not None), "")
        return first or next(iter(self.of(team)), "")

    def teams(self) -> tuple[str, ...]:
        """Teams that have a queue or were set, by name: also those that the configuration does not name any more."""
        return tuple(sorted({*self._teams, *(name for name in self._queues if self.of(name))}))

    def team(self, name: str) -> tuple[int, m.TeamSet]:
        """The sequence of a team's newest fact and its settings; 0 and the defaults where there is none."""
        return self._teams.get(name, (0, m.TeamSet(by="")))
