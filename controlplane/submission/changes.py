"""What an operator's request to change queues and teams must look like: every field with its limits. Pure.

Other than in a submit, a field that nobody knows is a problem: half a configuration would be in force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, get_args

from msgspec import UNSET

from controlplane.submission import reading
from controlplane.submission.queue_rules import NAME_CHARACTERS_MAX, PRIORITY_MAX, TIME_LIMIT_S_MIN
from controlplane.submission.reading import Findings, quoted
from events import messages as m

WEIGHT_MIN: Final = 1e-3
WEIGHT_MAX: Final = 1e6
LIMIT_MAX: Final = 1_000_000
"""Of jobs, GPUs and CPUs."""
GUARD_MAX: Final = 1e6
TIME_LIMIT_S_MAX: Final = 10 * 366 * 86_400.0
TIERS_MAX: Final = 100

Reader = Callable[[object, str, Findings], Any]


def _whole(low: int, high: int = LIMIT_MAX) -> Reader:
    return lambda value, path, found: reading.integer(value, path, found, low=low, high=high)


def _number(low: float, high: float, unit: str = "") -> Reader:
    return lambda value, path, found: reading.number(value, path, found, low=low, high=high, unit=unit)


def _or_none(read: Reader) -> Reader:
    """`null` takes a limit away."""
    return lambda value, path, found: None if value is None else read(value, path, found)


def _policy(value: object, path: str, found: Findings) -> str:
    name = reading.text(value, path, found, characters_max=NAME_CHARACTERS_MAX)
    if isinstance(value, str) and name not in get_args(m.Policy):
        found.problem(path, f"no policy {quoted(name)}", reading.choice(name, get_args(m.Policy)))
    return name


def _tiers(value: object, path: str, found: Findings) -> tuple[str, ...]:
    return reading.texts(
        value,
        path,
        found,
        items_max=TIERS_MAX,
        characters_max=NAME_CHARACTERS_MAX,
        total_max=TIERS_MAX * NAME_CHARACTERS_MAX,
    )


_TIME: Final = _or_none(_number(TIME_LIMIT_S_MIN, TIME_LIMIT_S_MAX, " seconds"))
_OF_BOTH: Final = {
    "weight": _number(WEIGHT_MIN, WEIGHT_MAX),
    "guaranteed_gpus": _whole(0),
    "guaranteed_cpus": _number(0, LIMIT_MAX),
    "running_max": _or_none(_whole(0)),
    "gpus_max": _or_none(_whole(0)),
}
TEAM_FIELDS: Final[Mapping[str, Reader]] = MappingProxyType(_OF_BOTH)
QUEUE_FIELDS: Final[Mapping[str, Reader]] = MappingProxyType(
    {
        **_OF_BOTH,
        "paused": reading.boolean,
        "policy": _policy,
        "guard": _or_none(_number(0, GUARD_MAX)),
        "draining": reading.boolean,
        "user_running_max": _or_none(_whole(0)),
        "user_gpus_max": _or_none(_whole(0)),
        "tiers": _tiers,
        "time_limit_s_default": _TIME,
        "time_limit_s_max": _TIME,
        "priority_default": _whole(-PRIORITY_MAX, PRIORITY_MAX),
        "priority_max": _or_none(_whole(-PRIORITY_MAX, PRIORITY_MAX)),
        "preemptible": reading.boolean,
        "predictions": reading.boolean,
    }
)

_OF_A_QUEUE: Final[dict[str, type[m.CreateQueue | m.SetQueue | m.DeleteQueue]]] = {
    "create_queue": m.CreateQueue,
    "set_queue": m.SetQueue,
    "delete_queue": m.DeleteQueue,
}
_OF_A_TEAM: Final[dict[str, type[m.SetTeam]]] = {"set_team": m.SetTeam}


def read(body: bytes, *, of_a_queue: bool, found: Findings) -> m.Change | None:
    """A change of a queue, or of a team; None if it cannot be told which. It counts only if nothing was found wrong."""
    raw = reading.read_object(body, found)
    if found.problems and not raw:
        return None
    possible: Mapping[str, type[m.Change]] = _OF_A_QUEUE if of_a_queue else _OF_A_TEAM
    kind = reading.check_type(raw, tuple(possible), found)
    if kind is None:
        return None
    wanted = possible[kind]
    known = wanted.__struct_fields__
    for name in raw:
        if name not in known and name != "type":
            found.problem(reading.join("$", name), f"no field {quoted(name)} here", reading.did_you_mean(name, known))
    readers = {**(QUEUE_FIELDS if of_a_queue else TEAM_FIELDS), "replace": reading.boolean}
    return wanted(**{name: readers[name](raw[name], f"$.{name}", found) for name in known if name in raw})


def named(change: m.CreateQueue | m.SetQueue | m.SetTeam) -> dict[str, Any]:
    """The settings that a change names."""
    fields = QUEUE_FIELDS if isinstance(change, m.QueueSettings) else TEAM_FIELDS
    return {name: value for name in fields if (value := getattr(change, name)) is not UNSET}
