"""Every stream, with its limits: what it holds, how safe it is, and what happens when it is full.

LEDGER and REQUESTS are acknowledged when they are on disk (`sync_interval: always` is server-wide) and refuse new
messages when they are full: nothing that was acknowledged is ever dropped. METRICS and LOGS are tails: monitoring
stores what they carry, the oldest goes first, they are exempt from the sync (`persist_mode: async`, one replica), and
their limits are their own, so that they can never fill the store that LEDGER lives on.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from events import subjects

GIB: Final = 1024**3
DAY_S: Final = 86_400


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """One stream as we want it. `on_full` is JetStream's discard policy: `new` refuses, `old` forgets the oldest."""

    name: str
    subjects: tuple[str, ...]
    bytes_max: int
    on_full: str
    age_s_max: float = 0.0
    """0: kept until somebody purges it."""
    retention: str = "limits"
    atomic: bool = False
    asynchronous: bool = False
    message_bytes_max: int = 1024 * 1024
    archived_by: str = ""

    def configuration(self, *, replicas: int) -> dict[str, Any]:
        """The JSON of `$JS.API.STREAM.CREATE`. https://docs.nats.io/reference/reference-protocols/nats_api_reference"""
        config: dict[str, Any] = {
            "name": self.name,
            "subjects": list(self.subjects),
            "storage": "file",
            "retention": self.retention,
            "discard": self.on_full,
            "max_bytes": self.bytes_max,
            "max_age": int(self.age_s_max * 1e9),
            "max_msg_size": self.message_bytes_max,
            "num_replicas": 1 if self.asynchronous else replicas,
            "allow_direct": True,
            "deny_delete": False,
            "duplicate_window": int(1e9),
        }
        if self.atomic:
            config |= {"allow_atomic": True, "allow_msg_ttl": True, "allow_rollup_hdrs": True}
        if self.asynchronous:
            config["persist_mode"] = "async"
        return config


LEDGER = Stream(
    name="LEDGER", subjects=subjects.LEDGER, bytes_max=8 * GIB, on_full="new", atomic=True, archived_by="monitoring"
)
METRICS = Stream(
    name="METRICS",
    subjects=subjects.METRICS,
    bytes_max=4 * GIB,
    on_full="old",
    age_s_max=7 * DAY_S,
    asynchronous=True,
    archived_by="monitoring",
)
LOGS = Stream(
    name="LOGS",
    subjects=(subjects.LOGS,),
    bytes_max=4 * GIB,
    on_full="old",
    age_s_max=7 * DAY_S,
    asynchronous=True,
    archived_by="monitoring",
)
DEAD = Stream(name="DEAD", subjects=(subjects.DEAD,), bytes_max=GIB // 4, on_full="new", age_s_max=30 * DAY_S)
"""Full, it refuses: a request that was acknowledged then stays in its REQUESTS, whose team is refused in the end."""

REQUESTS_BYTES_MAX: Final = GIB // 4

REQUESTS = Stream(
    name="REQUESTS",
    subjects=subjects.CONFIGURE,
    bytes_max=REQUESTS_BYTES_MAX,
    on_full="new",
    retention="workqueue",
    message_bytes_max=512 * 1024,
)
"""Those of operators. No team can fill it."""

SHARED: Final = (LEDGER, METRICS, LOGS, DEAD, REQUESTS)


def requests_stream_name(team: str) -> str:
    """Name of the stream of a team's requests. A stream name may not hold `.`, so the encoded token serves."""
    return "REQUESTS_" + subjects.encode(team)


def requests(team: str) -> Stream:
    """The stream of one team's requests: its own, so that a neighbour's flood fills only the neighbour's."""
    return Stream(
        name=requests_stream_name(team),
        subjects=subjects.requests_of(team),
        bytes_max=REQUESTS_BYTES_MAX,
        on_full="new",
        retention="workqueue",
        message_bytes_max=512 * 1024,
    )
