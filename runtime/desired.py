"""Desired minus actual: what a node has to do. Pure; the runner carries it out.

* What an older term, or an older revision of the same term, says is ignored.
* What is wanted and not there is started, once: an attempt that ended is never started again.
* What is there and not wanted is stopped, however far it has come; laying out is given up.
* A start waits while something here still holds what it needs: an older attempt of the same job (two would live), or
  too much of one of its GPUs. The leader frees neither before it knows of the end, but a node that was lost and came
  back may still be busy with what the leader has given up. The runner asks again at each end.
* A part of a gang is laid out like anything else, and starts when the leader says where the parts meet. One that was
  started for another meeting than that of today is stopped: it would wait for the others for ever.
* An end that the ledger has is forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import Enum

import msgspec

from events.messages import GPU_MILLI, AttemptRef, Desired, Launch, Meeting


class Phase(Enum):
    STARTING = "starting"
    READY = "ready"
    """Laid out; it waits for the other parts of its gang."""
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
    meeting: Meeting | None = None
    """Of a part of a gang: what it was started with."""

    @property
    def lives(self) -> bool:
        return self.phase in {Phase.STARTING, Phase.READY, Phase.RUNNING}


class Seen(msgspec.Struct, frozen=True):
    """The newest that was heard from any leader."""

    term: int = 0
    revision: int = 0


class Start(msgspec.Struct, frozen=True):
    launch: Launch


class Go(msgspec.Struct, frozen=True):
    """Every part of its gang is ready."""

    ref: AttemptRef
    meeting: Meeting


class Stop(msgspec.Struct, frozen=True):
    ref: AttemptRef
    why: str


class Forget(msgspec.Struct, frozen=True):
    ref: AttemptRef


Instruction = Start | Go | Stop | Forget


def heed(desired: Desired, *, node: str, seen: Seen) -> Seen | None:
    """What has been seen once this is carried out; None if it must be ignored: too old, or for somebody else."""
    if desired.node != node or desired.term < seen.term:
        return None
    if desired.term == seen.term and desired.revision and desired.revision < seen.revision:
        return None
    return Seen(desired.term, desired.revision)


def decide(desired: Desired, actual: Mapping[AttemptRef, Actual]) -> tuple[Instruction, ...]:
    """What to do now. Stops first, then what is forgotten, then gangs, then starts in the leader's order."""
    wanted = {launch.ref for launch in desired.attempts}
    living = {ref: state for ref, state in actual.items() if state.lives}
    known = dict.fromkeys(ref for ref in desired.recorded if ref in actual)
    recorded = [ref for ref in known if actual[ref].phase is Phase.ENDED]
    return (
        *(Stop(ref, "not wanted any more") for ref in living if ref not in wanted),
        *(Forget(ref) for ref in recorded),
        *_of_gangs(desired, living),
        *(Start(launch) for launch in _startable(desired, actual, living)),
    )


def _of_gangs(desired: Desired, living: Mapping[AttemptRef, Actual]) -> Iterator[Go | Stop]:
    """What follows for what is here from where its gang meets."""
    for launch in desired.attempts:
        here, where = living.get(launch.ref), launch.gang.meeting if launch.gang is not None else None
        if here is None or where is None:
            continue
        if here.phase is Phase.READY:
            yield Go(launch.ref, where)
        elif here.meeting is not None and here.meeting != where:
            yield Stop(launch.ref, "its gang meets elsewhere by now")


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
