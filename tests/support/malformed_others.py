"""What strangers send to the doors behind which no person waits: node reports, metrics, output, pushes, questions.

Each is refused, or becomes a dead letter, with these words; no service ends and none answers "failed".
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

DEEP: Final = b"[" * 100_000 + b"]" * 100_000
EXCHANGE: Final[dict[str, Any]] = {
    "type": "exchange",
    "node": "n1",
    "boot": "b",
    "runner": "r",
    "capacity": {"cpus": 1, "memory_bytes": 1},
}
REF: Final = {"team": "vision", "job": "j-1", "attempt": 1}
SPOOL: Final = {"hr-spool": "j-1/1/a.spool", "hr-first": "0", "hr-count": "3"}
METRICS: Final = "hr.v1.from.n1.metrics.vision.j-1"
LOGS: Final = "hr.v1.from.n1.logs.vision.j-1.1"


class Bad(NamedTuple):
    """`said`: a piece of the reason."""

    what: str
    body: bytes
    said: str = ""


class BadMessage(NamedTuple):
    what: str
    subject: str
    headers: dict[str, str]
    body: bytes
    said: str


def _exchange(what: str, said: str = "", /, **changes: Any) -> Bad:
    return Bad(what, json.dumps(EXCHANGE | changes).encode(), said)


def _attempts(what: str, said: str = "", /, **changes: Any) -> Bad:
    return _exchange(what, said, attempts=[{"ref": REF, "state": "running"} | changes])


EXCHANGES: Final = [
    Bad("nothing", b"", "truncated"),
    Bad("not JSON", b"hello", "malformed"),
    Bad("half of it", b'{"type": "exchange", "node": "n1"', "truncated"),
    Bad("not UTF-8", b'{"type": "exchange", "node": "\xff\xfe"}', "utf-8"),
    Bad("not UTF-8 in a key", b'{"\xa0": 1}', "`node`"),
    Bad("half of a surrogate pair", b'{"type": "exchange", "node": "\\ud800"}', "truncated"),
    Bad("a list", b"[]", "Expected `object`"),
    Bad("null", b"null", "Expected `object`"),
    Bad("nested without end", DEEP, "Expected `object`"),
    Bad("nested in what nobody reads", b'{"x": ' + DEEP + b"}", "recursion"),
    Bad("no fields", b'{"type": "exchange"}', "`node`"),
    Bad("another message", b'{"type": "desired"}', "desired"),
    _exchange("a number as its name", "$.node", node=7),
    _exchange("no capacity", "$.capacity", capacity=None),
    _exchange("CPUs in words", "$.capacity.cpus", capacity={"cpus": "many", "memory_bytes": 1}),
    _exchange("memory of a half", "$.capacity.memory_bytes", capacity={"cpus": 1, "memory_bytes": 0.5}),
    _exchange("memory beyond all bounds", "$.capacity.memory_bytes", capacity={"cpus": 1, "memory_bytes": 2**70}),
    _exchange("attempts as an object", "$.attempts", attempts={}),
    _exchange("an attempt in one word", "$.attempts[0]", attempts=["j-1"]),
    _attempts("an unknown state", "$.attempts[0].state", state="resting"),
    _attempts("no attempt number", "$.attempts[0].ref", ref={"team": "vision", "job": "j-1"}),
    _attempts("an attempt number as text", "$.attempts[0].ref.attempt", ref=REF | {"attempt": "1"}),
    _attempts("an unknown cause", "$.attempts[0].end.cause", end={"cause": "bored", "ended_at": 1}),
    _attempts("an end at no time", "$.attempts[0].end", end={"cause": "exited"}),
    _attempts("an exit code without end", "exit_code", end={"cause": "exited", "ended_at": 1, "exit_code": 10**30}),
    Bad("NaN", json.dumps(EXCHANGE | {"capacity": {"cpus": float("nan"), "memory_bytes": 1}}).encode(), "malformed"),
    _exchange("the name of another node", "may not speak for node n2", node="n2"),
    _exchange("no name", "", node=""),
    _exchange("a name too long for a subject", "", node="n" * 500),
]

QUESTIONS: Final = [
    Bad("nothing", b""),
    Bad("not JSON", b"hello"),
    Bad("not UTF-8", b'{"team": "\xff", "job": "j-1", "jobs": ["\xff"], "environment": "\xff"}'),
    Bad("a list", b"[1, 2]"),
    Bad("nested without end", DEEP),
    Bad("nested in what nobody reads", b'{"x": ' + DEEP + b"}"),
    Bad("no fields", b"{}"),
    Bad("fields of wrong kinds", b'{"team": 1, "job": [], "jobs": 7, "environment": {}}'),
    Bad("names that are empty", b'{"team": "", "job": "", "jobs": [""], "environment": ""}'),
    Bad("names without end", json.dumps(dict.fromkeys(("team", "job", "environment"), "x" * 5000)).encode()),
    Bad("numbers without end", b'{"team": "vision", "job": "j-1", "offset": ' + b"9" * 5000 + b"}"),
    Bad("half of a surrogate pair", b'{"team": "\\ud800", "job": "\\ud800", "jobs": ["\\ud800"], "environment": "x"}'),
]
"""For every question that has a body."""

MESSAGES: Final = [
    BadMessage("no headers", METRICS, {}, b"", "hr-spool"),
    BadMessage("the spool of another job", METRICS, SPOOL | {"hr-spool": "j-2/1/a"}, b"", "hr-spool"),
    BadMessage("a spool with a step up", METRICS, SPOOL | {"hr-spool": "../1/a"}, b"", "hr-spool"),
    BadMessage("a spool in four words", METRICS, SPOOL | {"hr-spool": "j-1/1/a/b"}, b"", "hr-spool"),
    BadMessage("a spool without end", METRICS, SPOOL | {"hr-spool": "j-1/1/" + "a" * 600}, b"", "hr-spool"),
    BadMessage("attempt 0", METRICS, SPOOL | {"hr-spool": "j-1/0/a"}, b"", "attempt 0"),
    BadMessage("attempt ²", METRICS, SPOOL | {"hr-spool": "j-1/²/a"}, b"", "hr-spool"),
    BadMessage("a first that is no number", METRICS, SPOOL | {"hr-first": "x"}, b"", "hr-first"),
    BadMessage("a first below zero", METRICS, SPOOL | {"hr-first": "-1"}, b"", "hr-first"),
    BadMessage("a first beyond all bounds", METRICS, SPOOL | {"hr-first": "9" * 40}, b"", "hr-first"),
    BadMessage("a million and one records", METRICS, SPOOL | {"hr-count": "1000001"}, b"", "hr-count"),
    BadMessage("no points, but a count", METRICS, SPOOL, b"", "no points"),
    BadMessage("points that are none", METRICS, SPOOL, b"\xff\xff\xff", "OTLP"),
    BadMessage("JSON where protobuf belongs", METRICS, SPOOL, b'{"resourceMetrics": []}', "OTLP"),
    BadMessage("a push without an attempt", "hr.v1.otlp.vision.j-1", {}, b"", "hr-attempt"),
    BadMessage("a push of attempt x", "hr.v1.otlp.vision.j-1", {"hr-attempt": "x"}, b"", "hr-attempt"),
    BadMessage("a push that is none", "hr.v1.otlp.vision.j-1", {"hr-attempt": "1"}, b"\xff", "OTLP"),
    BadMessage("output without a place", f"{LOGS}.stdout", {}, b"x", "hr-offset"),
    BadMessage("output before the beginning", f"{LOGS}.stdout", {"hr-offset": "-5"}, b"x", "hr-offset"),
    BadMessage("output at half a byte", f"{LOGS}.stdout", {"hr-offset": "0.5"}, b"x", "hr-offset"),
    BadMessage("output beyond all bounds", f"{LOGS}.stdout", {"hr-offset": "9" * 30}, b"x", "hr-offset"),
    BadMessage("output at ²", f"{LOGS}.stdout", {"hr-offset": "²"}, b"x", "hr-offset"),
    BadMessage("a third stream", f"{LOGS}.stdlog", {"hr-offset": "0"}, b"x", "stream"),
    BadMessage("a stream with a step up", f"{LOGS}.=2E=2E=2Fetc", {"hr-offset": "0"}, b"x", "stream"),
    BadMessage("attempt x", "hr.v1.from.n1.logs.vision.j-1.x.stdout", {"hr-offset": "0"}, b"x", "attempt"),
    BadMessage("attempt 0 of output", "hr.v1.from.n1.logs.vision.j-1.0.stdout", {"hr-offset": "0"}, b"x", "attempt"),
    BadMessage("a job that is no text", "hr.v1.from.n1.logs.vision.=FF.1.stdout", {"hr-offset": "0"}, b"x", "utf-8"),
    BadMessage("an operator that is no text", "hr.v1.configure.=FF.team.vision", {}, b"", "utf-8"),
    BadMessage("an operator in another spelling", "hr.v1.configure.=61.queue.vision.x", {}, b"", "would be spelled"),
    BadMessage("a team that is no text", "hr.v1.from.n1.metrics.=FF.j-1", SPOOL, b"", "utf-8"),
]
"""Published on METRICS, LOGS and REQUESTS: each becomes a dead letter."""

PUSHES: Final = [
    ("no token", {"authorization": ""}, b"", 401),
    ("another token", {"authorization": "Bearer x.y.z"}, b"", 401),
    ("a token in another scheme", {"authorization": "Basic abc"}, b"", 401),
    ("not protobuf", {}, b"\xff\xff\xff\xff", 400),
    ("half a message", {}, b"\x0a\x50\x01", 400),
    ("not JSON", {"content-type": "application/json"}, b"{", 400),
    ("JSON that is not UTF-8", {"content-type": "application/json"}, b'{"a": "\xff"}', 400),
    ("JSON that is a list", {"content-type": "application/json"}, b"[]", 400),
    ("JSON nested without end", {"content-type": "application/json"}, DEEP, 400),
    ("JSON with a field of a wrong kind", {"content-type": "application/json"}, b'{"resourceMetrics": 1}', 400),
    ("not gzip", {"content-encoding": "gzip"}, b"hello", 400),
    ("gzip that is cut off", {"content-encoding": "gzip"}, b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", 400),
    ("an unknown packing", {"content-encoding": "br"}, b"", 415),
    ("too large", {}, bytes(5 * 1024**2), 413),
]
"""At the OTLP door: headers beside a good token, body, status."""

CALLS: Final[list[tuple[str, str, dict[str, str], bytes, int]]] = [
    ("GET", "/v1/jobs?limit=0", {}, b"", 400),
    ("GET", "/v1/jobs?limit=-1", {}, b"", 400),
    ("GET", "/v1/jobs?limit=99999999999999999999999", {}, b"", 400),
    ("GET", "/v1/jobs?limit=ten", {}, b"", 400),
    ("GET", "/v1/jobs?state=resting", {}, b"", 400),
    ("GET", "/v1/jobs?latest=perhaps", {}, b"", 400),
    ("GET", "/v1/jobs/%ff", {}, b"", 404),
    ("GET", "/v1/jobs/%00", {}, b"", 404),
    ("GET", "/v1/jobs/" + "x" * 5000, {}, b"", 404),
    ("GET", "/v1/jobs/JOB/log?stream=stdlog", {}, b"", 400),
    ("GET", "/v1/jobs/JOB/log?attempt=-1", {}, b"", 400),
    ("GET", "/v1/jobs/JOB/log?offset=1e300", {}, b"", 400),
    ("GET", "/v1/jobs/JOB/log?bytes_max=0", {}, b"", 400),
    ("GET", "/v1/jobs/JOB/metrics?buckets=0", {}, b"", 400),
    ("GET", "/v1/jobs/JOB/metrics?buckets=5001", {}, b"", 400),
    ("GET", "/v1/jobs/JOB/metrics?step_from=x", {}, b"", 400),
    ("POST", "/v1/jobs/JOB/explode", {}, b"", 404),
    ("POST", "/v1/jobs/JOB/cancel", {}, b"[]", 422),
    ("POST", "/v1/jobs/JOB/cancel", {}, b'{"why": "\xff"}', 422),
    ("POST", "/v1/jobs/JOB/cancel", {}, DEEP, 422),
    ("POST", "/v1/jobs/JOB/cancel", {}, b'{"why": {"a": ' + DEEP + b"}}", 422),
    ("POST", "/v1/jobs/JOB/reprioritise", {}, b"{}", 422),
    ("POST", "/v1/jobs/JOB/reprioritise", {}, b'{"priority": 1e400}', 422),
    ("POST", "/v1/jobs/JOB/move", {}, b'{"before": "nobody"}', 404),
    ("POST", "/v1/jobs", {"traceparent": "x" * 300}, b"{}", 400),
    ("POST", "/v1/jobs", {"ce-id": "x" * 300}, b"{}", 400),
    ("POST", "/v1/jobs", {"content-type": "text/plain"}, b"python train.py", 422),
    ("POST", "/v1/jobs", {}, bytes(600 * 1024), 413),
    ("POST", "/v1/blobs/missing", {}, b"{", 400),
    ("POST", "/v1/blobs/missing", {}, b'{"digests": "\xff"}', 400),
    ("POST", "/v1/blobs/missing", {}, b'{"digests": ' + DEEP + b"}", 400),
    ("POST", "/v1/blobs/missing", {}, b'{"digests": ["x"]}', 422),
    ("PUT", "/v1/blobs/sha256:0", {}, b"x", 422),
    ("PUT", "/v1/blobs/sha256:" + "0" * 64, {}, b"x", 422),
    ("GET", "/v1/blobs/sha256:" + "0" * 64, {}, b"", 404),
    ("GET", "/v1/blobs/..%2f..%2fetc%2fpasswd", {}, b"", 404),
    ("GET", "/v1/environments/x", {}, b"", 422),
    ("GET", "/v1/admin/dead?limit=501", {}, b"", 400),
    ("GET", "/v1/admin/dead?after=-1", {}, b"", 400),
    ("GET", "/v1/admin/dead/0", {}, b"", 404),
    ("GET", "/v1/admin/dead/99999999999999999999999", {}, b"", 404),
    ("GET", "/v1/admin/dead/x", {}, b"", 404),
    ("POST", "/v1/admin/dead/7/replay", {}, b"{", 404),
    ("DELETE", "/v1/admin/dead/-1", {}, b"", 404),
    ("PATCH", "/v1/jobs", {}, b"", 405),
    ("PATCH", "/v1/queues/vision/night", {}, b"[]", 422),
    ("PATCH", "/v1/queues/vision/night", {}, b'{"policy": "\xff"}', 422),
    ("PATCH", "/v1/queues/vision/night", {}, b'{"tiers": ' + DEEP + b"}", 422),
    ("PATCH", "/v1/queues/vision/night", {}, b'{"weight": 1e400}', 422),
    ("PATCH", "/v1/queues/vision/night", {}, b'{"wieght": 2}', 422),
    ("PATCH", "/v1/queues/vision/%ff", {}, b"{}", 404),
    ("PATCH", "/v1/queues/%00/night", {}, b"{}", 404),
    ("PATCH", "/v1/queues/vision/" + "x" * 500, {}, b"{}", 422),
    ("PATCH", "/v1/queues/vision/night", {}, b'{"weight": ' + b" " * 1024 * 1024 + b"2}", 413),
    ("PUT", "/v1/queues/vision/%2f", {}, b"{}", 404),
    ("PUT", "/v1/queues/vision/a%0ab", {}, b"{}", 404),
    ("PUT", "/v1/queues/vision/ a", {}, b"{}", 404),
    ("PUT", "/v1/queues/vision", {}, b"{}", 404),
    ("POST", "/v1/queues/vision/night", {}, b"{}", 405),
    ("DELETE", "/v1/queues/vision/nobody", {}, b"", 404),
    ("PUT", "/v1/teams/nobody", {}, b"{}", 404),
    ("PUT", "/v1/teams/vision", {}, b'{"paused": true}', 422),
    ("GET", "/v1/queues/vision/nobody", {}, b"", 404),
    ("GET", "/v1/teams/%ff", {}, b"", 404),
    ("TRACE", "/v1/jobs", {}, b"", 405),
]
"""With an operator's token; JOB is a job that is there."""
