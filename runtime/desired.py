"""Desired minus actual: what a node has to do. Pure; the runner carries it out.

* What an older term, or an older revision of the same term, says is ignored.
* What is wanted and not there is started, once: an attempt that ended is never started again.
* What is there and not wanted is stopped, however far it has come; laying out is given up.
* A start waits while something here still holds what it needs: an older attempt of the same job (two would live), or
  too much of one of its GPUs. The leader frees neither before it knows of the end, but a node that was lost and came
  back may still be busy with what the leader has given up. The runner asks again at each end.
* An end that the ledger has is forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import Enum

import msgspec

from events.messages import GPU_MILLI, AttemptRef, Desired, Launch


class Phase(Enum):
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"
    """Its end waits for the ledger."""
    RECORDED = "recorded"
    """Its end is in the ledger; the last of its output is still being shipped."""


class Actual(msgspec.Struct, frozen=True):
    """An attempt on this node, and the GPUs that it was given, or a part of one."""

    phase: Phase
    gpus: tuple[int, ...] = ()
    gpu_milli: int = GPU_MILLI
    """Thousandths of each."""

    @property
    def lives(self) -> bool:
        return self.phase in {Phase.STARTING, Phase.RUNNING}


class Seen(msgspec.Struct, frozen=True):
    """The newest that was heard from any leader."""

    term: int = 0
    revision: int = 0


class Start(msgspec.Struct, frozen=True):
    launch: Launch


class Stop(msgspec.Struct, frozen=True):
    ref: AttemptRef
    why: str


class Forget(msgspec.Struct, frozen=True):
    ref: AttemptRef


Instruction = Start | Stop | Forget


def heed(desired: Desired, *, node: str, seen: Seen) -> Seen | None:
    """What has been seen once this is carried out; None if it must be ignored: too old, or for somebody else."""
    if desired.node != node or desired.term < seen.term:
        return None
    if desired.term == seen.term and desired.revision and desired.revision < seen.revision:
        return None
    return Seen(desired.term, desired.revision)


def decide(desired: Desired, actual: Mapping[AttemptRef, Actual]) -> tuple[Instruction, ...]:
    """What to do now. Stops first, then what is forgotten, then starts in the leader's order."""
    wanted = {launch.ref for launch in desired.attempts}
    living = {ref: state for ref, state in actual.items() if state.lives}
    known = dict.fromkeys(ref for ref in desired.recorded if ref in actual)
    recorded = [ref for ref in known if actual[ref].phase is Phase.ENDED]
    return (
        *(Stop(ref, "not wanted any more") for ref in living if ref not in wanted),
        *(Forget(ref) for ref in recorded),
        *(Start(launch) for launch in _startable(desired, actual, living)),
    )


def _startable(
    desired: Desired, actual: Mapping[AttemptRef, Actual], living: Mapping[AttemptRef, Actual]
) -> list[Launch]:
    jobs = {(ref.team, ref.job) for ref in living}
    used: Counter[int] = Counter()
    for state in living.values():
        used.update(dict.fromkeys(state.gpus, state.gpu_milli))
    starts = []
    for launch in desired.attempts:
        if launch.ref in actual or launch.ref in desired.recorded:
            continue
        job, needs = (launch.ref.team, launch.ref.job), launch.allocation
        if job not in jobs and all(used[index] + needs.gpu_milli <= GPU_MILLI for index in needs.gpus):
            starts.append(launch)
            jobs.add(job)
            used.update(dict.fromkeys(needs.gpus, needs.gpu_milli))
    return starts
