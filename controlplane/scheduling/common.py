"""What many jobs have in common is kept once. Pure.

Each fact that is read, and each record of a snapshot, brings objects of its own; of a million jobs that wait, most
differ in an id and an argument.
"""

from __future__ import annotations

from sys import intern
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
        self._nothing: dict[str, str] = {}

    def share(self, job: Job) -> None:
        """Have a job use those parts of others that equal its own."""
        job.life, job.shape = self.life(job.life), _kept(self._shapes, job.shape)
        given = job.specification
        job.specification = msgspec.structs.replace(
            given,
            team=intern(given.team),
            user=intern(given.user),
            queue=intern(given.queue),
            tier=intern(given.tier),
            source=intern(given.source),
            folder=intern(given.folder),
            environment=intern(given.environment),
            resources=_kept(self._resources, given.resources),
            entrypoint=(*map(intern, given.entrypoint[:PROGRAM_WORDS]), *given.entrypoint[PROGRAM_WORDS:]),
            env=given.env or self._nothing,
            labels=given.labels or self._nothing,
        )

    def life(self, life: Life) -> Life:
        return self._lives.setdefault(life, life)


def _kept(seen: dict[K, K], part: K) -> K:
    if len(seen) >= KINDS_MAX:
        seen.clear()
    return seen.setdefault(part, part)
