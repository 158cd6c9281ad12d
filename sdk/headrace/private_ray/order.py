"""What a node wants to have started: the order, and what follows from it. Pure but for the reading of it."""

from __future__ import annotations

import json
from typing import NamedTuple

OBJECT_STORE_SHARE = 0.3
"""Of the allocation's memory: what Ray itself takes of a whole machine."""
OBJECT_STORE_BYTES_MIN = 80 * 1024**2
"""Ray refuses less than 75 MiB."""
OBJECT_STORE_BYTES_MAX = 200 * 10**9
"""Ray's own."""
OBJECT_STORE_BYTES_UNBOUNDED = 1024**3
"""Where the allocation says nothing of memory."""
NO_PORT = "65536"
"""Ray's dashboard opens a port for its own figures, by itself 44227 of every address, and asks for no token. It takes
no other word for "none": where it cannot listen it goes on."""
SHARED_MEMORY_SHARE = 0.9
"""Of what /dev/shm has free: others have theirs there too."""


class Order(NamedTuple):
    """One part of a cluster: a job on one node has one, a gang one for each node."""

    cpus: float
    memory_bytes: int
    """Of all processes of the attempt together; 0: no limit."""
    gpus: int
    host: str = ""
    """At which others reach this node. Empty: Ray finds out."""
    rank: int = 0
    size: int = 1
    head: str = ""
    """`address:port` at which the parts of a gang meet; empty for a job on one node."""


def read(text: str) -> Order:
    """The order as the runner wrote it."""
    return Order(**json.loads(text))


def object_store_bytes(order: Order, shared_memory_free_bytes: int) -> int:
    """How much Ray may keep in shared memory, which counts as the attempt's.

    A share of the allocation and not of the machine, and no more than /dev/shm has, which is 64 MiB in many a pod.
    Where that is less than Ray needs it gets the least that it takes, and keeps it on disk, below its temporary folder.
    """
    share = int(order.memory_bytes * OBJECT_STORE_SHARE) if order.memory_bytes else OBJECT_STORE_BYTES_UNBOUNDED
    most = int(min(share, shared_memory_free_bytes * SHARED_MEMORY_SHARE, OBJECT_STORE_BYTES_MAX))
    return max(most, OBJECT_STORE_BYTES_MIN)


def arguments(order: Order, *, temporary: str, object_store: int) -> list[str]:
    """What `ray start` is told. Every port is 0: it takes one that is free, and tells the others."""
    memory = order.memory_bytes - object_store
    found = [
        *(f"--num-cpus={max(1, int(order.cpus))}", f"--num-gpus={order.gpus}"),
        *((f"--memory={memory}",) if memory > 0 else ()),
        f"--object-store-memory={object_store}",
        f"--temp-dir={temporary}",
        *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0", "--disable-usage-stats"),
        *((f"--node-ip-address={order.host}",) if order.host else ()),
    ]
    if order.rank:
        return ["start", f"--address={order.head}", *found]
    port = order.head.rpartition(":")[2] or "0"
    head = [f"--port={port}", "--include-dashboard=false", "--no-monitor"]
    return ["start", "--head", *head, *found]


def environment(environ: dict[str, str], token_file: str) -> dict[str, str]:
    """Of Ray and of everything in its cluster, from that which the attempt was given."""
    inherited = {name: value for name, value in environ.items() if name != TOKEN}
    return {
        **inherited,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": token_file,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",  # its figures would be for anybody who asks its port
        "DASHBOARD_METRIC_PORT": NO_PORT,
        "RAY_memory_monitor_refresh_ms": "0",  # it looks at the machine; what bounds us is the allocation
        "SPT_NOENV": "1",  # a title over its environment would hide whose it is from the node that looks for it
        "RAY_agent_register_timeout_ms": "120000",  # by itself 30 s, after which the raylet ends
    }


TOKEN = "HEADRACE_RAY_TOKEN"
"""Variable with the token of a gang's cluster; a job on one node makes its own. Not handed on."""
