"""Which job of a queue comes first: the policies, as scores of what a job asked for and how long it has waited. Pure.

The lower score comes first. A score may change with time, but among jobs of one estimate it never turns round: older is
better, or it does not count. So only the head of each line (`queues`) is scored.

- `slowdown` (default): (wait + 1800 s) / estimate, the largest first: the gradient of bounded slowdown, with a floor so
  that the shortest do not always win. After LXF (largest expansion factor) of Srinivasan et al., "Characterization of
  Backfilling Strategies for Parallel Job Scheduling", ICPP 2002 workshops.
- `fcfs`: in the order of their submission.
- `sjf`: the shortest estimate first. `saf`: the smallest area first, estimate times share of the machines.
- `wfp3`: (wait / estimate)^3 times size, the largest first. Tang et al., "Fault-aware, utility-based job scheduling on
  Blue Gene/P systems", CLUSTER 2009.
"""

from __future__ import annotations

import math
from typing import Final, get_args

from events.messages import Policy

POLICIES: Final = get_args(Policy)

BY_SIZE: Final = frozenset({"saf", "wfp3"})
"""The policies by which it matters how large a job is."""
FLOOR_S: Final = 1800.0
"""Added to each wait in `slowdown`."""
GUARD_S_MIN: Final = 3600.0
"""No job is guarded before it has waited so long: a queue that is nearly empty needs no guard."""
ESTIMATE_S_MIN: Final = 1.0
UNKNOWN_S: Final = 86_400.0
"""What a job without a time limit and without history is taken for, where an order needs a number."""
BUCKETS_PER_OCTAVE: Final = 2


def estimate_s(time_limit_s: float | None) -> float:
    """How long a job is taken to run, where its order is decided."""
    return max(ESTIMATE_S_MIN, time_limit_s if time_limit_s is not None else UNKNOWN_S)


def bucket(estimate: float) -> int:
    """Jobs whose estimates differ by less than √2 stand in one line."""
    return math.floor(BUCKETS_PER_OCTAVE * math.log2(estimate))


def shortest_of(bucket_: int) -> float:
    """No estimate in a bucket is shorter."""
    return float(2.0 ** (bucket_ / BUCKETS_PER_OCTAVE))


def within_line(policy: Policy, estimate: float) -> float:
    """What sorts the jobs of one line before their age does."""
    return estimate if policy in ("sjf", "saf") else 0.0


def is_guarded(policy: Policy, guard: float | None, *, wait_s: float, turn_s: float) -> bool:
    """Whether a job has waited so long that nothing younger may pass it any more.

    `turn_s` is how long all the work that there is now takes; `guard` says how many times as long it may wait.
    """
    return policy == "slowdown" and guard is not None and wait_s >= guard_s(guard, turn_s)


def guard_s(guard: float, turn_s: float) -> float:
    """How long a job may wait before it is guarded."""
    return guard * turn_s + GUARD_S_MIN


def slowdown(wait_s: float, estimate: float) -> float:
    """The score of the default policy."""
    return -(wait_s + FLOOR_S) / estimate


def score(policy: Policy, *, estimate: float, size: float, wait_s: float) -> float:
    """See the top of this file. `size`: the largest share of the machines that a job takes of anything."""
    match policy:
        case "slowdown":
            return slowdown(wait_s, estimate)
        case "fcfs":
            return 0.0
        case "sjf":
            return estimate
        case "saf":
            return estimate * size
        case "wfp3":
            return -((wait_s / estimate) ** 3) * size
