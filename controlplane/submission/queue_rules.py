"""What a job may ask of its queue, and what it gets where it asks for nothing. Pure.

The installation's limits hold for every queue; a queue's own can only be narrower.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from controlplane.config import Configuration
from controlplane.submission import reading
from controlplane.submission.queues import Queues
from controlplane.submission.reading import Findings, quoted
from events import messages as m

NAME_CHARACTERS_MAX: Final = 128
PRIORITY_MAX: Final = 1000
"""Of either sign."""
TIME_LIMIT_S_MIN: Final = 1e-3


class Rules(NamedTuple):
    """A queue of a team, by its settings; of one that is not there, the defaults."""

    team: str
    name: str
    settings: m.QueueSet
    config: Configuration

    @property
    def tiers(self) -> tuple[str, ...]:
        """The tiers that its jobs may ask for."""
        of_team = self.config.teams[self.team].tiers or tuple(tier.name for tier in self.config.tiers)
        return tuple(name for name in of_team if not self.settings.tiers or name in self.settings.tiers)

    @property
    def time_limit_s_max(self) -> float:
        of_queue = self.settings.time_limit_s_max
        highest = self.config.time_limit_s_max
        return highest if of_queue is None else min(of_queue, highest)

    @property
    def time_limit_s_default(self) -> float | None:
        """What a job gets that names no limit; where there is no default, the highest of its queue. None: no limit."""
        choices = (self.settings.time_limit_s_default, self.config.time_limit_s_default, self.settings.time_limit_s_max)
        default = next((choice for choice in choices if choice is not None), None)
        return None if default is None else min(default, self.time_limit_s_max)

    @property
    def priority_max(self) -> int:
        of_queue = self.settings.priority_max
        return PRIORITY_MAX if of_queue is None else min(of_queue, PRIORITY_MAX)


def rules_of(given: dict[str, Any], team: str, config: Configuration, queues: Queues, found: Findings) -> Rules:
    """The queue that a submit means; a problem is told if it is not there, or takes no jobs."""
    name = ""
    if "queue" in given:
        name = reading.text(given["queue"], "$.queue", found, characters_max=NAME_CHARACTERS_MAX)
    if not name:
        name = queues.default(team, config.teams[team].queues)
    settings = queues.known(team, name).settings
    if settings is None:
        there = tuple(queues.of(team))
        hint = reading.choice(name, there) if there else "an operator can create one: headrace queues create"
        found.problem("$.queue", f"no queue {quoted(name)} in team {quoted(team)}", hint)
    elif settings.draining:
        open_ = [other for other, each in queues.of(team).items() if not each.draining]
        hint = f"send it to {', '.join(map(quoted, open_[:20]))}" if open_ else "an operator can open it again"
        found.problem("$.queue", f"queue {quoted(name)} is draining: it takes no new jobs", hint)
    return Rules(team, name, settings or m.QueueSet(by=""), config)


def tier(given: dict[str, Any], rules: Rules, found: Findings) -> str:
    config, allowed = rules.config, rules.tiers
    name = ""
    if "tier" in given:
        name = reading.text(given["tier"], "$.tier", found, characters_max=NAME_CHARACTERS_MAX)
    if not allowed:
        found.problem("$.queue", f"queue {quoted(rules.name)} allows no tier that there is", "choose another queue")
        return name or config.default_tier
    if not name:
        return config.default_tier if config.default_tier in allowed else allowed[0]
    of_team = config.teams[rules.team].tiers
    if config.tier(name) is None:
        found.problem("$.tier", f"no tier {quoted(name)}", reading.choice(name, allowed))
    elif of_team and name not in of_team:
        hint = reading.choice("", allowed)
        found.problem("$.tier", f"team {quoted(rules.team)} may not use tier {quoted(name)}", hint)
    elif name not in allowed:
        hint = reading.choice("", allowed)
        found.problem("$.tier", f"queue {quoted(rules.name)} does not take tier {quoted(name)}", hint)
    return name


def time_limit_s(given: dict[str, Any], rules: Rules, found: Findings) -> float | None:
    if given.get("time_limit_s") is None:
        return rules.time_limit_s_default
    high = rules.time_limit_s_max
    unit = " seconds" if high == rules.config.time_limit_s_max else f" seconds in queue {quoted(rules.name)}"
    return reading.number(given["time_limit_s"], "$.time_limit_s", found, low=TIME_LIMIT_S_MIN, high=high, unit=unit)


def priority(given: dict[str, Any], rules: Rules, found: Findings) -> int:
    default = min(rules.settings.priority_default, rules.priority_max)
    if "priority" not in given:
        return default
    high = max(rules.priority_max, -PRIORITY_MAX)
    value = reading.integer(given["priority"], "$.priority", found, low=-PRIORITY_MAX, high=high)
    return default if value is None else value


def preemptible(given: dict[str, Any], rules: Rules, found: Findings) -> bool:
    if given.get("preemptible") is None:
        return rules.settings.preemptible
    return reading.boolean(given["preemptible"], "$.preemptible", found)
