"""What one seed draws: the shape of the world, the work, and every fault with its moment. Pure.

After TigerBeetle's VOPR (docs/internals/vopr.md): a safety phase, in which anything may fail, then a liveness phase, in
which nothing does any more and everything must come to its end.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, NamedTuple

SERVICES: Final = (
    *("submission-1", "submission-2", "environments-1", "environments-2", "scheduling-1", "scheduling-2"),
    *("monitoring-1", "monitoring-2", "gateway-1", "gateway-2"),
)
LEADERS: Final = ("scheduling-1", "scheduling-2", "scheduling-1", "scheduling-2")
"""Drawn more often than the others: of two only one leads."""
LINKS: Final = ("cut", "slow", "late", "silent", "mute", "deaf", "stuck")
"""Of a connection: refused and broken · delayed · delayed by seconds · nothing passes, and nobody says so · only one
way passes · nobody reads at the other end."""
LIMITED: Final = ("LEDGER", "REQUESTS_red")
"""Streams that refuse when they are full; of the others the oldest is forgotten (`load_tests.overload`)."""
QUIET_S: Final = 5.0
"""At the start, before the first fault."""


class Fault(NamedTuple):
    """One fault: what is done to whom, when (seconds from the start), and for how long (0: at once over)."""

    at_s: float
    kind: str
    target: str
    for_s: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.for_s:.1f} s" if self.for_s else ""
        return f"{self.at_s:6.1f} {self.kind} {self.target}{lasting}"


class Draw(NamedTuple):
    """Everything that a seed decides."""

    seed: int
    seconds: float
    servers: int
    nodes: int
    ray: bool
    pause_s: float
    """Mean pause between two operations of the clients."""
    archive_after_s: float
    """0: never."""
    faults: tuple[Fault, ...]


def draw(seed: int, *, seconds: float, servers: int, nodes: int, kinds: Sequence[str] = (), ray: bool = False) -> Draw:
    """The world of a seed. `kinds`: only faults of these kinds."""
    rng = random.Random(seed)
    pause_s = rng.choice((0.5, 0.8, 1.5))
    mean_s = rng.choice((1.5, 3.0, 6.0))
    archive_after_s = rng.choice((0.0, 0.0, 40.0))
    faults: list[Fault] = []
    at_s = QUIET_S
    while (at_s := at_s + rng.expovariate(1 / mean_s)) < seconds:
        fault = _fault(rng, at_s, servers=servers, nodes=nodes, ray=ray)
        if not kinds or fault.kind in kinds:
            faults.append(fault)
    return Draw(seed, seconds, servers, nodes, ray, pause_s, archive_after_s, tuple(faults))


def _fault(rng: random.Random, at_s: float, *, servers: int, nodes: int, ray: bool) -> Fault:
    node = f"n{rng.randint(1, nodes)}"
    service = rng.choice((*SERVICES, *LEADERS, *(("capacity-1",) if ray else ())))
    nats = f"nats-{rng.randint(1, servers)}"
    runner = rng.choice((f"ray-{node}", "ray-head", f"runner-{node}")) if ray else f"runner-{node}"
    length_s = rng.choice((1.0, 3.0, 8.0, 20.0, 40.0)) * rng.uniform(0.7, 1.3)
    short_s = min(length_s, 8.0)
    match rng.choices(KINDS, WEIGHTS)[0]:
        case "kill":
            return Fault(at_s, "kill", rng.choice((service, service, runner, nats)))
        case "stop":
            target = rng.choice((service, service, runner, nats))
            return Fault(at_s, "stop", target, short_s if target == nats else length_s)
        case "link":
            return Fault(at_s, rng.choice(LINKS), rng.choice((service, f"runner-{node}")), length_s)
        case "attempt":
            kind = rng.choice(OF_ATTEMPTS)
            return Fault(at_s, kind, node, 0.0 if kind in ("kill supervisor", "kill launcher") else length_s)
        case "machine":
            return Fault(at_s, "machine", node, length_s)
        case "clock":
            return Fault(at_s, "clock", rng.choice((service, f"runner-{node}")), length_s)
        case "upgrade":
            return Fault(at_s, "upgrade", rng.choice((service, f"runner-{node}")), length_s)
        case "power":
            return Fault(at_s, "power", nats, short_s)
        case "limit":
            return Fault(at_s, "limit", rng.choice(LIMITED), short_s)
        case _:
            return Fault(at_s, "full", rng.choice((node, nats)), short_s)


OF_ATTEMPTS: Final = ("kill supervisor", "stop supervisor", "kill launcher", *3 * ("kill supervisor unheard",))
KINDS: Final = ("kill", "stop", "link", "attempt", "machine", "clock", "upgrade", "power", "limit", "full")
WEIGHTS: Final = (24, 17, 17, 14, 4, 5, 6, 5, 3, 5)
