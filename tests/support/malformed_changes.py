"""What operators may get wrong: malformed changes of queues and teams, each with paths, and a word of each hint."""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Malformed(NamedTuple):
    """`problems`: path → a piece of the message or of the hint. `queue` is empty for a change of a team."""

    what: str
    body: bytes
    problems: dict[str, str]
    queue: str = "night"


def _set(what: str, problems: dict[str, str], /, **fields: Any) -> Malformed:
    return Malformed(what, json.dumps({"type": "set_queue"} | fields).encode(), problems)


def _team(what: str, problems: dict[str, str], /, **fields: Any) -> Malformed:
    return Malformed(what, json.dumps({"type": "set_team"} | fields).encode(), problems, queue="")


MALFORMED_CHANGES = [
    Malformed("nothing at all", b"", {"$": "not JSON"}),
    Malformed("a list", b"[]", {"$": "must be an object, not a list"}),
    Malformed("no type", b"{}", {"$.type": "`create_queue`, `set_queue`, `delete_queue`"}),
    Malformed("a mistyped type", b'{"type": "setqueue"}', {"$.type": "did you mean `set_queue`?"}),
    Malformed("a change of a team", b'{"type": "set_team"}', {"$.type": "no request `set_team` here"}),
    Malformed("a change of a queue", b'{"type": "set_queue"}', {"$.type": "there are `set_team`"}, queue=""),
    Malformed("a field twice", b'{"type":"set_queue","weight":1,"weight":2}', {"$.weight": "more than once"}),
    _set("a mistyped field", {"$.wieght": "did you mean `weight`?"}, wieght=2),
    _set("a field of a new queue", {"$.replace": "no field `replace`"}, replace=True),
    _set("no weight", {"$.weight": "must be a number, not null"}, weight=None),
    _set("a weight of nothing", {"$.weight": "from 0.001 to 1e+06"}, weight=0),
    _set("a weight below nothing", {"$.weight": "out of range"}, weight=-1),
    Malformed("an endless weight", b'{"type":"set_queue","weight":1e999}', {"$.weight": "out of range"}),
    _set("half a job", {"$.running_max": "must be a whole number, not 1.5"}, running_max=1.5),
    _set("a limit below nothing", {"$.gpus_max": "from 0 to 1000000"}, gpus_max=-1),
    _set("a limit in words", {"$.user_gpus_max": "must be a whole number, not text"}, user_gpus_max="two"),
    _set("paused, perhaps", {"$.paused": "must be true or false"}, paused="yes"),
    _set("a policy that nobody knows", {"$.policy": "did you mean `fcfs`?"}, policy="fcf"),
    _set("no policy", {"$.policy": "must be text, not null"}, policy=None),
    _set("guaranteed less than nothing", {"$.guaranteed_gpus": "from 0"}, guaranteed_gpus=-1),
    _set("no guarantee at all", {"$.guaranteed_cpus": "not null"}, guaranteed_cpus=None),
    _set("a tier that nobody knows", {"$.tiers[1]": "did you mean `gpu2`?"}, tiers=["gpu1", "gpu3"]),
    _set("a tier that the team may not use", {"$.tiers[0]": "team `vision` may not use tier `gpu8`"}, tiers=["gpu8"]),
    _set("a tier twice", {"$.tiers[1]": "keep one of them"}, tiers=["gpu1", "gpu1"]),
    _set("a tier that is no list", {"$.tiers": "must be a list of texts"}, tiers="gpu1"),
    _set("a limit of no time", {"$.time_limit_s_max": "out of range"}, time_limit_s_max=0),
    _set("a limit beyond the installation's", {"$.time_limit_s_max": "2.592e+06 s at most"}, time_limit_s_max=1e7),
    _set(
        "a default beyond the limit",
        {"$.time_limit_s_default": "a default of 60 s is more than the most, 50 s"},
        time_limit_s_default=60,
        time_limit_s_max=50,
    ),
    _set("a default beyond the installation's", {"$.time_limit_s_default": "is more"}, time_limit_s_default=1e7),
    _set(
        "a default priority beyond the highest",
        {"$.priority_default": "a default of 3 is more than the most, 2"},
        priority_default=3,
        priority_max=2,
    ),
    _set("a priority beyond all", {"$.priority_max": "from -1000 to 1000"}, priority_max=1001),
    _set(
        "more guaranteed than it may hold",
        {"$.guaranteed_gpus": "4 GPUs are guaranteed, and it may hold 2 at most"},
        guaranteed_gpus=4,
        gpus_max=2,
    ),
    _set(
        "several things at once",
        {"$.weight": "range", "$.policy": "no policy", "$.x": "no field"},
        weight=0,
        policy="best",
        x=1,
    ),
    _team("a field of a queue", {"$.paused": "no field `paused`"}, paused=True),
    _team("a weight of nothing for a team", {"$.weight": "out of range"}, weight=0),
    _team(
        "a team with more guaranteed than it may hold",
        {"$.guaranteed_gpus": "is guaranteed 8 GPUs and may hold 4 at most"},
        guaranteed_gpus=8,
        gpus_max=4,
    ),
]
