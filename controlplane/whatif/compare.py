"""As it was, replayed as it is, and under another policy: figures of each team, side by side. Pure.

A replay is of the jobs that ran and the machines that there were, under today's settings: what differs from how it was
is what a replay does not know (settings of then, submissions that hung on results, the ends of attempts that failed).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from statistics import fmean
from typing import Final

import msgspec

from controlplane.scheduling.decisions import Settings
from controlplane.scheduling.replay import ALWAYS_HEARD, Arrival, Outcome, Replay, Told
from controlplane.whatif.policy import Policy, check_names
from controlplane.whatif.recorded import Recorded
from events import messages as m
from events import subjects

BOUND_S: Final = 10.0
"""Shorter runs count as long as this in a slowdown."""
ALL: Final = ""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one team's jobs, or of all (`team` empty), in one world."""

    jobs: int
    wait_s_mean: float
    wait_s_p95: float
    slowdown: float
    """Mean of (wait + run) / max(run, 10 s), at least 1."""
    utilisation: float
    """Part of all GPUs (or CPUs, where there are no GPUs) that its jobs held, over the whole time."""
    fairness: float
    """Jain's index over its users' mean slowdowns: 1 is the same for all, 1/n all for one of n."""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One team in the three worlds; None: none of its jobs ended there."""

    team: str
    recorded: Figures | None
    replayed: Figures | None
    policy: Figures | None


def compare(
    recorded: Recorded, policy: Policy, settings: Settings, *, since: float, until: float, origin: str
) -> list[Compared]:
    """All teams by name, and all together first. Only jobs that could run since then, and have ended, count.

    Raises PolicyError.
    """
    for key in recorded.teams_and_queues():
        recorded.queues.setdefault(key, m.QueueSet(by=""))
    teams = {team for team, _ in recorded.queues} | recorded.teams.keys()
    queues = {f"{team}/{name}" for team, name in recorded.queues}
    check_names(policy, queues, teams, set(recorded.capacities), origin)
    arrivals = list(recorded.arrivals(until))
    worlds = (
        list(recorded.outcomes(arrivals)),
        list(_replayed(recorded, Policy(), settings, arrivals)),
        list(_replayed(recorded, policy, settings, arrivals)),
    )
    sizes = [_size(recorded.capacities.items(), Policy())] * 2 + [_size(recorded.capacities.items(), policy)]
    count = {_name(one) for one in arrivals if one.at >= since and recorded.has_ended(one)}
    by_team = [_figures(world, size, count, since, until) for world, size in zip(worlds, sizes, strict=True)]
    names = sorted(set().union(*by_team))
    return [
        Compared(
            team=name, **dict(zip(("recorded", "replayed", "policy"), (w.get(name) for w in by_team), strict=True))
        )
        for name in names
    ]


def _replayed(recorded: Recorded, policy: Policy, settings: Settings, arrivals: list[Arrival]) -> Iterator[Outcome]:
    queues = {key: policy.queue(*key, now) for key, now in recorded.queues.items()}
    named = {team for team, _ in queues} | recorded.teams.keys()
    teams = {name: policy.team(name, recorded.teams.get(name, m.TeamSet(by=""))) for name in sorted(named)}
    told = list(_machines(recorded.told, policy))
    both: list[Arrival | Told] = sorted([*told, *arrivals], key=lambda each: each.at)
    replay = Replay(
        msgspec.structs.replace(policy.settings(settings), **ALWAYS_HEARD),
        {},
        queues,
        teams=teams,
        at=both[0].at if both else 0.0,
    )
    return replay.run(both)


def _machines(told: Iterable[Told], policy: Policy) -> Iterator[Told]:
    """What happened to the machines that there are under this policy."""
    for each in told:
        name = subjects.tokens(each.subject)[1]
        if name not in policy.without:
            yield each
        for number in range(policy.more.get(name, 0)):
            yield each._replace(subject=subjects.node(f"{name}+{number + 1}"))


def _size(capacities: Iterable[tuple[str, m.Capacity]], policy: Policy) -> tuple[float, bool]:
    """How many GPUs there are together, or CPUs where there are none; and which of the two."""
    counted = [(capacity, (name not in policy.without) + policy.more.get(name, 0)) for name, capacity in capacities]
    gpus = sum(capacity.gpus * times for capacity, times in counted)
    return (gpus, True) if gpus else (sum(capacity.cpus * times for capacity, times in counted), False)


def _figures(
    outcomes: list[Outcome], size: tuple[float, bool], count: set[str], since: float, until: float
) -> dict[str, Figures]:
    """Utilisation is of all jobs, the rest of those that are to be counted."""
    held: defaultdict[str, float] = defaultdict(float)
    counted: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        resources, team = outcome.arrival.specification.resources, outcome.arrival.specification.team
        gpus = resources.gpus * resources.gpu_milli / m.GPU_MILLI
        amount = (gpus if size[1] else resources.cpus) * resources.nodes
        inside_s = max(0.0, min(outcome.ended_at, until) - max(outcome.started_at, since))
        for name in (team, ALL):
            held[name] += amount * inside_s
            if _name(outcome.arrival) in count:
                counted[name].append(outcome)
    whole = max(1e-9, size[0] * (until - since))
    return {name: _of(found, held[name] / whole) for name, found in counted.items()}


def _name(arrival: Arrival) -> str:
    return subjects.job(arrival.specification.team, arrival.specification.job)


def _of(outcomes: list[Outcome], utilisation: float) -> Figures:
    waits = sorted(outcome.wait_s for outcome in outcomes)
    users: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for outcome in outcomes:
        specification = outcome.arrival.specification
        users[(specification.team, specification.user)].append(_slowdown(outcome))
    return Figures(
        jobs=len(outcomes),
        wait_s_mean=round(fmean(waits), 3),
        wait_s_p95=round(waits[math.ceil(0.95 * len(waits)) - 1], 3),
        slowdown=round(fmean(map(_slowdown, outcomes)), 3),
        utilisation=round(utilisation, 4),
        fairness=round(jain([fmean(each) for each in users.values()]), 4),
    )


def _slowdown(outcome: Outcome) -> float:
    runs_s = outcome.ended_at - outcome.started_at
    return max(1.0, (outcome.wait_s + runs_s) / max(runs_s, BOUND_S))


def jain(values: list[float]) -> float:
    """Jain's fairness index: (Σx)² / (n Σx²). Jain, Chiu and Hawe, DEC-TR-301, 1984."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))
