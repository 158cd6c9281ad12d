"""Who waits for whose end. Pure.

A job depends only on jobs that were there when it was accepted, and what it depends on never changes: so there is no
circle. What had ended by then, submission says in `accepted` itself; of the others the ledger tells: they stay in it
until those that waited for them have left it (`monitoring.archiver.core`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

from controlplane.scheduling.jobs import Job, Key
from events import messages as m
from events import subjects

On = Literal["ok", "notok", "any"]

_MET_BY: Final[dict[On, frozenset[str]]] = {
    "ok": frozenset({"succeeded"}),
    "notok": frozenset({"failed", "cancelled", "rejected"}),
    "any": frozenset({"succeeded", "failed", "cancelled", "rejected"}),
}
WORDS: Final[dict[On, str]] = {"ok": "has succeeded", "notok": "has failed or was cancelled", "any": "is over"}
_HAD: Final[dict[str, str]] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "was cancelled",
    "rejected": "was rejected",
}


class Dependencies:
    """The jobs that wait, under what frees them."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[Key, Job]] = {}
        """Subject of the job that has to end → those that wait for it, in the order in which they began to."""

    def wait(self, job: Job) -> None:
        """It waits for what is left of its dependencies."""
        for subject in awaited(job):
            self._waiting.setdefault(subject, {})[job.key] = job

    def leave(self, job: Job) -> None:
        """It waits for nothing any more."""
        for subject in awaited(job):
            waiting = self._waiting.get(subject, {})
            waiting.pop(job.key, None)
            if not waiting:
                self._waiting.pop(subject, None)
        job.after = ()

    def end(self, subject: str, state: str, at: float) -> list[Job]:
        """A job has ended so, at that time: gives those that waited for it, each with what that means to it noted."""
        waiting = list(self._waiting.pop(subject, {}).values())
        for job in waiting:
            ended = [each for each in job.after if subjects.job(job.specification.team, each.job) == subject]
            job.after = tuple(each for each in job.after if each not in ended)
            job.unmet = job.unmet or unmet(ended, state)
            job.order_at = max(job.order_at, at)
        return waiting

    def described(self) -> dict[str, list[Key]]:
        return {subject: list(waiting) for subject, waiting in self._waiting.items()}


def awaited(job: Job) -> Iterator[str]:
    """Subjects of the jobs whose end it waits for."""
    return (subjects.job(job.specification.team, each.job) for each in job.after)


def unmet(ended: Iterable[m.Dependency], state: str) -> str:
    """What an end in this state has made impossible, for a person; empty: nothing."""
    return next((_told(each, state) for each in ended if state not in _MET_BY[each.on]), "")


def _told(dependency: m.Dependency, state: str) -> str:
    return f"it was to run after {dependency.job} {WORDS[dependency.on]}, but that {_HAD[state]}"
