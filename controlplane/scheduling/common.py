"""What many jobs have in common is kept once. Pure.

Each fact that is read, and each record of a snapshot, brings objects of its own; of a million jobs that wait, most
differ in an id and an argument.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from controlplane.scheduling.jobs import Job, Shape
from events import messages as m
from events.lifecycle import Life

K = TypeVar("K")
KINDS_MAX: Final = 10_000
"""Of each part; beyond that all are forgotten, and remembered anew."""
PROGRAM_WORDS: Final = 2
"""The interpreter and its script: what follows differs from job to job."""


class Common:
    """The parts that were seen."""

    def __init__(self) -> None:
        self._lives: dict[Life, Life] = {}
        self._shapes: dict[Shape, Shape] = {}
        self._resources: dict[m.Resources, m.Resources] = {}
        self._words: dict[str, str] = {}
        self._nothing: dict[str, str] = {}

    def share(self, job: Job) -> None:
        """Have a job use those parts of others that equal its own."""
        job.life, job.shape = self.life(job.life), _kept(self._shapes, job.shape)
        given = job.specification
        job.specification = msgspec.structs.replace(
            given,
            team=self._word(given.team),
            user=self._word(given.user),
            queue=self._word(given.queue),
            tier=self._word(given.tier),
            source=self._word(given.source),
            folder=self._word(given.folder),
            environment=self._word(given.environment),
            resources=_kept(self._resources, given.resources),
            entrypoint=(*map(self._word, given.entrypoint[:PROGRAM_WORDS]), *given.entrypoint[PROGRAM_WORDS:]),
            env=given.env or self._nothing,
            labels=given.labels or self._nothing,
        )

    def _word(self, word: str) -> str:
        return _kept(self._words, word)

    def life(self, life: Life) -> Life:
        return self._lives.setdefault(life, life)


def _kept(seen: dict[K, K], part: K) -> K:
    if len(seen) >= KINDS_MAX:
        seen.clear()
    return seen.setdefault(part, part)
