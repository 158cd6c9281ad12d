"""What queues and teams hold, and how they are set: answers for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controlplane.scheduling.packing import MILLI
from controlplane.scheduling.queues import Queue
from controlplane.scheduling.truth import Truth
from events import messages as m


def queues_view(truth: Truth) -> m.QueuesView:
    """All queues, by team and name; one that was removed while it has jobs."""
    views = [
        m.QueueView(
            team=queue.team,
            queue=queue.name,
            removed=queue.removed,
            **_held([queue]),
            **_fields(queue.settings),
        )
        for _, queue in sorted(truth.queues.items())
        if queue.is_shown
    ]
    return m.QueuesView(queues=tuple(views), sequence=truth.sequence)


def teams_view(truth: Truth) -> m.TeamsView:
    """All teams that have a queue or were set, by name."""
    of: dict[str, list[Queue]] = {name: [] for name in truth.teams}
    for queue in truth.queues.values():
        if queue.is_shown:
            of.setdefault(queue.team, []).append(queue)
    views = []
    for name, queues in sorted(of.items()):
        team = truth.teams.get(name)
        settings = team.settings if team is not None else m.TeamSet(by="")
        views.append(m.TeamView(team=name, queues=len(queues), **_held(queues), **_fields(settings)))
    return m.TeamsView(teams=tuple(views), sequence=truth.sequence)


def _held(queues: Iterable[Queue]) -> dict[str, Any]:
    """What waits in some queues, and what they hold."""
    mine = list(queues)
    return {
        "waiting": sum(len(queue.waiting) for queue in mine),
        "running": sum(queue.account.held.running for queue in mine),
        "gpus": _gpus(sum(queue.account.held.milli_gpus for queue in mine)),
        "cpus": sum(queue.account.held.milli_cpus for queue in mine) / 1000,
    }


def _gpus(milli: int) -> float:
    """A whole number where it is one: readers of an earlier release know no other."""
    return milli // MILLI if milli % MILLI == 0 else milli / MILLI


def _fields(settings: m.QueueSet | m.TeamSet) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__struct_fields__}
