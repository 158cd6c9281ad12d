"""How long a job will probably run: what its last two runs took on average. Pure.

Tsafrir, Etsion and Feitelson ("Backfilling Using System-Generated Predictions Rather than User Runtime Estimates",
IEEE TPDS 18(6), 2007) found that the mean of the last two completed runs of a user predicts better than a long history,
and that a prediction must be kept apart from the time at which a job is ended. So here: a prediction decides who comes
first, and says when what runs will be over. It ends nothing, and no reservation goes by it. One that was outlived says
nothing any more: the time limit does.

Where they take any job of the same user, this takes the same job: its name, or, if nobody has run that, its source.
Only runs that succeeded count: one that failed says how long a mistake takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from controlplane.scheduling.order import ESTIMATE_S_MIN
from events import messages as m

RUNS: Final = 2
KEYS_MAX: Final = 50_000
"""Jobs, by their names, that are remembered, about 400 bytes each; those that were used longest ago are forgotten."""


class Key(NamedTuple):
    team: str
    user: str
    what: str
    """Its name, or its source, which begins with `sha256:`."""


class History:
    """The last runs of each job, the least recently used first. By the ledger alone, and in its order."""

    def __init__(self) -> None:
        self._runs: dict[Key, tuple[float, ...]] = {}
        """Seconds, the older one first."""

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[tuple[Key, tuple[float, ...]]]:
        return iter(self._runs.items())

    def restore(self, entries: Iterable[tuple[Key, tuple[float, ...]]]) -> None:
        """Be what iterating gave."""
        self._runs = dict(entries)

    def learn(self, specification: m.Specification, runs_s: float) -> None:
        """A run of this job succeeded, and took so long."""
        for key in _keys(specification):
            runs = (*self._runs.pop(key, ()), max(ESTIMATE_S_MIN, runs_s))
            self._runs[key] = runs[-RUNS:]
        while len(self._runs) > KEYS_MAX:
            del self._runs[next(iter(self._runs))]

    def predict(self, specification: m.Specification) -> float | None:
        """Seconds that a run of this job will probably take, its time limit at the most; None: nobody can tell."""
        for key in _keys(specification):
            runs = self._runs.pop(key, None)
            if runs is not None:
                self._runs[key] = runs  # it was used
                return capped(sum(runs) / len(runs), specification.time_limit_s)
        return None


def capped(runs_s: float, time_limit_s: float | None) -> float:
    """A prediction for a job with this limit: it will not run for longer."""
    return runs_s if time_limit_s is None else min(runs_s, max(ESTIMATE_S_MIN, time_limit_s))


def _keys(specification: m.Specification) -> Iterator[Key]:
    """Under what its runs are remembered, the surest first."""
    for what in (specification.name, specification.source):
        if what:
            yield Key(specification.team, specification.user, what)
