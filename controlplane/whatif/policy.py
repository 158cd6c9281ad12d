"""The policy to try, as a TOML file. Pure.

    [queues."vision/default"]        # settings as of `headrace queues set`; "*" stands for every queue
    policy = "sjf"
    [teams.vision]                   # as of `headrace teams set`
    weight = 2
    [scheduling]                     # of the installation
    backfill_depth = 4
    [nodes]
    without = ["n3"]                 # as if it were not there
    more = {n1 = 2}                  # two more machines like n1

What it does not name stays as it is; an empty file is a replay of how it is. "none" takes a limit away. A mistake is a
PolicyError that names the key and the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from controlplane.scheduling.decisions import Settings
from controlplane.submission.changes import QUEUE_FIELDS, TEAM_FIELDS
from controlplane.submission.reading import Findings
from events import messages as m

EVERY: Final = "*"
SCHEDULING: Final[Mapping[str, tuple[float, float]]] = {
    "backfill_depth": (0, 10_000),
    "preempt_min_run_s": (0, 10 * 86_400.0),
    "fair_half_life_s": (0, 366 * 86_400.0),
}
"""Settings of the core that may be tried, from and to."""
PACKINGS: Final = ("best_fit", "fgd")
MORE_MAX: Final = 1_000
SECTIONS: Final = ("queues", "teams", "scheduling", "nodes")

Section = dict[str, dict[str, Any]]


class PolicyError(Exception):
    """The policy cannot be used. The message names the key, where it came from, and what would be right."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What differs from how it is."""

    queues: Section = {}
    """By `<team>/<queue>`, or `*`: names and values of settings."""
    teams: Section = {}
    scheduling: dict[str, Any] = {}
    without: tuple[str, ...] = ()
    more: dict[str, int] = {}

    def queue(self, team: str, name: str, now: m.QueueSet) -> m.QueueSet:
        """A queue's settings under this policy."""
        return msgspec.structs.replace(now, **(self.queues.get(EVERY, {}) | self.queues.get(f"{team}/{name}", {})))

    def team(self, name: str, now: m.TeamSet) -> m.TeamSet:
        return msgspec.structs.replace(now, **(self.teams.get(EVERY, {}) | self.teams.get(name, {})))

    def settings(self, now: Settings) -> Settings:
        return msgspec.structs.replace(now, **self.scheduling)


def read(text: str, origin: str) -> Policy:
    """The policy in a file. `origin`: its name, for messages. Raises PolicyError."""
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise PolicyError(f"{origin}: cannot be read: {error}") from error
    for name, section in raw.items():
        if name not in SECTIONS:
            raise PolicyError(f"{origin}: no such key: {name}; there are {', '.join(SECTIONS)}")
        if not isinstance(section, dict):
            raise PolicyError(f"{origin}: {name}: must be a table, such as [{name}]")
    nodes = raw.get("nodes", {})
    for name in nodes:
        if name not in ("without", "more"):
            raise PolicyError(f"{origin}: nodes: no such key: {name}; there are without, more")
    return Policy(
        queues=_settings(raw, "queues", QUEUE_FIELDS, origin),
        teams=_settings(raw, "teams", TEAM_FIELDS, origin),
        scheduling=_scheduling(raw.get("scheduling", {}), origin),
        without=_names(nodes.get("without", []), f"{origin}: nodes.without"),
        more=_counts(nodes.get("more", {}), f"{origin}: nodes.more"),
    )


def check_names(policy: Policy, queues: set[str], teams: set[str], nodes: set[str], origin: str) -> None:
    """Raises PolicyError where it names what there is not."""
    for what, named, known in (
        ("queues", policy.queues.keys() - {EVERY}, queues),
        ("teams", policy.teams.keys() - {EVERY}, teams),
        ("nodes.without", set(policy.without), nodes),
        ("nodes.more", policy.more.keys(), nodes),
    ):
        for name in sorted(named - known):
            there = ", ".join(sorted(known)[:10]) or "none"
            raise PolicyError(f"{origin}: {what}: no {name} in the ledger; there are {there}")


def _settings(
    raw: dict[str, Any], section: str, fields: Mapping[str, Callable[[object, str, Findings], Any]], origin: str
) -> Section:
    found: Section = {}
    for name, settings in raw.get(section, {}).items():
        where = f"{origin}: {section}.{name}"
        if not isinstance(settings, dict):
            raise PolicyError(f'{where}: must be a table, such as [{section}."{name}"]')
        if section == "queues" and name != EVERY and name.count("/") != 1:
            raise PolicyError(f'{where}: a queue is named by its team and its name, such as [queues."vision/{name}"]')
        found[name] = {key: _setting(key, value, fields, where) for key, value in settings.items()}
    return found


def _setting(
    key: str, value: object, fields: Mapping[str, Callable[[object, str, Findings], Any]], where: str
) -> object:
    if key not in fields:
        raise PolicyError(f"{where}: no such key: {key}; there are {', '.join(sorted(fields))}")
    findings = Findings()
    read_value = fields[key](None if value == "none" else value, f"{where}.{key}", findings)
    if findings.problems:
        problem = findings.problems[0]
        hint = f" ({problem.hint})" if problem.hint else ""
        raise PolicyError(f"{problem.path}: {problem.message}{hint}")
    return read_value


def _scheduling(raw: dict[str, Any], origin: str) -> dict[str, Any]:
    for key, value in raw.items():
        if key == "packing":
            if value not in PACKINGS:
                raise PolicyError(f"{origin}: scheduling.packing: one of {', '.join(PACKINGS)}, not {value!r}")
            continue
        if key not in SCHEDULING:
            there = ", ".join(sorted({*SCHEDULING, "packing"}))
            raise PolicyError(f"{origin}: scheduling: no such key: {key}; there are {there}")
        low, high = SCHEDULING[key]
        kind = int if key == "backfill_depth" else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            raise PolicyError(f"{origin}: scheduling.{key}: a number from {low:g} to {high:g}, not {value!r}")
    return raw


def _names(raw: object, where: str) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(name, str) for name in raw):
        raise PolicyError(f'{where}: must be a list of names, such as ["n1"]')
    return tuple(raw)


def _counts(raw: object, where: str) -> dict[str, int]:
    if not isinstance(raw, dict):
        raise PolicyError(f"{where}: must be a table, such as {{n1 = 2}}")
    for name, count in raw.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MORE_MAX:
            raise PolicyError(f"{where}.{name}: a number from 0 to {MORE_MAX}, not {count!r}")
    return raw
