"""What becomes of an operator's request to change queues and teams: pure, values in, values out.

A change is judged as a whole: what a queue would be set to, beside all other queues, their teams, and what the nodes
have. What was wrong before (a tier that is not configured any more) does not stand in the way of another change.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from controlplane.config import Configuration, Team
from controlplane.submission import changes, guarantees, reading
from controlplane.submission.queue_rules import NAME_CHARACTERS_MAX
from controlplane.submission.queues import Queues
from controlplane.submission.reading import Findings, choice, quoted
from events import messages as m
from events import subjects

QUEUES_MAX: Final = 1000
"""Of one team."""


class Order(NamedTuple):
    """A change as it came in. `queue` is empty where it is about the team itself."""

    operator: str
    team: str
    queue: str
    body: bytes

    @property
    def subject(self) -> str:
        """Of what it is about. Raises BadName."""
        return subjects.queue(self.team, self.queue) if self.queue else subjects.team(self.team)


class Jobs(NamedTuple):
    """How many jobs of a queue wait and run."""

    waiting: int
    running: int


class There(NamedTuple):
    """What only scheduling knows. None: it does not say."""

    jobs: Jobs = Jobs(0, 0)
    """Of the queue that is to be deleted."""
    capacity: m.Capacity | None = None
    """Of all nodes together."""


class Change(NamedTuple):
    """Write this fact, expecting `expect` on its subject, and that nothing else was changed since `revision`."""

    fact: m.QueueSet | m.QueueRemoved | m.TeamSet
    expect: int
    revision: int


def read(order: Order, config: Configuration, queues: Queues) -> tuple[m.Change | None, Findings]:
    """What a change says; None if it will be refused however the queues are set."""
    found = Findings()
    if order.team not in config.teams and order.team not in queues.teams():
        _no_such_team(order, config, found)
        return None, found
    change = changes.read(order.body, of_a_queue=bool(order.queue), found=found)
    return (None if found.problems else change), found


def decide(
    order: Order, change: m.Change, queues: Queues, config: Configuration, there: There, found: Findings
) -> Change | m.Answer:
    """By what there is now."""
    match change:
        case m.CreateQueue():
            decision = _create(order, change, queues, config, there, found)
        case m.SetQueue():
            decision = _set(order, change, queues, config, there, found)
        case m.DeleteQueue():
            decision = _delete(order, queues, config, there.jobs, found)
        case m.SetTeam():
            decision = _set_team(order, change, queues, config, there, found)
    return refused(found) if found.problems or decision is None else decision


def refused(found: Findings) -> m.Answer:
    return m.Answer(verdict="refused", problems=found.problems, warnings=found.warnings)


def applied(change: Change, sequence: int, found: Findings) -> m.Answer:
    settings = None if isinstance(change.fact, m.QueueRemoved) else change.fact
    return m.Answer(verdict="applied", sequence=sequence, settings=settings, warnings=found.warnings)


def _repeated(sequence: int, settings: m.QueueSet | m.TeamSet | None, found: Findings) -> m.Answer:
    return m.Answer(verdict="repeated", sequence=sequence, settings=settings, warnings=found.warnings)


# -- queues ------------------------------------------------------------------------------------------------------------


def _create(
    order: Order, change: m.CreateQueue, queues: Queues, config: Configuration, there: There, found: Findings
) -> Change | m.Answer | None:
    if order.team not in config.teams:
        _no_such_team(order, config, found)
        return None
    known = queues.known(order.team, order.queue)
    after = m.QueueSet(by=order.operator, **changes.named(change))
    if known.settings is not None:
        if _same(known.settings, after):
            return _repeated(known.sequence, known.settings, found)
        if not change.replace:
            message = f"queue {quoted(order.queue)} of team {quoted(order.team)} is there already"
            found.problem("$", message, f"change it: headrace queues set {reading.shown(order.queue)}")
            return None
    elif len(queues.of(order.team)) >= QUEUES_MAX:
        found.problem("$", f"team {quoted(order.team)} has {QUEUES_MAX} queues, which is the most", "delete some")
    else:
        _check_name(order.queue, found)
    _check(order, known.settings or m.QueueSet(by=""), after, queues, config, there, found)
    return Change(after, known.sequence, queues.revision)


def _set(
    order: Order, change: m.SetQueue, queues: Queues, config: Configuration, there: There, found: Findings
) -> Change | m.Answer | None:
    known = queues.known(order.team, order.queue)
    if known.settings is None:
        _not_there(order, queues, found)
        return None
    after = msgspec.structs.replace(known.settings, by=order.operator, **changes.named(change))
    if _same(known.settings, after):
        return _repeated(known.sequence, known.settings, found)
    _check(order, known.settings, after, queues, config, there, found)
    return Change(after, known.sequence, queues.revision)


def _delete(
    order: Order, queues: Queues, config: Configuration, jobs: Jobs, found: Findings
) -> Change | m.Answer | None:
    known = queues.known(order.team, order.queue)
    if known.settings is None:
        if known.sequence:
            return _repeated(known.sequence, None, found)
        _not_there(order, queues, found)
        return None
    name = reading.shown(order.queue)
    if len(queues.of(order.team)) == 1 and order.team in config.teams:
        message = f"{quoted(order.queue)} is the last queue of team {quoted(order.team)}"
        found.problem("$", message, "create another one first")
    if jobs.waiting or jobs.running:
        message = f"in queue {quoted(order.queue)} {_count(jobs.waiting, 'wait')} and {_count(jobs.running, 'run')}"
        found.problem("$", message, f"headrace queues drain {name}, and delete it once they are over")
    return Change(m.QueueRemoved(by=order.operator), known.sequence, queues.revision)


def _no_such_team(order: Order, config: Configuration, found: Findings) -> None:
    found.problem("$.team", f"no team {quoted(order.team)}", choice(order.team, tuple(config.teams)))


def _not_there(order: Order, queues: Queues, found: Findings) -> None:
    hint = choice(order.queue, tuple(queues.of(order.team))) if queues.of(order.team) else "create it first"
    found.problem("$.queue", f"no queue {quoted(order.queue)} in team {quoted(order.team)}", hint)


def _check_name(name: str, found: Findings) -> None:
    reading.text(name, "$.queue", found, characters_max=NAME_CHARACTERS_MAX)
    if name != name.strip() or "/" in name:
        found.problem("$.queue", "must have no `/`, and no white space at its ends")


def _check(
    order: Order,
    before: m.QueueSet,
    after: m.QueueSet,
    queues: Queues,
    config: Configuration,
    there: There,
    found: Findings,
) -> None:
    """All that concerns a field which this change changes."""
    changed = {name for name in changes.QUEUE_FIELDS if getattr(before, name) != getattr(after, name)}
    _check_limits(after, changed, config, found)
    _warn_of_idle_limits(after, changed, found)
    if "tiers" in changed:
        _check_tiers(order, after, config, found)
    of_team = queues.of(order.team) | {order.queue: after}
    _check_guarantees(order, queues, config, there, queues.team(order.team)[1], of_team, found)


def _check_limits(after: m.QueueSet, changed: set[str], config: Configuration, found: Findings) -> None:
    longest, default = after.time_limit_s_max, after.time_limit_s_default
    if {"time_limit_s_default", "time_limit_s_max"} & changed:
        if longest is not None and longest > config.time_limit_s_max:
            message = f"{longest:g} s is more than the installation allows"
            found.problem("$.time_limit_s_max", message, f"{config.time_limit_s_max:g} s at most: `time_limit_s_max`")
        highest = min(longest if longest is not None else config.time_limit_s_max, config.time_limit_s_max)
        if default is not None and default > highest:
            message = f"a default of {default:g} s is more than the most, {highest:g} s"
            found.problem("$.time_limit_s_default", message, "lower it, or raise `time_limit_s_max`")
    priority, highest_priority = after.priority_default, after.priority_max
    if {"priority_default", "priority_max"} & changed and highest_priority is not None and priority > highest_priority:
        message = f"a default of {priority} is more than the most, {highest_priority}"
        found.problem("$.priority_default", message, "lower it, or raise `priority_max`")
    gpus, most = after.guaranteed_gpus, after.gpus_max
    if {"guaranteed_gpus", "gpus_max"} & changed and most is not None and gpus > most:
        message = f"{gpus} GPUs are guaranteed, and it may hold {most} at most"
        found.problem("$.guaranteed_gpus", message, "lower it, or raise `gpus_max`")


def _warn_of_idle_limits(after: m.QueueSet, changed: set[str], found: Findings) -> None:
    """A limit of each user that is above the one of all says nothing."""
    for of_all in ("running_max", "gpus_max"):
        of_user = f"user_{of_all}"
        most, each = getattr(after, of_all), getattr(after, of_user)
        if {of_all, of_user} & changed and None not in (most, each) and each > most:
            found.warn(f"$.{of_user}", f"{each} has no effect: all users together have {most} at most")


def _check_tiers(order: Order, after: m.QueueSet, config: Configuration, found: Findings) -> None:
    allowed = config.teams.get(order.team, Team()).tiers or tuple(tier.name for tier in config.tiers)
    for index, name in enumerate(after.tiers):
        if config.tier(name) is None:
            found.problem(f"$.tiers[{index}]", f"no tier {quoted(name)}", choice(name, allowed))
        elif name not in allowed:
            message = f"team {quoted(order.team)} may not use tier {quoted(name)}"
            found.problem(f"$.tiers[{index}]", message, choice("", allowed))
        elif name in after.tiers[:index]:
            found.problem(f"$.tiers[{index}]", f"{quoted(name)} is given more than once", "keep one of them")


# -- teams -------------------------------------------------------------------------------------------------------------


def _set_team(
    order: Order, change: m.SetTeam, queues: Queues, config: Configuration, there: There, found: Findings
) -> Change | m.Answer:
    sequence, settings = queues.team(order.team)
    base = m.TeamSet(by="") if change.replace else settings
    after = msgspec.structs.replace(base, by=order.operator, **changes.named(change))
    if _same(settings, after):
        return _repeated(sequence, settings, found)
    _check_guarantees(order, queues, config, there, after, queues.of(order.team), found)
    return Change(after, sequence, queues.revision)


# -- both --------------------------------------------------------------------------------------------------------------


def _check_guarantees(
    order: Order,
    queues: Queues,
    config: Configuration,
    there: There,
    team: m.TeamSet,
    of_team: dict[str, m.QueueSet],
    found: Findings,
) -> None:
    """With this team, and its queues, set so."""
    capacity, teams = there.capacity, dict.fromkeys((*config.teams, *queues.teams()))
    for unit, measure in (("GPUs", guarantees.gpus), ("CPUs", guarantees.cpus)):
        before = {name: measure(queues.team(name)[1], queues.of(name)) for name in teams}
        after = before | {order.team: measure(team, of_team)}
        has = None if capacity is None else capacity.gpus if unit == "GPUs" else capacity.cpus
        guarantees.check(before, after, order.team, unit=unit, capacity=has, found=found)


def _same(before: m.QueueSet | m.TeamSet, after: m.QueueSet | m.TeamSet) -> bool:
    """Whoever set it."""
    return msgspec.structs.replace(after, by=before.by) == before


def _count(jobs: int, verb: str) -> str:
    return f"1 job {verb}s" if jobs == 1 else f"{jobs or 'no'} jobs {verb}"
