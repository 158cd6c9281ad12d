"""Which jobs leave the ledger, and when. Pure: no I/O, no clock.

A job that has been over for `after_s` is due; sooner, if more than ENDED_MAX ended jobs lie in the ledger: so it stays
bounded on a busy day, too, and with it whoever reads it. Due jobs are gathered until there are enough for a part of
the archive, or the oldest has waited for `gather_s`.

A job whose place another one took up (`moved` before or after it), or whose end another one waited for, stays until
that one has left the ledger: who reads the ledger from its beginning must find the place that the move speaks of, and
see the end before what it made possible.

A task of an array stays until its array is over, and the array until its tasks have left: the array's `accepted` is
their only specification, and what a task's facts say of its index keeps it from being placed a second time.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from controlplane.monitoring.core import JobKey
from events import messages as m

JOBS_MAX: Final = 999
"""In one part: with the fact about the part itself they make one atomic round."""
ENDED_MAX: Final = 50_000
EARLY_S: Final = 60.0
"""However many there are, a job is left alone for so long."""
GATHER_S_MAX: Final = 6 * 3600.0
"""So a quiet team makes some 1,500 parts a year, and a busy one as many as it has thousands of jobs."""


class Ended(NamedTuple):
    """The newest fact of a job that seems to be over: a cancel of a running job does, too, until its facts are read."""

    at: float
    sequence: int


class Core:
    """The jobs that are over and still in the ledger. `after_s` 0: none is ever due."""

    def __init__(self, *, after_s: float) -> None:
        self._after_s = after_s
        self._gather_s = min(GATHER_S_MAX, after_s / 4)
        self.ended: dict[JobKey, Ended] = {}
        """The oldest end first."""
        self._needs: dict[JobKey, set[JobKey]] = {}
        """Job → those that its own facts speak of."""
        self._holders: dict[JobKey, set[JobKey]] = {}
        """The same from the other side: who stands in the way of a job's leaving."""
        self._array_of: dict[JobKey, JobKey] = {}
        """Of the tasks of arrays that have begun and are not over."""
        self._early: dict[JobKey, dict[JobKey, Ended]] = {}
        """Array → those of its tasks that seem to be over while it is not."""
        self._over: set[JobKey] = set()
        """Arrays that are over, and have tasks here."""
        self._unfolded: set[JobKey] = set()
        """Arrays that have begun, and are not over."""

    # -- what happens --------------------------------------------------------------------------------------------------

    def on_end(self, key: JobKey, sequence: int, at: float) -> None:
        """A fact that may be a job's last."""
        array = self._array_of.get(key)
        if array is not None:
            self._early[array][key] = Ended(at, sequence)
            return
        self.ended.pop(key, None)
        self.ended[key] = Ended(at, sequence)

    def on_task(self, key: JobKey, task: m.Task) -> None:
        """The first fact about a task of an array."""
        array = (key[0], task.array)
        if array not in self._over:
            self._array_of[key] = array
            self._early.setdefault(array, {})
        self._need(key, task.array)

    def on_unfolded(self, key: JobKey) -> None:
        """An array has begun: from here on a cancel is not its end."""
        self._early.setdefault(key, {})
        self._unfolded.add(key)

    def on_cancelled(self, key: JobKey) -> None:
        """A cancel: the end of an array that had not begun."""
        if key not in self._unfolded:
            self.on_over(key)

    def on_over(self, key: JobKey) -> None:
        """A job has ended: if it is an array, its tasks may leave."""
        self._unfolded.discard(key)
        tasks = self._early.pop(key, None)
        if tasks is None:
            return
        self._over.add(key)
        self._array_of = {task: array for task, array in self._array_of.items() if array != key}
        self.ended.update(tasks)

    def on_accepted(self, key: JobKey, fact: m.Accepted) -> None:
        for each in fact.specification.after:
            if not each.ended:
                self._need(key, each.job)

    def on_moved(self, key: JobKey, fact: m.Moved) -> None:
        if other := fact.before or fact.after:
            self._need(key, other)

    def _need(self, key: JobKey, job: str) -> None:
        other = (key[0], job)
        self._needs.setdefault(key, set()).add(other)
        self._holders.setdefault(other, set()).add(key)

    def on_archived(self, key: JobKey) -> None:
        """The job has left the ledger."""
        self._over.discard(key)
        self.ended.pop(key, None)
        for other in self._needs.pop(key, ()):
            holders = self._holders[other]
            holders.discard(key)
            if not holders:
                del self._holders[other]

    def on_not_over(self, key: JobKey) -> None:
        """It is not over after all; when it is, that is another fact."""
        self.ended.pop(key, None)

    # -- what follows --------------------------------------------------------------------------------------------------

    def due(self, now: float) -> list[JobKey]:
        """The jobs of the next part, the oldest end first; none while more should be gathered."""
        if not self._after_s:
            return []
        found: list[JobKey] = []
        oldest = now
        crowd = len(self.ended) - ENDED_MAX
        for place, (key, ended) in enumerate(self.ended.items()):
            due_at = ended.at + (min(EARLY_S, self._after_s) if place < crowd else self._after_s)
            if due_at > now or len(found) == JOBS_MAX:
                break
            if key not in self._holders:
                found.append(key)
                oldest = min(oldest, due_at)
        return found if len(found) == JOBS_MAX or oldest + self._gather_s <= now else []

    def wake_at(self) -> float | None:
        """When `due` may have something to say though nothing happens."""
        if not self._after_s:
            return None
        free = next((ended for key, ended in self.ended.items() if key not in self._holders), None)
        return free.at + self._after_s + self._gather_s if free is not None else None
