"""What strangers send: malformed submits, each with the paths that its answer must name and a word of each hint.

The table serves twice: on the pure core, and through the service on real NATS.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from events.identity import job_id

ITSELF = job_id(team="vision", user="ada", client_id="me")
"""The id that a client can compute before it submits."""


class Malformed(NamedTuple):
    """`problems`: path → a piece of the message or of the hint."""

    what: str
    body: bytes
    problems: dict[str, str]


def _of(what: str, problems: dict[str, str], /, **fields: Any) -> Malformed:
    return Malformed(what, json.dumps({"entrypoint": ["python", "train.py"]} | fields).encode(), problems)


def _in_environment(what: str, path: str, piece: str, /, **fields: Any) -> Malformed:
    return _of(what, {f"$.environment.{path}": piece}, environment={"python": "3.11"} | fields)


MALFORMED = [
    Malformed("nothing at all", b"", {"$": "not JSON"}),
    Malformed("not JSON", b"python train.py", {"$": "not JSON"}),
    Malformed("half an object", b'{"entrypoint": ["python"', {"$": "not JSON"}),
    Malformed("not UTF-8", b'{"entrypoint": ["\xff\xfe"]}', {"$": "byte 17"}),
    Malformed("UTF-16", '{"entrypoint": ["python"]}'.encode("utf-16"), {"$": "not UTF-8"}),
    Malformed("a list", b'["python", "train.py"]', {"$": "must be an object, not a list"}),
    Malformed("null", b"null", {"$": "not null"}),
    Malformed("a number", b"17", {"$": "not a number"}),
    Malformed("NaN", b'{"entrypoint": ["a"], "time_limit_s": NaN}', {"$": "NaN is not a number of JSON"}),
    Malformed("nested a hundred thousand times", b"[" * 100_000 + b"]" * 100_000, {"$": "nested too deeply"}),
    Malformed("deep inside", b'{"entrypoint": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001, {"$": "nested too deeply"}),
    Malformed("larger than a message may be", b'{"entrypoint": ["' + b"a" * 600_000 + b'"]}', {"$": "at most 524288"}),
    Malformed("digits without end", b'{"entrypoint": ["a"], "priority": ' + b"9" * 5000 + b"}", {"$": "not JSON"}),
    Malformed("a key twice", b'{"entrypoint": ["a"], "tier": "cpu", "tier": "gpu1"}', {"$.tier": "more than once"}),
    Malformed(
        "the same variable twice", b'{"entrypoint": ["a"], "env": {"A": "1", "A": "2"}}', {"$.env.A": "more than once"}
    ),
    Malformed("no entrypoint", b"{}", {"$.entrypoint": "is missing"}),
    _of("another request", {"$.type": "submit"}, type="submitt"),
    _of("a shell line", {"$.entrypoint": "a list of words"}, entrypoint="python train.py"),
    _of("an empty entrypoint", {"$.entrypoint": "must not be empty"}, entrypoint=[]),
    _of("an empty program", {"$.entrypoint[0]": "name a program"}, entrypoint=["", "train.py"]),
    _of("a number as a word", {"$.entrypoint[1]": "must be text, not a number"}, entrypoint=["python", 3]),
    _of("NUL in a word", {"$.entrypoint[1]": "NUL"}, entrypoint=["python", "a\0b"]),
    _of("half a surrogate pair", {"$.entrypoint[1]": "surrogate"}, entrypoint=["python", "\ud800"]),
    _of("two thousand words", {"$.entrypoint": "at most 1024"}, entrypoint=["a"] * 2000),
    _of("a word of 40,000 characters", {"$.entrypoint[0]": "at most 32768"}, entrypoint=["a" * 40_000]),
    _of("too many characters in all", {"$.entrypoint": "together"}, entrypoint=["a" * 30_000] * 5),
    _of("an unknown tier", {"$.tier": "did you mean `gpu2`?"}, tier="gpu3"),
    _of("a tier of a wrong kind", {"$.tier": "must be text, not a number"}, tier=2),
    _of("a tier that the team may not use", {"$.tier": "may not use"}, tier="gpu8"),
    _of("an unknown queue", {"$.queue": "did you mean `night`?"}, queue="nigth"),
    _of("a queue of another team", {"$.queue": "no queue `secret` in team `vision`"}, queue="secret"),
    _of("preemptible, perhaps", {"$.preemptible": "true or false"}, preemptible="maybe"),
    _of("an id that is no text", {"$.id": "must be text"}, id=17),
    _of("an id without end", {"$.id": "at most 256"}, id="x" * 1000),
    _of("a name with a line break", {"$.name": "control character"}, name="a\nb"),
    _of("a name like an id", {"$.name": "looks like the id of a job"}, name="j-abcdefghij23"),
    _of("a name like a path", {"$.name": "no `/`"}, name="../etc/passwd"),
    _of("a variable with a bad name", {'$.env["1A"]': "letters, digits"}, env={"1A": "x"}),
    _of("a variable of ours", {"$.env.HEADRACE_JOB": "set by Headrace"}, env={"HEADRACE_JOB": "x"}),
    _of("a reserved variable", {"$.env.CUDA_VISIBLE_DEVICES": "set by Headrace"}, env={"CUDA_VISIBLE_DEVICES": "0"}),
    _of("a variable that is no text", {"$.env.N": "must be text, not a number"}, env={"N": 1}),
    _of("NUL in a variable", {"$.env.N": "NUL"}, env={"N": "\0"}),
    _of("a list of variables", {"$.env": "an object from names to texts"}, env=["A=1"]),
    _of("too many variables", {"$.env": "at most 512"}, env={f"A{n}": "" for n in range(600)}),
    _of("a path as source", {"$.source": "64 hexadecimal digits"}, source="/etc/passwd"),
    _of("a digest with a step up", {"$.source": "not a digest"}, source="sha256:" + "../" * 21 + "a"),
    _of("a folder that leads out", {"$.folder": "without `..`"}, folder="a/../../b", source="sha256:" + "0" * 64),
    _of("an absolute folder", {"$.folder": "relative to its root"}, folder="/etc", source="sha256:" + "0" * 64),
    _of("a folder in no source", {"$.folder": "there is no source"}, folder="a"),
    _of("a time limit below zero", {"$.time_limit_s": "out of range"}, time_limit_s=-1),
    _of("a time limit beyond the limit", {"$.time_limit_s": "to 2.592e+06 seconds"}, time_limit_s=1e9),
    Malformed("an infinite limit", b'{"entrypoint":["a"],"time_limit_s":1e999}', {"$.time_limit_s": "out of range"}),
    _of("a time limit as text", {"$.time_limit_s": "must be a number, not text"}, time_limit_s="2h"),
    _of("a grace without end", {"$.grace_s": "from 0 to 600 seconds"}, grace_s=10**400),
    _of("a huge priority", {"$.priority": "from -1000 to 1000"}, priority=10**30),
    _of("a priority of a half", {"$.priority": "whole number, not 0.5"}, priority=0.5),
    _of("a true priority", {"$.priority": "not true or false"}, priority=True),
    _of("a dependency alone", {"$.after": "a list of dependencies"}, after={"job": "j-abcdefghij23"}),
    _of("a dependency that is a text", {"$.after[0]": "must be an object"}, after=["j-abcdefghij23"]),
    _of("a dependency on nothing", {"$.after[0].job": "is missing"}, after=[{"on": "ok"}]),
    _of("a dependency on a name", {"$.after[0].job": "not the id of a job"}, after=[{"job": "train"}]),
    _of(
        "a dependency on an unknown condition",
        {"$.after[0].on": "did you mean `notok`?"},
        after=[{"job": "j-abcdefghij23", "on": "not_ok"}],
    ),
    _of(
        "a dependency twice",
        {"$.after[1].job": "name each job once"},
        after=[{"job": "j-abcdefghij23"}, {"job": "j-abcdefghij23", "on": "any"}],
    ),
    _of("too many dependencies", {"$.after": "at most 100"}, after=[{"job": "j-abcdefghij23"}] * 101),
    _of("a dependency on itself", {"$.after[0].job": "the job itself"}, id="me", after=[{"job": ITSELF}]),
    _of("a begin time in words", {"$.begin_at": "must be a number, not text"}, begin_at="18:00"),
    _of("a begin time in milliseconds", {"$.begin_at": "out of range"}, begin_at=1.7e12),
    _of("a deadline that is over", {"$.deadline_at": "is over"}, deadline_at=900),
    _of("a deadline far ahead", {"$.deadline_at": "more than a year ahead"}, deadline_at=6e10),
    _of("retries below zero", {"$.retries": "from 0 to 100"}, retries=-1),
    _of("retries by half", {"$.retries": "must be a whole number"}, retries=1.5),
    _of("an array in words", {"$.array": "no range of indices"}, array="ten"),
    _of("an array that is a number", {"$.array": "must be text, not a number"}, array=10),
    _of("an array that ends before it begins", {"$.array": "ends before it begins"}, array="9-0"),
    _of("an array without a step", {"$.array": "has no step"}, array="0-9:0"),
    _of("an index twice", {"$.array": "twice"}, array="0-9,5"),
    _of("too many tasks", {"$.array": "at most 100000 are possible"}, array="0-100000"),
    _of("an index beyond the last", {"$.array": "no range of indices"}, array="12345678"),
    _of("an array of which none may run", {"$.array": "from 1 to 100000"}, array="0-9%0"),
    _of("an array of ranges without end", {"$.array": "at most 1000 ranges"}, array=",".join(map(str, range(1500)))),
    _of("no attempts", {"$.attempts_max": "from 1 to 100"}, attempts_max=0),
    _of("perhaps held", {"$.hold": "true or false"}, hold="yes"),
    _of("a label with a bad name", {'$.labels["a b"]': "no name of a label"}, labels={"a b": "c"}),
    _of("a label without end", {"$.labels.a": "at most 256"}, labels={"a": "b" * 300}),
    _of("a constraint that is a list", {"$.on": "must be an object"}, on=["gpu=A100"]),
    _of("a constraint on a bad name", {'$.on["a b"]': "no name of a label"}, on={"a b": ["c"]}),
    _of("a constraint without values", {"$.on.gpu": "must name values"}, on={"gpu": []}),
    _of("a constraint on not nothing", {"$.on.gpu": "must name values"}, on={"gpu": "!"}),
    _of("a constraint that excludes itself", {"$.on": "no node can be"}, on={"gpu": ["A100", "!A100"]}),
    _of("a constraint that is a number", {"$.on.gpu": "must be a list of texts"}, on={"gpu": 100}),
    _of("a constraint without end", {"$.on": "at most 4096"}, on={f"l{n}": ["x" * 250] * 2 for n in range(12)}),
    _of("too many constraints", {"$.on": "at most 16 are possible"}, on={f"l{n}": "a" for n in range(17)}),
    _of("no version of Python", {"$.environment.python": "is missing"}, environment={"roots": ["numpy"]}),
    _of("Python 2", {"$.environment.python": "such as `3.11`"}, environment={"python": "2.7"}),
    _of("an environment in one word", {"$.environment": "must be an object"}, environment="numpy"),
    _in_environment("an option as a root", "roots[0]", "not possible", roots=["-r /etc/passwd"]),
    _in_environment("an address as a root", "roots[0]", "no requirement", roots=["a @ file:///etc"]),
    _in_environment("a variable in a root", "roots[1]", "no requirement", roots=["a", "b==${HOME}"]),
    _in_environment("two roots in one line", "roots[0]", "no requirement", roots=["a\nb"]),
    _in_environment("a loose preference", "preferences[0]", "`numpy==2.1.0`", preferences=["a>=1"]),
    _in_environment("a strange platform", "platform", "no platform", platform="a b"),
    _of(
        "six mistakes at once",
        {
            "$.tier": "no tier",
            "$.queue": "no queue",
            "$.priority": "range",
            "$.hold": "true",
            "$.env.A": "text",
            "$.folder": "out",
        },
        tier="x",
        queue="y",
        priority=10**6,
        hold=0,
        env={"A": None},
        folder="../x",
    ),
]
