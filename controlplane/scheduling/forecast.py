"""When waiting jobs will probably start: a forward simulation with the real core. Pure.

From a snapshot of the truth the very core that decides is run on (`simulation`), as if nobody submitted anything more.
How long jobs take is drawn around what is predicted for them, a few times over; the middle of the starts is what is
expected, the earliest and the latest are its spread. A job without history takes a part of its limit. What is held, or
in a paused queue, gets no forecast; environments that are not ready are taken to be so at once.

The horizon and the number of events bound the work. Dice are an argument: the same dice give the same forecast.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median_low
from typing import Final, Protocol, TypeVar

import msgspec

from controlplane.scheduling.arrays import submitted
from controlplane.scheduling.core import Core
from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.jobs import Job
from controlplane.scheduling.order import UNKNOWN_S
from controlplane.scheduling.simulation import ALWAYS_HEARD, Simulation
from events import messages as m
from events import subjects
from events.lifecycle import State

SPREAD: Final = 0.7
"""Standard deviation of ln(run time / prediction): two in three take between half and twice what is predicted."""
LIMIT_PART: Final = (0.05, 1.0)
"""What part of its limit a job without history takes: anything between."""
TRIES: Final = 8
"""To draw a run time that is longer than a job has run already."""
EVENTS_MAX: Final = 20_000
"""Placements and ends in one run of the simulation."""
HORIZON_S: Final = 14 * 86_400.0


class Dice(Protocol):
    """As `random.Random`."""

    def gauss(self, mu: float, sigma: float) -> float: ...
    def uniform(self, a: float, b: float) -> float: ...


class Expected(msgspec.Struct, frozen=True, array_like=True):
    """When a job will probably start: the middle of all runs, and the earliest and latest of them."""

    at: float
    earliest_at: float
    latest_at: float | None
    """None: in some run it did not start within the horizon."""


class Forecast(msgspec.Struct, frozen=True, array_like=True):
    """Of one moment. A job that is not in it may start at any time, or never."""

    made_at: float = 0.0
    starts: dict[str, Expected] = {}
    """By the job's subject."""


def forecast(content: bytes, settings: Settings, now: float, dice: Iterable[Dice]) -> Forecast:
    """The starts of the jobs that wait in a snapshot, by one run for each dice. Raises ValueError if it is none."""
    return gathered(now, [starts(content, settings, now, one) for one in dice])


def gathered(now: float, runs: Sequence[Mapping[str, float]]) -> Forecast:
    """What several runs say together. A job that starts in less than half of them has no expected start."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for run in runs:
        for subject, at in run.items():
            found[subject].append(at)
    expected = {}
    for subject, times in found.items():
        times += [math.inf] * (len(runs) - len(times))
        middle, latest = median_low(times), max(times)
        if middle < math.inf:
            expected[subject] = Expected(middle, min(times), latest if latest < math.inf else None)
    return Forecast(now, expected)


def starts(
    content: bytes,
    settings: Settings,
    now: float,
    dice: Dice,
    *,
    horizon_s: float = HORIZON_S,
    events_max: int = EVENTS_MAX,
) -> dict[str, float]:
    """When each waiting job starts first, in one run; by its subject. Raises ValueError if it is no snapshot."""
    until = now + horizon_s
    core = Core(msgspec.structs.replace(settings, **ALWAYS_HEARD))
    core.restore(content)
    simulation = Simulation(core, lambda job: drawn_s(job, dice))
    core.begin_term(now)
    waiting = {subject for subject, job in core.jobs.items() if job.is_queued}
    for job in list(core.jobs.values()):
        if job.is_live:
            _let_end(simulation, job, dice, now)
    for digest in core.unready_environments():
        ready = m.EnvironmentReady(lock="", python="", platform="", packages=0)
        simulation.tell(subjects.environment(digest), ready, now)
    found: dict[str, float] = {}
    events, at = 0, now
    while at <= until and events < events_max and waiting:
        events += sum(1 for _ in simulation.end_until(at))
        for change in simulation.decide(at):
            events += 1
            if isinstance(change.fact, m.Placed) and (subject := submitted(change.job)) in waiting:
                waiting.discard(subject)
                found[subject] = at
        at = simulation.next_at
    return found


def _let_end(simulation: Simulation, job: Job, dice: Dice, now: float) -> None:
    """What runs goes on running for a while."""
    if job.life.state is State.STOPPING:
        simulation.ends(job, max(now, job.stop_at + job.specification.grace_s), "stopped")
        return
    ran_s = now - job.held_from
    for _ in range(TRIES):
        if (runs_s := drawn_s(job, dice)) > ran_s:
            break
    else:  # it has outlived what was predicted: it takes anything up to its limit
        limit_s = job.specification.time_limit_s
        runs_s = 2 * ran_s if limit_s is None else dice.uniform(min(ran_s, limit_s), limit_s)
    simulation.ends(job, max(now, job.held_from + runs_s))


def drawn_s(job: Job, dice: Dice) -> float:
    """How long a job runs in one world; its time limit at the most."""
    limit_s = job.specification.time_limit_s
    if job.predicted_s is None:
        return (UNKNOWN_S if limit_s is None else limit_s) * dice.uniform(*LIMIT_PART)
    runs_s = job.predicted_s * math.exp(dice.gauss(0.0, SPREAD))
    return runs_s if limit_s is None else min(runs_s, limit_s)


V = TypeVar("V", m.Why, m.QueuedView)


def told(view: V, team: str, forecast: Forecast | None, now: float) -> V:
    """The view of a waiting job with its expected start; no moment of it is over."""
    expected = forecast.starts.get(subjects.job(team, view.job)) if forecast is not None else None
    if expected is None:
        return view
    latest_at = None if expected.latest_at is None else max(now, expected.latest_at)
    return msgspec.structs.replace(
        view, expected_at=max(now, expected.at), earliest_at=max(now, expected.earliest_at), latest_at=latest_at
    )
